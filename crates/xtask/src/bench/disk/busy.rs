//! Owns part 3 of the disks' benchmark: what a busy disk adds to the pause of a checkpoint, beside the pages that it
//! dirties.

use super::super::Run;
use super::super::bed::{Bed, start_cluster};
use super::super::figures::{Findings, Line, Table, Target};
use super::super::pause::{dirty_pages, pause_ms};
use super::guest;
use anyhow::{Context, Result};
use api::summary::Summary;
use api::types::EpochRecord;
use std::time::Duration;

const INTERVAL: Duration = Duration::from_millis(25);
/// Pages that a program in the guest dirties in each epoch while the disk is idle.
const STEPS: [u64; 4] = [30, 300, 1_000, 3_000];
/// Loads on the disk: a name, and fio's words.
const BUSY: [(&str, &str); 3] = [
    ("4 KiB random writes, 16 at a time", "--rw=randwrite --bs=4k --iodepth=16"),
    ("4 KiB random writes, each flushed", "--rw=randwrite --bs=4k --iodepth=1 --fsync=1"),
    ("1 MiB sequential writes, 4 at a time", "--rw=write --bs=1m --iodepth=4"),
];
/// After a change of load.
const SETTLE: Duration = Duration::from_millis(1_500);

/// Pauses by dirty pages with an idle disk, then with a busy one.
pub fn measure(run: &mut Run<'_>, found: &mut Findings) -> Result<()> {
    found.how = HOW.into();
    let (image, _) = guest::image(run)?;
    let cluster = start_cluster(run.props, "busy")?;
    let bed = guest::on_agent(run, cluster, &image)?;
    bed.protect(INTERVAL)?;
    let idle = idle(run, &bed)?;
    let line = line(&idle).context("too few points for a line")?;
    let mut table = Table::new(
        "Pause at 25 ms",
        &[
            ("what", "what"),
            ("dirty_pages", "dirty pages"),
            ("pause_ms", "pause, ms"),
            ("above_line_ms", "above the line of the idle disk, ms"),
        ],
    );
    for (pages, epochs) in &idle {
        let cells = [dirty_pages(epochs).into(), pause_ms(epochs).into(), above(line, epochs).into()];
        table.row(format!("disk idle, a program dirties {pages} pages"), cells);
    }
    for (what, fio) in BUSY {
        guest::begin(bed.client(), bed.reach, fio)?;
        run.pass(&format!("{what}, settling"), SETTLE);
        let time = run.stretch(10);
        let epochs = bed.epochs(run, what, time)?;
        guest::rest(bed.client(), bed.reach)?;
        let busy = above(line, &epochs).context("no checkpoints")?;
        let at_rest = above(line, nearest(&idle, dirty_pages(&epochs).median)).context("no checkpoints")?;
        let title = format!("disk busy: {what} (`{fio}`)");
        table.row(title, [dirty_pages(&epochs).into(), pause_ms(&epochs).into(), busy.into()]);
        let added = |what: &str, ms| Target::at_most(what, "ms", 0.5, ms);
        let name = format!("added pause, {what}, median");
        found.targets.push(added(&name, busy.median - at_rest.median));
        found.notes.push(format!(
            "{what}: against the idle disk at as many dirty pages the pause is longer by {:.3} ms in the median and \
             by {:.3} ms in the 99th percentile.",
            busy.median - at_rest.median,
            busy.p99 - at_rest.p99
        ));
    }
    found.tables.push(table);
    Ok(())
}

const HOW: &str = "One protected VM, checkpoints every 25 ms. A load on the disk dirties pages too, so pauses are compared at as many \
    dirty pages: with an idle disk a program in the guest dirties more and more pages, and a line is laid through the \
    medians (the least squares); then fio keeps the disk busy, and each pause is compared with the line at its own \
    number of dirty pages, and both with the nearest step of the idle disk. Pauses are those of QEMU's STOP and RESUME events.";

fn idle(run: &mut Run<'_>, bed: &Bed) -> Result<Vec<(u64, Vec<EpochRecord>)>> {
    let mut found = Vec::new();
    for pages in STEPS {
        // Each page about twice in an interval, so that every epoch has all of them.
        let rate = (pages * 80).to_string();
        bed.pulse(|pulse| pulse.dirty(pages, &rate, "seq"))?;
        run.pass(&format!("{pages} pages, settling"), SETTLE);
        let time = run.stretch(6);
        found.push((pages, bed.epochs(run, &format!("disk idle, {pages} pages"), time)?));
    }
    bed.pulse(|pulse| pulse.stop())?;
    Ok(found)
}

/// The checkpoints of the idle disk with about so many dirty pages.
fn nearest(idle: &[(u64, Vec<EpochRecord>)], pages: f64) -> &[EpochRecord] {
    let distance = |epochs: &[EpochRecord]| (dirty_pages(epochs).median - pages).abs();
    let all = idle.iter().map(|(_, epochs)| epochs.as_slice());
    all.min_by(|one, other| distance(one).total_cmp(&distance(other))).unwrap_or_default()
}

fn line(idle: &[(u64, Vec<EpochRecord>)]) -> Option<Line> {
    let point = |(_, epochs): &(u64, Vec<EpochRecord>)| (dirty_pages(epochs).median, pause_ms(epochs).median);
    Line::through(&idle.iter().map(point).collect::<Vec<_>>())
}

/// How much longer pauses are than the line says for their dirty pages, ms.
fn above<'a>(line: Line, epochs: impl IntoIterator<Item = &'a EpochRecord>) -> Option<Summary> {
    Summary::of(epochs.into_iter().map(|epoch| {
        let expected = line.fixed + line.slope * epoch.dirty_pages as f64;
        epoch.pause_us as f64 / 1e3 - expected
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_compared_at_their_own_dirty_pages() {
        let epoch = |dirty_pages, pause_us| EpochRecord {
            term: 1,
            epoch: 1,
            at_us: 0,
            pause_us,
            dirty_pages,
            ahead_pages: 0,
            wire_bytes: 0,
            ack_us: 0,
        };
        let line = Line { fixed: 1.0, slope: 0.001 };
        let found = above(line, &[epoch(0, 1_500), epoch(1_000, 2_500)]).expect("two");
        assert!((found.median - 0.5).abs() < 1e-9 && (found.max - 0.5).abs() < 1e-9, "{found:?}");
    }
}
