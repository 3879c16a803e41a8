//! Owns part 1: how much a guest gets done that writes memory as fast as it can, by checkpoint interval.

use crate::bench::Run;
use crate::bench::bed::Bed;
use crate::bench::figures::{Cell, Findings, Table};
use crate::bench::pause::{dirty_pages, pause_ms};
use anyhow::Result;
use api::types::EpochRecord;
use std::time::{Duration, Instant};

const INTERVALS_MS: [u64; 5] = [5, 10, 25, 50, 100];
/// Pages that the guest writes to: 64 MiB.
const PAGES: u64 = 16_384;
const SETTLE: Duration = Duration::from_millis(800);

/// What was seen of one interval.
struct Seen {
    /// Pages that the program wrote, a second.
    written: f64,
    epochs: Vec<EpochRecord>,
    throttled_percent: f64,
}

/// Unprotected, at each interval, following the output, and unprotected again.
pub fn measure(run: &mut Run<'_>, found: &mut Findings) -> Result<()> {
    found.how = HOW.into();
    let bed = Bed::raise(run, "writing", false)?;
    bed.pulse(|pulse| pulse.dirty(PAGES, "full", "random"))?;
    let before = see(run, &bed, "unprotected", false)?;
    let mut protected = Vec::new();
    for interval_ms in INTERVALS_MS {
        bed.protect(Duration::from_millis(interval_ms))?;
        let label = format!("checkpoints every {interval_ms} ms");
        let seen = see(run, &bed, &label, true)?;
        protected.push((label, seen));
        bed.unprotect()?;
    }
    bed.protect_following()?;
    let label = "checkpoints that follow the output (auto)".to_owned();
    let seen = see(run, &bed, &label, true)?;
    protected.push((label, seen));
    bed.unprotect()?;
    let after = see(run, &bed, "unprotected again", false)?;
    let mean = f64::midpoint(before.written, after.written);
    let mut table = Table::new(
        "A guest that writes memory as fast as it can",
        &[
            ("what", "what"),
            ("written", "pages written a second, thousands"),
            ("ratio", "ratio"),
            ("dirty_pages", "dirty pages of an epoch"),
            ("pause_ms", "pause, ms"),
            ("throttled_percent", "throttled, % of the time"),
        ],
    );
    let none = || Cell::Unknown;
    table.row(
        "unprotected, before and after the others",
        [(mean / 1e3).into(), 1.0.into(), none(), none(), none()],
    );
    for (what, seen) in protected {
        let (dirty, pause) = (dirty_pages(&seen.epochs), pause_ms(&seen.epochs));
        let ratio = seen.written / mean;
        table.row(
            what,
            [
                (seen.written / 1e3).into(),
                ratio.into(),
                dirty.into(),
                pause.into(),
                seen.throttled_percent.into(),
            ],
        );
    }
    found.tables.push(table);
    let drift = 100.0 * (after.written / before.written - 1.0);
    found
        .notes
        .push(format!("The unprotected VM after the others, against before: {drift:+.1} % pages a second."));
    Ok(())
}

const HOW: &str = "A program in a Linux guest of 512 MiB writes a word to random ones of 16,384 pages (64 MiB) without a break. What it \
    loses is the pauses, the fault at the first write to each page in every epoch (in a short epoch nearly every write is a first one: no \
    load is worse for it), the processor that the agents \
    take on this machine, and the time for which it is stopped because the backup does not keep up (throttled).";

fn see(run: &mut Run<'_>, bed: &Bed, label: &str, protected: bool) -> Result<Seen> {
    run.pass(&format!("{label}: settling"), SETTLE);
    let read = || {
        let stats = bed.pulse(lab::guest::pulse::PulseClient::stats)?;
        Ok::<_, anyhow::Error>((Instant::now(), stats.dirtied))
    };
    let time = run.stretch(6);
    let (before, (epochs, throttled_percent)) = (
        read()?,
        bed.throttled(|| {
            if protected {
                return bed.epochs(run, label, time);
            }
            run.pass(label, time);
            Ok(Vec::new())
        })?,
    );
    let after = read()?;
    let seconds = (after.0 - before.0).as_secs_f64();
    Ok(Seen { written: (after.1 - before.1) as f64 / seconds, epochs, throttled_percent })
}
