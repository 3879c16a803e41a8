//! Owns the backup's way to a promotion: suspect, ask, win or lose.

use super::{Action, Backup, Phase, Primary};
use crate::asking::{Asking, ClaimAnswer, Decision};
use crate::ids::Epoch;
use crate::notice::{Discard, LinkLoss, Notice};
use crate::ownership::{Claim, Grant};
use crate::time::Instant;
use crate::wire::{ToPrimary, YieldReason};
use alloc::string::String;
use alloc::vec::Vec;

impl Backup {
    /// Looks whether the primary must be taken for dead.
    pub(super) fn suspect(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Some(why) = self.primary().and_then(|primary| reason_to_suspect(primary, now)) else { return };
        match &self.phase {
            Phase::Preparing(_) | Phase::Copying(_) => self.discard(Discard::Incomplete(why), out),
            Phase::Armed(primary) => {
                let (host, epoch) = (primary.host.clone(), primary.committed);
                out.push(Action::Notice(Notice::PrimaryLost { primary: host, epoch, why }));
                self.claim(out);
            }
            _ => {}
        }
    }

    pub(super) fn on_yield(&mut self, epoch: Epoch, reason: YieldReason, out: &mut Vec<Action>) {
        let (Phase::Copying(primary) | Phase::Armed(primary)) = &mut self.phase else { return };
        // Its own word: nothing of it leaves any more, whatever its lease.
        primary.leased_until = Instant(0);
        let committed = primary.committed;
        // The primary takes this host for entitled since it sent the first epoch: it will not go on by itself.
        if committed == Epoch(0) && reason == YieldReason::VmDied && !primary.received.is_empty() {
            primary.vm_died = true;
            return;
        }
        if committed == Epoch(0) {
            return self.refuse_stream("given up before there is anything to go on from".into(), out);
        }
        if reason != YieldReason::VmDied && epoch != committed {
            let why = alloc::format!("handed over at epoch {epoch}, but {committed} is the newest committed");
            return self.refuse_stream(why, out);
        }
        self.take_over(committed, reason, out);
    }

    pub(super) fn take_over(&mut self, epoch: Epoch, reason: YieldReason, out: &mut Vec<Action>) {
        out.push(Action::Notice(Notice::TakingOver { epoch, reason }));
        self.claim(out);
    }

    fn claim(&mut self, out: &mut Vec<Action>) {
        self.drop_staged(out);
        self.phase = match core::mem::replace(&mut self.phase, Phase::Empty) {
            Phase::Armed(primary) => {
                let asking = Asking::new(self.claimant.claim(primary.term.next()));
                #[cfg(feature = "planted")]
                if self.planted.promote_without_grant {
                    let grant = Grant::planted(asking.claim());
                    out.push(Action::Promote(grant, primary.committed, primary.leased_until));
                    let term = asking.claim().term;
                    self.phase = Phase::Promoting(primary, term);
                    return;
                }
                out.push(Action::Claim(asking.claim().clone()));
                Phase::Claiming(primary, asking)
            }
            phase => phase,
        };
    }

    pub(super) fn ask_again(&mut self, now: Instant, out: &mut Vec<Action>) {
        if let Phase::Claiming(_, asking) = &mut self.phase
            && let Some(claim) = asking.retry(now)
        {
            out.push(Action::Claim(claim));
        }
    }

    pub(super) fn on_claimed(
        &mut self,
        now: Instant,
        claim: &Claim,
        answer: ClaimAnswer,
        out: &mut Vec<Action>,
    ) {
        let Phase::Claiming(primary, asking) = &mut self.phase else { return };
        let timing = primary.timing;
        match asking.answer(now, &timing, claim, answer) {
            Decision::Won(grant) => self.promote(grant, out),
            Decision::Lost { owner, term } => self.discard(Discard::LostClaim { owner, term }, out),
            Decision::Undecided(why) => out.push(Action::Notice(Notice::ArbiterUnreachable { why })),
            Decision::NotOurs => {}
        }
    }

    fn promote(&mut self, grant: Grant, out: &mut Vec<Action>) {
        self.phase = match core::mem::replace(&mut self.phase, Phase::Empty) {
            Phase::Claiming(primary, _) => {
                let (term, epoch) = (grant.term(), primary.committed);
                assert!(epoch > Epoch(0), "only a whole checkpoint can be promoted");
                out.push(Action::Notice(Notice::Promoting { term, epoch }));
                out.push(Action::Promote(grant, epoch, primary.leased_until));
                Phase::Promoting(primary, term)
            }
            phase => phase,
        };
    }

    pub(super) fn on_promotion_failed(&mut self, why: String, out: &mut Vec<Action>) {
        let Phase::Promoting(primary, term) = core::mem::replace(&mut self.phase, Phase::Done) else {
            return;
        };
        self.known = primary.gaps.clone().map(|gaps| (primary.host.clone(), gaps)).or(self.known.take());
        out.push(Action::Notice(Notice::PromotionFailed { term, why }));
        if let Some(conn) = primary.conn {
            out.push(Action::Send(conn, ToPrimary::Declined(term)));
            out.push(Action::Close(conn));
        }
        out.push(Action::Discard);
    }
}

fn reason_to_suspect(primary: &Primary, now: Instant) -> Option<LinkLoss> {
    if primary.detector.expired(now) {
        return Some(super::silent(primary.detector.silence(now)));
    }
    primary.claim_at.as_ref().filter(|(at, _)| now >= *at).map(|(_, why)| why.clone())
}
