//! Owns part 4: how long a VM that moved to its backup is unprotected, beside what a first copy to a host takes where nothing of it
//! is left.

use super::super::Run;
use super::super::bed::{Bed, start_cluster, until};
use super::super::cable;
use super::super::figures::{Cell, Findings, Table};
use crate::stage::{HOSTS, other};
use anyhow::{Context, Result};
use api::migration::MigrateRequest;
use api::summary::Summary;
use api::types::ProtectRequest;
use lab::cluster::{VmFile, VmShape};
use lab::topology::AGENT;
use protocol::HostName;
use std::time::Duration;

/// Memory of the guest, MiB.
const MEMORY: u32 = 2_048;
/// Pages that it fills with what does not pack: a GiB.
const FILLED: u64 = 1 << 18;
/// Moves, and first copies, of each kind.
const TIMES: usize = 6;
/// Bounds on the first copy.
const RATES: [(&str, Option<u64>); 2] = [("128 MiB/s", Some(128 << 20)), ("as fast as it goes", None)];

/// Both by turns, by the bound on the copy.
pub fn measure(run: &mut Run<'_>, found: &mut Findings) -> Result<()> {
    found.how = HOW.into();
    let shape = VmShape { memory_mib: MEMORY, ..VmShape::default() };
    let file = VmFile::redis(&run.props.guest, "again", shape, None)?;
    let bed = Bed::boot(start_cluster(run.props, "again")?, run, file)?;
    fill(run, &bed)?;
    let mut table = Table::new(
        "Until the VM is protected",
        &[
            ("how", "how"),
            ("unprotected_ms", "unprotected, ms"),
            ("copy_ms", "of it from the try on, ms"),
            ("wire_mib", "on the wire from the try on, MiB"),
        ],
    );
    let mut at = HOSTS[0];
    for (says, rate) in RATES {
        let (mut moved, mut anew) = (Vec::new(), Vec::new());
        let times = run.times(TIMES);
        for number in 1..=times {
            run.pass(&format!("{says}: {number} of {times}"), Duration::from_secs(1));
            anew.push(first_copy(&bed, at, rate).context("a first copy")?);
            moved.push(moves(&bed, at).context("a move")?);
            at = other(at);
            bed.cluster.unprotect(&bed.vm, at, other(at))?;
        }
        table.row(format!("{says}: moved to its backup, protected by its old host"), cells(&moved));
        table.row(format!("{says}: protected by a host where nothing is left of it"), cells(&anew));
    }
    found.tables.push(table);
    Ok(())
}

/// What it took.
struct Took {
    unprotected_ms: Option<f64>,
    copy_ms: f64,
    wire_mib: f64,
}

fn cells(all: &[Took]) -> [Cell; 3] {
    let cell = |get: fn(&Took) -> Option<f64>| -> Cell { Summary::of(all.iter().filter_map(get)).into() };
    [cell(|took| took.unprotected_ms), cell(|took| Some(took.copy_ms)), cell(|took| Some(took.wire_mib))]
}

fn fill(run: &mut Run<'_>, bed: &Bed) -> Result<()> {
    run.screen.live("the guest fills its memory");
    bed.pulse(|pulse| pulse.dirty(FILLED, "full", "seq+page"))?;
    until("a GiB filled", || bed.pulse(|pulse| pulse.stats()).is_ok_and(|stats| stats.dirtied > FILLED))?;
    bed.pulse(|pulse| pulse.dirty(4_096, "5000", "random"))?;
    Ok(())
}

/// Bytes on the cable until now.
fn wire(bed: &Bed) -> Result<u64> {
    cable::bytes(bed.cluster.lab.process(HOSTS[0], AGENT)?)
}

fn first_copy(bed: &Bed, at: &str, rate: Option<u64>) -> Result<Took> {
    let mut request = ProtectRequest::following(HostName::new(other(at))?);
    request.copy_rate = rate;
    let (mark, before) = (bed.newest_event(at)?, wire(bed)?);
    let began_us = os::clock::realtime_us();
    bed.cluster.protect_as(&bed.vm, at, &request)?;
    let wire_mib = mib(wire(bed)? - before);
    let protected = bed.cluster.wait_event(at, "protected", mark)?.at_us;
    Ok(Took { unprotected_ms: None, copy_ms: ms(began_us, protected), wire_mib })
}

fn moves(bed: &Bed, from: &str) -> Result<Took> {
    let to = other(from);
    let mark = bed.newest_event(to)?;
    let request = MigrateRequest::usual(HostName::new(to)?);
    bed.cluster.ask(from, |api| api.migrate(&bed.vm, &request))?;
    let promoted = bed.cluster.wait_event(to, "promoted", mark)?.at_us;
    let before = wire(bed)?;
    let protected = bed.cluster.wait_event(to, "protected", mark)?.at_us;
    let wire_mib = mib(wire(bed)? - before);
    let events = bed.cluster.ask(to, |api| api.events(mark))?;
    // Earlier ones came too early: the old host had not let go.
    let mut tries = events.iter().filter(|event| event.what["event"] == "protecting_again");
    let tried = tries.next_back().context("nobody tried")?.at_us;
    Ok(Took { unprotected_ms: Some(ms(promoted, protected)), copy_ms: ms(tried, protected), wire_mib })
}

fn ms(from_us: u64, to_us: u64) -> f64 {
    to_us.saturating_sub(from_us) as f64 / 1e3
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

const HOW: &str = "A Linux guest of 2 GiB with Redis, of which a GiB was filled with random numbers; then a program in it writes 5,000 times a second \
    to random ones of 4,096 pages. By turns it is protected by a host where nothing is left of it (an operator ended protection there \
    before), then moved to that backup (`vm migrate`), which protects it again by the old host: what the VM left there is compared, and what \
    differs is sent. Unprotected: from the promotion until protected, the time included in which the old host lets go. The bound is `copy_rate` of the protection. Bytes are all that went \
    over the cable, both ways, and count checkpoints of the last moments.";
