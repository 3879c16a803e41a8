//! Owns when checkpoints are taken, what is done with them, and when the VM must wait.

use super::{Action, Aim, Event, Phase, Pipeline, Primary};
use crate::ids::{Epoch, Session};
use crate::ledger::Ledger;
use crate::notice::{LinkLoss, Notice};
use crate::pacing::{Pacer, Taken};
use crate::slowing::Brake;
use crate::time::{Instant, Micros};
use crate::timing::Timing;
use alloc::string::String;
use alloc::vec::Vec;

/// So many checkpoints in a row may fail before protection is given up.
const MAX_FAILURES: u32 = 3;
/// A slowed guest is given back its time in steps of so many percent.
const BRAKE_STEP: u8 = 3;

impl Pipeline {
    /// Of a session whose first epoch the gate counts behind so many.
    pub(super) fn behind(before: u64, timing: &Timing, now: Instant) -> Self {
        Self {
            before,
            ledger: Ledger::new(timing),
            pacer: Pacer::new(timing.pacing, timing.interval, now),
            running: None,
            failures: 0,
            throttled: None,
            brake: Brake::new(timing.max_slowdown, now),
            slowed: 0,
        }
    }

    /// A checkpoint is taken, and about to be sent. Says for how long the VM had waited for it.
    pub(super) fn note_taken(&mut self, now: Instant, epoch: Epoch, taken: Taken) -> Option<Instant> {
        self.failures = 0;
        // The checkpoint itself let the VM go on, or left it paused if it was the last.
        let waited = self.throttled.take();
        let stood = waited.map_or(Micros(0), |since| taken.cut_at.since(since));
        // A guest that is slowed, or stood still, would have done more than it could.
        let free = self.slowed == 0 && waited.is_none();
        let seen = Taken { busy: taken.busy.filter(|_| free), waited: taken.waited && free, ..taken };
        self.pacer.taken(now, epoch, seen);
        self.brake.taken(now, epoch, taken.cut_at, (taken.pages, stood));
        self.ledger.send(epoch, taken.cut_at);
        waited
    }

    /// Only what no checkpoint has closed pulls the next one forward.
    pub(super) fn output_waits(&mut self, cut: Epoch, since: Instant) {
        let epoch = Epoch(cut.0.saturating_sub(self.before));
        let closing = self.running.map_or(Epoch(0), |(running, _)| running);
        if epoch > closing.max(self.ledger.sent()) {
            self.pacer.output(epoch, since);
        }
    }

    /// What the gate calls an epoch.
    pub(super) fn cut_of(&self, epoch: Epoch) -> Epoch {
        Epoch(self.before + epoch.0)
    }
}

impl Primary {
    pub(super) fn on_copied(&mut self, now: Instant, session: Session) {
        if self.is_successor(session) {
            return self.successor_copied();
        }
        let timing = self.timing;
        if let Phase::Copying(link, pipeline @ None) = &mut self.phase
            && link.session == session
        {
            *pipeline = Some(Pipeline::behind(0, &timing, now));
        }
    }

    /// When the next checkpoint is due; none while one runs or must wait for an acknowledgement.
    pub(super) fn checkpoint_deadline(&self) -> Option<Instant> {
        let pipeline = self.pipeline()?;
        let waits = pipeline.running.is_some()
            || pipeline.throttled.is_some()
            || self.is_handed_over()
            || self.rests();
        let stall = pipeline.ledger.oldest_waiting().map(|cut_at| cut_at + self.timing.stall);
        let full = pipeline.ledger.in_flight() >= self.timing.max_in_flight;
        let due = match (full, self.next_is_last()) {
            (true, _) => pipeline.pacer.overdue(),
            (false, true) => pipeline.pacer.last_due(),
            (false, false) => pipeline.pacer.due(),
        };
        let due = (!waits).then_some(due);
        [due, stall].into_iter().flatten().min()
    }

    /// The VM stays paused behind the next checkpoint, and goes on elsewhere.
    fn next_is_last(&self) -> bool {
        match &self.phase {
            Phase::HandingOver(..) => true,
            Phase::Copying(link, _) => link.aim.is_migration(),
            _ => false,
        }
    }

