//! Owns part 3: how long clients wait when a host dies, and where that time goes.

use super::Run;
use super::bed::{Bed, until};
use super::figures::{Cell, Findings, Table, Target};
use super::page::number;
use crate::stage::moments::Moments;
use crate::stage::{HOSTS, other};
use anyhow::{Context, Result, bail};
use lab::client::{Gap, Writers, verify};
use lab::cluster::Cluster;
use lab::report::OutageSplit;
use lab::stats::Summary;
use std::time::Duration;

const INTERVAL: Duration = Duration::from_millis(25);
const KILLS: usize = 6;

/// One failover.
struct Failover {
    outage_ms: f64,
    split: OutageSplit,
    moments: Moments,
}

/// Kills the primary host again and again, protecting the VM in between, under writers that stay connected.
pub fn measure(run: &mut Run<'_>, found: &mut Findings) -> Result<()> {
    found.how = HOW.into();
    let cluster =
        Cluster::start("outage", &run.props.binary, &HOSTS, "").context("the hosts cannot be set up")?;
    let bed = Bed::raise_on(cluster, run, false)?;
    let writers = bed.reach.writers(bed.client(), 4)?;
    let mut failovers = Vec::new();
    let (mut from, kills) = (HOSTS[0], run.times(KILLS));
    for number in 1..=kills {
        let to = other(from);
        run.screen.live(&format!("kill {number} of {kills}: {from} is protected by {to}"));
        bed.cluster.protect(&bed.vm, from, to, INTERVAL)?;
        // Not always at the same moment of an epoch, nor right after the copy.
        run.pass("load", Duration::from_millis(2_000 + 137 * number as u64 % 25));
        let failover = kill(&bed, &writers, from, to)?;
        let text = format!(
            "kill {number} of {kills}: {from} died, clients waited {:.0} ms at most",
            failover.outage_ms
        );
        run.screen.done(&text);
        failovers.push(failover);
        bed.cluster.revive(from)?;
        from = to;
    }
    let report = writers.stop()?;
    let broken = report.broken();
    let verification = verify(bed.client(), bed.reach.redis(), &report.writers)?;
    found.tables.push(table(&failovers));
    let promotion = spread(&failovers, |failover| failover.moments.promotion_ms);
    found
        .targets
        .extend(promotion.map(|spread| Target::at_most("promotion, median", "ms", 50.0, spread.median)));
    found.notes.push(format!(
        "Over all {kills} kills: {} acknowledged writes, {}, {broken} connections broken.",
        report.acknowledged(),
        if verification.holds() { "none lost".to_owned() } else { format!("LOST SOME: {verification:?}") },
    ));
    found.notes.push(
        "TCP sends again what the dead host swallowed when its own time-outs run out (in Linux 200 ms at least, doubled each \
         time): they are part of the time to the first reply, and of what is left of an outage behind it."
            .into(),
    );
    Ok(())
}

const HOW: &str = "8 connections write all the time, 4 writes deep, at 25 ms checkpoints. The primary host's cables are cut and \
    its agent and QEMU killed by SIGKILL; then the VM is protected in the other direction, and so on. The outage is the \
    longest time that one connection waited between two replies. Its parts follow each other: from the kill until the \
    backup suspects the primary; until the arbiter has granted the next term; until the VM runs (apply the last epoch, \
    give QEMU the device state, resume); until the first reply has reached any client.";

fn kill(bed: &Bed, writers: &Writers, from: &str, to: &str) -> Result<Failover> {
    drop(writers.recent());
    let kill_us = bed.cluster.lab.kill_host(from)?;
    bed.cluster.wait_primary(to, &bed.vm, &["unprotected"])?;
    let events = bed.cluster.ask(to, |api| api.events(0))?;
    let moments = Moments::read(&events, to, kill_us);
    let promoted_us = moments.promoted_us.context("the new primary does not say when it was promoted")?;
    until("an answer to every client after the failover", || {
        let waiting = writers.standings().iter().any(|list| list.last_reply_us <= promoted_us);
        !waiting || writers.progress().broken > 0
    })?;
    if writers.progress().broken > 0 {
        bail!("a client's connection broke at the failover from {from} to {to}");
    }
    let recent = writers.recent();
    let outage: Gap = recent.longest_wait.context("nobody waited")?;
    let spoke_us = recent.samples.iter().map(|sample| sample.at_us).find(|&at_us| at_us >= promoted_us);
    let split = moments.split(outage, kill_us, spoke_us);
    Ok(Failover { outage_ms: outage.duration_us as f64 / 1e3, split, moments })
}

fn spread(found: &[Failover], part: impl Fn(&Failover) -> Option<f64>) -> Option<Summary> {
    Summary::of(found.iter().filter_map(part))
}

fn table(found: &[Failover]) -> Table {
    let mut table = Table::new("Outage, ms", &[("part", "part"), ("ms", "ms"), ("each", "each kill, ms")]);
    let mut row = |what: &str, part: &dyn Fn(&Failover) -> Option<f64>| {
        let each: Vec<String> =
            found.iter().map(|failover| part(failover).map_or("–".into(), number)).collect();
        table.row(what, [spread(found, part).into(), Cell::Words(each.join(", "))]);
    };
    row("the whole outage, unluckiest client", &|failover| Some(failover.outage_ms));
    row("before the kill (since that client's last reply)", &|failover| failover.split.before_kill_ms);
    row("detection", &|failover| failover.split.detection_ms);
    row("grant", &|failover| failover.split.grant_ms);
    row("promotion, as events show it", &|failover| failover.split.promotion_ms);
    row("· by its own account", &|failover| failover.moments.promotion_ms);
    row("· apply the last epoch", &|failover| failover.moments.apply_ms);
    row("· device state into QEMU", &|failover| failover.moments.load_ms);
    row("· resume", &|failover| failover.moments.resume_ms);
    row("first packet: a reply to any client", &|failover| failover.split.first_packet_ms);
    table
}
