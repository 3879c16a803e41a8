//! Owns what a backup's messages bring about at the primary.

use super::{Action, Aim, Link, Phase, PhaseName, Primary};
use crate::detector::Gaps;
use crate::ids::{Epoch, HostName, Session};
use crate::ledger::LedgerError;
use crate::notice::{LinkLoss, Notice};
use crate::resync::Offer;
use crate::time::{Instant, Micros};
use crate::timing::Timing;
use crate::wire::compare::Hashes;
use crate::wire::{AckBody, EndReason, Hello, ToBackup, ToPrimary, YieldReason};
use alloc::string::ToString;
use alloc::vec::Vec;

/// An owner whose VM died asks for the next term, to end the VM, after so many of the backup's time-outs.
const PATIENCE_WITH_HEIR: u64 = 8;

impl Primary {
    pub(super) fn on_connected(&mut self, now: Instant, session: Session, out: &mut Vec<Action>) {
        if self.is_successor(session) {
            return self.successor_connected(now, out);
        }
        let hello = self.hello(self.timing);
        if let Phase::Opening(link) = &mut self.phase
            && link.session == session
        {
            link.detector.hear(now);
            let machine = core::mem::take(&mut link.machine);
            out.push(Action::Send(session, ToBackup::Hello(hello(machine))));
        }
    }

    /// What opens a session, but for the VM's description.
    pub(super) fn hello(&self, timing: Timing) -> impl FnOnce(Vec<u8>) -> Hello + use<> {
        let (vm, primary) = (self.claimant.vm().clone(), self.claimant.host().clone());
        move |machine| Hello { vm, primary, timing, machine }
    }

    pub(super) fn on_message(
        &mut self,
        now: Instant,
        session: Session,
        message: ToPrimary,
        out: &mut Vec<Action>,
    ) {
        if self.is_successor(session) {
            return self.successor_says(now, message, out);
        }
        if !self.is_current(session) {
            return;
        }
        self.hear(now);
        match message {
            ToPrimary::Accept(offer) => self.on_accept(now, offer, out),
            ToPrimary::Hashes(hashes) => self.on_hashes(hashes, out),
            ToPrimary::Reached => self.on_reached(out),
            ToPrimary::Refuse(why) => self.lose(LinkLoss::Refused(why), out),
            ToPrimary::Broken(why) => self.lose(LinkLoss::Broken(why), out),
            ToPrimary::Fenced(term) => self.lose(LinkLoss::HigherTerm(term), out),
            ToPrimary::Pulse(body) => self.on_answer(now, None, body, out),
            ToPrimary::Ack(epoch, body) => self.on_answer(now, Some(epoch), body, out),
            ToPrimary::Declined(term) => self.on_declined(term, out),
            ToPrimary::Resigned => self.on_resigned(now, out),
            // Whoever knows another candidate changes to it.
            ToPrimary::Leaving => {}
        }
    }

    fn hear(&mut self, now: Instant) {
        let learns = self.timing.adapts() && self.beats();
        let Some(silence) = self.link().map(|link| link.detector.silence(now)) else { return };
        if let Some((_, gaps)) = self.learnt.as_mut().filter(|_| learns) {
            gaps.add(now, silence);
        }
        if let Some(link) = self.link_mut() {
            link.detector.hear(now);
        }
    }

    /// What is known of the link to this backup, or nothing yet.
    pub(super) fn learn_of(&mut self, now: Instant, peer: &HostName) {
        if self.timing.adapts() {
            let heartbeat = self.timing.heartbeat;
            let known = self.learnt.take().filter(|(of, _)| of == peer);
            let gaps = known.map_or(Gaps::new(now, heartbeat), |(_, gaps)| gaps.resume(now, heartbeat));
            self.learnt = Some((peer.clone(), gaps));
        }
    }

