//! Owns part 3: how long clients wait when a host dies, and where that time goes. Of many deaths: `bench failover`.

use super::Run;
use super::bed::Bed;
use super::failover::kill::{Failover, PARTS, READ_PARTS, spread};
use super::figures::{Cell, Findings, Table, Target};
use super::page::number;
use crate::stage::{HOSTS, other};
use anyhow::{Context, Result};
use lab::client::verify;
use lab::cluster::Cluster;
use std::time::Duration;

const INTERVAL: Duration = Duration::from_millis(25);
const KILLS: usize = 6;

/// Kills the primary host again and again, protecting the VM in between, under writers that stay connected.
pub fn measure(run: &mut Run<'_>, found: &mut Findings) -> Result<()> {
    found.how = format!("{HOW} {READ_PARTS}");
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
        let failover = Failover::kill(&bed, &writers, from, to)?;
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
    its agent and QEMU killed by SIGKILL; then the VM is protected in the other direction, and so on.";

fn table(found: &[Failover]) -> Table {
    let mut table = Table::new("Outage, ms", &[("part", "part"), ("ms", "ms"), ("each", "each kill, ms")]);
    for (what, part) in PARTS {
        let each: Vec<String> =
            found.iter().map(|failover| part(failover).map_or("–".into(), number)).collect();
        table.row(what, [spread(found, part).into(), Cell::Words(each.join(", "))]);
    }
    table
}
