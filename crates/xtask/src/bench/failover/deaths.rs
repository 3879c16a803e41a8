//! Owns part 1: more than a hundred deaths of a VM's host, by the way it was protected, and what clients saw of each.

use super::super::Run;
use super::super::bed::Bed;
use super::super::figures::{Cell, Findings, Table, Target};
use super::journey::{HOSTS, Journey, Killed};
use super::kill::{FIRST_PACKET, Failover, LEFT, PARTS, READ_PARTS, WHOLE, spread};
use super::kinds::Kind;
use anyhow::{Context, Result};
use api::summary::Summary;
use lab::client::{Askers, Writers, verify};
use lab::cluster::Cluster;
use std::time::Duration;

/// UDP clients, each with one request at a time.
const ASKERS: usize = 8;
/// For so long a UDP client waits for an answer: much longer than an outage.
const PATIENCE: Duration = Duration::from_secs(2);

/// Kills the host of one VM again and again; the VM goes from host to host.
pub fn measure(run: &mut Run<'_>, found: &mut Findings) -> Result<()> {
    found.how = format!("{HOW} {READ_PARTS}");
    let cluster =
        Cluster::start("failover", &run.props.binary, &HOSTS, "").context("the hosts cannot be set up")?;
    let bed = Bed::raise_on(cluster, run, false)?;
    let writers = bed.reach.writers(bed.client(), 4)?;
    let askers = Askers::start(bed.client(), bed.reach.datagrams(), ASKERS, PATIENCE)?;
    let order = Kind::order(run.quick);
    let mut journey =
        Journey { bed: &bed, writers: &writers, askers: &askers, home: HOSTS[0], now: None, lost: 0 };
    let mut killed = Vec::new();
    let mut stopped = None;
    for (at, &kind) in order.iter().enumerate() {
        let label = format!("kill {} of {}", at + 1, order.len());
        match journey.kill(run, kind, order.get(at + 1).copied(), &label).context(label.clone()) {
            Ok(one) => {
                run.screen.done(&line(&label, &one));
                killed.push(one);
            }
            Err(error) => {
                stopped = Some(error);
                break;
            }
        }
    }
    let lost = journey.lost;
    // What was found up to there is kept.
    found.tables.extend([outage(&killed), replay(&killed)]);
    targets(found, &killed);
    if let Some(error) = stopped {
        return Err(error);
    }
    askers.stop()?;
    run.screen.live("the clients' lists are read back");
    verdict(found, &bed, writers, killed.len(), lost)
}

const HOW: &str = "One VM, a Linux guest with Redis, goes from host to host of three. 8 TCP connections write all the time, 4 \
    writes deep; 8 UDP clients ask a program in the guest, one request at a time, and never send one again. The cables of the \
    VM's host are cut and its agent and QEMU killed by SIGKILL; the VM goes on at its backup and is protected again by itself, \
    by the third host; then the dead host comes back. The usual protection (`vm protect --to A --to B`, checkpoints that \
    follow the output) alternates with one without input replay (`--no-input-replay`) and one with a checkpoint every 25 ms \
    (`--interval 25ms`): five kills, one, one, and so on, so that all see the same machine.";

fn line(label: &str, one: &Killed) -> String {
    let again = one.protected_ms.map(|ms| format!(", protected again after {:.1} s", ms / 1e3));
    format!(
        "{label}, {}: clients waited {:.0} ms at most, {} of {} UDP requests lost{}",
        one.kind.name(),
        one.failover.outage_ms,
        unanswered(one),
        one.caught.len(),
        again.unwrap_or_default()
    )
}

fn of(killed: &[Killed], kind: Kind) -> impl Iterator<Item = &Killed> + Clone {
    killed.iter().filter(move |one| one.kind == kind)
}

fn failovers(killed: &[Killed], kind: Kind) -> impl Iterator<Item = &Failover> {
    of(killed, kind).map(|one| &one.failover)
}

fn longest(killed: &[Killed], kind: Kind) -> Cell {
    spread(failovers(killed, kind), |one| Some(one.outage_ms)).map(|outage| outage.max).into()
}

