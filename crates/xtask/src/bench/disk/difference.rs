//! Owns part 5 of the disks' benchmark: what it takes to make a backup's copy of a disk the primary's again, when a
//! hundredth of it changed.

use super::super::Run;
use super::super::bed::{Bed, start_cluster, until};
use super::super::figures::{Cell, Findings, Table, Target};
use super::{guest, sparse};
use crate::stage::HOSTS;
use anyhow::{Context, Result};
use lab::guest::pulse::PulseClient;
use serde_json::Value;
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(25);
/// Bytes of the disk: mostly a hole.
const SIZE: u64 = 10 << 30;
/// Requests of 4 KiB: a hundredth of the disk.
const CHANGED: u64 = SIZE / 4096 / 100;
/// Most that is aimed at, of the disk.
const AIM_PERCENT: f64 = 1.2;
const FIO: &str = "--rw=randwrite --bs=4k --iodepth=16";

/// A first copy, and one by difference after the guest wrote unprotected.
pub fn measure(run: &mut Run<'_>, found: &mut Findings) -> Result<()> {
    found.how = HOW.into();
    let (image, _) = guest::image(run)?;
    let cluster = start_cluster(run.props, "difference")?;
    let bed = guest::on_agent_with(run, cluster, &image, |disk| sparse(disk, SIZE))?;
    let mut table = Table::new(
        "Copies of a disk of 10 GiB",
        &[
            ("what", "what"),
            ("kind", "kind"),
            ("examined_bytes", "looked at, bytes"),
            ("data_wire_bytes", "on the wire for data, bytes"),
            ("hash_wire_bytes", "on the wire for hashes, bytes"),
            ("percent", "of the disk, %"),
            ("seconds", "protected after, s"),
        ],
    );
    run.screen.live("the first copy");
    let (first, took) = copy(&bed)?;
    table.row("the first copy", first.cells(took));
    bed.unprotect()?;
    let written = write(run, &bed)?;
    run.screen.live("the copy by difference");
    let (second, took) = copy(&bed)?;
    table.row(format!("after {written} writes of 4 KiB at random places"), second.cells(took));
    found.tables.push(table);
    found.targets.push(Target::at_most(
        "on the wire when 1 % changed, of the disk",
        "%",
        AIM_PERCENT,
        second.percent(),
    ));
    Ok(())
}

const HOW: &str = "A sparse disk of 10 GiB with 256 MiB that do not pack. It is protected; then protection is ended and fio in the guest \
    writes 4 KiB at random places, 16 at a time, until a hundredth of the disk was asked for; then it is protected again. Bytes \
    are those of the event `disks_copied`, headers included; times are until the backup could take over, and count the copy of the memory too.";

/// What the owner's agent counted.
struct Copied(Value);

impl Copied {
    fn number(&self, name: &str) -> u64 {
        self.0[name].as_u64().unwrap_or_default()
    }

    fn percent(&self) -> f64 {
        (self.number("data_wire_bytes") + self.number("hash_wire_bytes")) as f64 / SIZE as f64 * 100.0
    }

    fn cells(&self, took: Duration) -> [Cell; 6] {
        [
            self.0["kind"].as_str().unwrap_or("?").into(),
            self.number("examined_bytes").into(),
            self.number("data_wire_bytes").into(),
            self.number("hash_wire_bytes").into(),
            self.percent().into(),
            took.as_secs_f64().into(),
        ]
    }
}

fn copy(bed: &Bed) -> Result<(Copied, Duration)> {
    let mark = bed.cluster.ask(HOSTS[0], |api| api.events(0))?.last().map_or(0, |event| event.seq);
    let from = Instant::now();
    bed.protect(INTERVAL)?;
    let took = from.elapsed();
    let event = bed.cluster.wait_event(HOSTS[0], "disks_copied", mark).context("the copy is not told of")?;
    Ok((Copied(event.what), took))
}

/// Lets the guest write a hundredth of the disk, or a little more.
fn write(run: &mut Run<'_>, bed: &Bed) -> Result<u64> {
    let requests = || bed.pulse(PulseClient::disk).map(|disk| disk.requests);
    let before = requests()?;
    run.screen.live("the guest writes a hundredth of its disk");
    guest::begin(bed.client(), bed.reach, FIO)?;
    until("a hundredth of the disk", || requests().is_ok_and(|now| now >= before + CHANGED))?;
    guest::rest(bed.client(), bed.reach)?;
    Ok(requests()? - before)
}
