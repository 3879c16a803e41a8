//! Owns part 2: what protection costs a client and the guest, by checkpoint interval, beside the unprotected VM.

use super::Run;
use super::bed::{Bed, Reach, until};
use super::closed::{self, Closed};
use super::figures::{Cell, Findings, Table, Target};
use crate::stage::HOSTS;
use anyhow::{Context, Result};
use api::summary::Summary;
use lab::Lab;
use lab::client::Pinger;
use lab::cluster::VmShape;
use lab::guest::console;
use lab::plain::{Machine, PlainGuest};
use lab::topology::{GuestAddress, Namespace};
use std::thread;
use std::time::{Duration, Instant};

const INTERVALS_MS: [u64; 5] = [5, 10, 25, 50, 100];
/// How many writes each writer keeps waiting: as the demonstration does, and enough that latency does not bound it.
const DEPTHS: [usize; 2] = [4, 64];
/// Until a load that has begun runs evenly.
const SETTLE: Duration = Duration::from_millis(500);

/// What one state of the VM gave.
#[derive(Clone)]
struct Seen {
    latency_us: Vec<u64>,
    closed: Closed,
    /// Writes a second, for each of [`DEPTHS`].
    writes: [f64; 2],
    /// Turns of the guest's counting loop, a second.
    turns: f64,
}

/// Latency and throughput unprotected, at each interval, unprotected again, and in a QEMU without an agent.
pub fn measure(run: &mut Run<'_>, found: &mut Findings) -> Result<()> {
    found.how = HOW.into();
    let alone = without_agent(run)?;
    let bed = Bed::raise(run, "cost", false)?;
    let before = see(run, bed.client(), bed.reach, "unprotected")?;
    let mut protected = Vec::new();
    for interval_ms in INTERVALS_MS {
        bed.protect(Duration::from_millis(interval_ms))?;
        let label = format!("checkpoints every {interval_ms} ms");
        let seen = see(run, bed.client(), bed.reach, &label)?;
        protected.push((label, seen));
        bed.unprotect()?;
    }
    bed.protect_following()?;
    let label = "checkpoints that follow the output (auto)".to_owned();
    let seen = see(run, bed.client(), bed.reach, &label)?;
    protected.push((label, seen));
    bed.unprotect()?;
    let after = see(run, bed.client(), bed.reach, "unprotected again")?;
    let unprotected = pooled(&before, &after);
    let median = Summary::of_us_in_ms(unprotected.latency_us.iter().copied()).context("no reply")?.median;
    let mut latency = Table::new(
        "Request and response: one connection, one SET or GET at a time",
        &[
            ("what", "what"),
            ("latency_ms", "latency, ms"),
            ("added_ms", "added to the unprotected median, ms"),
        ],
    );
    let mut throughput = Table::new(
        "Throughput, and the ratio to the unprotected VM",
        &[
            ("what", "what"),
            ("writes_depth_4", "writes/s, 8 connections 4 deep"),
            ("ratio_depth_4", "ratio"),
            ("writes_depth_64", "writes/s, 8 connections 64 deep"),
            ("ratio_depth_64", "ratio"),
            ("turns", "million turns/s of a loop in the guest"),
            ("ratio_turns", "ratio"),
        ],
    );
    let mut rows = vec![("plain QEMU, no agent (TAP in the kernel)".to_owned(), &alone)];
    rows.push(("unprotected, before and after the others".to_owned(), &unprotected));
    rows.extend(protected.iter().map(|(what, seen)| (what.clone(), seen)));
    let mut closed = closed::table();
    for (what, seen) in rows {
        latency.row(what.clone(), latency_cells(seen, median));
        closed.row(what.clone(), seen.closed.cells(&unprotected.closed));
        throughput.row(what, throughput_cells(seen, &unprotected));
    }
    found.tables.extend([latency, closed, throughput]);
    found.notes = notes(&before, &after);
    if let Some((_, auto)) = protected.last() {
        found.targets = targets(auto, &unprotected, median);
    }
    Ok(())
}

/// What is aimed at with checkpoints that follow the output.
fn targets(auto: &Seen, unprotected: &Seen, unprotected_median_ms: f64) -> Vec<Target> {
    let lone = Summary::of_us_in_ms(auto.latency_us.iter().copied());
    let added = lone.map(|lone| lone.median - unprotected_median_ms);
    let lone =
        added.map(|added| Target::at_most("auto: added latency of 1 connection, median", "ms", 3.0, added));
    let loop_in_guest = Target::at_least(
        "auto: a loop in the guest, of unprotected",
        "",
        0.93,
        auto.turns / unprotected.turns,
    );
    lone.into_iter().chain(auto.closed.targets(&unprotected.closed)).chain([loop_in_guest]).collect()
}

const HOW: &str = "The same guest and clients throughout, one load at a time: a closed-loop Redis client, then 8 and 50 \
    of them that write, then 8 writers that append to lists of their own with 4 and with 64 writes waiting each, then a loop of arithmetic in the guest without \
    any client. Added latency is each latency under protection less the median without. A reply waits for the \
    acknowledgement of the epoch it was made in, so a closed loop waits half an interval on average, and more if it is \
    synchronised with the checkpoints, as a client that asks again at once is: then nearly a whole one.";

fn notes(before: &Seen, after: &Seen) -> Vec<String> {
    let drift = 100.0 * (after.turns / before.turns - 1.0);
    vec![
        format!("The unprotected VM after the others, against before: {drift:+.1} % turns a second. Ratios closer to 1 than that mean nothing."),
        "Writers that are 4 deep are bound by latency, not by the processor: the ratio is what a client feels that waits \
         for its replies. 64 deep shows what the VM can do."
            .into(),
    ]
}