    /// The last checkpoint of a planned failover is cut: no more are taken.
    pub(super) fn is_handed_over(&self) -> bool {
        let Phase::HandingOver(_, pipeline) = &self.phase else { return false };
        self.paused && pipeline.throttled.is_none() && pipeline.running.is_none()
    }

    pub(super) fn drive_checkpoints(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.release(now, out);
        let last = self.next_is_last();
        let (handed_over, max, dead) = (self.is_handed_over(), self.timing.max_in_flight, self.vm_dead);
        let session = self.link().map(|link| link.session);
        let is_armed = matches!(self.phase, Phase::Protected(..));
        let rests = self.rests();
        let (Some(session), Some(pipeline)) = (session, self.pipeline_mut()) else { return };
        let due = if last { pipeline.pacer.last_due() } else { pipeline.pacer.due() };
        if pipeline.running.is_some() || handed_over || rests || dead || now < due {
            return;
        }
        if pipeline.ledger.in_flight() < max {
            let epoch = pipeline.ledger.open_epoch();
            let cut = pipeline.cut_of(epoch);
            pipeline.running = Some((epoch, last));
            let free = pipeline.throttled.is_none();
            let spare = pipeline.pacer.may_spare(now).filter(|_| is_armed && free);
            let with = if free { self.begin_joint() } else { None };
            let spare = spare.filter(|_| with.is_none());
            out.push(Action::TakeCheckpoint { session, epoch, cut, last, with, spare });
            return;
        }
        if pipeline.throttled.is_none() && now >= pipeline.pacer.overdue() {
            pipeline.throttled = Some(now);
            let in_flight = pipeline.ledger.in_flight();
            self.paused = true;
            out.push(Action::Pause);
            out.push(Action::Notice(Notice::Throttled { in_flight }));
        }
    }

    pub(super) fn on_checkpoint_taken(
        &mut self,
        now: Instant,
        session: Session,
        epoch: Epoch,
        taken: Taken,
        out: &mut Vec<Action>,
    ) {
        if !self.is_current(session) {
            return;
        }
        let Some(pipeline) = self.pipeline_mut() else { return };
        let Some((_, last)) = pipeline.running.take_if(|(running, _)| *running == epoch) else { return };
        let waited = pipeline.note_taken(now, epoch, taken);
        let cut = pipeline.cut_of(epoch);
        self.paused = last;
        if let Some(since) = waited {
            self.throttle_total.0 += now.since(since).0;
        }
        out.push(Action::SendCheckpoint(session, epoch));
        self.joint_taken(now, cut, taken, out);
        self.arm(out);
        self.heed_brake(out);
    }

    /// Slows the guest as the brake says. Small changes for the worse are made at once, those for the better by steps: each is
    /// an order to the engine.
    pub(super) fn heed_brake(&mut self, out: &mut Vec<Action>) {
        let Phase::Protected(link, pipeline, _) = &mut self.phase else { return };
        let (percent, before) = (pipeline.brake.percent(), pipeline.slowed);
        if percent == before || (percent != 0 && percent < before && percent + BRAKE_STEP > before) {
            return;
        }
        pipeline.slowed = percent;
        out.push(Action::Slow(link.session, percent));
        if before == 0 {
            out.push(Action::Notice(Notice::Slowed { percent, most: self.timing.max_slowdown }));
        } else if percent == 0 {
            out.push(Action::Notice(Notice::FullSpeed));
        }
    }

    pub(super) fn on_output_waits(&mut self, cut: Epoch, since: Instant) {
        if self.is_joint() {
            self.joint_output_waits(cut, since);
        } else if let Some(pipeline) = self.pipeline_mut() {
            pipeline.output_waits(cut, since);
        }
    }

