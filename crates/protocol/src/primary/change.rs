//! Owns the change of a VM's backup while the VM stays protected: a second session copies the VM to the *successor*, one
//! checkpoint is taken for both, and the old backup resigns.
//!
//! ```text
//!  Change           Accept            copied           taken, sent to both      acknowledged            Resigned
//!  ──────▶ Opening ────────▶ Copying ───────▶ Ready ───────────────────▶ Joint ─────────────▶ Resigning ────────▶ the session
//!             │                 │               │                          │                      │
//!             ▼                 ▼               ▼                          ▼                      ▼
//!        any failure: the successor was never entitled, the old        loss of either: both may be entitled, the
//!        backup protects on as if nothing had been tried               owner holds all output and asks for the next term
//! ```
//!
//! Both may claim the next term from the moment the joint checkpoint is on its way until the old backup's word that it will
//! not. That is safe, because nothing leaves in that time: what left before is of epochs that the old backup acknowledged and
//! that lie before the cut, so each of the two has all of it, and the arbiter gives the term to one of them. What waits
//! leaves when the successor alone is entitled and has acknowledged it. See `docs/design/ownership.md`.

use super::{Action, Aim, CommandError, Link, Phase, Pipeline, Primary};
use crate::ids::{Epoch, HostName, Session};
use crate::notice::{LinkLoss, Notice};
use crate::pacing::Taken;
use crate::time::{Instant, Micros};
use crate::timing::Timing;
use crate::wire::{AckBody, EndReason, ToBackup, ToPrimary};
use alloc::string::ToString;
use alloc::vec::Vec;

/// The session of the host that shall be the backup.
#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone, PartialEq, Eq, Hash))]
pub(super) struct Successor {
    link: Link,
    /// To go by once it is the present session.
    timing: Timing,
    stage: Stage,
}

#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone, PartialEq, Eq, Hash))]
enum Stage {
    Opening,
    Copying,
    /// The next checkpoint is its first one, too.
    Ready,
    /// That checkpoint is being taken.
    Cutting,
    /// It is on its way to both: either may have it.
    Joint(Pipeline),
    /// The successor has it, and the old backup was asked to resign.
    Resigning(Pipeline),
}

/// How far a change of backup is, for displays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeStage {
    /// Connecting to the successor.
    Opening,
    /// Its first copy.
    Copying,
    /// The checkpoint of both is on its way: either may have it.
    Joint,
}

impl Primary {
    /// The host that shall be the backup, and how far that is.
    #[must_use]
    pub fn successor(&self) -> Option<(&HostName, ChangeStage)> {
        self.successor.as_ref().map(|successor| {
            let stage = match successor.stage {
                Stage::Opening => ChangeStage::Opening,
                Stage::Copying | Stage::Ready | Stage::Cutting => ChangeStage::Copying,
                Stage::Joint(_) | Stage::Resigning(_) => ChangeStage::Joint,
            };
            (&successor.link.peer, stage)
        })
    }

    /// Begins to bring up another backup.
    pub(super) fn change(
        &mut self,
        now: Instant,
        (peer, timing): (HostName, Timing),
        machine: Vec<u8>,
        out: &mut Vec<Action>,
    ) -> Result<(), CommandError> {
        match &self.phase {
            Phase::Protected(..) if self.successor.is_some() => return Err(CommandError::Changing),
            Phase::Protected(link, _, None) if link.peer == peer => {
                return Err(CommandError::AlreadyProtected);
            }
            Phase::Protected(_, _, None) => {}
            Phase::Unprotected | Phase::Opening(_) | Phase::Copying(..) => {
                return Err(CommandError::NotProtected);
            }
            _ => return Err(self.undecided()),
        }
        timing.check().map_err(|_| CommandError::Timing)?;
        let link = self.call(now, (peer, Aim::Guard), machine, out);
        self.successor = Some(Successor { link, timing, stage: Stage::Opening });
        Ok(())
    }

