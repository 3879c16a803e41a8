//! Owns the arbiter in an etcd cluster.
//!
//! ```text
//! PREFIX/arbiter                             made by `init`; without it the cluster is no arbiter
//! PREFIX/vm/VM/term-00000000000000000042     the record of a term
//! PREFIX/vm/VM/stopped-00000000000000000042  the owner of that term stopped the VM cleanly
//! PREFIX/token/HOST                          what a host left last, to be found by others; of no VM
//! ```
//! A VM's key is written once. A claim is two questions: a linearizable read of the newest record, then one transaction that
//! writes the next only if that record is still what was read, nobody has written the next, and the marker is the one
//! that was read. The transaction is the test-and-set; whoever's answer was lost asks again and finds its own record.
//!
//! Nothing here has a lease: a record that ended by itself could be granted twice, by a clock. Every answer carries the
//! cluster's id and its revision, which only grows: an answer of another cluster, or older than one before, is refused.

mod config;
mod gateway;
mod keys;
pub mod members;
mod messages;

pub use config::{EtcdPlace, TlsFiles};

use self::gateway::Gateway;
use self::keys::Keys;
use self::messages::{KeyValue, Outcome, Txn, compare, get, newest_below, put};
use crate::record::{self, Marker, Stopped, Token};
use crate::rules::{self, Ruling};
use crate::{Arbiter, ArbiterError, Standing, View, store};
use protocol::{Claim, HostName, Term, TermRecord, VmName};
use serde::de::DeserializeOwned;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// How often a transaction is tried that finds something else than was just read. Each time somebody else has won, and
/// there are few claimants.
const TRIES: u32 = 5;

/// The arbiter in an etcd cluster.
#[derive(Debug)]
pub struct EtcdArbiter {
    gateway: Gateway,
    keys: Keys,
    /// The cluster that answered first.
    cluster: OnceLock<u64>,
    /// The highest revision that an answer had.
    revision: AtomicU64,
}

/// What was read of a VM, at one revision.
struct Read {
    identity: String,
    marker: KeyValue,
    newest: Option<(KeyValue, TermRecord)>,
    stopped: bool,
}

impl Read {
    fn record(&self) -> Option<&TermRecord> {
        self.newest.as_ref().map(|(_, record)| record)
    }
}

/// Makes the cluster an arbiter, below the configured prefix, and returns it. One that is an arbiter already stays as
/// it is.
///
/// # Errors
/// If no quorum can be reached, or the files of `place` cannot be used.
pub fn init(place: &EtcdPlace) -> Result<EtcdArbiter, ArbiterError> {
    let arbiter = EtcdArbiter::new(place)?;
    let identity = format!("{:016x}{:016x}", store::random(), store::random());
    let key = arbiter.keys.marker();
    arbiter.ask(&Txn {
        compare: vec![compare::absent(&key)],
        success: vec![put(&key, &record::encode(&Marker { identity }))],
        failure: vec![],
    })?;
    arbiter.identity()?;
    Ok(arbiter)
}

impl EtcdArbiter {
    /// The arbiter at `place`. Nobody is asked yet: a cluster that is away may come back.
    ///
    /// # Errors
    /// If the endpoints or the files of `place` cannot be used.
    pub fn new(place: &EtcdPlace) -> Result<Self, ArbiterError> {
        Ok(Self {
            gateway: Gateway::new(place)?,
            keys: Keys::new(&place.prefix),
            cluster: OnceLock::new(),
            revision: AtomicU64::new(0),
        })
    }

    fn strange(&self, why: impl Into<String>) -> ArbiterError {
        ArbiterError::Strange { arbiter: self.describe(), why: why.into() }
    }

    fn corrupt(key: &str, why: impl Into<String>) -> ArbiterError {
        ArbiterError::Corrupt { path: key.into(), why: why.into() }
    }

