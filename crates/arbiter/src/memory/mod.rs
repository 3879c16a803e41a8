//! Owns what a host remembers of its arbiter: an arbiter never takes back what it once said here.
//!
//! An arbiter may come back with old data: a restored backup, a directory that another disk is mounted on, an etcd
//! cluster made anew. It would then grant terms a second time. So whatever an arbiter says is held against what it said
//! before, in this life of the agent or an earlier one:
//!
//! | this host saw | the arbiter says | |
//! |---|---|---|
//! | nothing | anything | believed and remembered |
//! | term t | a later term | believed and remembered |
//! | term t | the same record of term t | believed |
//! | term t | an earlier term, none, or another record of term t | [`ArbiterError::WentBack`] |
//! | one identity | another identity | [`ArbiterError::WentBack`] |
//!
//! A claim asks for the newest record first: a term that follows a record which is not the one seen here is not claimed.
//! The memory is a file per VM, written by a thread of its own: a failover does not wait for this host's disk. A host
//! that loses power in that instant forgets the newest term, and knows the one before.

mod notebook;

use self::notebook::{Note, Notebook};
use crate::{Arbiter, ArbiterError, View};
use protocol::{Claim, HostName, Term, TermRecord, VmName};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// An arbiter whose answers are held against what this host remembers.
pub struct Remembering {
    inner: Box<dyn Arbiter>,
    known: Mutex<Known>,
    notebook: Notebook,
}

/// What was seen so far.
#[derive(Debug, Default)]
struct Known {
    identity: Option<String>,
    vms: BTreeMap<VmName, TermRecord>,
}

impl Remembering {
    /// Puts a memory, kept in `directory`, around an arbiter. The directory is made if it is missing.
    ///
    /// # Errors
    /// If the memory cannot be read.
    pub fn new(inner: Box<dyn Arbiter>, directory: &Path) -> Result<Self, ArbiterError> {
        let (notebook, known) = Notebook::open(directory)?;
        Ok(Self { inner, known: Mutex::new(known), notebook })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest record seen of a VM. Taken before the arbiter is asked: another thread may learn more meanwhile.
    fn seen(&self, vm: &VmName) -> Option<TermRecord> {
        self.known().vms.get(vm).cloned()
    }

    /// Holds the newest record that the arbiter has against the one seen before, and remembers it.
    fn check(
        &self,
        vm: &VmName,
        seen: Option<&TermRecord>,
        says: Option<&TermRecord>,
    ) -> Result<(), ArbiterError> {
        if let Some(seen) = seen {
            let goes_on = says.is_some_and(|says| says.claim.term > seen.claim.term || says == seen);
            if !goes_on {
                return Err(ArbiterError::WentBack {
                    arbiter: self.describe(),
                    says: says.map_or_else(|| format!("that VM {vm} was never owned"), in_words),
                    known: in_words(seen),
                    memory: self.notebook.file_of_vm(vm),
                });
            }
        }
        if let Some(says) = says {
            let mut known = self.known();
            let before = known.vms.get(vm).map_or(Term(0), |record| record.claim.term);
            if says.claim.term > before {
                known.vms.insert(vm.clone(), says.clone());
                self.notebook.write(Note::Term(says.clone()));
            }
        }
        Ok(())
    }

    /// Holds the arbiter's identity against the one seen before, and remembers it.
    fn check_identity(&self, says: &str) -> Result<(), ArbiterError> {
        let mut known = self.known();
        match &known.identity {
            Some(identity) if identity == says => Ok(()),
            Some(identity) => Err(ArbiterError::WentBack {
                arbiter: self.describe(),
                says: format!("that it is arbiter {says}"),
                known: format!("arbiter {identity}"),
                memory: self.notebook.file_of_identity(),
            }),
            None => {
                known.identity = Some(says.to_owned());
                self.notebook.write(Note::Identity(says.to_owned()));
                Ok(())
            }
        }
    }
}

fn in_words(record: &TermRecord) -> String {
    format!("that VM {} belongs to {} in term {}", record.claim.vm, record.claim.host, record.claim.term)
}

impl Arbiter for Remembering {
    fn claim(&self, claim: &Claim) -> Result<TermRecord, ArbiterError> {
        self.look(&claim.vm)?;
        let seen = self.seen(&claim.vm);
        let says = self.inner.claim(claim);
        let newest = match &says {
            Ok(record) => record,
            Err(ArbiterError::Stale { newest, .. }) => newest,
            Err(_) => return says,
        };
        self.check(&claim.vm, seen.as_ref(), Some(newest))?;
        says
    }

    fn look(&self, vm: &VmName) -> Result<View, ArbiterError> {
        let seen = self.seen(vm);
        let view = self.inner.look(vm)?;
        self.check_identity(&view.identity)?;
        self.check(vm, seen.as_ref(), view.standing.as_ref().map(|standing| &standing.record))?;
        Ok(view)
    }

    fn mark_stopped(&self, vm: &VmName, term: Term, host: &HostName) -> Result<(), ArbiterError> {
        self.look(vm)?;
        self.inner.mark_stopped(vm, term, host)
    }

    fn identity(&self) -> Result<String, ArbiterError> {
        let identity = self.inner.identity()?;
        self.check_identity(&identity)?;
        // Asked for by whoever watches the arbiter: a memory that is not kept must not go unnoticed.
        self.notebook.trouble().map_or(Ok(identity), Err)
    }

    fn leave_token(&self, host: &HostName, token: u64) -> Result<(), ArbiterError> {
        self.inner.leave_token(host, token)
    }

    fn token(&self, host: &HostName) -> Result<Option<u64>, ArbiterError> {
        self.inner.token(host)
    }

    fn vms(&self) -> Result<Vec<VmName>, ArbiterError> {
        self.inner.vms()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
