//! Owns `cargo xtask torture`: kill, verify, protect in the other direction, again and again, under the same clients.
//!
//! [`round`] is one kill and what follows; [`bank`] is `pgbench` beside the writers of a PostgreSQL; [`result`] sums up.
//! A seed makes a sequence of them.

mod bank;
mod result;
mod round;

use crate::demo::Output;
use crate::stage::field::Field;
use crate::stage::interval::Interval;
use crate::stage::machine::Machine;
use crate::stage::screen::{Screen, count};
use crate::stage::watch::Watch;
use crate::stage::{self, Load, Stage};
use crate::workspace;
use anyhow::{Result, bail};
use bank::Bank;
use clap::{Args, ValueEnum};
use lab::client::{Server, WriterConfig, Writers};
use lab::guest::postgres::PostgresGuest;
use lab::nemesis::{Blow, Chance};
use result::TortureResult;
use round::Round;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// How a host is hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// The host dies: its cables are pulled, its agent and QEMU are killed.
    Kill,
    /// The primary's agent is stopped (SIGSTOP), and wakes up after the other host has taken over.
    Freeze,
    /// The replication link is cut while both hosts live: one of them goes on, and only one.
    Link,
    /// The primary's QEMU alone is killed.
    Qemu,
    /// One of these each time, as the seed has it.
    Mix,
}

/// The server in the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ServerKind {
    /// Redis: each client appends to a list of its own.
    Redis,
    /// PostgreSQL, with `pgbench` beside the clients, each of which commits rows; needs --disk.
    Postgres,
}

