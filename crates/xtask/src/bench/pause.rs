//! Owns part 1: how long the VM stands still for a checkpoint, and how that grows with its dirty pages.

use super::Run;
use super::bare::Bare;
use super::bed::Bed;
use super::figures::{Findings, Line, Table, Target};
use super::page::number;
use anyhow::{Context, Result};
use api::summary::Summary;
use api::types::EpochRecord;
use lab::cluster::{VmFile, VmShape};
use std::time::Duration;

const INTERVAL: Duration = Duration::from_millis(25);
/// Long enough for 10,000 pages to be dirtied, and sent, in each.
const SLOPE_INTERVAL: Duration = Duration::from_millis(100);
/// Pages that the guest's program dirties in each epoch, beside what the guest dirties by itself.
const STEPS: [u64; 7] = [1, 30, 100, 300, 1_000, 3_000, 10_000];
/// With what an idle guest dirties, about 300 pages in 25 ms.
const STEADY: (u64, &str) = (250, "250/tick");
/// After a change of load.
const SETTLE: Duration = Duration::from_millis(1_500);

/// Pauses at a steady load and by number of dirty pages, beside a QEMU without Undying.
pub fn measure(run: &mut Run<'_>, found: &mut Findings) -> Result<()> {
    found.how = HOW.into();
    found.notes.extend(NOTES.map(str::to_owned));
    let mut table = Table::new(
        "Pause at 25 ms, 512 MiB, TCG, 1 processor, the same dirtying program in the guest",
        &[
            ("what", "what"),
            ("pause_ms", "pause, ms"),
            ("dirty_pages", "dirty pages"),
            ("ack_ms", "cut to acknowledgement, ms"),
        ],
    );
    baseline(run, &mut table)?;
    let bed = Bed::raise(run, "pause", false)?;
    let q35 = steady(run, &bed)?;
    let pause = row(&mut table, "Undying, q35 with modern virtio: stop, save, scan, copy, continue", &q35);
    found.tables.push(table);
    found.targets.push(Target::at_most(
        "pause at 25 ms, about 300 dirty pages, median",
        "ms",
        2.5,
        pause.median,
    ));
    found.targets.push(Target::at_most("pause at 25 ms, about 300 dirty pages, p99", "ms", 10.0, pause.p99));
    let (steps, points) = slope(run, &bed)?;
    drop(bed);
    let line = Line::through(&points).context("too few points for a line")?;
    found.targets.push(Target::at_most("pause for each further dirty page", "µs", 1.0, line.slope * 1e3));
    found.tables.extend([steps, beside_others(line)]);
    let lean = Bed::raise(run, "lean", true)?;
    let lean = steady(run, &lean)?;
    row(&mut found.tables[0], "Undying, lean machine", &lean);
    Ok(())
}

const HOW: &str = "By the timestamps of QEMU's own STOP and RESUME events. The baseline is the same guest in a QEMU that \
    nobody protects, stopped and continued every 25 ms: `stop` and `cont` alone, and with `xen-save-devices-state` \
    between them, the commands in one write. It copies no memory.";

const NOTES: [&str; 2] = [
    "The line is the least squares of the medians above it: fixed part and slope.",
    "Remus' numbers are its paper's, on machines of 2008: they stand here for scale, a ratio would say nothing. COLO's \
     were measured on this kind of machine.",
];

fn baseline(run: &mut Run<'_>, table: &mut Table) -> Result<()> {
    run.screen.live("the baseline: a guest in a QEMU without Undying boots");
    let (pages, rate) = STEADY;
    let pulse = format!("{pages}:{rate}:seq");
    let file = VmFile::redis(&run.props.guest, "bare", VmShape::default(), Some(&pulse))?;
    let bare = Bare::boot(&file.toml, "READY")?;
    let times = run.times(300);
    run.screen.live("the baseline: stop, continue");
    let plain = bare.stop_and_continue(times, INTERVAL)?;
    run.screen.live("the baseline: stop, save, continue");
    let saved = bare.stop_save_continue(times, INTERVAL)?;
    let rows = [("QEMU alone: stop, continue", plain), ("QEMU alone: stop, save devices, continue", saved)];
    for (what, pauses) in rows {
        table.row(what, [Summary::of_us_in_ms(pauses).into(), None::<f64>.into(), None::<f64>.into()]);
    }
    Ok(())
}