    /// The backup stays: what was copied to its successor is thrown away.
    pub(super) fn keep_backup(&mut self, out: &mut Vec<Action>) -> Result<(), CommandError> {
        match &self.successor {
            None => Err(CommandError::NotChanging),
            Some(_) if self.is_joint() => Err(CommandError::Changing),
            Some(_) => {
                self.leave_successor(out);
                Ok(())
            }
        }
    }

    pub(super) fn is_successor(&self, session: Session) -> bool {
        self.successor.as_ref().is_some_and(|successor| successor.link.session == session)
    }

    /// No checkpoint is taken now: two hosts may be entitled, or what was said before the joint one has still to leave.
    pub(super) fn rests(&self) -> bool {
        self.is_joint() || self.is_unsettled()
    }

    /// Two hosts may be entitled: nothing leaves.
    pub(super) fn is_joint(&self) -> bool {
        self.joint().is_some()
    }

    /// The next checkpoint would be the joint one, and what the ones before it gathered has not all left. Of the console's stream a
    /// backup gets what its own epochs bring, so nothing older may be waiting.
    fn is_unsettled(&self) -> bool {
        let ready = matches!(self.successor, Some(Successor { stage: Stage::Ready, .. }));
        ready && self.pipeline().is_some_and(|pipeline| !pipeline.ledger.is_settled())
    }

    fn joint(&self) -> Option<&Pipeline> {
        match &self.successor.as_ref()?.stage {
            Stage::Joint(pipeline) | Stage::Resigning(pipeline) => Some(pipeline),
            _ => None,
        }
    }

    fn joint_mut(&mut self) -> Option<&mut Pipeline> {
        match &mut self.successor.as_mut()?.stage {
            Stage::Joint(pipeline) | Stage::Resigning(pipeline) => Some(pipeline),
            _ => None,
        }
    }

    pub(super) fn successor_link(&mut self) -> Option<&mut Link> {
        self.successor.as_mut().map(|successor| &mut successor.link)
    }

    /// Whether the successor expects heartbeats.
    fn successor_beats(&self) -> bool {
        self.successor.as_ref().is_some_and(|successor| !matches!(successor.stage, Stage::Opening))
    }

    pub(super) fn successor_deadline(&self) -> Option<Instant> {
        let link = &self.successor.as_ref()?.link;
        let silence = link.detector.deadline();
        Some(if self.successor_beats() { silence.min(link.next_heartbeat) } else { silence })
    }

    /// Looks after the second session.
    pub(super) fn drive_successor(&mut self, now: Instant, out: &mut Vec<Action>) {
        let beats = self.successor_beats();
        let Some(Successor { link, timing, .. }) = &mut self.successor else { return };
        if let Some(loss) = link.silent(now) {
            return self.lose_successor(loss, out);
        }
        if beats {
            // Nothing is known of the link yet.
            link.beat(now, timing.heartbeat, timing.bounded(Micros(0)), out);
        }
    }

    pub(super) fn successor_connected(&mut self, now: Instant, out: &mut Vec<Action>) {
        let timing = self.successor.as_ref().map_or(self.timing, |successor| successor.timing);
        let hello = self.hello(timing);
        if let Some(Successor { link, stage: Stage::Opening, .. }) = &mut self.successor {
            link.detector.hear(now);
            let machine = core::mem::take(&mut link.machine);
            out.push(Action::Send(link.session, ToBackup::Hello(hello(machine))));
        }
    }