/// Kill the host of a protected VM again and again while the same clients keep writing
///
/// After each kill the clients' connections and lists are checked, the VM is protected in the other direction, and
/// the next kill follows at a random moment. The exit status is 0 only if every kill was survived, no acknowledged
/// write was lost and no connection broke.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  cargo xtask torture --kills 50\n  cargo xtask torture --kills 20 --mode mix --seed 7\n  cargo xtask torture --disk --kills 20\n  cargo xtask torture --disk --server postgres --kills 10\n  cargo xtask torture --machine rv --mode mix --disk"
)]
pub struct TortureArgs {
    /// How many kills
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    kills: u32,
    /// Decides when (and in a mix, how) is killed [default: a new one, which is printed]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// How the host is hit
    #[arg(long, value_enum, default_value_t = Mode::Kill)]
    mode: Mode,
    /// The VM has a disk: its server answers no write before it is there. At the end the guest is reset, and everything
    /// read back from what is on the disk
    #[arg(long)]
    disk: bool,
    /// What runs the VM: QEMU, or the deterministic machine, which has no QEMU that could die alone
    #[arg(long, value_enum, default_value_t = Machine::Qemu)]
    machine: Machine,
    /// The server in the VM, and what its clients do
    #[arg(long, value_enum, default_value = "redis", requires_if("postgres", "disk"))]
    server: ServerKind,
    /// Time from one checkpoint to the next, or auto: as soon as output waits, seldom while none does
    #[arg(long, value_name = "TIME|auto", default_value = "auto")]
    interval: Interval,
    /// Folder for the agents' logs [default: target/torture]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Runs the torture.
///
/// # Errors
/// If it could not be carried out to the end: a VM that does not come back is one reason.
pub fn run(args: &TortureArgs) -> Result<ExitCode> {
    refuse_what_cannot_be(args)?;
    let mut screen = Screen::new(args.output == Output::Json);
    let seed = args.seed.unwrap_or_else(|| os::clock::realtime_us() % 1_000_000);
    screen.chapter("Getting ready");
    let props = stage::gather(&mut screen)?;
    let postgres = match args.server {
        ServerKind::Postgres => Some(stage::postgres(&mut screen)?),
        ServerKind::Redis => None,
    };
    let riscv = args.machine.guest(&mut screen)?;
    let load = match &postgres {
        Some(guest) => Load::Postgres(guest),
        None => Load::Redis { riscv: riscv.as_ref(), on_disk: args.disk },
    };
    let stage = Stage::raise(&props, "torture", load, &mut screen)?;
    let logs = args.out.clone().unwrap_or_else(|| workspace::target().join("torture"));
    // Kept whatever comes: a kill that was not survived is what they are for.
    let result = torture(args, seed, &stage, postgres.as_ref(), &mut screen);
    stage.keep_logs(&logs)?;
    let result = result?;
    result.show(&mut screen);
    screen.block(&format!("logs    {}", logs.display()));
    if args.output == Output::Json {
        println!("{:#}", serde_json::to_value(&result)?);
    }
    Ok(if result.held() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn refuse_what_cannot_be(args: &TortureArgs) -> Result<()> {
    if args.machine == Machine::Rv && args.mode == Mode::Qemu {
        bail!(
            "--mode qemu kills a QEMU, and --machine rv has none: the VM is a part of its agent; use --mode kill"
        );
    }
    if args.machine == Machine::Rv && args.server == ServerKind::Postgres {
        bail!("there is no guest with PostgreSQL for --machine rv; use --server redis");
    }
    Ok(())
}

fn torture(
    args: &TortureArgs,
    seed: u64,
    stage: &Stage,
    postgres: Option<&PostgresGuest>,
    screen: &mut Screen,
) -> Result<TortureResult> {
    screen.chapter(&format!("{} kills, seed {seed}", args.kills));
    let usual = match stage.server {
        Server::Redis => WriterConfig::new(stage.target),
        Server::Postgres => WriterConfig::postgres(stage.target),
    };
    // Every reply of hundreds of kills would fill the memory: only the waits around the kills are kept.
    let writers = stage.writers(&WriterConfig { keep_samples: false, ..usual })?;
    let wait = match stage.server {
        Server::Redis => "wait",
        // Several statements, each with an answer of its own.
        Server::Postgres => "time from one commit to the next",
    };
    screen.say(&format!(
        "{} clients write without a pause, on connections that are never opened again. \"outage\" is the longest {wait} \
         of the unluckiest of them.",
        writers.standings().len()
    ));
    let mut rounds = Vec::new();
    let ended = all_rounds(args, seed, stage, (&writers, postgres.map(Bank::new)), screen, &mut rounds);
    let (home, bank) = match ended {
        Ok(end) => end,
        Err(error) => {
            screen.bad(&format!("round {} of {} was not survived", rounds.len() + 1, args.kills));
            return Err(error);
        }
    };
    screen.live("the clients stop, and everything is read back");
    let report = writers.stop()?;
    let read_back = || stage.server.verify(stage.cluster.lab.client(), stage.target, &report.writers);
    let verification = read_back()?;
    let mut on_disk = None;
    if args.disk {
        screen.live("the guest is reset, and everything is read back from its disk");
        stage.cluster.reboot(home, &stage.vm, stage.target.ip())?;
        on_disk = Some(read_back()?);
        bank.as_ref().map(|bank| bank.audit(stage)).transpose()?;
    }
    let ledger = bank.map(|bank| bank.ledger);
    Ok(TortureResult::of((seed, args, stage.server), rounds, &report, (verification, on_disk), ledger))
}

/// Carries out all rounds; where the VM runs after the last, and what `pgbench` did.
fn all_rounds<'g>(
    args: &TortureArgs,
    seed: u64,
    stage: &Stage,
    (writers, mut bank): (&Writers, Option<Bank<'g>>),
    screen: &mut Screen,
    rounds: &mut Vec<Round>,
) -> Result<(&'static str, Option<Bank<'g>>)> {
    let mut chance = Chance::new(seed);
    let blows = args.machine.hit_by(&Blow::SINGLE);
    let mut field = Field::new(stage, Watch::new(stage, writers, screen), args.interval);
    field.protect()?;
    for number in 1..=args.kills {
        let blow = match args.mode {
            Mode::Kill => Blow::Kill,
            Mode::Freeze => Blow::Freeze,
            Mode::Link => Blow::Link,
            Mode::Qemu => Blow::Qemu,
            Mode::Mix => chance.pick(&blows),
        };
        let rest = Duration::from_micros(chance.between(300_000, 1_200_000));
        let round = round::play(&mut field, bank.as_mut(), (number, blow, rest))?;
        let progress = writers.progress();
        let after = format!("{} writes acknowledged", count(progress.acknowledged));
        field.watch.screen().block(&format!("{}, {after}", round.line(args.kills)));
        let wrong = round.wrong;
        rounds.push(round);
        if progress.broken > 0 || wrong > 0 {
            bail!(
                "{} connections are broken, {wrong} acknowledged writes are not in their place",
                progress.broken
            );
        }
    }
    Ok((field.home, bank))
}
