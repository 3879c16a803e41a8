//! Owns part 1: 1, 2, 5 and 10 VMs of as many hosts at one backup, then the death of all these hosts at once.

use super::fleet::{BACKUP, Fleet, PRIMARIES};
use crate::bench::Run;
use crate::bench::bed::{ACK_PATIENCE, Reach, until};
use crate::bench::cpu::cpu_seconds;
use crate::bench::figures::{Cell, Findings, Table};
use crate::bench::memory::{Shares, ram_in_use};
use crate::stage::moments::Moments;
use anyhow::{Context, Result, ensure};
use api::summary::Summary;
use api::types::EpochRecord;
use lab::client::{Clients, Writers, verify};
use lab::topology::AGENT;
use std::time::Instant;

/// How many VMs.
const COUNTS: [usize; 4] = [1, 2, 5, 10];
/// Two processors carry all hosts: who is only slow shall not be taken for dead.
const DETECTION: &str = "[detection]\nheartbeat_ms = 100\ntimeout_ms = 2000\n";
/// Measures every number of VMs.
pub fn measure(run: &mut Run<'_>, found: &mut Findings) -> Result<()> {
    found.how = HOW.into();
    let counts = if run.quick { &COUNTS[..2] } else { &COUNTS[..] };
    let (mut cost, mut death) = (cost_table(), death_table());
    for &count in counts {
        let outcome = one(run, count, &mut cost, &mut death);
        if outcome.is_err() {
            // What was found before is kept.
            found.tables.extend([
                std::mem::replace(&mut cost, cost_table()),
                std::mem::replace(&mut death, death_table()),
            ]);
        }
        let note = outcome.with_context(|| format!("{count} VMs"))?;
        run.screen.done(&note);
        found.notes.push(note);
    }
    found.tables.extend([cost, death]);
    Ok(())
}

const HOW: &str = "Each VM, a Linux guest with Redis, runs at a host of its own and is protected by the one backup host, at 100 ms \
    checkpoints; four connections to each write all the time, four writes deep. Then the cables of all primary hosts are cut \
    and their agents and QEMUs killed by SIGKILL together. Hosts, guests and clients share this machine's processors, so the \
    figures of many VMs are those of a crowded machine first of all. Memory and CPU are those of the backup's agent; a \
    standby's QEMU and the guest's RAM, which is there once for each VM, are not in them.";

fn cost_table() -> Table {
    Table::new(
        "Protected, by number of VMs",
        &[
            ("vms", "VMs"),
            ("pause_ms", "pause, ms"),
            ("ack_ms", "acknowledged after, ms"),
            ("hold_ms", "held at the gate (medians of the VMs), ms"),
            ("writes_per_s", "writes a second, of each VM"),
            ("cpu_percent", "CPU of the backup's agent for each VM, % of one"),
            ("agent_mib", "its memory for each VM, MiB"),
            ("ram_mib", "guests' RAM at the backup, MiB"),
        ],
    )
}

fn death_table() -> Table {
    Table::new(
        "All primaries die at once, ms",
        &[
            ("vms", "VMs"),
            ("suspected_ms", "until suspected"),
            ("grant_ms", "from there until granted"),
            ("promotion_ms", "promotion, by its own account"),
            ("running_ms", "from suspected until it runs"),
            ("all_ms", "from the first suspicion until all run"),
            ("clients_ms", "from the death until every client has an answer"),
        ],
    )
}

fn one(run: &mut Run<'_>, count: usize, cost: &mut Table, death: &mut Table) -> Result<String> {
    let fleet = Fleet::raise(run, count, DETECTION)?;
    fleet.protect(run)?;
    let writers = fleet.writers()?;
    run.pass(&format!("{count} VMs: settling"), run.stretch(3));
    protected(run, &fleet, &writers, cost)?;
    die(run, &fleet, &writers, death)?;
    let (mut acknowledged, mut lost) = (0, Vec::new());
    for ((vm, _), writers) in fleet.each().zip(writers) {
        let report = writers.stop()?;
        let target = Reach::new(vm.address.v4).redis();
        acknowledged += report.acknowledged();
        let verification = verify(fleet.cluster.lab.client(), target, &report.writers)?;
        if !verification.holds() || report.broken() > 0 {
            lost.push(format!("{}: {} connections broken, {verification:?}", vm.name, report.broken()));
        }
    }
    let verdict = if lost.is_empty() { "none lost, no connection broken".into() } else { lost.join("; ") };
    Ok(format!("{count} VMs: {acknowledged} acknowledged writes over the death of all primaries: {verdict}."))
}

