//! Owns part 3: what deltas, copying ahead and walking by several threads are worth: the same loads with each left out.

use crate::bench::bed::{Bed, LATE_SUSPICION};
use crate::bench::figures::{Findings, Table};
use crate::bench::pause::{ack_ms, dirty_pages, pause_ms};
use crate::bench::{Run, idle};
use crate::stage::{HOSTS, build};
use anyhow::{Context, Result};
use api::types::EpochRecord;
use lab::cluster::{Cluster, VmFile, VmShape};
use lab::guest::pulse::PulseClient;
use std::path::Path;
use std::time::Duration;

const SHORT: Duration = Duration::from_millis(25);
const LONG: Duration = Duration::from_millis(100);
const SETTLE: Duration = Duration::from_secs(1);
const PAGE: f64 = 4_096.0;
/// Memory of the guest whose page tables are walked, MiB.
const LARGE_MIB: u32 = 4_096;

/// What is compared, and what the agents leave out for it.
const VARIANTS: [(&str, &str); 3] =
    [("all of it", ""), ("without deltas", "deltas"), ("without copying ahead", "ahead")];

/// What the guest does.
enum Load {
    Nothing,
    /// Pages, rate and pattern.
    Dirty(u64, &'static str, &'static str),
    Redis,
}

/// A load, and how often checkpoints are taken.
const LOADS: [(&str, Duration, Load); 6] = [
    ("idle", SHORT, Load::Nothing),
    ("300 pages, words", SHORT, Load::Dirty(300, "300/tick", "seq")),
    ("300 pages, random numbers", SHORT, Load::Dirty(300, "300/tick", "seq+page")),
    ("Redis, 8 writers", SHORT, Load::Redis),
    ("3,000 pages, words", LONG, Load::Dirty(3_000, "60000", "seq")),
    ("10,000 pages, words", LONG, Load::Dirty(10_000, "200000", "seq")),
];

/// All loads with each variant, and a large memory with and without several threads.
pub fn measure(run: &mut Run<'_>, found: &mut Findings) -> Result<()> {
    found.how = HOW.into();
    let binary = match run.ablated {
        Some(binary) => binary.to_path_buf(),
        None => build::ablated(run.screen)?,
    };
    found.tables.push(Table::new(
        "Checkpoints with parts left out",
        &[
            ("what", "load: variant"),
            ("dirty_pages", "dirty pages"),
            ("pause_ms", "pause, ms"),
            ("ack_ms", "cut to acknowledgement, ms"),
            ("bytes", "bytes an epoch on the wire, mean"),
            ("percent", "of the dirty bytes, %"),
            ("delta_percent", "pages sent as deltas, %"),
            ("unchanged_percent", "pages not sent, since nothing changed, %"),
        ],
    ));
    for (number, (name, without)) in VARIANTS.into_iter().enumerate() {
        let cluster = start(&binary, &format!("ablate{number}"), without)?;
        let bed = Bed::raise_on(cluster, run, false)?;
        loads(run, &bed, name, &mut found.tables[0]).with_context(|| name)?;
    }
    walkers(run, found, &binary)
}

const HOW: &str = "The same guest (Linux, Redis, 512 MiB, TCG) and loads in each row, at agents that were built so that parts of \
    their checkpoints can be left out: the versions of pages that the backup has (then each page is sent whole: zero, LZ4 or \
    raw, and one that was written with what it held is sent again), copying ahead of a large checkpoint, walking the page \
    tables of a large memory by several threads. The first four loads have a checkpoint every 25 ms, the last two every 100 ms. \
    Dirty bytes are 4,096 for each dirty page; those on the wire are of whole checkpoints, device state and headers \
    included: where few pages are dirty these are most of it.";

fn start(binary: &Path, tag: &str, without: &str) -> Result<Cluster> {
    let section = match without {
        "" => String::new(),
        piece => format!("[ablation]\nwithout = [\"{piece}\"]\n"),
    };
    let sections = format!("{LATE_SUSPICION}{section}");
    Cluster::start(tag, binary, &HOSTS, &sections).context("the hosts cannot be set up")
}

