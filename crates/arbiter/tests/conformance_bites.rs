//! The conformance checks find arbiters that break the promise: a check that cannot fail proves nothing.

use arbiter::{Arbiter, ArbiterError, Standing, View, conformance};
use protocol::{Claim, HostName, Term, TermRecord, VmName};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What is wrong with the arbiter in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Bug {
    None,
    /// Looks and writes in two steps.
    NotAtomic,
    /// Tells every claimant that it won.
    FlattersLosers,
    /// Overwrites an older term.
    AcceptsStale,
    AcceptsGaps,
    /// Anyone may say that the VM stopped.
    BelievesStrangers,
    StopOutlivesTerm,
    ForgetsNonce,
    HidesVms,
    /// Keeps one token for all hosts.
    MixesTokens,
}

#[derive(Default)]
struct Row {
    records: Vec<TermRecord>,
    stopped: Option<Term>,
}

#[derive(Clone)]
struct Memory {
    rows: Arc<Mutex<HashMap<VmName, Row>>>,
    lookers: Arc<AtomicU64>,
    tokens: Arc<Mutex<HashMap<Option<HostName>, u64>>>,
    bug: Bug,
}

impl Arbiter for Memory {
    fn claim(&self, claim: &Claim) -> Result<TermRecord, ArbiterError> {
        let wanted = claim.term;
        let mut rows = self.rows.lock().unwrap();
        let mut newest = Term(rows.entry(claim.vm.clone()).or_default().records.len() as u64);
        if self.bug == Bug::NotAtomic {
            drop(rows);
            // Gives another claimant of the race ample time to look as well.
            let before = self.lookers.fetch_add(1, Ordering::Relaxed);
            (0..10_000).take_while(|_| self.lookers.load(Ordering::Relaxed) == before + 1).for_each(|_| {
                std::thread::yield_now();
            });
            rows = self.rows.lock().unwrap();
            if wanted == newest.next() {
                let row = rows.get_mut(&claim.vm).unwrap();
                row.records.truncate(usize::try_from(newest.0).unwrap());
                row.records.push(TermRecord { claim: claim.clone() });
            }
            newest = Term(rows[&claim.vm].records.len() as u64);
        }
        let row = rows.get_mut(&claim.vm).unwrap();
        if wanted < newest && wanted > Term(0) && self.bug != Bug::AcceptsStale {
            let newest = Box::new(row.records.last().unwrap().clone());
            return Err(ArbiterError::Stale { wanted, newest });
        }
        let gap = wanted == Term(0) || wanted.0 - newest.0.min(wanted.0) > 1;
        if gap && self.bug != Bug::AcceptsGaps {
            return Err(ArbiterError::Gap { vm: claim.vm.clone(), wanted, newest });
        }
        if wanted > newest {
            row.records.push(TermRecord { claim: claim.clone() });
        }
        let index = usize::try_from(wanted.0).unwrap_or(0).clamp(1, row.records.len()) - 1;
        let mut record = row.records[index].clone();
        match self.bug {
            Bug::FlattersLosers => record = TermRecord { claim: claim.clone() },
            Bug::ForgetsNonce => record.claim.nonce = claim.nonce,
            _ => {}
        }
        Ok(record)
    }

    fn look(&self, vm: &VmName) -> Result<View, ArbiterError> {
        let rows = self.rows.lock().unwrap();
        let standing = rows.get(vm).and_then(|row| row.records.last()).map(|record| {
            let outlives = self.bug == Bug::StopOutlivesTerm;
            let stopped = rows[vm].stopped.is_some_and(|term| term == record.claim.term || outlives);
            Standing { record: record.clone(), stopped }
        });
        Ok(View { identity: "memory".to_owned(), standing })
    }

    fn mark_stopped(&self, vm: &VmName, term: Term, host: &HostName) -> Result<(), ArbiterError> {
        let standing = self.current(vm)?;
        let newest = standing.as_ref().map_or(Term(0), |s| s.record.claim.term);
        let (vm, host) = (vm.clone(), host.clone());
        let Some(standing) = standing.filter(|_| term <= newest) else {
            return Err(ArbiterError::Gap { vm, wanted: term, newest });
        };
        if term < newest {
            return Err(ArbiterError::Stale { wanted: term, newest: Box::new(standing.record) });
        }
        let owner = standing.record.claim.host;
        if owner != host && self.bug != Bug::BelievesStrangers {
            return Err(ArbiterError::NotOwner { vm, term, host, owner });
        }
        self.rows.lock().unwrap().get_mut(&vm).unwrap().stopped = Some(term);
        Ok(())
    }

    fn identity(&self) -> Result<String, ArbiterError> {
        Ok("memory".to_owned())
    }

    fn leave_token(&self, host: &HostName, token: u64) -> Result<(), ArbiterError> {
        let of = (self.bug != Bug::MixesTokens).then(|| host.clone());
        self.tokens.lock().unwrap().insert(of, token);
        Ok(())
    }

    fn token(&self, host: &HostName) -> Result<Option<u64>, ArbiterError> {
        let of = (self.bug != Bug::MixesTokens).then(|| host.clone());
        Ok(self.tokens.lock().unwrap().get(&of).copied())
    }

    fn vms(&self) -> Result<Vec<VmName>, ArbiterError> {
        let rows = self.rows.lock().unwrap();
        let mut vms: Vec<_> =
            rows.iter().filter(|(_, row)| !row.records.is_empty()).map(|(vm, _)| vm.clone()).collect();
        vms.sort();
        if self.bug == Bug::HidesVms {
            vms.pop();
        }
        Ok(vms)
    }

    fn describe(&self) -> String {
        format!("in memory, {:?}", self.bug)
    }
}

fn conforms(bug: Bug) -> bool {
    let memory = Memory { rows: Arc::default(), lookers: Arc::default(), tokens: Arc::default(), bug };
    let run = || conformance::run(&|| Box::new(memory.clone()));
    catch_unwind(AssertUnwindSafe(run)).is_ok()
}

#[test]
fn a_correct_arbiter_passes() {
    assert!(conforms(Bug::None));
}

#[test]
fn every_planted_bug_is_found() {
    use Bug::*;
    for bug in [
        NotAtomic,
        FlattersLosers,
        AcceptsStale,
        AcceptsGaps,
        BelievesStrangers,
        StopOutlivesTerm,
        ForgetsNonce,
        HidesVms,
        MixesTokens,
    ] {
        assert!(!conforms(bug), "{bug:?} was not found");
    }
}