    /// Asks the cluster; the answer is the same cluster's as ever, and not older than any before.
    fn ask(&self, txn: &Txn) -> Result<Outcome, ArbiterError> {
        // Taken before asking: the answers of others that come meanwhile may be newer than ours.
        let floor = self.revision.load(Ordering::Acquire);
        let outcome = self.gateway.ask(txn)?;
        let first = *self.cluster.get_or_init(|| outcome.header.cluster_id);
        let (cluster, revision) = (outcome.header.cluster_id, outcome.header.revision);
        if cluster != first {
            return Err(self.strange(format!("cluster {cluster:016x} answers where {first:016x} did before")));
        }
        if revision < floor {
            return Err(self.strange(format!(
                "it answers as of revision {revision}, and was at {floor} before: its data are old. Bring the newest back"
            )));
        }
        self.revision.fetch_max(revision, Ordering::AcqRel);
        Ok(outcome)
    }

    /// The marker, in the answer to the first of a transaction's questions.
    fn marker(&self, outcome: &Outcome) -> Result<(String, KeyValue), ArbiterError> {
        let key = self.keys.marker();
        let Some(found) = outcome.found(0) else {
            let what = format!(
                "it has no key {key}: it was never made an arbiter by `undying arbiter init`, or lost its data"
            );
            let source = io::ErrorKind::NotFound.into();
            return Err(ArbiterError::Unreachable { arbiter: self.describe(), what, source });
        };
        let marker: Marker = self.decode(&key, found)?;
        // Two clusters may have been made of one backup: the marker alone does not tell them apart.
        let identity = format!("{}-{:016x}", marker.identity, outcome.header.cluster_id);
        Ok((identity, found.clone()))
    }

    fn decode<T: DeserializeOwned>(&self, key: &str, found: &KeyValue) -> Result<T, ArbiterError> {
        record::decode(&found.value).map_err(|why| Self::corrupt(key, why))
    }

    fn read(&self, vm: &VmName) -> Result<Read, ArbiterError> {
        let outcome = self.ask(&Txn {
            compare: vec![],
            success: vec![
                get(&self.keys.marker()),
                newest_below(&self.keys.terms(vm)),
                newest_below(&self.keys.stops(vm)),
            ],
            failure: vec![],
        })?;
        let (identity, marker) = self.marker(&outcome)?;
        let newest =
            outcome.found(1).map(|found| Ok((found.clone(), self.record(vm, found)?))).transpose()?;
        let record = newest.as_ref().map(|(_, record)| record);
        let stopped = outcome.found(2).map(|found| self.is_stop(vm, found, record)).transpose()?;
        Ok(Read { identity, marker, newest, stopped: stopped.unwrap_or(false) })
    }

    fn record(&self, vm: &VmName, found: &KeyValue) -> Result<TermRecord, ArbiterError> {
        let record: TermRecord = self.decode(&found.key, found)?;
        if record.claim.vm != *vm || self.keys.term(vm, record.claim.term) != found.key {
            let why = format!("it is of term {} of VM {}", record.claim.term, record.claim.vm);
            return Err(Self::corrupt(&found.key, why));
        }
        Ok(record)
    }

    /// Whether the newest stop is of the newest term.
    fn is_stop(
        &self,
        vm: &VmName,
        found: &KeyValue,
        newest: Option<&TermRecord>,
    ) -> Result<bool, ArbiterError> {
        let stopped: Stopped = self.decode(&found.key, found)?;
        let of_key = stopped.vm == *vm && self.keys.stop(vm, stopped.term) == found.key;
        let Some(newest) = newest.filter(|newest| of_key && stopped.term <= newest.claim.term) else {
            return Err(Self::corrupt(&found.key, "it is of another VM or term"));
        };
        if stopped.term < newest.claim.term {
            return Ok(false);
        }
        if stopped.host != newest.claim.host {
            return Err(Self::corrupt(&found.key, "it is of another host"));
        }
        Ok(true)
    }

    fn restless(&self) -> ArbiterError {
        let what = format!("what was read was no longer so when it was to be written, {TRIES} times");
        ArbiterError::Unreachable { arbiter: self.describe(), what, source: io::ErrorKind::WouldBlock.into() }
    }
}

