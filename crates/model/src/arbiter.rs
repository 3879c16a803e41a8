//! Owns the arbiter and the way to it.
//!
//! # Fault model
//! A record is written once, by test-and-set, and never lost. A host may be told that the arbiter does not answer when
//! the question has not arrived (it may arrive at any later time, even if the host is gone by then) or when only the
//! answer was lost.

use crate::world::{HostId, Role, World};
use protocol::asking::ClaimAnswer;
use protocol::{Claim, HostName, Term, TermRecord, backup, primary};

/// A question of a host that waits for the answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Question {
    claim: Claim,
    answer: Option<ClaimAnswer>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Arbiter {
    records: Vec<TermRecord>,
    /// Questions on their way that nobody waits for any more.
    stray: Vec<Claim>,
}

impl Arbiter {
    /// The newest term; 0 if there is none.
    pub(crate) fn newest(&self) -> Term {
        Term(self.records.len() as u64)
    }

    /// Who owns the newest term.
    pub(crate) fn owner(&self) -> Option<&HostName> {
        self.records.last().map(|record| &record.claim.host)
    }

    pub(crate) fn strays(&self) -> usize {
        self.stray.len()
    }

    /// The test-and-set. A repeated claim finds its own record again.
    pub(crate) fn claim(&mut self, claim: &Claim) -> ClaimAnswer {
        let newest = self.newest();
        if claim.term == newest.next() {
            self.records.push(TermRecord { claim: claim.clone() });
        }
        let at = usize::try_from(claim.term.0).unwrap_or(usize::MAX);
        let stands = if claim.term < newest { self.records.last() } else { self.records.get(at - 1) };
        let gap = || ClaimAnswer::Unreachable("the term before was never granted".into());
        stands.map_or_else(gap, |record| ClaimAnswer::Record(record.clone()))
    }

    /// A question that nobody waits for arrives.
    pub(crate) fn take_stray(&mut self, index: usize) {
        let claim = self.stray.remove(index);
        self.claim(&claim);
    }
}

impl World {
    pub(crate) fn ask(&mut self, host: HostId, claim: Claim) {
        self.abandon_question(host);
        self.host(host).question = Some(Question { claim, answer: None });
    }

    /// Nobody waits for the host's question any more; if it has not arrived yet it still may.
    pub(crate) fn abandon_question(&mut self, host: HostId) {
        let Some(question) = self.host(host).question.take() else { return };
        if question.answer.is_none() && !self.arbiter.stray.contains(&question.claim) {
            self.arbiter.stray.push(question.claim);
        }
    }

    pub(crate) fn question_arrives(&mut self, host: HostId) {
        let Self { hosts, arbiter, .. } = self;
        if let Some(question) = &mut std::sync::Arc::make_mut(&mut hosts[host.index()]).question {
            question.answer = Some(arbiter.claim(&question.claim));
        }
    }

    pub(crate) fn answer_arrives(&mut self, host: HostId) {
        if let Some(Question { claim, answer: Some(answer) }) = self.host(host).question.take() {
            self.answered(host, claim, answer);
        }
    }

    /// The host is told that the arbiter does not answer.
    pub(crate) fn arbiter_is_silent(&mut self, host: HostId) {
        let Some(claim) = self.host(host).question.as_ref().map(|question| question.claim.clone()) else {
            return;
        };
        self.abandon_question(host);
        self.answered(host, claim, ClaimAnswer::Unreachable("no answer".into()));
    }

    fn answered(&mut self, host: HostId, claim: Claim, answer: ClaimAnswer) {
        match self.host(host).role {
            Role::Owner(_) => self.drive_primary(host, primary::Event::Claimed(claim, answer)),
            Role::Standby(_) => self.drive_backup(host, backup::Event::Claimed(claim, answer)),
            Role::Idle => {}
        }
    }
}

impl Question {
    /// Whether the arbiter has decided it.
    pub(crate) fn is_decided(&self) -> bool {
        self.answer.is_some()
    }
}
