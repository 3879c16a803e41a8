//! Owns part 2: what several links between two hosts cost, and what clients see of the loss of one.

use super::super::Run;
use super::super::bed::{Bed, until};
use super::super::copies::Full;
use super::super::cpu::cpu_seconds;
use super::super::figures::{Cell, Findings, Table, Target};
use super::super::pause::ack_ms;
use crate::stage::HOSTS;
use anyhow::{Context, Result, ensure};
use api::summary::Summary;
use api::types::PathStatus;
use lab::arbiters::ArbiterKind;
use lab::client::Writers;
use lab::cluster::Cluster;
use lab::topology::{AGENT, Link};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Memory of which first copies are made, MiB.
const FULL_MIB: u64 = 256;
/// First copies over one path, and over two.
const COPIES: usize = 5;
/// Cuts of the path that carries the checkpoints; the other one is cut half as often.
const CUTS: usize = 20;
const INTERVAL: Duration = Duration::from_millis(25);
/// How long clients are watched behind a cut: many times what it takes to go on over the other path.
const WATCHED: Duration = Duration::from_millis(700);
/// A path that has just come back is let be for so long.
const SETTLE: Duration = Duration::from_millis(200);

/// The stream over one path and over two, by turns, then cuts.
pub fn measure(run: &mut Run<'_>, found: &mut Findings) -> Result<()> {
    found.how = HOW.into();
    let one = raise(run, &[])?;
    let two = raise(run, &HOSTS)?;
    let beds = [("one path", &one), ("two paths", &two)];
    let table = stream(run, beds)?;
    found.tables.push(table);
    drop(one);
    cuts(run, &two, found)
}

const HOW: &str = "Two hosts, and a Linux guest of 512 MiB with Redis. The replication stream goes over one network, as usual, \
    or over two: then small frames go by both paths, and bulk by the active one. Both pairs of hosts are there at the same \
    time. First copies, by turns, are of 256 MiB that do not pack; then, one pair after the other, checkpoints are taken every 25 ms, of an idle \
    guest and of one that 8 connections write to, 4 writes deep. Then, with checkpoints that follow the output, one of the two \
    networks is cut again and again, under the same writers, and healed; in between the clients are watched for as long \
    without a cut.";

fn raise(run: &mut Run<'_>, on_two: &[&str]) -> Result<Bed> {
    let binary = &run.props.binary;
    let cluster = Cluster::start_over("links", binary, &HOSTS, "", ArbiterKind::Directory, on_two);
    Bed::raise_on(cluster.context("the hosts cannot be set up")?, run, false)
}

fn stream(run: &mut Run<'_>, beds: [(&str, &Bed); 2]) -> Result<Table> {
    let mut table = Table::new(
        "The stream by number of paths",
        &[
            ("paths", "paths"),
            ("copy_mib_s", "first copy, MiB/s"),
            ("idle_ack_ms", "idle: acknowledged after, ms"),
            ("load_ack_ms", "under load: acknowledged after, ms"),
            ("writes_s", "under load: writes/s"),
            ("agents_percent", "under load: both agents, % of a processor"),
        ],
    );
    let mut speeds = [Vec::new(), Vec::new()];
    let full = beds.map(|(_, bed)| full(bed));
    for full in &full {
        full.fill(run)?;
    }
    let copies = run.times(COPIES);
    for number in 1..=copies {
        for ((full, (what, _)), speeds) in full.iter().zip(beds).zip(&mut speeds) {
            run.screen.live(&format!("{what}: first copy {number} of {copies}"));
            speeds.push(full.copy(None)?.1);
        }
    }
    for ((what, bed), speeds) in beds.into_iter().zip(speeds) {
        let [idle, load, writes, percent] = acknowledged(run, bed, what)?;
        table.row(what, [Summary::of(speeds).into(), idle, load, writes, percent]);
    }
    Ok(table)
}

fn full(bed: &Bed) -> Full<'_> {
    let [host, backup] = HOSTS;
    Full { cluster: &bed.cluster, vm: &bed.vm, reach: bed.reach, host, backup, mib: FULL_MIB }
}