fn latency_cells(seen: &Seen, unprotected_median_ms: f64) -> [Cell; 2] {
    let ms = |us: &u64| *us as f64 / 1e3;
    let latency = Summary::of(seen.latency_us.iter().map(ms));
    let added = Summary::of(seen.latency_us.iter().map(|us| ms(us) - unprotected_median_ms));
    [latency.into(), added.into()]
}

fn throughput_cells(seen: &Seen, unprotected: &Seen) -> [Cell; 6] {
    let ratio = |one: f64, other: f64| Cell::from(one / other);
    [
        seen.writes[0].into(),
        ratio(seen.writes[0], unprotected.writes[0]),
        seen.writes[1].into(),
        ratio(seen.writes[1], unprotected.writes[1]),
        (seen.turns / 1e6).into(),
        ratio(seen.turns, unprotected.turns),
    ]
}

fn pooled(one: &Seen, other: &Seen) -> Seen {
    let mean = |a: f64, b: f64| f64::midpoint(a, b);
    Seen {
        latency_us: [one.latency_us.as_slice(), &other.latency_us].concat(),
        closed: one.closed.pooled(&other.closed),
        writes: [mean(one.writes[0], other.writes[0]), mean(one.writes[1], other.writes[1])],
        turns: mean(one.turns, other.turns),
    }
}

/// The same loads on a QEMU that no agent started.
fn without_agent(run: &mut Run<'_>) -> Result<Seen> {
    run.screen.live("the baseline: a guest in a QEMU without an agent boots");
    let lab = Lab::new("plain")?;
    let address = GuestAddress::of(0);
    let guest = &run.props.guest;
    let append = guest.append(Machine::Q35, address, None);
    let shape = VmShape::default();
    let plain = PlainGuest {
        name: "plain",
        machine: Machine::Q35,
        cpus: shape.cpus,
        memory_mib: shape.memory_mib,
        kernel: &guest.kernel,
        initrd: &guest.initrd,
        append: &append,
        disk: None,
    };
    plain.start(&lab, HOSTS[0])?;
    console::wait_for(&plain.console(&lab, HOSTS[0]), "READY", 1, lab::cluster::PATIENCE)?;
    see(run, lab.client(), Reach::new(address.v4), "plain QEMU")
}

fn see(run: &mut Run<'_>, client: &Namespace, reach: Reach, label: &str) -> Result<Seen> {
    let time = run.stretch(6);
    let pinger = Pinger::start(client, reach.redis())?;
    until("an answer to the first request", || pinger.answered() > 0)?;
    run.pass(&format!("{label}: request and response"), time);
    let report = pinger.stop()?;
    anyhow::ensure!(report.broken.is_none(), "the client's connection broke: {:?}", report.broken);
    let closed = Closed::see(run, client, reach, label)?;
    let mut writes = [0.0; 2];
    for (index, depth) in DEPTHS.into_iter().enumerate() {
        writes[index] = written(run, client, reach, label, depth)?;
    }
    let turns = counted(run, client, reach, label)?;
    let latency_us = report.samples.iter().map(|sample| sample.latency_us).collect();
    Ok(Seen { latency_us, closed, writes, turns })
}

fn written(run: &mut Run<'_>, client: &Namespace, reach: Reach, label: &str, depth: usize) -> Result<f64> {
    let writers = reach.writers(client, depth)?;
    thread::sleep(SETTLE);
    let (start, before) = (Instant::now(), writers.progress());
    let time = run.stretch(3);
    run.pass(&format!("{label}: writers {depth} deep"), time);
    let (time, after) = (start.elapsed(), writers.progress());
    let report = writers.stop()?;
    anyhow::ensure!(report.broken() == 0, "a writer's connection broke");
    Ok((after.acknowledged - before.acknowledged) as f64 / time.as_secs_f64())
}

/// Both readings come as late as the gate makes them, so the time between them is right.
fn counted(run: &mut Run<'_>, client: &Namespace, reach: Reach, label: &str) -> Result<f64> {
    let read = || {
        let stats = reach.pulse(client, lab::guest::pulse::PulseClient::stats)?;
        Ok::<_, anyhow::Error>((Instant::now(), stats.iterations))
    };
    reach.pulse(client, |pulse| pulse.count(true))?;
    thread::sleep(SETTLE);
    let before = read()?;
    let time = run.stretch(4);
    run.pass(&format!("{label}: a loop in the guest"), time);
    let after = read()?;
    reach.pulse(client, |pulse| pulse.count(false))?;
    Ok((after.1 - before.1) as f64 / (after.0 - before.0).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_to_the_mean_of_before_and_after() {
        let seen = |latency_us, writes, turns| Seen {
            latency_us: vec![latency_us],
            closed: Closed::default(),
            writes: [writes, 2.0 * writes],
            turns,
        };
        let unprotected = pooled(&seen(1_000, 100.0, 9e6), &seen(3_000, 300.0, 11e6));
        let cells = throughput_cells(&seen(20_000, 50.0, 8e6), &unprotected);
        assert_eq!(
            cells.map(|cell| super::super::page::drawn_cell(&cell)),
            ["50.0", "0.250", "100", "0.250", "8.00", "0.800"]
        );
        let [_, added] = latency_cells(&seen(20_000, 1.0, 1.0), 1.5);
        assert_eq!(added, Summary::of([18.5]).into());
    }
}
