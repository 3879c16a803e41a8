//! Arbiters: the outside party that grants terms by an atomic test-and-set.
//!
//! Owns the promise that a term of a VM has one owner. An arbiter keeps, per VM, a row of records, one per term,
//! each written once and never changed or removed. A claim of term t succeeds only directly after term t-1, so
//! that whoever claims has seen the owner before it.
//!
//! | asked for | newest is t-1 | newest is t | newest is later | newest is earlier |
//! |---|---|---|---|---|
//! | claim of term t | record made: yours | record of t, whosever | [`ArbiterError::Stale`] | [`ArbiterError::Gap`] |
//!
//! | arbiter | stands on |
//! |---|---|
//! | [`directory`] | a directory that all hosts reach |
//! | [`etcd`] | an etcd cluster |
//! | [`witness`] | a third host of Undying |
//!
//! [`memory`] is put around whichever it is: what a host once saw it never lets an arbiter take back.
//! [`conformance`] holds what every arbiter must pass.

#![forbid(unsafe_code)]

pub mod conformance;
pub mod directory;
pub mod etcd;
pub mod memory;
mod record;
mod rules;
mod store;
pub mod witness;

use protocol::{Claim, HostName, Term, TermRecord, VmName};
use std::path::PathBuf;

/// The newest term of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Who owns the VM.
    pub record: TermRecord,
    /// The owner said that it stopped the VM cleanly: nobody runs it, and any host may claim the next term to
    /// start it again. Without this a start elsewhere would risk a second life.
    pub stopped: bool,
}

/// One answer of an arbiter about a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Which arbiter answered, see [`Arbiter::identity`].
    pub identity: String,
    /// The VM's newest term; `None` if it was never owned.
    pub standing: Option<Standing>,
}

/// Grants terms. Calls block for as long as the arbiter takes; run them on a thread that may wait.
pub trait Arbiter: Send + Sync {
    /// Asks for a term. Returns the record that stands for it: the caller's own if it won, another's if not
    /// ([`protocol::Grant::from_record`] tells). A repeated claim finds its own record again.
    ///
    /// # Errors
    /// See [`ArbiterError`]. After [`ArbiterError::Unreachable`] the claim may or may not have won: repeat the same
    /// claim, nonce and all.
    fn claim(&self, claim: &Claim) -> Result<TermRecord, ArbiterError>;

    /// The newest term of a VM, and who says so. Never older than what an earlier call, of any client, was told.
    ///
    /// # Errors
    /// If the arbiter cannot be reached or its newest record cannot be read.
    fn look(&self, vm: &VmName) -> Result<View, ArbiterError>;

    /// The newest term of a VM; `None` if it was never owned.
    ///
    /// # Errors
    /// As [`Arbiter::look`].
    fn current(&self, vm: &VmName) -> Result<Option<Standing>, ArbiterError> {
        self.look(vm).map(|view| view.standing)
    }

    /// Says that `host`, owner of the newest term `term`, stopped the VM cleanly. Saying so again is harmless.
    ///
    /// # Errors
    /// If the arbiter cannot be reached, the term is not the newest, or the host does not own it.
    fn mark_stopped(&self, vm: &VmName, term: Term, host: &HostName) -> Result<(), ArbiterError>;

    /// A value that two hosts compare before they trust each other: it is equal only if both reach the very same
    /// arbiter. Two hosts with an arbiter each would be two lives.
    ///
    /// # Errors
    /// If the arbiter cannot be reached.
    fn identity(&self) -> Result<String, ArbiterError>;

    /// Leaves a host's token, in place of its last one: a write that says nothing of any VM. A host that reads the token
    /// which another one just left reaches the very same records, and not a copy of them.
    ///
    /// # Errors
    /// If the arbiter cannot be reached or written.
    fn leave_token(&self, host: &HostName, token: u64) -> Result<(), ArbiterError>;

    /// The token that a host left last.
    ///
    /// # Errors
    /// If the arbiter cannot be reached, or the token cannot be read.
    fn token(&self, host: &HostName) -> Result<Option<u64>, ArbiterError>;

    /// The VMs that were ever owned, in the order of their names.
    ///
    /// # Errors
    /// If the arbiter cannot be reached.
    fn vms(&self) -> Result<Vec<VmName>, ArbiterError>;

    /// What it is and where, for people.
    fn describe(&self) -> String;
}

/// Why an arbiter gave no answer, or not the one hoped for.
#[derive(Debug, thiserror::Error)]
pub enum ArbiterError {
    /// No answer; ask again. Until it answers nobody may act on a wish.
    #[error("the arbiter {arbiter} cannot be reached: {what}: {source}")]
    Unreachable {
        /// Which arbiter.
        arbiter: String,
        /// What was tried.
        what: String,
        /// The error of the system.
        source: std::io::Error,
    },
    /// Later terms exist: the VM has another owner since.
    #[error("term {wanted} of VM {} is over: term {} belongs to {}", newest.claim.vm, newest.claim.term, newest.claim.host)]
    Stale {
        /// The term asked for.
        wanted: Term,
        /// The newest record.
        newest: Box<TermRecord>,
    },
    /// The term before the one asked for does not exist: the claimant knows of a term that the arbiter never
    /// granted. The arbiter lost records, or it is another one.
    #[error(
        "term {wanted} of VM {vm} cannot follow term {newest}: the arbiter lost records, or it is not the one that granted them"
    )]
    Gap {
        /// The VM.
        vm: VmName,
        /// The term asked for.
        wanted: Term,
        /// The newest term that exists, 0 if none.
        newest: Term,
    },
    /// Someone who does not own the term said that the VM is stopped.
    #[error("{host} cannot say that VM {vm} is stopped: term {term} belongs to {owner}")]
    NotOwner {
        /// The VM.
        vm: VmName,
        /// The term.
        term: Term,
        /// Who spoke.
        host: HostName,
        /// Whose term it is.
        owner: HostName,
    },
    /// A record is there but cannot be read. Nobody may guess what it said: restore it, or make sure that no host
    /// runs the VM and remove the VM's records.
    #[error("the arbiter's record {path} cannot be trusted: {why}")]
    Corrupt {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// What answers is not, or not certainly, the arbiter: a wrong address, another cluster, an answer that makes no
    /// sense, a key that is not accepted.
    #[error("the arbiter {arbiter} cannot be trusted: {why}")]
    Strange {
        /// Which arbiter.
        arbiter: String,
        /// What is wrong with it.
        why: String,
    },
    /// The arbiter says less than it once said to this host: its data are old, or it is another one.
    #[error(
        "the arbiter {arbiter} has gone back in time: it says {says}, but this host saw {known}. Nobody may act on \
         that: bring its newest data back. Only if they are lost, and it is certain that no host runs the VM, remove \
         {memory} on every host that has it, and start its agent again"
    )]
    WentBack {
        /// Which arbiter.
        arbiter: String,
        /// What it says.
        says: String,
        /// What this host remembers.
        known: String,
        /// The file that remembers it.
        memory: PathBuf,
    },
    /// The host's memory of its arbiter cannot be kept or read.
    #[error("cannot keep {path}, in which this host remembers what its arbiter said: {source}")]
    Memory {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
}

impl ArbiterError {
    /// Whether asking again later may help.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}
