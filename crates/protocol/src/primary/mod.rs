//! Owns the life of a VM at its primary: protect, checkpoint, release, hand over, and what to do when the
//! backup is lost.
//!
//! ```text
//!                 Protect            Accept             epoch 1 sent
//!  ┌───────────┐ ────────▶ ┌───────┐ ───────▶ ┌───────┐ ────────────▶ ┌─────────┐
//!  │Unprotected│           │Opening│          │Copying│               │Protected│◀─┐ checkpoint failed
//!  └───────────┘ ◀──────── └───────┘ ◀─────── └───────┘               └─────────┘  │
//!        ▲        any failure: the backup was                    loss │       │Failover
//!        │        never entitled, nothing to decide                   ▼       ▼    │
//!        │                      won term t+1                   ┌────────┐ ┌────────┴──┐ last epoch
//!        └──────────────────────────────────────────────────── │Claiming│◀│HandingOver│─────────┐
//!                                                              └────────┘ └───────────┘         ▼
//!                                                     lost term t+1 │        link lost    ┌───────┐
//!                                                                   ▼      ┌───────────── │Yielded│
//!                                                              ┌──────┐    ▼              └───────┘
//!                                                              │Fenced│◀ Claiming
//!                                                              └──────┘
//! ```
//!
//! A migration of a VM that nobody protects takes the same way, with one step less: Opening, Copying, and the first
//! checkpoint is the last, so that its sending leads from Copying to HandingOver. Until then the session was nothing but a
//! reader of the VM's memory: whatever goes wrong, the VM runs on as if nobody had asked. See
//! `docs/design/migration.md` for the point of no return.
//!
//! While Protected a second session may bring up another backup (`change`); when that has all that the first one has, the
//! first resigns, and the second is the session.
//!
//! The rule behind it: *in a term either the owner releases output unprotected and nobody else is entitled to
//! the next term, or exactly one backup is entitled and output leaves only on its acknowledgement, or, for a moment, two are,
//! each has all that ever left, and nothing leaves.* So every way
//! from Protected back to Unprotected, the operator's `unprotect` and `stop` included, goes through the arbiter.

mod change;
mod checkpoints;
mod commands;
mod frames;
mod ownership;

pub use change::ChangeStage;

use crate::asking::{Asking, ClaimAnswer, Claimant};
use crate::detector::{Detector, Gaps, Listening, overslept};
use crate::ids::{Epoch, HostName, Session, Term};
use crate::ledger::Ledger;
use crate::notice::{LinkLoss, Notice};
use crate::ownership::{Claim, Grant, RunPermit};
use crate::pacing::{Pacer, PacingView, Taken};
use crate::resync::Offer;
use crate::slowing::Brake;
use crate::time::{Instant, Micros};
use crate::timing::Timing;
use crate::wire::compare::Hashes;
use crate::wire::{AckBody, Beat, EndReason, ToBackup, ToPrimary, YieldReason};
use alloc::string::String;
use alloc::vec::Vec;

/// What an operator asks of a primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Protect the VM on `peer`; `machine` is its description, opaque here.
    Protect {
        /// The backup.
        peer: HostName,
        /// Times to go by from now on.
        timing: Timing,
        /// The VM's description for the backup.
        machine: Vec<u8>,
    },
    /// End protection.
    Unprotect,
    /// End the VM.
    Stop,
    /// Hand the VM to its backup.
    Failover,
    /// The same, because the VM shall run there; the backup's host protects it again, whatever follows losses usually.
    Move,
    /// Protect the VM on `peer` in place of its backup, which protects it until then.
    Change {
        /// The new backup.
        peer: HostName,
        /// Times to go by once it is that.
        timing: Timing,
        /// The VM's description for it.
        machine: Vec<u8>,
    },
    /// The backup stays: ends a change.
    KeepBackup,
    /// Bring a VM that nobody protects to `peer`, which goes on with it: the first copy, then one checkpoint, the last.
    Migrate {
        /// The destination.
        peer: HostName,
        /// Times to go by from now on.
        timing: Timing,
        /// The VM's description for the destination.
        machine: Vec<u8>,
        /// Stop the VM before anything is copied, instead of behind it.
        stop_first: bool,
    },
}

