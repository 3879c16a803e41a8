//! Owns making the report out of what was measured: which sample counts for what.

use super::story::Told;
use crate::stage::watch::boot_time;
use anyhow::{Context, Result};
use api::summary::Summary;
use api::types::EpochRecord;
use lab::client::timeline::buckets;
use lab::report::{DemoReport, EpochPoint, Kill, Phase, added_latency_ms};

/// Width of the timeline's buckets.
const BUCKET_US: u64 = 100_000;
/// Width of the buckets around the kill.
const FINE_BUCKET_US: u64 = 5_000;
/// What is shown before the kill, and after the last client had its answer.
const AROUND_US: u64 = 300_000;

/// The report.
pub fn of(told: &Told) -> Result<DemoReport> {
    let writers = &told.writers;
    let outage =
        writers.outage(told.kill_us, told.answered_us).context("no client got a reply after the kill")?;
    let spoke = writers.silence(told.kill_us, told.answered_us).map(|gap| gap.started_us + gap.duration_us);
    let unprotected = told.quiet_unprotected.latency_ms().context("no reply before protection")?;
    let series = series(told);
    let pauses = series.iter().map(|point| point.pause_us).filter(|&pause| pause > 0);
    Ok(DemoReport {
        acknowledged_writes: writers.acknowledged(),
        lost_acknowledged_writes: told.verification.lost_acknowledged,
        connections: writers.writers.len() as u64,
        connections_broken: writers.broken(),
        outage_ms: outage.duration_us as f64 / 1e3,
        outage: told.moments.split(outage, told.kill_us, spoke),
        epochs: committed(told),
        interval_ms: told.interval.even_ms(),
        pause_ms: Summary::of_us_in_ms(pauses).context("no checkpoint was measured")?,
        added_latency_ms: added_latency_ms(&told.quiet_protected.samples, unprotected)
            .context("no reply under protection")?,
        latency_unprotected_ms: Some(unprotected),
        latency_protected_ms: told.quiet_protected.latency_ms(),
        gate_hold_ms: told.hold_ms,
        verification: told.verification.clone(),
        kill: Kill {
            at_ms: since_start(told, told.kill_us),
            what: "Host alpha died: its cables were pulled, its agent and QEMU were killed by SIGKILL".into(),
        },
        phases: phases(told),
        timeline: writers.buckets(BUCKET_US),
        timeline_bucket_ms: BUCKET_US as f64 / 1e3,
        around_kill: around_kill(told),
        around_kill_bucket_ms: FINE_BUCKET_US as f64 / 1e3,
        epoch_series: series,
        benchmarks: told.benchmarks.clone(),
        facts: told.facts.clone(),
        commands: commands(told),
    })
}

/// Milliseconds since the writers began.
fn since_start(told: &Told, at_us: u64) -> f64 {
    (at_us as f64 - told.writers.started_us as f64) / 1e3
}

fn phases(told: &Told) -> Vec<Phase> {
    let ends = told.stretches.iter().skip(1).map(|stretch| stretch.from_us).chain([told.writers.ended_us]);
    let phase = |(stretch, to_us): (&super::story::Stretch, u64)| Phase {
        name: stretch.name.to_owned(),
        from_ms: since_start(told, stretch.from_us).max(0.0),
        to_ms: since_start(told, to_us),
    };
    told.stretches.iter().zip(ends).map(phase).collect()
}

/// Checkpoints while the writers wrote; what came later belongs to no stretch of theirs.
fn records(told: &Told) -> impl Iterator<Item = &EpochRecord> {
    let within = told.writers.started_us..told.writers.ended_us;
    told.seen.epochs.values().filter(move |record| within.contains(&boot_time(record.at_us)))
}

fn series(told: &Told) -> Vec<EpochPoint> {
    let point = |record: &EpochRecord| EpochPoint {
        epoch: record.epoch,
        at_ms: since_start(told, boot_time(record.at_us)),
        pause_us: record.pause_us,
        dirty_pages: record.dirty_pages,
        bytes_wire: record.wire_bytes,
    };
    records(told).map(point).collect()
}

/// Checkpoints that a backup had: of the dead host up to the one that the VM went on from, of the other host those
/// that were acknowledged.
fn committed(told: &Told) -> u64 {
    let first_term = told.seen.epochs.keys().next().map_or(0, |(term, _)| *term);
    let went_on_from = told.moments.epoch.unwrap_or(0);
    let was_committed = |record: &&EpochRecord| {
        if record.term == first_term { record.epoch <= went_on_from } else { record.ack_us > 0 }
    };
    records(told).filter(was_committed).count() as u64
}

/// The replies around the kill, on the timeline's clock.
fn around_kill(told: &Told) -> Vec<lab::client::Bucket> {
    let from_us = (told.kill_us - AROUND_US).max(told.writers.started_us);
    let to_us = told.answered_us + AROUND_US;
    let mut found = buckets(&told.writers.samples(), from_us, to_us, FINE_BUCKET_US);
    let shift = since_start(told, from_us);
    for bucket in &mut found {
        bucket.at_ms += shift;
    }
    found
}

fn commands(told: &Told) -> Vec<String> {
    let interval = told.interval.option();
    let words = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    vec![
        "# this demonstration".into(),
        format!("cargo xtask {words}"),
        "# what it did, in the words of undying's command line".into(),
        "undying arbiter init DIR                            # storage that both hosts reach".into(),
        "undying host init alpha.toml                        # on alpha; likewise on beta; then each trusts the other".into(),
        "undying host --config alpha.toml                    # on alpha; likewise on beta".into(),
        "undying vm start web.toml                           # on alpha".into(),
        format!("undying vm protect web --to beta{interval} --no-repair   # on alpha"),
        "# alpha dies; on beta nothing has to be done. alpha comes back; without --no-repair it becomes the backup by itself".into(),
        format!("undying vm protect web --to alpha{interval} --no-repair  # on beta"),
    ]
}
