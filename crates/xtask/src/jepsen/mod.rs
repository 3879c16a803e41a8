//! Owns `cargo xtask jepsen`: concurrent clients of a protected VM, a nemesis, and the question whether what the
//! clients were told can be true of registers that do one thing at a time.
//!
//! [`result`] sums up; the operations are [`lab::client::registers`]'s, the verdict is [`lab::history`]'s.

mod result;

use crate::demo::Output;
use crate::stage::build::{self, Planted};
use crate::stage::field::Field;
use crate::stage::interval::Interval;
use crate::stage::machine::Machine;
use crate::stage::screen::{Screen, count};
use crate::stage::watch::Watch;
use crate::stage::{self, Load, Stage};
use crate::workspace;
use anyhow::{Context, Result};
use clap::Args;
use lab::client::{Registers, RegistersConfig};
use lab::history::{self, Limits, Operation, Verdict};
use lab::nemesis::{Blow, Chance};
use result::{JepsenResult, Played, Round};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// A client gives an operation up after so long where a bug is planted: connections are lost there, and waiting for
/// what never comes would be most of the run.
const PLANTED_PATIENCE: Duration = Duration::from_secs(3);

/// Check what concurrent clients saw while the hosts of their VM were killed, frozen and cut off
///
/// Clients read, write and compare-and-set a few registers of a Redis in a protected VM. Meanwhile, by seed, the host
/// is killed (sometimes a moment after its link was cut), its agent frozen, the link cut or QEMU killed; the VM goes
/// on, the host is made whole, the VM is protected in the other direction, until the time is over. Then the history of
/// all operations is checked for linearizability, key by key. The exit status is 0 only if it was linearizable and
/// every blow survived; with a planted bug, only if the bug was found.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  cargo xtask jepsen --seconds 600 --seed 7\n  cargo xtask jepsen --seconds 120 --planted release-early\n  cargo xtask jepsen --machine rv"
)]
pub struct JepsenArgs {
    /// How long new blows are dealt; the last one is played to its end. The history takes some 300 bytes an operation in
    /// memory and on the disk, and there are thousands a second
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=3_600))]
    seconds: u64,
    /// Decides what is done, when, and what clients ask [default: a new one, which is printed]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Time from one checkpoint to the next, or auto: as soon as output waits, seldom while none does
    #[arg(long, value_name = "TIME|auto", default_value = "auto")]
    interval: Interval,
    /// What runs the VM: QEMU, or the deterministic machine, which has no QEMU that could die alone
    #[arg(long, value_enum, default_value_t = Machine::Qemu)]
    machine: Machine,
    /// Build undying with this bug, which must be found; such a build lies in target/planted
    #[arg(long, value_enum)]
    planted: Option<Planted>,
    /// Folder for the history, the agents' logs, and what is not linearizable [default: target/jepsen]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Runs it.
///
/// # Errors
/// If it could not be carried out at all; a blow that was not survived is part of the result.
pub fn run(args: &JepsenArgs) -> Result<ExitCode> {
    let mut screen = Screen::new(args.output == Output::Json);
    let seed = args.seed.unwrap_or_else(|| os::clock::realtime_us() % 1_000_000);
    screen.chapter("Getting ready");
    let props = stage::gather_with(&mut screen, |screen| match args.planted {
        Some(planted) => build::with_bug(screen, planted),
        None => build::undying(screen),
    })?;
    let riscv = args.machine.guest(&mut screen)?;
    let load = Load::Redis { riscv: riscv.as_ref(), on_disk: false };
    let stage = Stage::raise(&props, "jepsen", load, &mut screen)?;
    let out = args.out.clone().unwrap_or_else(|| workspace::target().join("jepsen"));
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let mut config = RegistersConfig::new(stage.target, seed);
    if args.planted.is_some() {
        config.patience = PLANTED_PATIENCE;
    }
    screen.chapter(&format!("{} seconds of blows, seed {seed}", args.seconds));
    let registers =
        Registers::start(stage.cluster.lab.client(), config).context("the clients cannot begin")?;
    screen.say(&format!(
        "{} clients read, write and compare-and-set {} registers, one operation at a time each, every one noted. \
         \"outage\" is the longest wait of the unluckiest of them.",
        config.clients, config.keys
    ));
    let played = play(args, seed, &stage, &registers, &mut screen);
    screen.live("the clients end their operations");
    let mut report = registers.stop()?;
    report.history.sort_by_key(|operation| operation.called_us);
    stage.keep_logs(&out)?;
    let (verdict, check_seconds) = judge(&report.history, &out, &mut screen)?;
    let result = JepsenResult::of(
        (args.seconds, seed, args.machine, args.planted),
        played,
        &report,
        (verdict, check_seconds),
    );
    result.show(&out, &mut screen);
    if args.output == Output::Json {
        println!("{:#}", serde_json::to_value(&result)?);
    }
    Ok(if result.is_as_it_should_be() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Deals blows until the time is over, or one is not survived.
fn play(args: &JepsenArgs, seed: u64, stage: &Stage, registers: &Registers, screen: &mut Screen) -> Played {
    let mut field = Field::new(stage, Watch::new(stage, registers, screen), args.interval);
    let mut rounds = Vec::new();
    let ended = all_rounds(args, seed, &mut field, &mut rounds);
    if let Err(error) = &ended {
        screen.bad(&format!("blow {} was not survived: {error:#}", rounds.len() + 1));
    }
    Played { rounds, not_survived: ended.err().map(|error| format!("{error:#}")) }
}

fn all_rounds(args: &JepsenArgs, seed: u64, field: &mut Field<'_>, rounds: &mut Vec<Round>) -> Result<()> {
    let mut chance = Chance::new(seed);
    let blows = args.machine.hit_by(&Blow::ALL);
    let start = Instant::now();
    field.protect()?;
    while start.elapsed() < Duration::from_secs(args.seconds) {
        let blow = chance.pick(&blows);
        field.rest(Duration::from_micros(chance.between(300_000, 1_200_000)));
        let at_seconds = start.elapsed().as_secs_f64();
        let survived = field.blow(blow)?;
        let protected_after_ms = field.protect()?;
        let round = Round { number: rounds.len() + 1, at_seconds, survived, protected_after_ms };
        field.watch.screen().block(&round.line());
        rounds.push(round);
    }
    Ok(())
}

/// Writes the history down, which is in the order of calls, and checks it; how long that took, in seconds.
fn judge(history: &[Operation], out: &Path, screen: &mut Screen) -> Result<(Verdict, f64)> {
    screen.live("the history is written down");
    keep(history, &out.join("history.jsonl"))?;
    screen.live(&format!("{} operations are checked", count(history.len() as u64)));
    let start = Instant::now();
    let verdict = history::check(history, Limits::default());
    let seconds = start.elapsed().as_secs_f64();
    let began_us = history.first().map_or(0, |operation| operation.called_us);
    for violation in &verdict.violations {
        let path = out.join(result::violation_file(violation.key));
        std::fs::write(&path, result::explain(violation, began_us))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok((verdict, seconds))
}

/// One operation a line.
fn keep(history: &[Operation], path: &Path) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        for operation in history {
            serde_json::to_writer(&mut file, operation)?;
            file.write_all(b"\n")?;
        }
        file.flush()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