fn protected(run: &mut Run<'_>, fleet: &Fleet, writers: &[Writers], table: &mut Table) -> Result<()> {
    let count = fleet.vms.len();
    let agent = fleet.cluster.lab.process(BACKUP, AGENT)?;
    let written = || writers.iter().map(|writers| writers.progress().acknowledged).sum::<u64>();
    let (from_us, from, cpu, writes) =
        (os::clock::realtime_us(), Instant::now(), cpu_seconds(agent)?, written());
    run.pass(&format!("{count} VMs under load"), run.stretch(12));
    let seconds = from.elapsed().as_secs_f64();
    let (cpu, writes) = (cpu_seconds(agent)? - cpu, written() - writes);
    std::thread::sleep(ACK_PATIENCE);
    let (mut epochs, mut holds, mut ram): (Vec<EpochRecord>, Vec<f64>, f64) = (Vec::new(), Vec::new(), 0.0);
    for (vm, host) in fleet.each() {
        epochs.extend(fleet.cluster.ask(host, |api| api.epochs(&vm.name, from_us))?);
        let status = fleet.cluster.ask(host, |api| api.vm(&vm.name))?;
        ensure!(status.phase == "protected", "{} is {} in the middle of it", vm.name, status.phase);
        holds.push(status.measured.hold_ms.median);
        let standby = fleet.cluster.ask(BACKUP, |api| api.vm(&vm.name))?;
        ram += ram_in_use(standby.pid.context("a standby without a process")?, standby.memory_bytes)?;
    }
    let ms = |get: fn(&EpochRecord) -> u64| Summary::of_us_in_ms(epochs.iter().map(get).filter(|&us| us > 0));
    let each = |sum: f64| Cell::from(sum / count as f64);
    table.row(
        count.to_string(),
        [
            ms(|epoch| epoch.pause_us).into(),
            ms(|epoch| epoch.ack_us).into(),
            Summary::of(holds).into(),
            each(writes as f64 / seconds),
            each(100.0 * cpu / seconds),
            each(Shares::of(agent)?.rss),
            Cell::from(ram),
        ],
    );
    Ok(())
}

fn die(run: &mut Run<'_>, fleet: &Fleet, writers: &[Writers], table: &mut Table) -> Result<()> {
    let count = fleet.vms.len();
    run.screen.live(&format!("{count} hosts die"));
    let kill_us = fleet.cluster.lab.kill_hosts(&PRIMARIES[..count])?;
    for vm in &fleet.vms {
        fleet.cluster.wait_primary(BACKUP, &vm.name, &["unprotected"])?;
    }
    let events = fleet.cluster.ask(BACKUP, |api| api.events(0))?;
    let moments = |vm: &lab::cluster::VmFile| {
        let own: Vec<_> =
            events.iter().filter(|event| event.vm.as_ref() == Some(&vm.name)).cloned().collect();
        Moments::read(&own, BACKUP, kill_us)
    };
    let all: Vec<Moments> = fleet.vms.iter().map(moments).collect();
    let last_us =
        all.iter().filter_map(|moments| moments.promoted_us).max().context("nobody was promoted")?;
    let first_us =
        all.iter().filter_map(|moments| moments.suspected_us).min().context("nobody was suspected")?;
    until("an answer to every client after the death of all", || {
        let done = |writers: &Writers| writers.all_answered_since(last_us) || writers.progress().broken > 0;
        writers.iter().all(done)
    })?;
    let answered_us = os::clock::now_us();
    let between = |from: fn(&Moments) -> Option<u64>, to: fn(&Moments) -> Option<u64>| {
        let passed = |moments: &Moments| Some(to(moments)?.saturating_sub(from(moments)?));
        Summary::of_us_in_ms(all.iter().filter_map(passed))
    };
    let suspected = all.iter().filter_map(|moments| moments.suspected_us);
    table.row(
        count.to_string(),
        [
            Summary::of_us_in_ms(suspected.map(|at_us| at_us.saturating_sub(kill_us))).into(),
            between(|moments| moments.suspected_us, |moments| moments.granted_us).into(),
            Summary::of(all.iter().filter_map(|moments| moments.promotion_ms)).into(),
            between(|moments| moments.suspected_us, |moments| moments.promoted_us).into(),
            Cell::from(last_us.saturating_sub(first_us) as f64 / 1e3),
            Cell::from(answered_us.saturating_sub(kill_us) as f64 / 1e3),
        ],
    );
    Ok(())
}