/// Why a command was refused; nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Already protected or on the way.
    #[error("the VM is already protected or about to be; `undying vm unprotect` first")]
    AlreadyProtected,
    /// On the way to another host.
    #[error("the VM is being migrated; `undying vm migrate --cancel` ends that")]
    Migrating,
    /// Another backup is being brought up.
    #[error("its backup is being changed; wait until that is done")]
    Changing,
    /// No other backup is being brought up.
    #[error("its backup is not being changed")]
    NotChanging,
    /// There is no backup.
    #[error("the VM is not protected")]
    NotProtected,
    /// Who owns the VM is being decided, or it is ending.
    #[error("the VM is {0}; wait until that is decided")]
    Undecided(&'static str),
    /// The times do not fit together.
    #[error("the times do not fit together")]
    Timing,
}

/// Something that happened at the primary.
#[derive(Debug)]
pub enum Event {
    /// The connection of a session stands.
    Connected(Session),
    /// A message came.
    Message(Session, ToPrimary),
    /// The connection ended, could not be made, or its bytes were refused.
    Disconnected(Session, LinkLoss),
    /// Little enough is dirty: the first checkpoint may be taken.
    Copied(Session),
    /// A checkpoint was cut and is staged; the VM runs again (or stays paused, if it was the last).
    CheckpointTaken {
        /// The session.
        session: Session,
        /// The epoch that it closed.
        epoch: Epoch,
        /// What it took.
        taken: Taken,
    },
    /// An answer of this epoch of the gate waits in it, its first packet since then.
    OutputWaits(Epoch, Instant),
    /// A checkpoint failed; its dirty pages are owed to the next, the gate was not cut.
    CheckpointFailed {
        /// The session.
        session: Session,
        /// Why.
        why: String,
    },
    /// A checkpoint that might be spared was not taken: the guest did too little since the one before.
    CheckpointSpared(Session, Epoch),
    /// The arbiter answered.
    Claimed(Claim, ClaimAnswer),
    /// The guest shut itself down; its process is still there.
    GuestShutdown,
    /// The VM's process is gone.
    VmDied(String),
    /// A deadline passed.
    Tick,
}

/// Something to do, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Connect to the backup.
    Connect(Session, HostName),
    /// Send a message on the session's connection, behind everything given before.
    Send(Session, ToBackup),
    /// Copy while the VM runs: of the disks what the copies that the backup offers lack, then all memory, in rounds;
    /// then say [`Event::Copied`].
    StartCopy(Session, Offer),
    /// The copy's oldest Ask is answered.
    Compared(Session, Hashes),
    /// What the copy sent before its Mark is in the backup's copy.
    Reached(Session),
    /// Stop the VM, gather memory, devices and output, and let it go on.
    TakeCheckpoint {
        /// The session.
        session: Session,
        /// The epoch that it closes.
        epoch: Epoch,
        /// The same as the gate numbers them: its epochs count on when a backup is changed.
        cut: Epoch,
        /// Leave the VM paused: it goes on elsewhere.
        last: bool,
        /// It is the first one of this session, too: the VM's backup is being changed.
        with: Option<Session>,
        /// It may be left out if the guest ran for less than this since the one before, and wrote nothing to its disks or to
        /// others: [`Event::CheckpointSpared`].
        spare: Option<Micros>,
    },
    /// Send what the checkpoint gathered, and its Commit.
    SendCheckpoint(Session, Epoch),
    /// The epoch and all before it are committed at the backup: what they wrote to the disks does not differ there.
    Acknowledged(Session, Epoch),
    /// Stop gathering and forget the session: close its connection, untrack memory.
    EndSession(Session),
    /// This session, begun beside the present one, takes its place: from now on checkpoints are of it.
    Succeed(Session),
    /// Let output of the gate's epochs up to this one leave.
    Release(Epoch),
    /// From this instant let nothing leave (it is held already in epochs; this also holds what is unprotected).
    HoldOutput,
    /// Release everything and let output pass: the VM is unprotected.
    OpenOutput,
    /// From now on the guest loses so many percent of its time, by short stops: it writes faster than the link carries. Ends
    /// with the session.
    Slow(Session, u8),
    /// Stop the VM's processors: the backup is too slow.
    Pause,
    /// Let the VM's processors run.
    Resume(RunPermit),
    /// Ask the arbiter.
    Claim(Claim),
    /// Throw output away, end the VM's process: somebody else owns it.
    Fence,
    /// End the VM's process and mark it stopped at the arbiter.
    Shutdown,
    /// Tell the operator.
    Notice(Notice),
}