fn outage(killed: &[Killed]) -> Table {
    let kinds = [Kind::Usual, Kind::Even];
    let columns = [("part", "part"), ("usual", "usual, ms"), ("even", "a checkpoint every 25 ms, ms")];
    let mut table = Table::new("Outage", &columns);
    for (what, part) in PARTS {
        table.row(what, kinds.map(|kind| spread(failovers(killed, kind), part).into()));
        if what == WHOLE.0 {
            table.row("the longest of these", kinds.map(|kind| longest(killed, kind)));
        }
    }
    let again = |since: fn(&Killed) -> f64| {
        Summary::of(of(killed, Kind::Usual).filter_map(|one| Some(one.protected_ms? + since(one))))
    };
    let dead = |one: &Killed| (one.failover.promoted_us - one.failover.killed_us) as f64 / 1e3;
    table.row("protected again, from the promotion", [again(|_| 0.0).into(), Cell::Unknown]);
    table.row("protected again, from the kill", [again(dead).into(), Cell::Unknown]);
    table
}

fn replay(killed: &[Killed]) -> Table {
    let kinds = [Kind::Usual, Kind::WithoutReplay];
    let columns = [("what", "what"), ("with", "with input replay"), ("without", "without")];
    let mut table = Table::new("What input replay changes", &columns);
    let spreads = |part| kinds.map(|kind| Cell::from(spread(failovers(killed, kind), part)));
    table.row(format!("TCP: {}, ms", WHOLE.0), spreads(WHOLE.1));
    table.row("TCP: the longest of these, ms", kinds.map(|kind| longest(killed, kind)));
    for (what, part) in [FIRST_PACKET, LEFT] {
        table.row(format!("TCP: {what}, ms"), spreads(part));
    }
    let count = |kind, each: fn(&Killed) -> u64| Cell::from(of(killed, kind).map(each).sum::<u64>());
    let every = |each| kinds.map(|kind| count(kind, each));
    table.row("UDP: requests that waited when the VM went on", every(|one| one.caught.len() as u64));
    table.row("UDP: of them never answered", every(unanswered));
    table
        .row("UDP: of the others, from the request to the answer, ms", kinds.map(|kind| waits(killed, kind)));
    table.row("UDP: answers that came twice", every(|one| one.repeated));
    table
}

fn unanswered(one: &Killed) -> u64 {
    one.caught.iter().filter(|asked| asked.answered_us.is_none()).count() as u64
}

fn waits(killed: &[Killed], kind: Kind) -> Cell {
    let asked = of(killed, kind).flat_map(|one| &one.caught);
    Summary::of_us_in_ms(asked.filter_map(|asked| Some(asked.answered_us? - asked.sent_us))).into()
}

fn targets(found: &mut Findings, killed: &[Killed]) {
    let mut aim = |what, limit, figure: fn(&Failover) -> Option<f64>, of: fn(Summary) -> f64| {
        let spread = spread(failovers(killed, Kind::Usual), figure);
        found.targets.extend(spread.map(|spread| Target::at_most(what, "ms", limit, of(spread))));
    };
    aim("detection of a killed host, p99", 300.0, |one| one.split.detection_ms, |all| all.p99);
    aim("promotion, median", 50.0, |one| one.moments.promotion_ms, |all| all.median);
}

fn verdict(found: &mut Findings, bed: &Bed, writers: Writers, kills: usize, lost: u64) -> Result<()> {
    let report = writers.stop()?;
    let verification = verify(bed.client(), bed.reach.redis(), &report.writers)?;
    let wrong = verification.lost_acknowledged + verification.holes + verification.strangers;
    found.targets.push(Target::at_most("acknowledged writes lost, or written twice", "", 0.0, wrong as f64));
    found.targets.push(Target::at_most("connections broken", "", 0.0, report.broken() as f64));
    found.notes.push(format!(
        "Over all {kills} kills: {} acknowledged writes, {}, {} connections broken. Besides the kills protection was lost {lost} \
         times.",
        report.acknowledged(),
        if verification.holds() { "none lost".to_owned() } else { format!("LOST SOME: {verification:?}") },
        report.broken(),
    ));
    found.notes.extend(NOTES.map(str::to_owned));
    Ok(())
}

const NOTES: [&str; 2] = [
    "TCP sends again what the dead host swallowed when its own time-outs run out (in Linux 200 ms at least, doubled each time, \
     counted from the request). With input replay the guest has the requests already, and its answers need not wait for that.",
    "A UDP request that waited when the VM went on had reached the dead host, or was sent when there was nobody to take it. The \
     first kind is what input replay can save.",
];