fn loads(run: &mut Run<'_>, bed: &Bed, variant: &str, table: &mut Table) -> Result<()> {
    let mut interval = None;
    for (what, wanted, load) in &LOADS {
        if interval.is_some_and(|interval| interval != wanted) {
            bed.unprotect()?;
        }
        if interval.replace(wanted) != Some(wanted) {
            bed.protect(*wanted)?;
        }
        let label = format!("{what}: {variant}");
        let (epochs, kinds) = under(run, bed, load, &label)?;
        let (dirty, sent) = (sum(&epochs, |epoch| epoch.dirty_pages), sum(&epochs, |epoch| epoch.wire_bytes));
        let count = epochs.len() as f64;
        table.row(
            label,
            [
                dirty_pages(&epochs).into(),
                pause_ms(&epochs).into(),
                ack_ms(&epochs).into(),
                (sent / count).into(),
                (sent / (dirty * PAGE) * 100.0).into(),
                kinds[0].into(),
                kinds[1].into(),
            ],
        );
    }
    bed.pulse(PulseClient::stop)
}

fn sum(epochs: &[EpochRecord], get: fn(&EpochRecord) -> u64) -> f64 {
    epochs.iter().map(get).sum::<u64>() as f64
}

/// Checkpoints under a load, and how many of their pages went as deltas and not at all, in percent.
fn under(run: &mut Run<'_>, bed: &Bed, load: &Load, label: &str) -> Result<(Vec<EpochRecord>, [f64; 2])> {
    let mut writers = None;
    match load {
        Load::Nothing => bed.pulse(PulseClient::stop)?,
        Load::Dirty(pages, rate, pattern) => bed.pulse(|pulse| pulse.dirty(*pages, rate, pattern))?,
        Load::Redis => {
            bed.pulse(PulseClient::stop)?;
            writers = Some(bed.reach.writers(bed.client(), 4)?);
        }
    }
    run.pass(&format!("{label}: settling"), SETTLE);
    let time = run.stretch(4);
    let before = bed.status(HOSTS[0])?.measured;
    let mut epochs = bed.epochs(run, label, time)?;
    let after = bed.status(HOSTS[0])?.measured;
    let pages = (after.pages - before.pages) as f64;
    let percent = |from: u64, to: u64| (to - from) as f64 / pages * 100.0;
    let deltas = percent(before.delta_pages, after.delta_pages);
    let unchanged = percent(before.unchanged_pages, after.unchanged_pages);
    if let Some(writers) = writers {
        writers.stop()?;
    }
    // What was cut last may not have been sent yet.
    epochs.retain(|epoch| epoch.wire_bytes > 0);
    anyhow::ensure!(!epochs.is_empty(), "nothing was sent in {} s", time.as_secs_f64());
    Ok((epochs, [deltas, unchanged]))
}

fn walkers(run: &mut Run<'_>, found: &mut Findings, binary: &Path) -> Result<()> {
    let mib = if run.quick { LARGE_MIB / 4 } else { LARGE_MIB };
    let mut table = Table::new(
        format!("An idle VM of {mib} MiB in use, checkpoints every 25 ms"),
        &[("what", "what"), ("pause_ms", "pause, ms"), ("dirty_pages", "dirty pages")],
    );
    for (tag, name, without) in
        [("walkers", "as many threads as processors", ""), ("walker", "one thread", "walkers")]
    {
        let cluster = start(binary, tag, without)?;
        let shape = VmShape { memory_mib: mib, ..VmShape::default() };
        let file = VmFile::redis(&run.props.guest, "bench", shape, None)?;
        let bed = Bed::boot(cluster, run, file)?;
        idle::fill(run, &bed, mib)?;
        bed.protect(SHORT)?;
        run.pass(&format!("{name}: settling"), SETTLE);
        let time = run.stretch(6);
        let epochs = bed.epochs(run, name, time)?;
        table.row(name, [pause_ms(&epochs).into(), dirty_pages(&epochs).into()]);
    }
    found.tables.push(table);
    Ok(())
}