/// What phase a VM is in, for status displays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseName {
    /// Runs without a backup.
    Unprotected,
    /// Connecting to a backup.
    Opening,
    /// First copy.
    Copying,
    /// A backup can take over.
    Protected,
    /// Planned failover.
    HandingOver,
    /// Output held, arbiter asked.
    Claiming,
    /// Given to the backup.
    Yielded,
    /// Somebody else owns it.
    Fenced,
    /// Ended.
    Ended,
}

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Aim {
    /// A backup that can take over.
    Guard,
    /// That the VM runs at the backup's host soon: it was protected by it, and is handed over.
    Move,
    /// That the VM runs at the backup's host; it is protected by nobody, and its first checkpoint is its last here.
    Migrate { stop_first: bool },
}

impl Aim {
    fn is_migration(self) -> bool {
        matches!(self, Self::Migrate { .. })
    }

    fn yields(self) -> YieldReason {
        match self {
            Self::Guard => YieldReason::Planned,
            Self::Move | Self::Migrate { .. } => YieldReason::Moved,
        }
    }
}

/// One session's connection.
#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone, PartialEq, Eq, Hash))]
struct Link {
    session: Session,
    peer: HostName,
    machine: Vec<u8>,
    aim: Aim,
    detector: Detector,
    next_heartbeat: Instant,
    /// Since then this host has sent a heartbeat whenever one was due: before, it had itself to thank if it was not heard.
    beats_since: Instant,
}

impl Link {
    /// Nothing was heard for the time-out.
    fn silent(&self, now: Instant) -> Option<LinkLoss> {
        self.detector.expired(now).then(|| LinkLoss::Silent(self.detector.silence(now).0 / 1_000))
    }

    /// Goes by the backup's time-out from now on. A backup that has not heard this host for so long that this host would
    /// have asked in its place is about to ask: the incumbent goes first.
    fn heed(&mut self, now: Instant, timing: &Timing, body: AckBody) -> Option<LinkLoss> {
        let timeout = timing.primary_timeout(body.timeout);
        self.detector.set_timeout(timeout);
        let unheard = body.silence.min(now.since(self.beats_since));
        (unheard >= timeout).then_some(LinkLoss::Unheard(unheard.0 / 1_000))
    }

    fn beat(&mut self, now: Instant, heartbeat: Micros, wish: Micros, out: &mut Vec<Action>) {
        if now >= self.next_heartbeat {
            self.next_heartbeat = now + heartbeat;
            out.push(Action::Send(self.session, ToBackup::Heartbeat(Beat { at: now, wish })));
        }
    }
}

/// Checkpointing in the Protected and HandingOver phases.
#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone, PartialEq, Eq, Hash))]
struct Pipeline {
    /// Epochs of the gate before the session's first.
    before: u64,
    ledger: Ledger,
    pacer: Pacer,
    /// The epoch being cut now, and whether the VM stays paused behind it.
    running: Option<(Epoch, bool)>,
    failures: u32,
    /// Paused until an acknowledgement makes room, since when.
    throttled: Option<Instant>,
    brake: Brake,
    /// What part of its time the guest loses, in percent, as the engine was told.
    slowed: u8,
}

