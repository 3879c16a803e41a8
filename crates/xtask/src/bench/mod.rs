//! Owns `cargo xtask bench`: what protection and the agent's disks cost, measured beside their absence in one run.
//!
//! Each part has its own hosts and VM, so that one can be run alone, and what fails in one spoils no other. Before
//! each the processors are looked at: a loaded machine is said, not hidden. Nothing is asserted.

mod all;
mod bare;
mod bed;
mod cable;
mod clock;
mod closed;
mod comparison;
mod copies;
mod cost;
mod cpu;
mod disk;
mod failover;
mod figures;
mod idle;
mod machines;
mod many;
mod memory;
mod migrate;
mod outage;
mod page;
mod pause;
mod rv;
mod site;
mod slow;

use crate::demo::Output;
use crate::stage::screen::Screen;
use crate::stage::{self, Props};
use crate::workspace;
use all::kept::{self, Kept};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use figures::{Findings, Part};
use lab::guest::cache::Cache;
use lab::guest::redis::RedisGuest;
use serde::{Serialize, Serializer};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

/// What can be measured
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// What checkpoints cost: pause, latency, throughput, outage, memory, bytes, guest clock, idle VMs (14 minutes, as root).
    /// Parts: 1 pause, 2 latency and throughput, 3 outage, 4 memory and bytes, 5 machines, 6 clock, 7 idle VMs by their memory, 8 slow link
    Checkpoint(BenchArgs),
    /// What the agent's disks cost beside QEMU's own driver for files (30 minutes, as root).
    /// Parts: 1 in the guest, 2 from outside, 3 pause with a busy disk, 4 pgbench, 5 resynchronisation
    Disk(BenchArgs),
    /// What it is to stand by for 1, 2, 5 and 10 VMs of other hosts (15 minutes, as root).
    /// Parts: 1 number of VMs and death of all, 2 first copy beside checkpoints, 3 refusal
    Many(BenchArgs),
    /// What clients see when hosts and links die (14 minutes, as root).
    /// Parts: 1 outage of 100 kills, with and without input replay, and until protected again, 2 several links, 3 another backup,
    /// 4 protected again behind a move
    Failover(BenchArgs),
    /// Live migration beside stopping the VM first and beside QEMU's own (14 minutes, as root). One part
    Migrate(BenchArgs),
    /// What the evaluation has beside the others (12 minutes, as root).
    /// Parts: 1 a guest that writes memory, by interval, 2 beside QEMU's COLO, 3 checkpoints with parts left out
    Comparison(BenchArgs),
    All(all::AllArgs),
    /// The deterministic machine beside `qemu-system-riscv64`, and protected (13 minutes, as root).
    /// Parts: 1 bare programs and a boot, 2 recording and replay, 3 Redis over the network, 4 protection
    Rv(rv::RvArgs),
}

/// How to measure
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Measure shortly, to see that everything works; the figures mean little
    #[arg(long)]
    quick: bool,
    /// Measure these parts only
    #[arg(long, value_name = "N,N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    only: Vec<u32>,
    /// Measure this `undying` instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// How the figures are printed at the end; they are in files in any case
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// In `comparison`: leave parts out of this `undying`, built with the feature `ablation`, instead of building one
    #[arg(long, value_name = "FILE")]
    ablated: Option<PathBuf>,
}

/// What measures one part. What it found before it failed is kept.
type Work = fn(&mut Run<'_>, &mut Findings) -> Result<()>;

/// Parts that are measured together, and make one document.
#[derive(Debug)]
pub struct Suite {
    name: &'static str,
    title: &'static str,
    parts: &'static [(&'static str, Work)],
    /// What is worth knowing of a run beside where it ran.
    facts: fn() -> Vec<(&'static str, String)>,
}

const CHECKPOINT: Suite = Suite {
    name: "checkpoint",
    title: "Checkpoints measured",
    parts: &[
        ("Pause of the VM for a checkpoint", pause::measure),
        ("Latency and throughput by checkpoint interval", cost::measure),
        ("Outage at a failover", outage::measure),
        ("Memory, and bytes on the wire", memory::measure),
        ("Fixed part of the pause by machine and devices", machines::measure),
        ("The guest's clock", clock::measure),
        ("Idle VMs by their memory", idle::measure),
        ("A link that is too slow", slow::measure),
    ],
    facts: || vec![site::detection()],
};

const DISK: Suite = Suite {
    name: "disk",
    title: "Disks measured",
    parts: &[
        ("Reads and writes in the guest", disk::speed::measure),
        ("Reads and writes from outside", disk::export::measure),
        ("Pause of a checkpoint with a busy disk", disk::busy::measure),
        ("A database by checkpoint interval", disk::bank::measure),
        ("Resynchronisation by difference", disk::difference::measure),
    ],
    facts: Vec::new,
};

