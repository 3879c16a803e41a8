//! Owns what operators ask of a primary, and how a VM leaves its protection on purpose.

use super::{Action, Aim, Command, CommandError, Link, Phase, Primary, Purpose};
use crate::asking::Asking;
use crate::detector::Detector;
use crate::ids::HostName;
use crate::notice::Notice;
use crate::time::{Instant, Micros};
use crate::timing::Timing;
use crate::wire::YieldReason;
use alloc::string::String;
use alloc::vec::Vec;

/// A backup may need this long to start its standby.
const OPENING_TIMEOUT: Micros = Micros::from_millis(20_000);

impl Primary {
    /// Takes an operator's command.
    ///
    /// # Errors
    /// If it cannot be carried out in the present phase; nothing changed then.
    pub fn command(
        &mut self,
        now: Instant,
        command: Command,
        out: &mut Vec<Action>,
    ) -> Result<(), CommandError> {
        match command {
            Command::Protect { peer, timing, machine } => {
                self.open(now, (peer, Aim::Guard), timing, machine, out)?;
            }
            Command::Migrate { peer, timing, machine, stop_first } => {
                self.open(now, (peer, Aim::Migrate { stop_first }), timing, machine, out)?;
            }
            Command::Change { peer, timing, machine } => self.change(now, (peer, timing), machine, out)?,
            Command::KeepBackup => self.keep_backup(out)?,
            Command::Unprotect => self.leave(Purpose::Unprotect, out)?,
            Command::Stop => self.leave(Purpose::Stop, out)?,
            Command::Failover => self.failover(Aim::Guard, out)?,
            Command::Move => self.failover(Aim::Move, out)?,
        }
        self.drive(now, out);
        self.check();
        Ok(())
    }

    fn open(
        &mut self,
        now: Instant,
        (peer, aim): (HostName, Aim),
        timing: Timing,
        machine: Vec<u8>,
        out: &mut Vec<Action>,
    ) -> Result<(), CommandError> {
        match self.phase {
            Phase::Unprotected => {}
            Phase::Opening(ref link) | Phase::Copying(ref link, _) if link.aim.is_migration() => {
                return Err(CommandError::Migrating);
            }
            Phase::Opening(_) | Phase::Copying(..) | Phase::Protected(..) => {
                return Err(CommandError::AlreadyProtected);
            }
            _ => return Err(self.undecided()),
        }
        timing.check().map_err(|_| CommandError::Timing)?;
        self.timing = timing;
        self.phase = Phase::Opening(self.call(now, (peer, aim), machine, out));
        Ok(())
    }

    /// Begins a session.
    pub(super) fn call(
        &mut self,
        now: Instant,
        (peer, aim): (HostName, Aim),
        machine: Vec<u8>,
        out: &mut Vec<Action>,
    ) -> Link {
        self.last_session = self.last_session.next();
        let session = self.last_session;
        let detector = Detector::new(now, OPENING_TIMEOUT);
        out.push(Action::Connect(session, peer.clone()));
        Link { session, peer, machine, aim, detector, next_heartbeat: now, beats_since: now }
    }

    /// Leaves protection, or ends the VM. A backup that is entitled keeps protecting until the arbiter has
    /// given the owner the next term.
    fn leave(&mut self, purpose: Purpose, out: &mut Vec<Action>) -> Result<(), CommandError> {
        match &mut self.phase {
            Phase::Unprotected if purpose == Purpose::Unprotect => return Err(CommandError::NotProtected),
            Phase::Protected(_, _, leaving @ None) => {
                let asking = Asking::new(self.claimant.claim(self.grant.term().next()));
                out.push(Action::Claim(asking.claim().clone()));
                *leaving = Some((asking, purpose));
                if !self.is_joint() {
                    self.leave_successor(out);
                }
            }
            Phase::Unprotected => {}
            Phase::Opening(_) | Phase::Copying(..) => self.abandon_copy(super::end_reason(purpose), out),
            _ => return Err(self.undecided()),
        }
        if purpose == Purpose::Stop && matches!(self.phase, Phase::Unprotected) {
            self.end(out);
        }
        Ok(())
    }

