//! Owns part 8: a guest that writes faster than its replication link carries, as its clients see it.

use super::Run;
use super::bed::Bed;
use super::figures::{Cell, Findings, Table};
use crate::stage::HOSTS;
use anyhow::Result;
use api::summary::Summary;
use api::types::ProtectRequest;
use protocol::HostName;
use std::time::Duration;

/// Bytes a second that the link carries, and pages a second that the guest fills with random numbers: 41 MB.
const CARRIES: u64 = 16 << 20;
const WRITES: &str = "10000";
const PAGES: u64 = 10_000;
/// Until the brake has found its place.
const SETTLE: Duration = Duration::from_secs(3);

/// The same guest with and without a brake, with even checkpoints and with those that follow the output.
pub fn measure(run: &mut Run<'_>, found: &mut Findings) -> Result<()> {
    found.how = HOW.into();
    let bed = Bed::raise(run, "slow", false)?;
    let mut table = Table::new(
        "Eight clients with one write at a time each, at a guest that writes faster than its link carries",
        &[
            ("what", "what"),
            ("latency_ms", "latency, ms"),
            ("gap_ms", "longest time without a reply, unluckiest client, ms"),
            ("slowed_percent", "slowed by, % of its time"),
            ("stood_percent", "stood still for want of room, % of the time"),
        ],
    );
    for (label, follow) in [("checkpoints every 25 ms", false), ("checkpoints that follow the output", true)]
    {
        for (brake, max_slowdown) in [("no brake", 0), ("slowed by at most 80 %", 80)] {
            let to = HostName::new(HOSTS[1])?;
            let usual = if follow { ProtectRequest::following(to) } else { ProtectRequest::even(to, 25_000) };
            let request = ProtectRequest { max_slowdown: Some(max_slowdown), ..usual };
            bed.cluster.protect_as(&bed.vm, HOSTS[0], &request)?;
            let what = format!("{label}, {brake}");
            table.row(what.clone(), row(run, &bed, &what)?);
            bed.unprotect()?;
        }
    }
    found.tables.push(table);
    Ok(())
}

const HOW: &str = "The first host sends to the second at most 16 MiB a second (a token bucket in its namespace); a program in the guest \
    fills 10,000 random pages a second with random numbers, 41 MB. Without a brake the guest stands still whenever four checkpoints \
    are under way; with it it loses a part of its time, so that it writes what is carried.";

fn row(run: &mut Run<'_>, bed: &Bed, what: &str) -> Result<[Cell; 4]> {
    let host = HOSTS[0];
    bed.pulse(|pulse| pulse.dirty(PAGES, WRITES, "random+page"))?;
    bed.cluster.lab.limit_link(host, Some(CARRIES))?;
    let writers = bed.reach.closed_loops(bed.client(), 8)?;
    run.pass(&format!("{what}: settling"), SETTLE);
    let (from_us, before) = (os::clock::now_us(), bed.status(host)?);
    let mut slowed = Vec::new();
    let time = run.stretch(12);
    for _ in 0..4 {
        run.pass(what, time / 4);
        slowed.push(f64::from(bed.status(host)?.slowed_percent));
    }
    let (until_us, after) = (os::clock::now_us(), bed.status(host)?);
    anyhow::ensure!(after.phase == "protected", "protection was lost");
    bed.cluster.lab.limit_link(host, None)?;
    let report = writers.stop()?;
    bed.pulse(|pulse| pulse.stop())?;
    let stood = (after.throttled_ms - before.throttled_ms) / ((until_us - from_us) as f64 / 1e3) * 100.0;
    let gap = report.outage(from_us, until_us).map(|gap| gap.duration_us as f64 / 1e3);
    Ok([
        report.latency_ms(from_us, until_us).into(),
        gap.unwrap_or(f64::NAN).into(),
        Summary::of(slowed).into(),
        stood.into(),
    ])
}
