//! Owns `cargo xtask bench rv`: the deterministic machine beside QEMU's deterministic modes.

mod guest;
mod network;
mod protected;
mod recording;

use super::figures::{Cell, Findings, Table, Target};
use super::{BenchArgs, Run, site};
use crate::process;
use anyhow::{Context, Result, bail};
use clap::Args;
use lab::guest::cache::Cache;
use lab::guest::riscv::RiscvGuest;
use std::path::{Path, PathBuf};
use std::process::Command;

pub use network::measure as network;
pub use protected::measure as protected;
pub use recording::measure as recording;

/// What to measure
#[derive(Debug, Args)]
pub struct RvArgs {
    /// Only boot this kernel for riscv64, an uncompressed `Image`, and run bare programs
    #[arg(long, value_name = "FILE", requires = "initrd")]
    pub kernel: Option<PathBuf>,
    /// Its initial file system, which has to switch the machine off in the end
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// How to measure.
    #[command(flatten)]
    pub bench: BenchArgs,
}

/// What the program tells of snapshots begins so.
const SNAPSHOT: &str = "Snapshot of 256 MiB with 1,000 dirty pages: ";

/// This suite's QEMU and guest, where there are any: they are not those of the others.
pub fn facts() -> Vec<(&'static str, String)> {
    let qemu = site::output("qemu-system-riscv64", &["--version"]);
    let guest = Cache::open().ok().and_then(|cache| RiscvGuest::build(&cache).ok());
    let version = |guest: &RiscvGuest, package: &str| {
        let found = guest.manifest.packages.iter().find(|(name, _)| name.starts_with(package));
        found.map_or_else(|| "of no known version".to_owned(), |(_, version)| version.clone())
    };
    let guest = guest.map(|guest| {
        let (kernel, redis) = (version(&guest, "linux-image-"), version(&guest, "redis-server"));
        format!("Debian kernel for riscv64 {kernel}, redis-server {redis}, unmodified")
    });
    [("QEMU", qemu), ("Guest", guest)].into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// The program that compares speeds. It is one of the crate `rv`, because what counts is an optimised build of that alone.
fn speed_command(kernel: &Path, initrd: &Path) -> Command {
    let mut command = process::cargo();
    command.args(["run", "--quiet", "--locked", "--release", "--package", "rv", "--example", "speed", "--"]);
    command.args([kernel, initrd]);
    command
}

/// Bare programs and a boot of this kernel: prints a table.
pub fn boot(args: &RvArgs) -> Result<()> {
    let (Some(kernel), Some(initrd)) = (&args.kernel, &args.initrd) else { return Ok(()) };
    for file in [kernel, initrd] {
        if !file.is_file() {
            bail!("there is no file {}", file.display());
        }
    }
    process::run(&mut speed_command(kernel, initrd))
}

/// Bare programs, and a boot to user space and power-off.
pub fn speed(run: &mut Run<'_>, found: &mut Findings) -> Result<()> {
    found.how = "Seconds, for the bare programs without QEMU's start: of processor time in user mode, and on the wall, \
                 where machine code is made beside the guest. Each way once in each of three rounds; medians, also of \
                 the rounds' ratios. Integers: shifts, sums, products, a branch by chance, a call. Memory: 8 MiB \
                 written, added up and copied. Boot: Debian's kernel to user space, and off."
        .into();
    run.screen.live("the guest is fetched");
    let guest = RiscvGuest::build(&Cache::open()?)?;
    run.screen.live("bare programs and boots");
    let text = process::output(&mut speed_command(&guest.kernel, &guest.initrd))?;
    let mut table = Table::new(
        "Time to do the same",
        &[
            ("job", "job"),
            ("instructions_m", "million instructions"),
            ("rv_s", "here, s"),
            ("icount_s", "QEMU `-icount shift=auto`, s"),
            ("qemu_s", "QEMU, s"),
            ("ratio", "here / icount"),
            ("rv_wall_s", "here, on the wall, s"),
            ("icount_wall_s", "icount, on the wall, s"),
            ("qemu_wall_s", "QEMU, on the wall, s"),
            ("wall_ratio", "here / icount, on the wall"),
        ],
    );
    // Behind the heading and the line below it.
    for line in text.lines().filter(|line| line.starts_with('|')).skip(2) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, numbers @ ..] = cells.as_slice() else { bail!("not a row: {line}") };
        let numbers = numbers.iter().map(|cell| cell.parse::<f64>()).collect::<Result<Vec<_>, _>>()?;
        let cells: [f64; 9] = numbers.try_into().ok().with_context(|| format!("not a row: {line}"))?;
        for (how, ratio) in [("processor time", cells[4]), ("time on the wall", cells[8])] {
            let name = format!("{name}, of QEMU's {how} with icount");
            found.targets.push(Target::at_most(name, "times", 1.0, ratio));
        }
        table.row(*name, cells.map(Cell::from));
    }
    found.tables.push(table);
    let snapshot = text.lines().find(|line| line.starts_with(SNAPSHOT)).context("nothing of snapshots")?;
    let median = snapshot.strip_prefix(SNAPSHOT).and_then(|rest| rest.split_once(" ms")?.0.parse().ok());
    found.targets.push(Target::at_most(
        "a guest stands still for a snapshot of 1,000 dirty pages, median",
        "ms",
        1.0,
        median.with_context(|| format!("no time: {snapshot}"))?,
    ));
    found.notes.push(format!("{snapshot}."));
    Ok(())
}
