//! Owns the part about protection: the deterministic machine beside a guest in QEMU, both as VMs of an agent.

use super::super::Run;
use super::super::bed::{Bed, start_cluster};
use super::super::figures::{Cell, Findings, Table};
use crate::stage::HOSTS;
use anyhow::{Context, Result};
use api::summary::Summary;
use lab::client::Pinger;
use lab::cluster::{VmFile, VmShape};
use lab::guest::cache::Cache;
use lab::guest::riscv::RiscvGuest;

/// A host is killed once in each round.
const ROUNDS: usize = 3;
const SECONDS: u64 = 10;

/// What one kind of machine gave, in microseconds.
#[derive(Default)]
struct Seen {
    alone: Vec<u64>,
    protected: Vec<u64>,
    pause: Vec<u64>,
    acknowledged: Vec<u64>,
    pages: Vec<f64>,
    promotion: Vec<u64>,
}

/// A lone client at both kinds of machine, unprotected and protected; then their host dies.
pub fn measure(run: &mut Run<'_>, found: &mut Findings) -> Result<()> {
    found.how = "Redis in a Linux guest of 512 MiB, in the deterministic machine and in QEMU, by turns. One connection, one SET or \
                 GET at a time, first unprotected, then with checkpoints that follow the output; then the VM's host is killed. The \
                 promotion is by its own account."
        .into();
    let riscv = RiscvGuest::build(&Cache::open()?)?;
    let files = [
        ("here", VmFile::deterministic(&riscv, "bench", VmShape::default())?),
        ("QEMU, TCG", VmFile::redis(&run.props.guest, "bench", VmShape::default(), None)?),
    ];
    let mut all = files.map(|(how, file)| (how, file, Seen::default()));
    for _ in 0..run.times(ROUNDS) {
        for (how, file, seen) in &mut all {
            watch(run, how, file, seen)?;
        }
    }
    let mut table = Table::new(
        "Protection of either kind",
        &[
            ("how", "how"),
            ("alone_ms", "unprotected: latency, ms"),
            ("protected_ms", "protected: latency, ms"),
            ("pause_ms", "pause, ms"),
            ("pages", "dirty pages"),
            ("ack_ms", "cut to acknowledgement, ms"),
            ("promotion_ms", "promotion, ms"),
        ],
    );
    for (how, _, seen) in all {
        let ms = |times: Vec<u64>| Cell::from(Summary::of_us_in_ms(times));
        let pages = Cell::from(Summary::of(seen.pages));
        let [alone, protected] = [seen.alone, seen.protected].map(ms);
        let [pause, acknowledged, promotion] = [seen.pause, seen.acknowledged, seen.promotion].map(ms);
        table.row(how, [alone, protected, pause, pages, acknowledged, promotion]);
    }
    found.tables.push(table);
    Ok(())
}

fn watch(run: &mut Run<'_>, how: &str, file: &VmFile, seen: &mut Seen) -> Result<()> {
    let cluster = start_cluster(run.props, "rvprot")?;
    let bed = Bed::boot(cluster, run, file.clone())?;
    let time = run.stretch(SECONDS);
    let pinger = Pinger::start(bed.client(), bed.reach.redis())?;
    run.pass(&format!("{how}: unprotected"), time);
    seen.alone.extend(pinger.stop()?.samples.iter().map(|sample| sample.latency_us));
    bed.protect_following()?;
    let pinger = Pinger::start(bed.client(), bed.reach.redis())?;
    let epochs = bed.epochs(run, &format!("{how}: protected"), time)?;
    seen.protected.extend(pinger.stop()?.samples.iter().map(|sample| sample.latency_us));
    seen.pause.extend(epochs.iter().map(|epoch| epoch.pause_us));
    seen.acknowledged.extend(epochs.iter().map(|epoch| epoch.ack_us).filter(|&us| us > 0));
    seen.pages.extend(epochs.iter().map(|epoch| epoch.dirty_pages as f64));
    run.screen.live(&format!("{how}: its host dies"));
    let mark = bed.newest_event(HOSTS[1])?;
    bed.cluster.lab.kill_host(HOSTS[0])?;
    let promoted = bed.cluster.wait_event(HOSTS[1], "promoted", mark)?;
    seen.promotion.push(promoted.what["total_us"].as_u64().context("a promotion tells how long it took")?);
    Ok(())
}
