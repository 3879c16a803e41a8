//! Owns the migrations by Undying.

use super::super::Run;
use super::super::bed::{Bed, start_cluster};
use super::{Migrated, clock};
use crate::stage::{HOSTS, other};
use anyhow::{Context, Result, bail};
use api::migration::{MigrateRequest, Strategy};
use lab::client::Pinger;
use lab::cluster::VmFile;
use protocol::HostName;
use std::time::Duration;

/// Migrations of each kind.
const TIMES: usize = 6;

/// By strategy, the usual one first.
pub fn measure(
    run: &mut Run<'_>,
    what: &str,
    file: VmFile,
    link: Option<u64>,
) -> Result<Vec<(&'static str, Vec<Migrated>)>> {
    let cluster = start_cluster(run.props, "migrate")?;
    let bed = Bed::boot(cluster, run, file)?;
    let mut from = HOSTS[0];
    let mut all = Vec::new();
    for (name, strategy) in
        [("Undying", Strategy::Precopy), ("Undying, stopped first", Strategy::StopTheWorld)]
    {
        let mut found = Vec::new();
        for number in 1..=run.times(TIMES) {
            let to = other(from);
            run.pass(&format!("{what}: {name}, {number}"), Duration::from_secs(2));
            let one = migrate(&bed, from, to, strategy, link)
                .with_context(|| format!("{what}: {name}, from {from} to {to}"))?;
            run.screen.done(&format!("{what}: {name}, {}", one.said()));
            found.push(one);
            from = to;
        }
        all.push((name, found));
    }
    Ok(all)
}

fn migrate(bed: &Bed, from: &str, to: &str, strategy: Strategy, link: Option<u64>) -> Result<Migrated> {
    let (there, here) = (bed.newest_event(to)?, bed.newest_event(from)?);
    let console = |host: &str| {
        let path = bed.cluster.console(host, &bed.vm);
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok::<_, anyhow::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    let pinger = Pinger::start(bed.client(), bed.reach.redis())?;
    let mut request = MigrateRequest { strategy, ..MigrateRequest::usual(HostName::new(to)?) };
    request.limits.rate_ceiling = link;
    let said_before = console(from)?;
    let began_us = os::clock::realtime_us();
    bed.cluster.ask(from, |api| api.migrate(&bed.vm, &request))?;
    let promoted = bed.cluster.wait_event(to, "promoted", there)?;
    let migrated = bed.cluster.wait_event(from, "migrated", here)?;
    bed.cluster.wait_primary(to, &bed.vm, &["unprotected"])?;
    bed.cluster.wait_gone(from, &bed.vm)?;
    // Whoever waited has an answer by then.
    std::thread::sleep(Duration::from_millis(500));
    let pings = pinger.stop()?;
    if let Some(why) = pings.broken {
        bail!("the client's connection broke: {why}");
    }
    std::thread::sleep(clock::AFTERWARDS);
    let stopped_us = migrated.what["stopped_at_us"].as_u64().context("it was stopped at no time")?;
    let mut at_us = vec![stopped_us];
    for (host, event, after) in
        [(from, "departing", here), (from, "handed_over", here), (to, "promoting", there)]
    {
        at_us.push(bed.cluster.wait_event(host, event, after)?.at_us);
    }
    at_us.push(promoted.at_us);
    let steps = std::array::from_fn(|step| at_us[step + 1].saturating_sub(at_us[step]) as f64 / 1e3);
    let number = |name: &str| migrated.what[name].as_u64().unwrap_or(0) as f64;
    let stopped_us = match strategy {
        Strategy::Precopy => stopped_us,
        // It stands still since the destination was ready.
        Strategy::StopTheWorld => bed.cluster.wait_event(from, "migrating", here)?.at_us,
    };
    Ok(Migrated {
        total_ms: promoted.at_us.saturating_sub(began_us) as f64 / 1e3,
        downtime_ms: promoted.at_us.saturating_sub(stopped_us) as f64 / 1e3,
        guest_ms: clock::lost_ms(&said_before, &console(to)?),
        reported_ms: None,
        client_ms: pings.latency_ms().map(|latency| latency.max),
        wire_mib: number("wire_bytes") / f64::from(1 << 20),
        rounds: number("rounds"),
        steps_ms: Some(steps),
    })
}