    pub(super) fn successor_says(&mut self, now: Instant, message: ToPrimary, out: &mut Vec<Action>) {
        let Some(Successor { link, timing, stage }) = &mut self.successor else { return };
        link.detector.hear(now);
        let session = link.session;
        match (message, &stage) {
            (ToPrimary::Accept(offer), Stage::Opening) => {
                link.detector.set_timeout(timing.primary_timeout(timing.timeout));
                (link.next_heartbeat, link.beats_since) = (now, now);
                *stage = Stage::Copying;
                let peer = link.peer.clone();
                out.push(Action::StartCopy(session, offer));
                out.push(Action::Notice(Notice::Copying { peer, session }));
            }
            (ToPrimary::Hashes(hashes), Stage::Copying) => out.push(Action::Compared(session, hashes)),
            (ToPrimary::Reached, Stage::Copying) => out.push(Action::Reached(session)),
            (ToPrimary::Pulse(body), _) => self.successor_answers(now, None, body, out),
            (ToPrimary::Ack(epoch, body), _) => self.successor_answers(now, Some(epoch), body, out),
            (ToPrimary::Refuse(why), _) => self.lose_successor(LinkLoss::Refused(why), out),
            (ToPrimary::Broken(why), _) => self.lose_successor(LinkLoss::Broken(why), out),
            (ToPrimary::Fenced(term), _) => self.lose_successor(LinkLoss::HigherTerm(term), out),
            (ToPrimary::Leaving, _) => {}
            (other, _) => {
                let why = alloc::format!("{:?} came out of turn", other.encode().0);
                self.lose_successor(LinkLoss::Stream(why), out);
            }
        }
    }

    fn successor_answers(&mut self, now: Instant, ack: Option<Epoch>, body: AckBody, out: &mut Vec<Action>) {
        let Some(Successor { link, timing, .. }) = &mut self.successor else { return };
        if let Some(loss) = link.heed(now, timing, body) {
            return self.lose_successor(loss, out);
        }
        let Some(pipeline) = self.joint_mut() else { return };
        match pipeline.ledger.answer(now, body.echo, ack) {
            Ok(()) => self.ask_to_resign(now, out),
            Err(error) => self.lose_successor(LinkLoss::Stream(error.to_string()), out),
        }
    }

    pub(super) fn successor_copied(&mut self) {
        if let Some(Successor { stage: stage @ Stage::Copying, .. }) = &mut self.successor {
            *stage = Stage::Ready;
        }
    }

    /// The next checkpoint is also the first one of this session; it counts as begun.
    pub(super) fn begin_joint(&mut self) -> Option<Session> {
        let Successor { link, stage: stage @ Stage::Ready, .. } = self.successor.as_mut()? else {
            return None;
        };
        *stage = Stage::Cutting;
        Some(link.session)
    }

    /// It failed: the one after it is.
    pub(super) fn joint_failed(&mut self) {
        if let Some(Successor { stage: stage @ Stage::Cutting, .. }) = &mut self.successor {
            *stage = Stage::Ready;
        }
    }

    /// It is taken, as this epoch of the gate: from here on the successor may be entitled, too.
    pub(super) fn joint_taken(&mut self, now: Instant, cut: Epoch, taken: Taken, out: &mut Vec<Action>) {
        let Phase::Protected(_, present, _) = &self.phase else { return };
        let Some(Successor { link, timing, stage: stage @ Stage::Cutting }) = &mut self.successor else {
            return;
        };
        let mut pipeline = Pipeline::behind(cut.0 - 1, timing, now);
        pipeline.note_taken(now, Epoch(1), taken);
        pipeline.pacer = present.pacer.handed_on((timing.pacing, timing.interval), present.ledger.sent());
        out.push(Action::SendCheckpoint(link.session, Epoch(1)));
        *stage = Stage::Joint(pipeline);
    }

    /// What waits behind the joint checkpoint is of the successor's next epoch.
    pub(super) fn joint_output_waits(&mut self, cut: Epoch, since: Instant) {
        if let Some(pipeline) = self.joint_mut() {
            pipeline.output_waits(cut, since);
        }
    }