    fn on_accept(&mut self, now: Instant, offer: Offer, out: &mut Vec<Action>) {
        let timeout = self.timing.primary_timeout(self.timing.timeout);
        match core::mem::replace(&mut self.phase, Phase::Unprotected) {
            Phase::Opening(mut link) => {
                link.detector.set_timeout(timeout);
                (link.next_heartbeat, link.beats_since) = (now, now);
                self.learn_of(now, &link.peer);
                if link.aim == (Aim::Migrate { stop_first: true }) {
                    self.paused = true;
                    out.push(Action::Pause);
                }
                out.push(Action::StartCopy(link.session, offer));
                let (peer, session) = (link.peer.clone(), link.session);
                out.push(Action::Notice(match link.aim.is_migration() {
                    true => Notice::Migrating { peer, session },
                    false => Notice::Copying { peer, session },
                }));
                self.phase = Phase::Copying(link, None);
            }
            phase => {
                self.phase = phase;
                self.lose(LinkLoss::Stream("Accept came twice".to_string()), out);
            }
        }
    }

    /// Hashes belong to the first copy.
    fn on_hashes(&mut self, hashes: Hashes, out: &mut Vec<Action>) {
        match &self.phase {
            Phase::Copying(link, None) => out.push(Action::Compared(link.session, hashes)),
            _ => self.lose(LinkLoss::Stream("hashes came that nobody asked for".to_string()), out),
        }
    }

    /// So does word of how far the backup is.
    fn on_reached(&mut self, out: &mut Vec<Action>) {
        match &self.phase {
            Phase::Copying(link, None) => out.push(Action::Reached(link.session)),
            _ => self.lose(LinkLoss::Stream("word of a mark came that nobody set".to_string()), out),
        }
    }

    fn on_answer(&mut self, now: Instant, ack: Option<Epoch>, body: AckBody, out: &mut Vec<Action>) {
        if let Some(loss) = self.heed(now, body) {
            return self.lose(loss, out);
        }
        self.on_echo(now, ack, body, out);
    }

    fn heed(&mut self, now: Instant, body: AckBody) -> Option<LinkLoss> {
        let timing = self.timing;
        let (Phase::Copying(link, _) | Phase::Protected(link, ..) | Phase::HandingOver(link, _)) =
            &mut self.phase
        else {
            return None;
        };
        link.heed(now, &timing, body)
    }

    fn on_echo(&mut self, now: Instant, ack: Option<Epoch>, body: AckBody, out: &mut Vec<Action>) {
        #[cfg(feature = "planted")]
        let lease = self.planted.lease_from_learnt.then(|| self.timing.bounded(body.timeout));
        let Some(pipeline) = self.pipeline_mut() else { return };
        let ledger = &mut pipeline.ledger;
        #[cfg(feature = "planted")]
        lease.into_iter().for_each(|timeout| ledger.plant_lease(Micros(timeout.0 / 10 * 9)));
        let taken = ledger.answer(now, body.echo, ack);
        let session = self.link().map(|link| link.session);
        match taken {
            // What may leave is released, and a handover finished, when the machine is driven.
            Ok(()) => {
                if let Some((pipeline, epoch)) = self.pipeline_mut().zip(ack) {
                    pipeline.brake.acknowledged(now, epoch);
                }
                self.heed_brake(out);
                let told = session.zip(ack).map(|(session, epoch)| Action::Acknowledged(session, epoch));
                out.extend(told);
            }
            Err(error) => self.lose(stream_loss(&error), out),
        }
    }

    /// The last epoch of a planned failover is acknowledged and its output has left: step back.
    pub(super) fn finish_handover(&mut self, now: Instant, out: &mut Vec<Action>) {
        if !self.is_handed_over() || self.pipeline().is_some_and(|p| !p.ledger.is_settled()) {
            return;
        }
        if let Phase::HandingOver(link, pipeline) = core::mem::replace(&mut self.phase, Phase::Ended) {
            let (epoch, reason) = (pipeline.ledger.acked(), link.aim.yields());
            self.yield_to(now, link, epoch, reason, out);
        }
    }