    /// The first checkpoint is on its way: from here on the backup may be entitled to take over. The one of a migration is
    /// handed over at once: this host lets the VM run again only with the next term.
    fn arm(&mut self, out: &mut Vec<Action>) {
        let phase = core::mem::replace(&mut self.phase, Phase::Unprotected);
        self.phase = match phase {
            Phase::Copying(link, Some(pipeline)) if link.aim.is_migration() => {
                out.push(Action::Notice(Notice::Departing { peer: link.peer.clone() }));
                Phase::HandingOver(link, pipeline)
            }
            Phase::Copying(link, Some(pipeline)) => {
                let (peer, term) = (link.peer.clone(), self.grant.term());
                out.push(Action::Notice(Notice::Protected { peer, term }));
                Phase::Protected(link, pipeline, None)
            }
            phase => phase,
        };
    }

    /// The backup has what the guest is.
    pub(super) fn on_checkpoint_spared(&mut self, now: Instant, session: Session, epoch: Epoch) {
        if !self.is_current(session) {
            return;
        }
        let Some(pipeline) = self.pipeline_mut() else { return };
        if pipeline.running.take_if(|(running, _)| *running == epoch).is_some() {
            pipeline.failures = 0;
            pipeline.pacer.spared(now);
        }
    }

    pub(super) fn on_checkpoint_failed(
        &mut self,
        now: Instant,
        session: Session,
        why: String,
        out: &mut Vec<Action>,
    ) {
        if !self.is_current(session) || self.vm_dead {
            return;
        }
        let Some(pipeline) = self.pipeline_mut() else { return };
        let Some((epoch, _)) = pipeline.running.take() else { return };
        pipeline.failures += 1;
        pipeline.pacer.failed(now);
        pipeline.throttled = None;
        let failures = pipeline.failures;
        self.joint_failed();
        out.push(Action::Notice(Notice::CheckpointFailed { epoch, why: why.clone() }));
        self.paused = true;
        self.resume_if_paused(out);
        self.call_off_handover(&why, out);
        // A migration has one try to stop the VM: it runs on, and whoever asked may ask again.
        let migrates = matches!(&self.phase, Phase::Copying(link, _) if link.aim.is_migration());
        if failures >= MAX_FAILURES || migrates {
            self.lose(LinkLoss::Checkpoint(why), out);
        }
    }

    /// A planned failover whose last checkpoint failed does not happen.
    fn call_off_handover(&mut self, why: &str, out: &mut Vec<Action>) {
        let phase = core::mem::replace(&mut self.phase, Phase::Unprotected);
        self.phase = match phase {
            Phase::HandingOver(mut link, pipeline) => {
                link.aim = Aim::Guard;
                out.push(Action::Notice(Notice::HandoverFailed { why: why.into() }));
                Phase::Protected(link, pipeline, None)
            }
            phase => phase,
        };
    }

    /// Lets output of committed epochs leave.
    pub(super) fn release(&mut self, now: Instant, out: &mut Vec<Action>) {
        #[cfg(feature = "planted")]
        let early = self.planted.release_early;
        if self.is_joint() {
            return;
        }
        let Some(pipeline) = self.pipeline_mut() else { return };
        let epoch = pipeline.ledger.releasable(now);
        #[cfg(feature = "planted")]
        let epoch = if early { Some(pipeline.ledger.acked().next()) } else { epoch };
        if let Some(epoch) = epoch {
            out.push(Action::Release(pipeline.cut_of(epoch)));
        }
    }

    pub(super) fn resume_if_paused(&mut self, out: &mut Vec<Action>) {
        if self.paused && !self.vm_dead {
            out.push(Action::Resume(self.grant.permit()));
        }
        self.paused = false;
    }
}

// The engine posts this event from its checkpointing thread.
impl Event {
    /// Whether the event is about the session's data and stale once the session ended.
    #[must_use]
    pub fn session(&self) -> Option<Session> {
        match self {
            Self::Connected(session)
            | Self::Message(session, _)
            | Self::Disconnected(session, _)
            | Self::Copied(session)
            | Self::CheckpointTaken { session, .. }
            | Self::CheckpointSpared(session, _)
            | Self::CheckpointFailed { session, .. } => Some(*session),
            _ => None,
        }
    }
}