/// Why a protected VM leaves its protection on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Purpose {
    Unprotect,
    Stop,
}

#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone, PartialEq, Eq, Hash))]
enum Phase {
    Unprotected,
    Opening(Link),
    /// The first copy; the pipeline is there once the first checkpoint was asked for.
    Copying(Link, Option<Pipeline>),
    Protected(Link, Pipeline, Option<(Asking, Purpose)>),
    HandingOver(Link, Pipeline),
    Claiming(Asking, Option<Purpose>),
    /// The link is kept to hear how it went.
    Yielded(Option<Link>),
    Fenced,
    Ended,
}

/// The state machine of a VM at the host that owns it.
#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone, PartialEq, Eq, Hash))]
pub struct Primary {
    claimant: Claimant,
    grant: Grant,
    timing: Timing,
    phase: Phase,
    /// In Protected: the host that shall be the backup.
    successor: Option<change::Successor>,
    /// Grows for as long as this machine lives, over its terms: what a reader or a checkpoint of an old session
    /// still posts must not pass for the present one's.
    last_session: Session,
    /// The VM's processors stand still because this machine wanted it (throttled, handed over).
    paused: bool,
    vm_dead: bool,
    /// The guest shut itself down.
    guest_down: bool,
    throttle_total: Micros,
    /// What was learnt of the link to the last backup, if time-outs follow it. A link is no better for having been lost.
    learnt: Option<(HostName, Gaps)>,
    #[cfg(feature = "planted")]
    planted: crate::Planted,
}

impl Primary {
    /// The machine of a VM that runs unprotected under `grant`.
    #[must_use]
    pub fn new(claimant: Claimant, grant: Grant) -> Self {
        Self {
            claimant,
            grant,
            timing: Timing::default(),
            phase: Phase::Unprotected,
            successor: None,
            last_session: Session(0),
            paused: false,
            vm_dead: false,
            guest_down: false,
            throttle_total: Micros(0),
            learnt: None,
            #[cfg(feature = "planted")]
            planted: crate::Planted::default(),
        }
    }

    /// Plants a bug, to show that the checkers find it.
    #[cfg(feature = "planted")]
    pub fn plant(&mut self, planted: crate::Planted) {
        self.planted = planted;
    }

    /// The term in which this host owns the VM.
    #[must_use]
    pub fn term(&self) -> Term {
        self.grant.term()
    }

    /// The phase, for displays.
    #[must_use]
    pub fn phase(&self) -> PhaseName {
        match &self.phase {
            Phase::Unprotected => PhaseName::Unprotected,
            Phase::Opening(_) => PhaseName::Opening,
            Phase::Copying(..) => PhaseName::Copying,
            Phase::Protected(..) => PhaseName::Protected,
            Phase::HandingOver(..) => PhaseName::HandingOver,
            Phase::Claiming(..) => PhaseName::Claiming,
            Phase::Yielded(_) => PhaseName::Yielded,
            Phase::Fenced => PhaseName::Fenced,
            Phase::Ended => PhaseName::Ended,
        }
    }

    /// The backup, if there is one or is about to be.
    #[must_use]
    pub fn peer(&self) -> Option<&HostName> {
        self.link().map(|link| &link.peer)
    }

    /// Newest epochs sent and acknowledged in this session, and how many are in flight.
    #[must_use]
    pub fn progress(&self) -> Option<(Epoch, Epoch, u32)> {
        self.pipeline().map(|p| (p.ledger.sent(), p.ledger.acked(), p.ledger.in_flight()))
    }

