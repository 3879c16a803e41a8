//! Owns the steps of a promotion, in order, and how long each took.

use super::applier::Applier;
use super::input::InputLog;
use super::persister::Persister;
use crate::config::HostConfig;
use crate::disks::{self, DiskError, Label};
use crate::machine::{Machine, MachineError, StandbyMachine};
use protocol::journal::stamp::Content;
use protocol::resync::Base;
use protocol::{Epoch, Grant, Session, VmName};
use serde::Serialize;
use std::time::{Duration, Instant};

/// After so long without an answer a promoted VM's addresses are announced again.
const ANNOUNCE: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_millis(1_000),
    Duration::from_millis(3_000),
];

/// How long the steps of a promotion took, in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(tag = "event", rename = "promoted")]
pub struct Split {
    /// The term.
    pub term: u64,
    /// The epoch it goes on from.
    pub epoch: u64,
    /// Waiting for the last epoch to be in the image.
    pub apply_us: u64,
    /// Bringing the disks' last epochs onto the media, and putting the journal away.
    pub disks_us: u64,
    /// Giving the device state to QEMU.
    pub load_us: u64,
    /// Waiting until the old owner can hold no lease any more.
    pub lease_us: u64,
    /// Opening the gate and letting the processors run.
    pub resume_us: u64,
    /// All of it.
    pub total_us: u64,
    /// Since this host noticed that it had to take over: with the arbiter's time, and all of this.
    pub noticed_us: Option<u64>,
    /// Frames given to the guest that its dead primary was given after the epoch.
    pub replayed_frames: usize,
}

impl Split {
    /// For people.
    pub fn words(&self, vm: &VmName) -> String {
        let ms = |us: u64| Duration::from_micros(us).as_secs_f64() * 1e3;
        let noticed = self.noticed_us.map_or_else(String::new, |noticed| {
            format!(", {:.1} ms after this host noticed that it had to", ms(noticed))
        });
        format!(
            "VM {vm}: RUNS HERE in term {} from epoch {}{noticed}; promoted in {:.1} ms (apply {:.1}, disks {:.1}, devices {:.1}, old owner's lease {:.1}, resume {:.1}), {} frames of input replayed",
            self.term,
            self.epoch,
            ms(self.total_us),
            ms(self.apply_us),
            ms(self.disks_us),
            ms(self.load_us),
            ms(self.lease_us),
            ms(self.resume_us),
            self.replayed_frames
        )
    }
}

/// What a promotion needs for the disks.
pub struct Disks<'a> {
    /// Where everything is here.
    pub config: &'a HostConfig,
    /// The journal's thread, and the base that the replicas are; none for a VM without disks.
    pub persister: Option<(Persister, Base)>,
}

impl Disks<'_> {
    /// From here on the replicas are the VM's disks: all that is committed is on the media, what the journal holds
    /// beyond it is gone with the journal, what is written from now on is marked, and the label says who owns them.
    fn take_over(self, machine: &StandbyMachine, grant: &Grant) -> Result<(), DiskError> {
        let Some((persister, base)) = self.persister else { return Ok(()) };
        persister.stop();
        let disks = machine.disks();
        disks::close_journal(self.config, grant.vm(), &disks.images())?;
        // Before the label: from then on the map that lies here is taken for that of these disks.
        disks.mark_with(disks::differences_from(self.config, grant.vm(), &disks.sizes(), base)?)?;
        let label = Label::of(self.config, grant.vm());
        label.write(Content::Running, grant.term(), Session(0), Epoch(0))
    }
}

/// Promotes the standby; it runs at `not_before` at the earliest. From the resume on nothing can fail: the VM runs under the
/// grant.
pub fn promote(
    machine: StandbyMachine,
    applier: Applier,
    disks: Disks<'_>,
    input: InputLog,
    grant: &Grant,
    (epoch, not_before): (Epoch, protocol::Instant),
) -> Result<(Machine, Split), MachineError> {
    let start = Instant::now();
    let applied = applier.finish().map_err(MachineError::Apply)?;
    assert_eq!(applied.epoch, epoch, "the image is the newest committed epoch");
    let apply = start.elapsed();
    disks.take_over(&machine, grant)?;
    let taken = start.elapsed() - apply;
    let machine = machine.load(grant.vm(), applied.device)?;
    let load = start.elapsed() - apply - taken;
    machine.gate.learn(&applied.addresses);
    // Everything else is done by now: only what is left of the lease is waited for.
    std::thread::sleep(Duration::from_micros(not_before.since(crate::loops::now()).0));
    let lease = start.elapsed() - apply - taken - load;
    machine.go_live(grant.permit(), &ANNOUNCE)?;
    let total = start.elapsed();
    let input = input.into_frames();
    let replayed_frames = input.len();
    machine.replay_input(input);
    let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let split = Split {
        term: grant.term().0,
        epoch: epoch.0,
        apply_us: us(apply),
        disks_us: us(taken),
        load_us: us(load),
        lease_us: us(lease),
        resume_us: us(total - apply - taken - load - lease),
        total_us: us(total),
        noticed_us: None,
        replayed_frames,
    };
    Ok((machine, split))
}