    /// Gives the VM to the backup. From here on this host lets it run again only with a higher term.
    pub(super) fn yield_to(
        &mut self,
        now: Instant,
        mut link: Link,
        epoch: Epoch,
        reason: YieldReason,
        out: &mut Vec<Action>,
    ) {
        link.detector.hear(now);
        // The backup beats on while it asks the arbiter; if it falls silent the VM here waits no longer than it must.
        // A dead VM waits for nothing: the backup is its only chance, and is given time to ask even if the arbiter does
        // not answer at once.
        if reason == YieldReason::VmDied {
            link.detector.set_timeout(Micros(self.timing.timeout.0 * PATIENCE_WITH_HEIR));
        }
        self.paused = true;
        out.push(Action::HoldOutput);
        out.push(Action::Send(link.session, super::yield_message(epoch, reason)));
        out.push(Action::Notice(Notice::HandedOver { epoch, reason }));
        self.phase = Phase::Yielded(Some(link));
    }

    /// The session is over. What follows depends on whether the backup may already be entitled to take over.
    pub(super) fn lose(&mut self, why: LinkLoss, out: &mut Vec<Action>) {
        #[cfg(feature = "planted")]
        if self.stays_after_departure(out) {
            return;
        }
        match core::mem::replace(&mut self.phase, Phase::Ended) {
            phase @ (Phase::Opening(_) | Phase::Copying(..)) => {
                self.phase = phase;
                let asked = self.link().map(|link| (link.peer.clone(), link.aim.is_migration()));
                self.abandon_copy(EndReason::Unprotected, out);
                out.extend(asked.map(|(peer, migrates)| {
                    Action::Notice(match migrates {
                        true => Notice::MigrationFailed { peer, why },
                        false => Notice::ProtectFailed { peer, why },
                    })
                }));
            }
            Phase::Protected(link, pipeline, leaving) => {
                self.lose_backup(link, &pipeline, leaving, why, out);
            }
            Phase::HandingOver(link, pipeline) => self.lose_backup(link, &pipeline, None, why, out),
            Phase::Yielded(Some(link)) => {
                out.push(Action::EndSession(link.session));
                if self.vm_dead {
                    self.claim_late(&link);
                } else {
                    self.claim_next(self.grant.term().next(), None, out);
                }
            }
            phase => self.phase = phase,
        }
    }

    /// The planted bug: the VM goes on in its term although its last checkpoint is on the way.
    #[cfg(feature = "planted")]
    fn stays_after_departure(&mut self, out: &mut Vec<Action>) -> bool {
        let Phase::HandingOver(link, _) = &self.phase else { return false };
        let stays = self.planted.stay_after_departure && link.aim.is_migration();
        if stays {
            out.extend([Action::EndSession(link.session), Action::OpenOutput]);
            self.phase = Phase::Unprotected;
            self.resume_if_paused(out);
        }
        stays
    }

    /// Gives up a copy that no checkpoint was sent of: the backup was never entitled, there is nothing to ask.
    pub(super) fn abandon_copy(&mut self, reason: EndReason, out: &mut Vec<Action>) {
        debug_assert!(matches!(self.phase(), PhaseName::Opening | PhaseName::Copying));
        // A last checkpoint under way leaves the VM paused whenever it ends.
        let stops = self.pipeline().and_then(|pipeline| pipeline.running).is_some_and(|(_, last)| last);
        self.paused |= stops;
        if let Some(link) = self.link() {
            let session = link.session;
            out.push(Action::Send(session, ToBackup::End(reason)));
            out.push(Action::EndSession(session));
        }
        self.phase = Phase::Unprotected;
        // The first checkpoint may have been cut and the gate with it.
        out.push(Action::OpenOutput);
        self.resume_if_paused(out);
    }
}

fn stream_loss(error: &LedgerError) -> LinkLoss {
    LinkLoss::Stream(error.to_string())
}