    /// How long the VM stood still in all because its backup was too slow, and whether it does now.
    #[must_use]
    pub fn throttled(&self) -> (Micros, bool) {
        (self.throttle_total, self.pipeline().is_some_and(|p| p.throttled.is_some()))
    }

    /// What part of its time the guest loses because it writes faster than the link carries, in percent.
    #[must_use]
    pub fn slowed(&self) -> u8 {
        self.pipeline().map_or(0, |p| p.slowed)
    }

    /// What the times of checkpoints are decided by.
    #[must_use]
    pub fn pacing(&self) -> Option<PacingView> {
        self.pipeline().map(|p| p.pacer.view())
    }

    /// How this host listens to its backup, for displays.
    #[must_use]
    pub fn listening(&self) -> Option<Listening> {
        let link = self.link().filter(|_| self.beats())?;
        let learnt = self.learnt.as_ref().filter(|_| self.timing.adapts()).map(|(_, gaps)| gaps.view());
        Some(Listening { timeout: link.detector.timeout(), learnt })
    }

    /// What was learnt of the link to the last backup, if time-outs follow it.
    #[must_use]
    pub fn learnt(&self) -> Option<(&HostName, &Gaps)> {
        self.learnt.as_ref().filter(|_| self.timing.adapts()).map(|(host, gaps)| (host, gaps))
    }

    /// What this host knows of the link to a backup, from wherever: the next session with it begins with that. Says nothing
    /// while a session is there.
    pub fn recall(&mut self, host: &HostName, gaps: Gaps) {
        if self.link().is_none() {
            self.learnt = Some((host.clone(), gaps));
        }
    }

    /// To be called before anything else when this host's loop runs again: if it slept beyond its deadline, what came
    /// meanwhile waits to be read, and what it did not hear, or was not heard of it, is its own doing. What may leave
    /// is not touched by this: that goes by the clock.
    pub fn wake(&mut self, now: Instant) {
        let asleep = overslept(self.deadline(), now, self.timing.heartbeat);
        let Some(asleep) = asleep else { return };
        let forgive = |link: &mut Link| {
            link.detector.forgive(now, asleep);
            link.beats_since = now;
        };
        self.link_mut().into_iter().for_each(forgive);
        self.successor_link().into_iter().for_each(forgive);
    }

    /// Takes an event and appends what is to be done.
    pub fn handle(&mut self, now: Instant, event: Event, out: &mut Vec<Action>) {
        match event {
            Event::Connected(session) => self.on_connected(now, session, out),
            Event::Message(session, message) => self.on_message(now, session, message, out),
            Event::Disconnected(session, why) => {
                if self.is_current(session) {
                    self.lose(why, out);
                } else if self.is_successor(session) {
                    self.lose_successor(why, out);
                }
            }
            Event::Copied(session) => self.on_copied(now, session),
            Event::CheckpointTaken { session, epoch, taken } => {
                self.on_checkpoint_taken(now, session, epoch, taken, out);
            }
            Event::OutputWaits(cut, since) => self.on_output_waits(cut, since),
            Event::CheckpointFailed { session, why } => self.on_checkpoint_failed(now, session, why, out),
            Event::CheckpointSpared(session, epoch) => self.on_checkpoint_spared(now, session, epoch),
            Event::Claimed(claim, answer) => self.on_claimed(now, &claim, answer, out),
            Event::GuestShutdown => self.guest_down = true,
            Event::VmDied(why) => self.on_vm_died(now, why, out),
            Event::Tick => {}
        }
        self.drive(now, out);
        self.check();
    }

