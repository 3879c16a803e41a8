//! Owns the primary's side of the arbitration: ask for the next term, go on with it, or be fenced.

use super::{Action, Link, Phase, Pipeline, Primary, Purpose};
use crate::asking::{Asking, ClaimAnswer, Decision};
use crate::ids::{HostName, Term};
use crate::notice::{LinkLoss, Notice};
use crate::ownership::{Claim, Grant};
use crate::time::Instant;
use crate::wire::ToBackup;
use alloc::vec::Vec;

impl Primary {
    /// The backup is lost and may be entitled: hold all output and ask for the next term.
    pub(super) fn lose_backup(
        &mut self,
        link: Link,
        pipeline: &Pipeline,
        leaving: Option<(Asking, Purpose)>,
        why: LinkLoss,
        out: &mut Vec<Action>,
    ) {
        // A last checkpoint under way leaves the VM paused whenever it ends.
        self.paused |= pipeline.running.is_some_and(|(_, last)| last);
        out.push(Action::HoldOutput);
        self.leave_successor(out);
        out.push(Action::EndSession(link.session));
        out.push(Action::Notice(Notice::BackupLost { peer: link.peer, why }));
        match leaving {
            Some((asking, purpose)) => self.phase = Phase::Claiming(asking, Some(purpose)),
            None => self.claim_next(self.grant.term().next(), None, out),
        }
    }

    pub(super) fn claim_next(&mut self, term: Term, purpose: Option<Purpose>, out: &mut Vec<Action>) {
        let asking = Asking::new(self.claimant.claim(term));
        out.push(Action::Claim(asking.claim().clone()));
        self.phase = Phase::Claiming(asking, purpose);
    }

    /// The VM died here and the link after it: a backup that lives asks first and goes on. Only if nobody did
    /// after the time that the link was given does this host ask, to end the VM.
    pub(super) fn claim_late(&mut self, link: &Link) {
        let claim = self.claimant.claim(self.grant.term().next());
        self.phase = Phase::Claiming(Asking::later(claim, link.detector.deadline()), None);
    }

    pub(super) fn ask_again(&mut self, now: Instant, out: &mut Vec<Action>) {
        if let Phase::Protected(_, _, Some((asking, _))) | Phase::Claiming(asking, _) = &mut self.phase
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
        let timing = self.timing;
        let decision = match &mut self.phase {
            Phase::Protected(_, _, Some((asking, _))) | Phase::Claiming(asking, _) => {
                asking.answer(now, &timing, claim, answer)
            }
            _ => return,
        };
        match decision {
            Decision::Won(grant) => self.go_on(grant, out),
            Decision::Lost { owner, term } => self.fence(owner, term, out),
            Decision::Undecided(why) => out.push(Action::Notice(Notice::ArbiterUnreachable { why })),
            Decision::NotOurs => {}
        }
    }

    /// The next term is ours: nobody else is entitled, the VM goes on unprotected or ends as was asked.
    fn go_on(&mut self, grant: Grant, out: &mut Vec<Action>) {
        let term = grant.term();
        assert!(term > self.grant.term(), "a term only grows");
        self.grant = grant;
        self.leave_successor(out);
        let purpose = match core::mem::replace(&mut self.phase, Phase::Unprotected) {
            Phase::Protected(link, _, Some((_, purpose))) => {
                out.push(Action::Send(link.session, ToBackup::End(super::end_reason(purpose))));
                out.push(Action::EndSession(link.session));
                Some(purpose)
            }
            Phase::Claiming(_, purpose) => purpose,
            _ => None,
        };
        if purpose == Some(Purpose::Stop) || self.vm_dead {
            self.end(out);
            return;
        }
        out.push(Action::OpenOutput);
        self.resume_if_paused(out);
        out.push(Action::Notice(Notice::Unprotected { term }));
    }

    fn fence(&mut self, owner: HostName, term: Term, out: &mut Vec<Action>) {
        self.leave_successor(out);
        if let Some(session) = self.link().map(|link| link.session) {
            out.push(Action::EndSession(session));
        }
        self.phase = Phase::Fenced;
        out.push(Action::Fence);
        out.push(Action::Notice(Notice::Fenced { owner, term }));
    }

    /// The backup won a term and cannot use it: its own word frees the term after that one.
    pub(super) fn on_declined(&mut self, term: Term, out: &mut Vec<Action>) {
        if let Phase::Yielded(link) = &mut self.phase
            && term == self.grant.term().next()
            && !self.vm_dead
        {
            if let Some(link) = link.take() {
                out.push(Action::EndSession(link.session));
            }
            self.claim_next(term.next(), None, out);
        }
    }
}
