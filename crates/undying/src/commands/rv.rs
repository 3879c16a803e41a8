//! Owns `undying rv`: the deterministic machine on this terminal.

use super::bisect::bisect_logs;
use crate::cli::Output;
use crate::deterministic::{Console, ReplayArgs, RunArgs, RvCommand};
use crate::failure::{Failure, Kind};
use crate::out;
use rvrun::debug::{Left, LiveSubject, Timeline, serve};
use rvrun::live::{self, End, Live, Recorder};
use rvrun::replay::{self, Reached, Replay};
use rvrun::saved::{Saved, Taker};
use rvrun::setup::{Origin, Setup};
use rvrun::{RawMode, Screen, World};
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use std::fs::File;
use std::io::{self, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Carries out a command of the deterministic machine.
pub fn run(output: Output, command: &RvCommand) -> Result<(), Failure> {
    match command {
        RvCommand::Run(args) => run_machine(output, args),
        RvCommand::Replay(args) => replay_log(output, args),
        RvCommand::Bisect(args) => bisect_logs(output, args),
    }
}

fn run_machine(output: Output, args: &RunArgs) -> Result<(), Failure> {
    let disks: Vec<(PathBuf, bool)> = args.disk.iter().map(|disk| parse_disk(disk)).collect();
    let mut world = World::open(&disks, &args.tap, screen(output), Some(keyboard()?)).map_err(invalid)?;
    let setup = match (&args.from, &args.kernel) {
        (Some(from), _) => setup_from(from, args, &mut world)?,
        (None, Some(kernel)) => {
            let initrd = args.initrd.as_deref();
            let mut setup = Setup::new(args.memory.0, &args.append, kernel, initrd).map_err(invalid)?;
            if let Some(firmware) = &args.firmware {
                setup = setup.with_firmware(firmware).map_err(invalid)?;
            }
            setup.terminal = args.console == Console::Virtio;
            world.describe(&mut setup).map_err(Failure::failed)?;
            setup
        }
        (None, None) => return Err(invalid("name a kernel, or a snapshot to go on from")),
    };
    let mut parts = setup.load().map_err(invalid)?;
    if args.interpret {
        parts.set_hotness(None);
    }
    let taker = args.snapshots.as_deref().map(|directory| taker(directory, args)).transpose()?;
    let recorder = args.record.as_deref().map(|path| Recorder::create(path, &parts)).transpose();
    let recorder = recorder.map_err(Failure::failed)?;
    let debugger = args.gdb.map(await_debugger).transpose()?;
    let mut live = Live::begin(parts, world, recorder).map_err(invalid)?;
    if let Some(taker) = taker {
        live.take_snapshots(taker);
    }
    go(output, live, debugger)
}

/// The setup of a machine that goes on from a snapshot; the disks are brought to what they held there.
fn setup_from(from: &Path, args: &RunArgs, world: &mut World) -> Result<Setup, Failure> {
    let saved = Saved::load(from).map_err(invalid)?;
    world.restore(&saved).map_err(invalid)?;
    let mut setup = saved.head().setup.clone();
    setup.from = Some(Origin { path: from.to_owned(), id: saved.id() });
    correct(&mut setup, args.kernel.as_deref(), args.initrd.as_deref(), None);
    Ok(setup)
}

/// What takes snapshots: by the clock, and when SIGUSR1 comes.
fn taker(directory: &Path, args: &RunArgs) -> Result<Taker, Failure> {
    let asked = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGUSR1, asked.clone()).map_err(Failure::failed)?;
    let every = args.snapshot_every.map(|every| Duration::from_micros(every.0));
    Taker::begin(directory, every, args.keep_snapshots, asked).map_err(invalid)
}

/// Lets a setup's files be where they are now.
pub(super) fn correct(
    setup: &mut Setup,
    kernel: Option<&Path>,
    initrd: Option<&Path>,
    origin: Option<&Path>,
) {
    if let Some(kernel) = kernel {
        setup.kernel.path = kernel.to_owned();
    }
    if let (Some(path), Some(initrd)) = (initrd, &mut setup.initrd) {
        initrd.path = path.to_owned();
    }
    if let (Some(path), Some(origin)) = (origin, &mut setup.from) {
        origin.path = path.to_owned();
    }
}

fn replay_log(output: Output, args: &ReplayArgs) -> Result<(), Failure> {
    let log = open_log(&args.log)?;
    let correct = |setup: &mut Setup| {
        correct(setup, args.kernel.as_deref(), args.initrd.as_deref(), args.origin.as_deref());
        if let (Some(path), Some(firmware)) = (&args.firmware, &mut setup.firmware) {
            firmware.path.clone_from(path);
        }
    };
    let mut replay = Replay::begin(log, correct, screen(output), &args.disk).map_err(invalid)?;
    if args.interpret {
        replay.set_hotness(None);
    }
    if let Some(from) = &args.from {
        replay.go_to(Saved::load(from).map_err(invalid)?).map_err(invalid)?;
    }
    if let Some(address) = args.gdb {
        return debug_log(output, replay, args.until, address);
    }
    let summary = replay.run(args.until).map_err(Failure::failed)?;
    if !args.go_live {
        return tell_replay(output, &summary);
    }
    tell(&format!("\nthe recording ended at instruction {}; live from here", summary.instructions));
    let disks: Vec<(PathBuf, bool)> = args.disk.iter().map(|disk| (disk.clone(), false)).collect();
    let keyboard = keyboard()?;
    let live = replay
        .go_live(|screen| Ok(World::open(&disks, &args.tap, screen, Some(keyboard))?))
        .map_err(invalid)?;
    go(output, live, None)
}