impl Arbiter for EtcdArbiter {
    fn claim(&self, claim: &Claim) -> Result<TermRecord, ArbiterError> {
        let key = self.keys.term(&claim.vm, claim.term);
        let mine = TermRecord { claim: claim.clone() };
        for _ in 0..TRIES {
            let read = self.read(&claim.vm)?;
            let newest = match (rules::judge(claim, read.record())?, read.newest) {
                (Ruling::Stands, Some((_, record))) => return Ok(record),
                (_, newest) => newest,
            };
            let mut compare = vec![compare::unchanged(&read.marker), compare::absent(&key)];
            compare.extend(newest.iter().map(|(predecessor, _)| compare::unchanged(predecessor)));
            let success = vec![put(&key, &record::encode(&mine))];
            if self.ask(&Txn { compare, success, failure: vec![] })?.succeeded {
                return Ok(mine);
            }
        }
        Err(self.restless())
    }

    fn look(&self, vm: &VmName) -> Result<View, ArbiterError> {
        let read = self.read(vm)?;
        let stopped = read.stopped;
        let standing = read.newest.map(|(_, record)| Standing { record, stopped });
        Ok(View { identity: read.identity, standing })
    }

    fn mark_stopped(&self, vm: &VmName, term: Term, host: &HostName) -> Result<(), ArbiterError> {
        let body = Stopped { vm: vm.clone(), term, host: host.clone() };
        for _ in 0..TRIES {
            let read = self.read(vm)?;
            rules::may_stop(vm, term, host, read.record())?;
            let mut compare = vec![compare::unchanged(&read.marker)];
            compare.extend(read.newest.iter().map(|(newest, _)| compare::unchanged(newest)));
            if let Some(next) = term.0.checked_add(1) {
                compare.push(compare::absent(&self.keys.term(vm, Term(next))));
            }
            let success = vec![put(&self.keys.stop(vm, term), &record::encode(&body))];
            if self.ask(&Txn { compare, success, failure: vec![] })?.succeeded {
                return Ok(());
            }
        }
        Err(self.restless())
    }

    fn identity(&self) -> Result<String, ArbiterError> {
        let success = vec![get(&self.keys.marker())];
        let outcome = self.ask(&Txn { compare: vec![], success, failure: vec![] })?;
        self.marker(&outcome).map(|(identity, _)| identity)
    }

    fn leave_token(&self, host: &HostName, token: u64) -> Result<(), ArbiterError> {
        let body = record::encode(&Token { host: host.clone(), token });
        for _ in 0..TRIES {
            let success = vec![get(&self.keys.marker())];
            let outcome = self.ask(&Txn { compare: vec![], success, failure: vec![] })?;
            let compare = vec![compare::unchanged(&self.marker(&outcome)?.1)];
            let success = vec![put(&self.keys.token(host), &body)];
            if self.ask(&Txn { compare, success, failure: vec![] })?.succeeded {
                return Ok(());
            }
        }
        Err(self.restless())
    }

    fn token(&self, host: &HostName) -> Result<Option<u64>, ArbiterError> {
        let key = self.keys.token(host);
        let success = vec![get(&self.keys.marker()), get(&key)];
        let outcome = self.ask(&Txn { compare: vec![], success, failure: vec![] })?;
        self.marker(&outcome)?;
        let Some(found) = outcome.found(1) else { return Ok(None) };
        let found: Token = self.decode(&key, found)?;
        if found.host == *host {
            Ok(Some(found.token))
        } else {
            Err(Self::corrupt(&key, "it is of another host"))
        }
    }

    fn vms(&self) -> Result<Vec<VmName>, ArbiterError> {
        let mut vms = Vec::new();
        let mut from = self.keys.all_vms().0;
        loop {
            let rest = (from, self.keys.all_vms().1);
            let success = vec![get(&self.keys.marker()), messages::first_key(&rest)];
            let outcome = self.ask(&Txn { compare: vec![], success, failure: vec![] })?;
            self.marker(&outcome)?;
            let Some(found) = outcome.found(1) else { break };
            let vm = self.keys.vm_of(&found.key);
            let vm = vm.ok_or_else(|| Self::corrupt(&found.key, "its name is no VM's"))?;
            from = self.keys.past(&vm);
            vms.push(vm);
        }
        vms.sort();
        Ok(vms)
    }

    fn describe(&self) -> String {
        self.gateway.describe()
    }
}
