//! Owns `cargo xtask bench migrate`: live migration by Undying, beside stopping the VM first and beside QEMU's own.

mod clock;
mod ours;
mod stock;

use super::Run;
use super::figures::{Findings, Table, Target};
use super::page::number;
use anyhow::Result;
use api::summary::Summary;
use lab::cluster::{VmFile, VmShape};

/// Pages that the guest writes to: 64 MiB.
const PAGES: u64 = 16_384;
/// MB a second that it dirties, a word on each page.
const RATES: [u64; 2] = [20, 100];
/// Most bytes a second while the VM runs, for both: the rate of a gigabit link.
pub const LINK: u64 = 128 << 20;

/// One migration.
#[derive(Debug, Clone, Copy)]
pub struct Migrated {
    /// From the order until the VM runs at the destination.
    pub total_ms: f64,
    /// From the moment it stands still until it runs there.
    pub downtime_ms: f64,
    /// What the guest's own clock fell behind the machine's, over all of the migration.
    pub guest_ms: Option<f64>,
    /// By QEMU's own account.
    pub reported_ms: Option<f64>,
    /// The longest that one client waited for an answer.
    pub client_ms: Option<f64>,
    /// Bytes on the wire.
    pub wire_mib: f64,
    /// Rounds, or passes over the memory.
    pub rounds: f64,
    /// Parts of the downtime, one behind the other.
    pub steps_ms: Option<[f64; 4]>,
}

impl Migrated {
    fn said(&self) -> String {
        let guest = self.guest_ms.map_or_else(|| "?".to_owned(), |ms| format!("{ms:.1}"));
        format!("{:.1} ms ({guest} ms by the guest) in {:.0} ms", self.downtime_ms, self.total_ms)
    }
}

/// A VM that dirties so many MB a second from its boot on, and compares its clock with the machine's.
fn file(run: &Run<'_>, megabytes: u64) -> Result<VmFile> {
    let load = format!("{PAGES}:{}:random,clock", megabytes * 1_000_000 / 4_096);
    Ok(VmFile::redis(&run.props.guest, "moved", VmShape::default(), Some(&load))?)
}

/// Both, by rate of dirtying, with and without a bound on the link.
pub fn measure(run: &mut Run<'_>, found: &mut Findings) -> Result<()> {
    found.how = HOW.into();
    found.tables.push(Table::new(
        "Migrations",
        &[
            ("how", "how"),
            ("downtime_ms", "downtime, ms"),
            ("guest_ms", "lost to the guest, by a clock that goes on, ms"),
            ("reported_ms", "as QEMU reports it, ms"),
            ("client_ms", "longest wait of a client, ms"),
            ("total_s", "in all, s"),
            ("wire_mib", "before the stop, MiB on the wire"),
            ("rounds", "rounds"),
        ],
    ));
    found.tables.push(Table::new(
        "Where the downtime of Undying goes, ms",
        &[
            ("how", "how"),
            ("gathered_ms", "scan, copy, devices saved"),
            ("acknowledged_ms", "sent and acknowledged"),
            ("granted_ms", "given up, and the term granted"),
            ("promoted_ms", "promotion"),
        ],
    ));
    for (link, says) in [(Some(LINK), "128 MiB/s"), (None, "as fast as it goes")] {
        for megabytes in RATES {
            if run.quick && (link.is_none() || megabytes != RATES[1]) {
                continue;
            }
            let what = format!("{megabytes} MB/s dirtied, {says}");
            let ours = ours::measure(run, &what, file(run, megabytes)?, link)?;
            let stock = stock::measure(run, &what, &file(run, megabytes)?, link)?;
            let median = |all: &[Migrated], get: fn(&Migrated) -> Option<f64>| {
                Summary::of(all.iter().filter_map(get)).map(|summary| summary.median)
            };
            let plain =
                |sets: &[(&str, Vec<Migrated>)], get| sets.first().and_then(|(_, all)| median(all, get));
            let downtime = |one: &Migrated| one.guest_ms;
            let total = |one: &Migrated| Some(one.total_ms);
            if let (Some(our), Some(their)) = (plain(&ours, downtime), plain(&stock, downtime)) {
                let aim = format!("lost to the guest, {what}, of QEMU's precopy ({} ms)", number(their));
                found.targets.push(Target::at_most(aim, "%", 50.0, our / their * 100.0));
            }
            if let (Some(our), Some(their)) = (plain(&ours, total), plain(&stock, total)) {
                let aim = format!("time in all, {what}, of QEMU's precopy ({} ms)", number(their));
                found.targets.push(Target::at_most(aim, "%", 100.0, our / their * 100.0));
            }
            if let Some((name, all)) = ours.first() {
                let step = |step: usize| {
                    let each = all.iter().filter_map(|one| Some(one.steps_ms?[step]));
                    Summary::of(each).into()
                };
                found.tables[1].row(format!("{what}: {name}"), [step(0), step(1), step(2), step(3)]);
            }
            for (name, all) in ours.iter().chain(&stock) {
                row(found, format!("{what}: {name}"), all);
            }
        }
    }
    found.notes.extend(NOTES.map(str::to_owned));
    Ok(())
}

fn row(found: &mut Findings, name: String, all: &[Migrated]) {
    let spread = |get: fn(&Migrated) -> Option<f64>| Summary::of(all.iter().filter_map(get));
    found.tables[0].row(
        name,
        [
            spread(|one| Some(one.downtime_ms)).into(),
            spread(|one| one.guest_ms).into(),
            spread(|one| one.reported_ms).into(),
            spread(|one| one.client_ms).into(),
            spread(|one| Some(one.total_ms / 1e3)).into(),
            spread(|one| Some(one.wire_mib)).into(),
            spread(|one| Some(one.rounds)).into(),
        ],
    );
}

const HOW: &str = "A Linux guest of 512 MiB with Redis, in which a program writes a word to random ones of 16,384 pages (64 MiB), as many \
    a second as the row says. Undying moves it between two hosts, there and back, a client asking Redis all the time; QEMU's \
    own migration moves it from one process to another over a unix socket, each time from a fresh boot. All of it on this \
    machine, so that times of both are by one clock. Downtime is from QEMU's STOP at the source until the VM runs at the \
    destination (Undying: until the event `promoted`; QEMU: its RESUME). The bound of 128 MiB/s holds for both as long as the \
    VM runs; neither keeps it once it stands still. QEMU may stop the VM for 300 ms (its default) and Undying for 100 ms (its \
    own); a second set of QEMU's with 100 ms is beside it.";

const NOTES: [&str; 2] = [
    "Under TCG a guest's clocks stand still with it, whoever migrates it: by them no program in it sees a gap. But the machine's \
     real-time clock (`mc146818`), which QEMU takes from its host, goes on. A program in the guest waits for each new second \
     of that clock, looking every 0.5 ms, and compares: what its own clock has fallen behind from the seconds before to those \
     after is what the migration took from the guest, to a millisecond: downtime, and what else stopped it (a guest that is \
     slowed because it writes too fast is stopped for parts of the time).",
    "Undying speaks TLS between its hosts and asks the arbiter, on a disk, before the VM runs; QEMU does neither. Under TCG \
     stock QEMU 7.2 may lose dirty pages in such migrations; Undying does not track them by that code.",
];
