//! Owns the rule that forbids two lives: terms, claims and grants.
//!
//! A VM's ownership is a sequence of [`TermRecord`]s kept by an arbiter, one per term, each written once by an
//! atomic test-and-set and never changed after. Whoever wants the VM to run past a failure *claims* the term
//! after the one it knows ([`Claim`]); the arbiter's record of that term then names the winner. A [`Grant`] can
//! only be made from a record that names its claimant: the type cannot be had without the arbiter's word.

use crate::ids::{HostName, Term, VmName};
use serde::{Deserialize, Serialize};

/// A wish to own `vm` in `term`, made by one host, once.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Claim {
    /// The VM.
    pub vm: VmName,
    /// The term wanted: always the one after the term that the claimant knows.
    pub term: Term,
    /// Who asks.
    pub host: HostName,
    /// Random; tells this claim from another of the same host in an earlier life. A repeated claim keeps it, so
    /// that asking again after a lost answer finds one's own record.
    pub nonce: u64,
}

/// What the arbiter keeps for one term of one VM. Written once.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TermRecord {
    /// The winner's claim.
    pub claim: Claim,
}

/// Permission to run a VM in a term. Not `Clone`: there is one per won claim. (The exhaustive model clones whole hosts; its
/// feature is in nothing that is shipped.)
#[derive(Debug, PartialEq, Eq)]
#[cfg_attr(feature = "model", derive(Clone, Hash))]
pub struct Grant {
    vm: VmName,
    term: Term,
    host: HostName,
}

impl Grant {
    /// The grant that `record`, as read from the arbiter, gives to `claim`: none if another claim won the term.
    #[must_use]
    pub fn from_record(claim: &Claim, record: &TermRecord) -> Option<Self> {
        (record.claim == *claim).then(|| Self {
            vm: claim.vm.clone(),
            term: claim.term,
            host: claim.host.clone(),
        })
    }

    /// The VM that may run.
    #[must_use]
    pub fn vm(&self) -> &VmName {
        &self.vm
    }

    /// The term in which it may run.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// The host that may run it.
    #[must_use]
    pub fn host(&self) -> &HostName {
        &self.host
    }
}

/// The word to let a VM's processors run, made from a grant only. The engine's one function that resumes a VM
/// takes it by value.
#[derive(Debug, PartialEq, Eq)]
pub struct RunPermit {
    term: Term,
}

impl RunPermit {
    /// The term in which the VM runs on.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }
}

impl Grant {
    /// Permission to let the VM run once more under this grant.
    #[must_use]
    pub fn permit(&self) -> RunPermit {
        RunPermit { term: self.term }
    }
}

#[cfg(feature = "planted")]
impl Grant {
    /// A forged grant, for the planted bug.
    pub(crate) fn planted(claim: &Claim) -> Self {
        Self { vm: claim.vm.clone(), term: claim.term, host: claim.host.clone() }
    }
}