fn debug_log(
    output: Output,
    replay: Replay<BufReader<File>>,
    begin: Option<u64>,
    address: SocketAddr,
) -> Result<(), Failure> {
    let mut timeline = Timeline::begin(replay).map_err(Failure::failed)?;
    if let Some(position) = begin {
        timeline.forward_to(position).map_err(Failure::failed)?;
    }
    let (timeline, left) = serve(await_debugger(address)?, timeline).map_err(Failure::failed)?;
    match left {
        Left::GoOn => tell_replay(output, &timeline.finish().map_err(Failure::failed)?),
        Left::Kill => tell_replay(output, &timeline.summary()),
    }
}

/// Waits until a debugger connects.
fn await_debugger(address: SocketAddr) -> Result<TcpStream, Failure> {
    let failed = |error| invalid(format!("cannot wait for gdb at {address}: {error}"));
    let listener = TcpListener::bind(address).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    if !address.ip().is_loopback() {
        tell("warning: everybody who reaches this address may read all of the guest's memory");
    }
    tell(&format!("waiting for gdb: target remote {address}"));
    Ok(listener.accept().map_err(failed)?.0)
}

/// Runs a live machine on this terminal to its end, and tells what it was.
fn go(output: Output, live: Live, debugger: Option<TcpStream>) -> Result<(), Failure> {
    let quit = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, quit.clone()).map_err(Failure::failed)?;
    }
    let raw = RawMode::enter().map_err(Failure::failed)?;
    let ended = match debugger {
        None => run_to_end(live, &quit),
        Some(debugger) => run_under(debugger, live, quit),
    };
    drop(raw);
    let live::Summary { end, instructions, reboots, state, outputs } = ended?;
    let how = match end {
        End::PowerOff => "the guest switched itself off",
        End::Quit => "the machine was ended",
    };
    if output == Output::Json {
        let end = if end == End::PowerOff { "power_off" } else { "quit" };
        return out::json(&json!({
            "end": end, "instructions": instructions, "reboots": reboots,
            "state": hexadecimal(state), "outputs": hexadecimal(outputs),
        }));
    }
    tell(&format!(
        "\n{how} after {instructions} instructions and {reboots} reboots; state {state:016x}, outputs {outputs:016x}"
    ));
    Ok(())
}

fn run_to_end(mut live: Live, quit: &AtomicBool) -> Result<live::Summary, Failure> {
    live.run(quit).map_err(Failure::failed)
}

fn run_under(debugger: TcpStream, live: Live, quit: Arc<AtomicBool>) -> Result<live::Summary, Failure> {
    let heard = debugger.try_clone().map_err(Failure::failed)?;
    let (subject, left) =
        serve(debugger, LiveSubject::new(live, heard.into(), quit)).map_err(Failure::failed)?;
    match left {
        Left::GoOn => subject.finish(),
        Left::Kill => subject.end(),
    }
    .map_err(Failure::failed)
}

fn tell_replay(output: Output, summary: &replay::Summary) -> Result<(), Failure> {
    let replay::Summary { reached, instructions, reboots, compared, delivered, state, outputs } = *summary;
    let (word, how) = match reached {
        Reached::End => ("end", "the recording ended"),
        Reached::BrokenOff => ("broken_off", "the recording breaks off"),
        Reached::Until => ("until", "stopped as asked"),
    };
    if output == Output::Json {
        return out::json(&json!({
            "reached": word, "instructions": instructions, "reboots": reboots, "compared": compared, "delivered": delivered,
            "state": hexadecimal(state), "outputs": hexadecimal(outputs),
        }));
    }
    tell(&format!(
        "\n{how} at instruction {instructions}, {compared} comparisons were equal; state {state:016x}, outputs {outputs:016x}"
    ));
    Ok(())
}

pub(super) fn open_log(path: &Path) -> Result<BufReader<File>, Failure> {
    let file = File::open(path);
    file.map(BufReader::new).map_err(|error| invalid(format!("cannot open {}: {error}", path.display())))
}

/// Where the console is shown: not where JSON goes.
fn screen(output: Output) -> Screen {
    match output {
        Output::Text => Screen::new(io::stdout()),
        Output::Json => Screen::new(io::stderr()),
    }
}

fn keyboard() -> Result<OwnedFd, Failure> {
    io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| Failure::failed(format!("cannot read standard input: {error}")))
}

fn parse_disk(text: &str) -> (PathBuf, bool) {
    match text.strip_suffix(",ro") {
        Some(path) => (path.into(), true),
        None => (text.into(), false),
    }
}

pub(super) fn hexadecimal(value: u64) -> String {
    format!("{value:016x}")
}

pub(super) fn tell(text: &str) {
    eprintln!("{text}");
}

pub(super) fn invalid(error: impl ToString) -> Failure {
    Failure::new(Kind::Invalid, error.to_string())
}