fn steady(run: &mut Run<'_>, bed: &Bed) -> Result<Vec<EpochRecord>> {
    let (pages, rate) = STEADY;
    bed.pulse(|pulse| pulse.dirty(pages, rate, "seq"))?;
    bed.protect(INTERVAL)?;
    run.pass("protected, settling", SETTLE);
    let time = run.stretch(15);
    bed.epochs(run, "checkpoints every 25 ms", time)
}

fn row(table: &mut Table, what: &str, epochs: &[EpochRecord]) -> Summary {
    let pause = pause_ms(epochs);
    table.row(what, [pause.into(), dirty_pages(epochs).into(), ack_ms(epochs).into()]);
    pause
}

/// The pauses of some checkpoints.
pub fn pause_ms(epochs: &[EpochRecord]) -> Summary {
    Summary::of_us_in_ms(epochs.iter().map(|epoch| epoch.pause_us)).expect("there are checkpoints")
}

/// Their dirty pages.
pub fn dirty_pages(epochs: &[EpochRecord]) -> Summary {
    Summary::of(epochs.iter().map(|epoch| epoch.dirty_pages as f64)).expect("there are checkpoints")
}

/// From their cuts to their acknowledgements.
pub fn ack_ms(epochs: &[EpochRecord]) -> Option<Summary> {
    Summary::of_us_in_ms(epochs.iter().map(|epoch| epoch.ack_us).filter(|&ack_us| ack_us > 0))
}

fn slope(run: &mut Run<'_>, bed: &Bed) -> Result<(Table, Vec<(f64, f64)>)> {
    bed.unprotect()?;
    bed.protect(SLOPE_INTERVAL)?;
    let mut table = Table::new(
        "Pause by dirty pages, q35, checkpoints every 100 ms",
        &[
            ("asked", "pages dirtied by the program"),
            ("dirty_pages", "dirty pages"),
            ("pause_ms", "pause, ms"),
            ("ack_ms", "cut to acknowledgement, ms"),
            ("throttled_percent", "throttled, % of the time"),
        ],
    );
    let mut points = Vec::new();
    for pages in STEPS {
        // Each page once in half an interval, so that every epoch has all of them.
        let rate = (pages * 20).max(200).to_string();
        bed.pulse(|pulse| pulse.dirty(pages, &rate, "seq"))?;
        run.pass(&format!("{pages} pages, settling"), SETTLE);
        let time = run.stretch(6);
        let (epochs, throttled) =
            bed.throttled(|| bed.epochs(run, &format!("{pages} pages in each epoch"), time))?;
        let (dirty, pause) = (dirty_pages(&epochs), pause_ms(&epochs));
        points.push((dirty.median, pause.median));
        table.row(pages.to_string(), [dirty.into(), pause.into(), ack_ms(&epochs).into(), throttled.into()]);
    }
    Ok((table, points))
}

fn beside_others(line: Line) -> Table {
    let columns =
        [("what", "what"), ("fixed_ms", "fixed part, ms"), ("slope_us_per_page", "µs a dirty page")];
    let mut table = Table::new("Fixed part and slope", &columns);
    let measured =
        format!("Undying here ({} ms at 300 pages by the line)", number(line.fixed + line.slope * 300.0));
    table.row(measured, [line.fixed.into(), (line.slope * 1e3).into()]);
    table.row("Remus (its paper, 2008)", [0.6.into(), 3.7.into()]);
    table.row("QEMU COLO (7.2, this kind of machine)", [1.5.into(), 2.1.into()]);
    table
}
