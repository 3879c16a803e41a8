//! Owns the arbiter client's logic: ask for a term, ask again while nobody answers, until it is decided.
//!
//! A claim, once made, is never taken back: its answer may have been lost after the arbiter wrote it. So both
//! machines keep asking with the same nonce until the arbiter says who owns the term.

use crate::ids::{HostName, Term};
use crate::ownership::{Claim, Grant, TermRecord};
use crate::time::Instant;
use crate::timing::Timing;
use alloc::string::String;

/// What became of one question to the arbiter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ClaimAnswer {
    /// The record that stands for the claimed term, or the newest one if that is higher.
    Record(TermRecord),
    /// No decision: not reachable, or what it said makes no sense.
    Unreachable(String),
}

/// What the answer means.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// The term is ours.
    Won(Grant),
    /// Somebody else owns the VM.
    Lost {
        /// The owner.
        owner: HostName,
        /// Its term.
        term: Term,
    },
    /// Undecided; ask again at the deadline. Carries what was said.
    Undecided(String),
    /// An answer to another question.
    NotOurs,
}

/// One claim, from the first question to the decision.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Asking {
    claim: Claim,
    /// When to ask again; none while a question is on its way.
    next_try: Option<Instant>,
}

impl Asking {
    /// Begins to ask; the caller sends the claim now.
    #[must_use]
    pub fn new(claim: Claim) -> Self {
        Self { claim, next_try: None }
    }

    /// Asks for the first time at `at`: until then somebody else may.
    #[must_use]
    pub fn later(claim: Claim, at: Instant) -> Self {
        Self { claim, next_try: Some(at) }
    }

    /// The claim.
    #[must_use]
    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    /// When to look again.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.next_try
    }

    /// The claim, if it is time to ask again.
    pub fn retry(&mut self, now: Instant) -> Option<Claim> {
        let due = self.next_try.is_some_and(|at| now >= at);
        due.then(|| {
            self.next_try = None;
            self.claim.clone()
        })
    }

    /// Takes an answer.
    pub fn answer(&mut self, now: Instant, timing: &Timing, claim: &Claim, answer: ClaimAnswer) -> Decision {
        if *claim != self.claim {
            return Decision::NotOurs;
        }
        let record = match answer {
            ClaimAnswer::Unreachable(why) => return self.undecided(now, timing, why),
            ClaimAnswer::Record(record) => record,
        };
        if let Some(grant) = Grant::from_record(&self.claim, &record) {
            return Decision::Won(grant);
        }
        if record.claim.vm != self.claim.vm || record.claim.term < self.claim.term {
            let why =
                alloc::format!("the arbiter answered with term {} of {}", record.claim.term, record.claim.vm);
            return self.undecided(now, timing, why);
        }
        Decision::Lost { owner: record.claim.host, term: record.claim.term }
    }

    fn undecided(&mut self, now: Instant, timing: &Timing, why: String) -> Decision {
        self.next_try = Some(now + timing.claim_retry);
        Decision::Undecided(why)
    }
}

/// Makes the claims of one process: a nonce that is stable for a term and differs between processes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Claimant {
    vm: crate::VmName,
    host: HostName,
    seed: u64,
}

impl Claimant {
    /// `seed` is random: it tells this life of the host from earlier ones.
    #[must_use]
    pub fn new(vm: crate::VmName, host: HostName, seed: u64) -> Self {
        Self { vm, host, seed }
    }

    /// The claim for a term.
    #[must_use]
    pub fn claim(&self, term: Term) -> Claim {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        key[8..].copy_from_slice(&term.0.to_le_bytes());
        let nonce = xxhash_rust::xxh3::xxh3_64(&key);
        Claim { vm: self.vm.clone(), term, host: self.host.clone(), nonce }
    }

    /// The host that claims.
    #[must_use]
    pub fn host(&self) -> &HostName {
        &self.host
    }

    /// The VM that is claimed.
    #[must_use]
    pub fn vm(&self) -> &crate::VmName {
        &self.vm
    }
}