    /// Begins a planned failover: the next checkpoint is the last.
    fn failover(&mut self, aim: Aim, out: &mut Vec<Action>) -> Result<(), CommandError> {
        if self.is_joint() {
            return Err(CommandError::Changing);
        }
        match core::mem::replace(&mut self.phase, Phase::Unprotected) {
            Phase::Protected(mut link, pipeline, None) => {
                link.aim = aim;
                self.phase = Phase::HandingOver(link, pipeline);
                self.leave_successor(out);
                Ok(())
            }
            phase => {
                let protected = matches!(phase, Phase::Protected(..));
                let copying = matches!(phase, Phase::Unprotected | Phase::Opening(_) | Phase::Copying(..));
                self.phase = phase;
                let undecided = protected || !copying;
                Err(if undecided { self.undecided() } else { CommandError::NotProtected })
            }
        }
    }

    pub(super) fn undecided(&self) -> CommandError {
        CommandError::Undecided(match self.phase {
            Phase::Protected(..) => "leaving its protection",
            Phase::HandingOver(..) | Phase::Yielded(_) => "being handed over",
            Phase::Claiming(..) => "waiting for the arbiter's word",
            Phase::Fenced => "fenced: another host owns it",
            Phase::Ended => "ended",
            _ => "starting",
        })
    }

    /// A guest that shut itself down is stopped as soon as its owner may. Until then it is remembered: the
    /// guest says it once, and whatever is under way may end with the VM still here.
    pub(super) fn heed_shutdown(&mut self, out: &mut Vec<Action>) {
        if !self.guest_down || self.vm_dead {
            return;
        }
        match &mut self.phase {
            Phase::Protected(_, _, Some((_, purpose))) => *purpose = Purpose::Stop,
            Phase::Claiming(_, purpose) => *purpose = Some(Purpose::Stop),
            // Handed over, it goes on elsewhere as it is: shut down.
            Phase::HandingOver(..) | Phase::Yielded(_) | Phase::Fenced | Phase::Ended => {}
            Phase::Unprotected | Phase::Opening(_) | Phase::Copying(..) | Phase::Protected(_, _, None) => {
                let left = self.leave(Purpose::Stop, out);
                debug_assert!(left.is_ok(), "these phases can be left");
            }
        }
    }

    /// The VM's process is gone: if a backup is entitled it shall take over, at once.
    pub(super) fn on_vm_died(&mut self, now: Instant, why: String, out: &mut Vec<Action>) {
        if self.vm_dead || matches!(self.phase, Phase::Fenced | Phase::Ended) {
            return;
        }
        self.vm_dead = true;
        out.push(Action::Notice(Notice::VmDied { why }));
        match core::mem::replace(&mut self.phase, Phase::Ended) {
            // An unprotect under way is decided by the arbiter all the same; the backup's claim settles it.
            Phase::Protected(link, pipeline, _) | Phase::HandingOver(link, pipeline) => {
                let (link, epoch) = self.heir(link, &pipeline, out);
                self.yield_to(now, link, epoch, YieldReason::VmDied, out);
            }
            // The first checkpoint was not sent: nobody can go on.
            Phase::Opening(link) | Phase::Copying(link, _) => {
                self.phase = Phase::Ended;
                out.push(Action::EndSession(link.session));
                out.push(Action::Shutdown);
            }
            Phase::Claiming(asking, _) => self.phase = Phase::Claiming(asking, None),
            // It goes on elsewhere; should it come back, there is nothing to come back to.
            Phase::Yielded(link) => self.phase = Phase::Yielded(link),
            _ => out.push(Action::Shutdown),
        }
    }

    /// The VM ends under this owner.
    pub(super) fn end(&mut self, out: &mut Vec<Action>) {
        self.phase = Phase::Ended;
        self.paused = false;
        out.push(Action::OpenOutput);
        out.push(Action::Shutdown);
    }
}