/// Acknowledgements of an idle guest and under load; writes a second, and the agents' processor time, under load.
fn acknowledged(run: &mut Run<'_>, bed: &Bed, what: &str) -> Result<[Cell; 4]> {
    bed.protect(INTERVAL)?;
    run.pass(&format!("{what}: settling"), run.stretch(2));
    let time = run.stretch(6);
    let idle = bed.epochs(run, &format!("{what}: idle"), time)?;
    let writers = bed.reach.writers(bed.client(), 4)?;
    run.pass(&format!("{what}: settling"), run.stretch(1));
    let (from, before, cpu) = (Instant::now(), writers.progress().acknowledged, agents(bed)?);
    let load = bed.epochs(run, &format!("{what}: under load"), time)?;
    let seconds = from.elapsed().as_secs_f64();
    let writes = (writers.progress().acknowledged - before) as f64 / seconds;
    let percent = 100.0 * (agents(bed)? - cpu) / seconds;
    let broken = writers.stop()?.broken();
    ensure!(broken == 0, "{broken} of the writers' connections broke");
    bed.unprotect()?;
    Ok([ack_ms(&idle).into(), ack_ms(&load).into(), writes.into(), percent.into()])
}

/// Processor time of both agents, s.
fn agents(bed: &Bed) -> Result<f64> {
    let used = HOSTS.map(|host| cpu_seconds(bed.cluster.lab.process(host, AGENT)?));
    used.into_iter().sum()
}

/// What is cut.
#[derive(Clone, Copy, PartialEq)]
enum Cut {
    Nothing,
    Active,
    Other,
}

fn cuts(run: &mut Run<'_>, bed: &Bed, found: &mut Findings) -> Result<()> {
    let writers = bed.reach.writers(bed.client(), 4)?;
    bed.protect_following()?;
    let term = bed.status(HOSTS[0])?.term;
    let cuts = [
        (Cut::Nothing, "none", CUTS),
        (Cut::Active, "the path that carries the checkpoints", CUTS),
        (Cut::Other, "the other path", CUTS / 2),
    ];
    let mut gaps = cuts.map(|_| Vec::new());
    let rounds = run.times(CUTS);
    for round in 1..=rounds {
        for ((cut, what, times), gaps) in cuts.iter().zip(&mut gaps) {
            // The other path in every second round.
            if round * times % CUTS == 0 {
                run.screen.live(&format!("round {round} of {rounds}, cut: {what}"));
                gaps.push(gap(bed, &writers, *cut)?);
                let status = bed.status(HOSTS[0])?;
                ensure!(
                    status.term == term && status.phase == "protected",
                    "the loss of one path ended protection (term {}, {})",
                    status.term,
                    status.phase
                );
            }
        }
    }
    let mut table = Table::new(
        "The longest wait of any client when a path is cut",
        &[("cut", "cut"), ("gap_ms", "ms"), ("longest_ms", "longest, ms")],
    );
    for ((_, what, _), gaps) in cuts.into_iter().zip(gaps) {
        let gaps = Summary::of(gaps);
        table.row(what, [gaps.into(), gaps.map(|gaps| gaps.max).into()]);
    }
    found.tables.push(table);
    let broken = writers.stop()?.broken();
    found.targets.push(Target::at_most("connections broken by cut paths", "", 0.0, broken as f64));
    found.notes.push("No cut ended protection, and none made the VM change hosts.".into());
    Ok(())
}

/// The longest that a client waited, ms.
fn gap(bed: &Bed, writers: &Writers, cut: Cut) -> Result<f64> {
    both_paths(bed)?;
    std::thread::sleep(SETTLE);
    let link = match cut {
        Cut::Nothing => None,
        Cut::Active => Some(link(bed, |path| path.active)?),
        Cut::Other => Some(link(bed, |path| !path.active)?),
    };
    drop(writers.recent());
    if let Some(link) = link {
        bed.cluster.lab.cut_link(link)?;
    }
    std::thread::sleep(WATCHED);
    let longest = writers.recent().longest_wait.context("nobody waited")?;
    if let Some(link) = link {
        bed.cluster.lab.heal_link(link)?;
    }
    Ok(longest.duration_us as f64 / 1e3)
}

/// Waits until both hosts hear each other by both paths.
fn both_paths(bed: &Bed) -> Result<()> {
    until("two paths", || {
        let up = |host| Some(bed.status(host).ok()?.paths.iter().filter(|path| path.up).count());
        HOSTS.into_iter().all(|host| up(host) == Some(2))
    })
}

/// The backup's cable to the network of the first path that is so.
fn link(bed: &Bed, is: impl Fn(&PathStatus) -> bool) -> Result<Link<'static>> {
    let [home, backup] = HOSTS;
    let paths = bed.status(home)?.paths;
    let path = paths.iter().find(|path| is(path)).context("there is no such path")?;
    let address: SocketAddr =
        path.address.parse().with_context(|| format!("path {:?}: no address", path.address))?;
    let first = IpAddr::V4(bed.cluster.lab.replication_address(backup)?);
    Ok(if address.ip() == first { Link::Replication(backup) } else { Link::Second(backup) })
}
