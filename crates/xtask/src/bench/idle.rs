//! Owns part 7: what an idle VM costs, and how that grows with its memory.

use super::Run;
use super::bed::{Bed, start_cluster};
use super::cable;
use super::cpu::cpu_seconds;
use super::figures::{Cell, Findings, Table, Target};
use super::memory::ram_in_use;
use super::pause::{dirty_pages, pause_ms};
use crate::stage::HOSTS;
use anyhow::{Context, Result};
use lab::cluster::{VmFile, VmShape};
use lab::topology::AGENT;
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(25);
/// Memory of the guests, MiB. Of each seven eighths are in use.
const SIZES: [u32; 4] = [512, 2_048, 8_192, 16_384];
/// What must be left of this machine's memory, MiB.
const LEFT: u64 = 2_048;
const SETTLE: Duration = Duration::from_secs(2);
/// Until what the guest does not write is left out of scans, from a GiB on: ten seconds without a write, and then so
/// long for each GiB (`os::tracker::Cooling`, a piece of 2 MiB in 11 ms).
const COOLS: Duration = Duration::from_secs(12);
const COOLS_A_GIB: Duration = Duration::from_secs(6);

/// One guest of each size, idle, with even checkpoints and with those that follow the output.
pub fn measure(run: &mut Run<'_>, found: &mut Findings) -> Result<()> {
    found.how = HOW.into();
    found.tables.push(Table::new(
        "An idle VM by its memory",
        &[
            ("memory", "memory, checkpoints"),
            ("in_use_mib", "in use at the primary, MiB"),
            ("pause_ms", "pause, ms"),
            ("dirty_pages", "dirty pages"),
            ("primary_percent", "agent at the primary, % of a processor"),
            ("backup_percent", "agent at the backup, %"),
            ("qemu_percent", "QEMU at the primary, %"),
            ("wire_kb", "on the wire, both ways, kB/s"),
        ],
    ));
    for (number, mib) in SIZES.into_iter().enumerate() {
        let available = os::facts::available_memory() >> 20;
        if available < u64::from(mib) + LEFT {
            found.notes.push(format!("{mib} MiB: not measured, this machine had {available} MiB left."));
            continue;
        }
        one(run, found, number, mib).with_context(|| format!("a guest of {mib} MiB"))?;
    }
    Ok(())
}

const HOW: &str = "A Redis guest on a q35 that nobody asks anything; seven eighths of its memory are in use, filled with zeros and \
    not touched any more, for long enough that scans leave them out. Processor time is that of a process, its ended threads \
    among them; bytes are those that the kernel counted on the cable between the hosts, heartbeats and all headers among them. A guest under TCG has no idle state of \
    its own: its QEMU's time is told beside.";

fn one(run: &mut Run<'_>, found: &mut Findings, number: usize, mib: u32) -> Result<()> {
    let cluster = start_cluster(run.props, &format!("idle{number}"))?;
    let shape = VmShape { memory_mib: mib, ..VmShape::default() };
    let file = VmFile::redis(&run.props.guest, "bench", shape, None)?;
    let bed = Bed::boot(cluster, run, file)?;
    fill(run, &bed, mib)?;
    bed.protect(INTERVAL)?;
    row(run, found, &bed, mib, "every 25 ms")?;
    bed.unprotect()?;
    bed.protect_following()?;
    row(run, found, &bed, mib, "following the output")
}

/// Has the guest use seven eighths of its memory.
pub fn fill(run: &mut Run<'_>, bed: &Bed, mib: u32) -> Result<()> {
    run.screen.live(&format!("{mib} MiB: the guest uses its memory"));
    bed.pulse(|pulse| pulse.hold(u64::from(mib) * 256 / 8 * 7 - HELD_BY_OTHERS))
}

/// Pages that the guest's kernel and servers use.
const HELD_BY_OTHERS: u64 = 30_000;

fn row(run: &mut Run<'_>, found: &mut Findings, bed: &Bed, mib: u32, how: &str) -> Result<()> {
    let cools = if mib < 1024 { Duration::ZERO } else { COOLS + COOLS_A_GIB * (mib / 1024) };
    run.pass(&format!("{mib} MiB, {how}: settling"), SETTLE + cools);
    let agents = HOSTS.map(|host| bed.cluster.lab.process(host, AGENT));
    let [primary, backup] = agents;
    let (primary, backup) = (primary?, backup?);
    let qemu = bed.status(HOSTS[0])?.pid.context("the primary does not tell QEMU's process")?;
    let began = Instant::now();
    let before = Spent::of([primary, backup, qemu])?;
    let time = run.stretch(15);
    let epochs = bed.epochs(run, &format!("{mib} MiB, idle, {how}"), time)?;
    let (spent, seconds) = (Spent::of([primary, backup, qemu])?, began.elapsed().as_secs_f64());
    let percent = |at: usize| (spent.processor[at] - before.processor[at]) / seconds * 100.0;
    let wire = (spent.wire - before.wire) as f64 / seconds / 1e3;
    let in_use = ram_in_use(qemu, u64::from(mib) << 20)?;
    let cells: [Cell; 7] = [
        in_use.into(),
        pause_ms(&epochs).into(),
        dirty_pages(&epochs).into(),
        percent(0).into(),
        percent(1).into(),
        percent(2).into(),
        wire.into(),
    ];
    found.tables[0].row(format!("{mib} MiB, {how}"), cells);
    if mib == SIZES[0] && how == "every 25 ms" {
        let both = percent(0) + percent(1);
        found.targets.push(Target::at_most(
            "an idle VM at 25 ms: both agents, of one processor",
            "%",
            3.0,
            both,
        ));
        found.targets.push(Target::at_most("an idle VM at 25 ms: on the wire", "kB/s", 200.0, wire));
    }
    Ok(())
}

/// What was spent until now.
struct Spent {
    /// Seconds of a processor, of each process.
    processor: [f64; 3],
    /// Bytes that left and reached the first process's host by the cable.
    wire: u64,
}

impl Spent {
    fn of(processes: [u32; 3]) -> Result<Self> {
        let mut processor = [0.0; 3];
        for (seconds, pid) in processor.iter_mut().zip(processes) {
            *seconds = cpu_seconds(pid)?;
        }
        Ok(Self { processor, wire: cable::bytes(processes[0])? })
    }
}