    /// The successor has all that the old backup has: that one may go.
    fn ask_to_resign(
        &mut self,
        #[allow(unused, reason = "only with the feature `planted`")] now: Instant,
        out: &mut Vec<Action>,
    ) {
        let Phase::Protected(old, ..) = &self.phase else { return };
        let Some(successor) = &mut self.successor else { return };
        successor.stage = match core::mem::replace(&mut successor.stage, Stage::Cutting) {
            Stage::Joint(pipeline) if pipeline.ledger.acked() >= Epoch(1) => {
                out.push(Action::Send(old.session, ToBackup::Resign));
                Stage::Resigning(pipeline)
            }
            stage => stage,
        };
        #[cfg(feature = "planted")]
        if self.planted.succeed_unresigned {
            self.succeed(now, out);
        }
    }

    /// The old backup will not claim any more, whatever happens.
    pub(super) fn on_resigned(&mut self, now: Instant, out: &mut Vec<Action>) {
        match &self.successor {
            Some(Successor { stage: Stage::Resigning(_), .. }) => self.succeed(now, out),
            _ => self.lose(LinkLoss::Stream("the backup resigned without being asked".to_string()), out),
        }
    }

    fn succeed(&mut self, now: Instant, out: &mut Vec<Action>) {
        let resigning = |successor: &mut Successor| matches!(successor.stage, Stage::Resigning(_));
        let Some(Successor { link, timing, stage: Stage::Resigning(pipeline) }) =
            self.successor.take_if(resigning)
        else {
            return;
        };
        let Phase::Protected(old, before, leaving) = core::mem::replace(&mut self.phase, Phase::Ended) else {
            unreachable!("a successor of nobody");
        };
        let (session, peer, term) = (link.session, link.peer.clone(), self.grant.term());
        out.push(Action::Succeed(session));
        out.push(Action::EndSession(old.session));
        out.push(Action::Acknowledged(session, Epoch(1)));
        if before.slowed > 0 {
            out.push(Action::Slow(session, 0));
        }
        out.push(Action::Notice(Notice::Resigned { peer: old.peer }));
        out.push(Action::Notice(Notice::Protected { peer: peer.clone(), term }));
        self.timing = timing;
        self.learn_of(now, &peer);
        self.phase = Phase::Protected(link, pipeline, leaving);
    }

    /// The second session is over. Behind the joint checkpoint its backup may be entitled, and there is no other way than the
    /// arbiter's.
    pub(super) fn lose_successor(&mut self, why: LinkLoss, out: &mut Vec<Action>) {
        if !self.is_joint() {
            let peer = self.successor.as_ref().map(|successor| successor.link.peer.clone());
            self.leave_successor(out);
            out.extend(peer.map(|peer| Action::Notice(Notice::ChangeFailed { peer, why })));
            return;
        }
        let phase = core::mem::replace(&mut self.phase, Phase::Ended);
        let (Phase::Protected(old, pipeline, leaving), Some(Successor { link, .. })) =
            (phase, self.successor.take())
        else {
            return;
        };
        out.push(Action::EndSession(old.session));
        self.lose_backup(link, &pipeline, leaving, why, out);
    }

    /// Ends the second session, if there is one. A backup that may be entitled is told nothing: it may be the last that has
    /// the VM.
    pub(super) fn leave_successor(&mut self, out: &mut Vec<Action>) {
        let joint = self.is_joint();
        let Some(Successor { link, .. }) = self.successor.take() else { return };
        if !joint {
            out.push(Action::Send(link.session, ToBackup::End(EndReason::Unprotected)));
        }
        out.push(Action::EndSession(link.session));
    }

    /// The VM died: who shall go on with it, and from which epoch. The old backup may have resigned already, if it was asked to.
    pub(super) fn heir(&mut self, link: Link, pipeline: &Pipeline, out: &mut Vec<Action>) -> (Link, Epoch) {
        match self.successor.take() {
            Some(Successor { link: heir, stage: Stage::Resigning(pipeline), .. }) => {
                out.push(Action::Succeed(heir.session));
                out.push(Action::EndSession(link.session));
                (heir, pipeline.ledger.acked())
            }
            successor => {
                self.successor = successor;
                self.leave_successor(out);
                (link, pipeline.ledger.acked())
            }
        }
    }
}
