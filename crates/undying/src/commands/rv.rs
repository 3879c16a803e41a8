//! Owns `undying rv`: the deterministic machine on this terminal.

use crate::cli::Output;
use crate::deterministic::{ReplayArgs, RunArgs, RvCommand};
use crate::failure::{Failure, Kind};
use crate::out;
use rvrun::live::{self, End, Live, Recorder};
use rvrun::replay::{self, Reached, Replay};
use rvrun::setup::Setup;
use rvrun::{RawMode, Screen, World};
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::fs::File;
use std::io::{self, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Carries out a command of the deterministic machine.
pub fn run(output: Output, command: &RvCommand) -> Result<(), Failure> {
    match command {
        RvCommand::Run(args) => run_machine(output, args),
        RvCommand::Replay(args) => replay_log(output, args),
    }
}

fn run_machine(output: Output, args: &RunArgs) -> Result<(), Failure> {
    let disks: Vec<(PathBuf, bool)> = args.disk.iter().map(|disk| parse_disk(disk)).collect();
    let initrd = args.initrd.as_deref();
    let mut setup = Setup::new(args.memory.0, &args.append, &args.kernel, initrd).map_err(invalid)?;
    let world = World::open(&disks, &args.tap, screen(output), Some(keyboard()?)).map_err(invalid)?;
    world.describe(&mut setup).map_err(Failure::failed)?;
    let parts = setup.load().map_err(invalid)?;
    let recorder = args.record.as_deref().map(|path| Recorder::create(path, &parts)).transpose();
    let live = Live::begin(parts, world, recorder.map_err(Failure::failed)?).map_err(invalid)?;
    go(output, live)
}

fn replay_log(output: Output, args: &ReplayArgs) -> Result<(), Failure> {
    let file = File::open(&args.log)
        .map_err(|error| invalid(format!("cannot open {}: {error}", args.log.display())))?;
    let correct = |setup: &mut Setup| {
        if let Some(kernel) = &args.kernel {
            setup.kernel.path.clone_from(kernel);
        }
        if let (Some(path), Some(initrd)) = (&args.initrd, &mut setup.initrd) {
            initrd.path.clone_from(path);
        }
    };
    let mut replay =
        Replay::begin(BufReader::new(file), correct, screen(output), &args.disk).map_err(invalid)?;
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
    go(output, live)
}

/// Runs a live machine on this terminal to its end, and tells what it was.
fn go(output: Output, mut live: Live) -> Result<(), Failure> {
    let quit = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, quit.clone()).map_err(Failure::failed)?;
    }
    let raw = RawMode::enter().map_err(Failure::failed)?;
    let ended = live.run(&quit);
    drop(raw);
    let live::Summary { end, instructions, reboots, state, outputs } = ended.map_err(Failure::failed)?;
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

fn tell_replay(output: Output, summary: &replay::Summary) -> Result<(), Failure> {
    let replay::Summary { reached, instructions, reboots, compared, state, outputs } = *summary;
    let (word, how) = match reached {
        Reached::End => ("end", "the recording ended"),
        Reached::BrokenOff => ("broken_off", "the recording breaks off"),
        Reached::Until => ("until", "stopped as asked"),
    };
    if output == Output::Json {
        return out::json(&json!({
            "reached": word, "instructions": instructions, "reboots": reboots, "compared": compared,
            "state": hexadecimal(state), "outputs": hexadecimal(outputs),
        }));
    }
    tell(&format!(
        "\n{how} at instruction {instructions}, {compared} comparisons were equal; state {state:016x}, outputs {outputs:016x}"
    ));
    Ok(())
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

fn hexadecimal(value: u64) -> String {
    format!("{value:016x}")
}

fn tell(text: &str) {
    eprintln!("{text}");
}

fn invalid(error: impl ToString) -> Failure {
    Failure::new(Kind::Invalid, error.to_string())
}