const MANY: Suite = Suite {
    name: "many",
    title: "One backup, many primaries",
    parts: &[
        ("By number of VMs, and the death of all their hosts", many::number::measure),
        ("A first copy beside checkpoints", many::greedy::measure),
        ("Refusal at the limit", many::refusal::measure),
    ],
    facts: Vec::new,
};

const FAILOVER: Suite = Suite {
    name: "failover",
    title: "Failovers measured",
    parts: &[
        ("Outage when the VM's host dies", failover::deaths::measure),
        ("Several links", failover::links::measure),
        ("Another backup", failover::change::measure),
        ("Protected again behind a move", failover::again::measure),
    ],
    facts: || vec![failover::detection()],
};

const MIGRATE: Suite = Suite {
    name: "migrate",
    title: "Live migration measured",
    parts: &[("Undying beside QEMU's own", migrate::measure)],
    facts: Vec::new,
};

const COMPARISON: Suite = Suite {
    name: "comparison",
    title: "Comparisons and ablations measured",
    parts: &[
        ("A guest that writes memory as fast as it can", comparison::writing::measure),
        ("Beside QEMU's COLO", comparison::colo::measure),
        ("Checkpoints with parts left out", comparison::ablation::measure),
    ],
    facts: Vec::new,
};

const RV: Suite = Suite {
    name: "rv",
    title: "The deterministic machine measured",
    parts: &[
        ("Speed", rv::speed),
        ("Recording and replay", rv::recording),
        ("Redis over the network", rv::network),
        ("Protection beside a guest in QEMU", rv::protected),
    ],
    facts: rv::facts,
};

impl Serialize for Suite {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.name.serialize(serializer)
    }
}

/// What every part needs.
pub struct Run<'a> {
    /// The program and the guest.
    pub props: &'a Props,
    /// Where progress is shown.
    pub screen: &'a mut Screen,
    /// A program of which parts can be left out, if one was given.
    pub ablated: Option<&'a Path>,
    quick: bool,
}

impl Run<'_> {
    /// A stretch of time to measure for: so many seconds, or less in a quick run.
    pub fn stretch(&self, seconds: u64) -> Duration {
        let full = Duration::from_secs(seconds);
        if self.quick { (full / 6).max(Duration::from_millis(700)) } else { full }
    }

    /// How often something is to be done: `count` times, or less often in a quick run.
    pub fn times(&self, count: usize) -> usize {
        if self.quick { (count / 5).max(1) } else { count }
    }

    /// Lets time pass, and says what for.
    pub fn pass(&mut self, label: &str, time: Duration) {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            self.screen.live(&format!("{label}, {:.0} s to go", left.as_secs_f64()));
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(Duration::from_millis(500)));
        }
    }
}

/// All that a run measured.
#[derive(Debug, Serialize)]
pub struct Record {
    /// What was measured.
    pub suite: &'static Suite,
    /// What was typed.
    pub command: String,
    /// Whether it was a quick run.
    pub quick: bool,
    /// Whether others used the machine much.
    pub loaded: bool,
    /// Where it ran.
    pub facts: Vec<(&'static str, String)>,
    /// The parts, as far as they were measured.
    pub parts: Vec<Part>,
}

impl Record {
    fn new(suite: &'static Suite, command: String, quick: bool, facts: Vec<(&'static str, String)>) -> Self {
        Self { suite, command, quick, loaded: false, facts, parts: Vec::new() }
    }

    fn add(&mut self, part: Part) {
        self.loaded |= part.others_busy_percent > site::LOADED_PERCENT;
        self.parts.push(part);
    }

    /// The parts that could not be measured.
    fn failed(&self) -> Vec<String> {
        let failed = self.parts.iter().filter(|part| part.error.is_some());
        failed.map(|part| part.title.to_string()).collect()
    }

    /// Writes the JSON, and the document: the one in `docs` only of a whole run.
    fn write(&self, whole: bool) -> Result<[PathBuf; 2]> {
        let folder = kept::folder(self.quick);
        let json = folder.join(self.suite.name).with_extension("json");
        let docs = if whole { workspace::root().join("docs/bench") } else { folder };
        let page = docs.join(self.suite.name).with_extension("md");
        put(&json, &(serde_json::to_string_pretty(self).context("figures are JSON")? + "\n"))?;
        put(&page, &page::markdown(self))?;
        Ok([json, page])
    }
}