    /// When to call [`Primary::handle`] with a [`Event::Tick`] at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let silence = self.link().map(|link| link.detector.deadline());
        let heartbeat = self.link().filter(|_| self.beats()).map(|link| link.next_heartbeat);
        let asking = match &self.phase {
            Phase::Protected(_, _, Some((asking, _))) | Phase::Claiming(asking, _) => asking.deadline(),
            _ => None,
        };
        let successor = self.successor_deadline();
        [silence, heartbeat, asking, successor, self.checkpoint_deadline()].into_iter().flatten().min()
    }

    fn link(&self) -> Option<&Link> {
        match &self.phase {
            Phase::Opening(link)
            | Phase::Copying(link, _)
            | Phase::Protected(link, ..)
            | Phase::HandingOver(link, _)
            | Phase::Yielded(Some(link)) => Some(link),
            _ => None,
        }
    }

    fn link_mut(&mut self) -> Option<&mut Link> {
        match &mut self.phase {
            Phase::Opening(link)
            | Phase::Copying(link, _)
            | Phase::Protected(link, ..)
            | Phase::HandingOver(link, _)
            | Phase::Yielded(Some(link)) => Some(link),
            _ => None,
        }
    }

    fn pipeline(&self) -> Option<&Pipeline> {
        match &self.phase {
            Phase::Copying(_, Some(p)) | Phase::Protected(_, p, _) | Phase::HandingOver(_, p) => Some(p),
            _ => None,
        }
    }

    fn pipeline_mut(&mut self) -> Option<&mut Pipeline> {
        match &mut self.phase {
            Phase::Copying(_, Some(p)) | Phase::Protected(_, p, _) | Phase::HandingOver(_, p) => Some(p),
            _ => None,
        }
    }

    fn is_current(&self, session: Session) -> bool {
        self.link().is_some_and(|link| link.session == session)
    }

    /// Everything that a deadline may bring about.
    fn drive(&mut self, now: Instant, out: &mut Vec<Action>) {
        if let Some(loss) = self.link_loss(now) {
            self.lose(loss, out);
        }
        self.drive_successor(now, out);
        self.heed_shutdown(out);
        self.beat(now, out);
        self.drive_checkpoints(now, out);
        self.finish_handover(now, out);
        self.ask_again(now, out);
    }

    fn link_loss(&self, now: Instant) -> Option<LinkLoss> {
        if let Some(loss) = self.link()?.silent(now) {
            return Some(loss);
        }
        let waiting = now.since(self.pipeline()?.ledger.oldest_waiting()?);
        (waiting >= self.timing.stall).then_some(LinkLoss::Stalled(waiting.0 / 1_000))
    }

    /// Whether the backup expects heartbeats: not before it has a standby.
    fn beats(&self) -> bool {
        !matches!(self.phase, Phase::Opening(_))
    }

    fn beat(&mut self, now: Instant, out: &mut Vec<Action>) {
        let (heartbeat, beats, wish) = (self.timing.heartbeat, self.beats(), self.wish());
        if let Some(link) = self.link_mut()
            && beats
        {
            link.beat(now, heartbeat, wish, out);
        }
    }

    /// The time-out that the backup should go by for this host's own, three quarters of it, to be long enough.
    fn wish(&self) -> Micros {
        let needs = self.learnt.as_ref().map_or(Micros(0), |(_, gaps)| gaps.needs());
        self.timing.bounded(Micros(needs.0 / 3 * 4))
    }

    /// What must hold between any two events.
    fn check(&self) {
        if let Some(pipeline) = self.pipeline() {
            assert!(pipeline.ledger.acked() <= pipeline.ledger.sent(), "acknowledged before it was sent");
            assert!(pipeline.throttled.is_none() || self.paused, "throttled but running");
        }
        assert!(!matches!(self.phase, Phase::Unprotected) || !self.paused, "unprotected but paused");
        assert!(
            self.successor.is_none() || matches!(self.phase, Phase::Protected(..)),
            "a successor of nobody"
        );
    }
}

fn end_reason(purpose: Purpose) -> EndReason {
    match purpose {
        Purpose::Unprotect => EndReason::Unprotected,
        Purpose::Stop => EndReason::Stopped,
    }
}

fn yield_message(epoch: Epoch, reason: YieldReason) -> ToBackup {
    ToBackup::Yield(epoch, reason)
}
