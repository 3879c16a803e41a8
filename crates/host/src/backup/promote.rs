//! Owns the steps of a promotion, in order, and how long each took.
//!
//! A backup that has its session's last epoch, or has asked the arbiter, goes on or is thrown away, so a machine without disks is
//! given its devices' state then, by a thread of its own. One with disks has to wait: their label names the term, and shared ones
//! are not this host's before.

use super::applier::{Applied, Applier};
use super::input::InputLog;
use super::persister::Persister;
use crate::config::HostConfig;
use crate::disks::{self, DiskError, Label};
use crate::machine::{Machine, MachineError, StandbyMachine, StandingMachine};
use crate::plan::Plan;
use os::Memory;
use protocol::journal::stamp::Content;
use protocol::resync::Base;
use protocol::{Epoch, Grant, Session, VmName};
use serde::Serialize;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// After so long without an answer a promoted VM's addresses are announced again.
const ANNOUNCE: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_millis(1_000),
    Duration::from_millis(3_000),
];

/// So long a shared disk's lock may be held by somebody. The old owner hears nothing meanwhile: before it asks the arbiter, and is
/// fenced, it must have heard that this host cannot go on.
const LOCK_LINGERS: Duration = Duration::from_millis(100);

/// How long the steps of a promotion took, in microseconds. What was done before the term was won is not in the total.
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
            "VM {vm}: RUNS HERE in term {} from epoch {}{noticed}; promoted in {:.1} ms (by steps, some done before the term was won: apply {:.1}, disks {:.1}, devices {:.1}, old owner's lease {:.1}, resume {:.1}), {} frames of input replayed",
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
    /// beyond it is gone with the journal, what is written from now on is marked, and the label says who owns them. Shared
    /// disks are this host's.
    pub fn take_over(self, machine: &StandbyMachine, grant: &Grant) -> Result<(), DiskError> {
        let disks = machine.disks();
        disks::take(&disks.handed_over(), LOCK_LINGERS)?;
        let Some((persister, base)) = self.persister else { return Ok(()) };
        persister.stop();
        disks::close_journal(self.config, grant.vm(), &disks.images())?;
        // Before the label: from then on the map that lies here is taken for that of these disks.
        disks.mark_with(disks::differences_from(self.config, grant.vm(), &disks.sizes(), base)?)?;
        let label = Label::of(self.config, grant.vm());
        label.write(Content::Running, grant.term(), Session(0), Epoch(0))
    }
}

/// A standby that is being brought to where its newest committed epoch ended, beside the loop: that takes milliseconds, in which
/// the arbiter is asked.
pub struct Bringing {
    thread: Option<JoinHandle<Result<Standing, MachineError>>>,
    memory: Option<Arc<Memory>>,
}

impl Bringing {
    /// Begins with it. No disk waits for anything.
    pub fn begin(machine: StandbyMachine, applier: Applier) -> Self {
        let memory = machine.memory();
        let bring = move || {
            crate::loops::prefer_this_thread();
            Standing::bring(machine, applier, |_| Ok(()))
        };
        let thread = std::thread::Builder::new().name("ud-bring".into()).spawn(bring);
        if let Err(error) = &thread {
            tracing::error!(%error, "no thread for a promotion: this VM cannot go on here");
        }
        Self { thread: thread.ok(), memory }
    }

    /// Its main memory, if that outlives it.
    pub fn memory(&self) -> Option<Arc<Memory>> {
        self.memory.clone()
    }

    /// Waits for its end.
    pub fn end(mut self) -> Result<Standing, MachineError> {
        let ended = self.thread.take().map(JoinHandle::join);
        let failed = || MachineError::Apply("the thread that loads the devices failed".into());
        ended.and_then(Result::ok).ok_or_else(failed)?
    }
}

impl Drop for Bringing {
    /// The machine is not left alone: its memory counts as free behind this.
    fn drop(&mut self) {
        self.thread.take().map(JoinHandle::join);
    }
}

/// A standby that stands where its newest committed epoch ended, and how long that took. It goes on, or is thrown away.
pub struct Standing {
    machine: StandingMachine,
    plan: Option<Plan>,
    applied: Applied,
    apply: Duration,
    disks: Duration,
    load: Duration,
}

impl Standing {
    /// Waits until all that is committed is in the image, takes over the disks, and gives the machine its devices' state.
    pub fn bring(
        machine: StandbyMachine,
        applier: Applier,
        take_over: impl FnOnce(&StandbyMachine) -> Result<(), DiskError>,
    ) -> Result<Self, MachineError> {
        let start = Instant::now();
        let mut applied = applier.finish().map_err(MachineError::Apply)?;
        let apply = start.elapsed();
        take_over(&machine)?;
        let disks = start.elapsed() - apply;
        let plan = machine.plan().cloned();
        let machine = machine.load(std::mem::take(&mut applied.device))?;
        let load = start.elapsed() - apply - disks;
        Ok(Self { machine, plan, applied, apply, disks, load })
    }

    /// What the operator asked of the old owner, as far as that told.
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// Promotes it; it runs at `not_before` at the earliest. From the resume on nothing can fail: the VM runs under the grant.
    /// The promotion began at `start`.
    pub fn promote(
        self,
        start: Instant,
        input: InputLog,
        grant: &Grant,
        (epoch, not_before): (Epoch, protocol::Instant),
    ) -> Result<(Machine, Split), MachineError> {
        assert_eq!(self.applied.epoch, epoch, "the image is the newest committed epoch");
        let machine = self.machine.assemble(grant.vm())?;
        machine.gate.learn(&self.applied.addresses);
        // Everything else is done by now: only what is left of the lease is waited for.
        let waits = Instant::now();
        std::thread::sleep(Duration::from_micros(not_before.since(crate::loops::now()).0));
        let (lease, resumes) = (waits.elapsed(), Instant::now());
        machine.go_live(grant.permit(), &ANNOUNCE)?;
        let (resume, total) = (resumes.elapsed(), start.elapsed());
        let input = input.into_frames();
        let replayed_frames = input.len();
        machine.replay_input(input);
        let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let split = Split {
            term: grant.term().0,
            epoch: epoch.0,
            apply_us: us(self.apply),
            disks_us: us(self.disks),
            load_us: us(self.load),
            lease_us: us(lease),
            resume_us: us(resume),
            total_us: us(total),
            noticed_us: None,
            replayed_frames,
        };
        Ok((machine, split))
    }
}