fn put(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().context("a file lies in a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Measures what was asked for. Fails if a part could not be measured, not if a figure is bad.
pub fn run(bench: &Bench) -> Result<ExitCode> {
    let (suite, args) = match bench {
        Bench::Checkpoint(args) => (&CHECKPOINT, args),
        Bench::Disk(args) => (&DISK, args),
        Bench::Many(args) => (&MANY, args),
        Bench::Failover(args) => (&FAILOVER, args),
        Bench::Migrate(args) => (&MIGRATE, args),
        Bench::Comparison(args) => (&COMPARISON, args),
        Bench::All(args) => return all::run(args),
        Bench::Rv(args) if args.kernel.is_some() => return rv::boot(args).map(|()| ExitCode::SUCCESS),
        Bench::Rv(args) => (&RV, &args.bench),
    };
    only_root()?;
    if let Some(number) = args.only.iter().find(|number| **number as usize > suite.parts.len()) {
        bail!("there is no part {number}: `bench {}` has {} parts", suite.name, suite.parts.len());
    }
    let began = Instant::now();
    let mut screen = Screen::new(args.output == Output::Json);
    screen.chapter("What is needed");
    let props = props(args, &mut screen)?;
    let record = self::suite(suite, args, &mut screen, &props)?;
    screen.say(&format!("Measured in {:.0} s.", began.elapsed().as_secs_f64()));
    if args.output == Output::Json {
        println!("{:#}", serde_json::to_value(&record)?);
    }
    let failed = record.failed();
    if !failed.is_empty() {
        bail!("not measured: {}", failed.join("; "));
    }
    Ok(ExitCode::SUCCESS)
}

fn only_root() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("only root may make network namespaces and protect VMs: run this as root");
    }
    Ok(())
}

/// Measures the parts that were asked for, and writes what was found.
fn suite(suite: &'static Suite, args: &BenchArgs, screen: &mut Screen, props: &Props) -> Result<Record> {
    let mut facts = site::facts(&props.guest.manifest);
    let own = (suite.facts)();
    // What a suite knows better, it says itself.
    facts.retain(|(name, _)| own.iter().all(|(better, _)| better != name));
    facts.extend(own);
    let mut record = Record::new(suite, command(suite, args), args.quick, facts);
    let wanted = |number: u32| args.only.is_empty() || args.only.contains(&number);
    for (number, &(title, work)) in (1..).zip(suite.parts).filter(|(number, _)| wanted(*number)) {
        let ablated = args.ablated.as_deref();
        let mut run = Run { props, screen: &mut *screen, ablated, quick: args.quick };
        let part = measure(&mut run, number, title, work);
        show(screen, &part);
        if part.error.is_none() {
            let facts =
                record.facts.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
            let (suite, command) = (suite.name.to_owned(), record.command.clone());
            kept::keep(args.quick, &Kept { suite, command, facts, part: part.clone() })?;
        }
        record.add(part);
    }
    // A document with holes must not take the place of a whole one.
    let whole = !args.quick && args.only.is_empty() && record.failed().is_empty();
    for path in record.write(whole)? {
        screen.done(&format!("written: {}", workspace::relative(&path)));
    }
    Ok(record)
}

fn props(args: &BenchArgs, screen: &mut Screen) -> Result<Props> {
    let Some(binary) = &args.binary else { return stage::gather(screen) };
    let binary = binary.canonicalize().with_context(|| format!("there is no {}", binary.display()))?;
    Ok(Props { binary, guest: RedisGuest::build(&Cache::open()?)? })
}

fn command(suite: &Suite, args: &BenchArgs) -> String {
    let mut command = format!("cargo xtask bench {}", suite.name);
    if args.quick {
        command.push_str(" --quick");
    }
    if args.binary.is_some() {
        // Then the commit below may not be what it was built from.
        command.push_str(" --binary FILE");
    }
    if !args.only.is_empty() {
        let parts: Vec<String> = args.only.iter().map(u32::to_string).collect();
        command.push_str(&format!(" --only {}", parts.join(",")));
    }
    command
}

fn measure(run: &mut Run<'_>, number: u32, title: &'static str, work: Work) -> Part {
    run.screen.chapter(&format!("{title} (part {number})"));
    let others_busy_percent = site::busy_percent();
    if others_busy_percent > site::LOADED_PERCENT {
        run.screen
            .bad(&format!("others use {others_busy_percent:.0} % of the processors: figures will be worse"));
    }
    let start = Instant::now();
    let mut found = Findings::default();
    let error = work(run, &mut found).err().map(|error| format!("{error:#}"));
    Part {
        number,
        title: title.into(),
        others_busy_percent,
        seconds: start.elapsed().as_secs_f64(),
        error,
        found,
    }
}

fn show(screen: &mut Screen, part: &Part) {
    for table in &part.found.tables {
        screen.block(&page::drawn(table));
    }
    for note in &part.found.notes {
        screen.say(note);
    }
    for target in &part.found.targets {
        let (found, limit) = (page::number(target.found), page::bound(target.bound));
        let text = format!("{}: {found} {} (aimed at: {limit})", target.what, target.unit);
        if target.reached { screen.done(&text) } else { screen.bad(&text) }
    }
    match &part.error {
        Some(error) => screen.bad(&format!("not measured: {error}")),
        None => screen.done(&format!("measured in {:.0} s", part.seconds)),
    }
}
