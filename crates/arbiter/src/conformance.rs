//! Owns the checks that every arbiter must pass, whatever it stands on.
//!
//! A check panics with what went wrong; call [`run`] from a test. VM names are made up per run, so a store that
//! outlives the test may be used again.

use crate::{Arbiter, ArbiterError};
use protocol::{Claim, Grant, HostName, Term, TermRecord, VmName};
use std::sync::Barrier;

/// Claimants in the race of [`one_winner`].
pub const CLAIMANTS: usize = 100;

/// Makes another client of the same arbiter, as another host would have.
pub type MakeClient<'a> = &'a (dyn Fn() -> Box<dyn Arbiter> + Sync);

fn fresh_vm(check: &str) -> VmName {
    VmName::new(&format!("{check}-{:016x}", crate::store::random())).expect("a short name")
}

fn host(number: usize) -> HostName {
    HostName::new(&format!("host-{number}")).expect("a short name")
}

fn claim(vm: &VmName, term: u64, number: usize) -> Claim {
    Claim { vm: vm.clone(), term: Term(term), host: host(number), nonce: crate::store::random() }
}

fn win(arbiter: &dyn Arbiter, claim: &Claim) {
    let record = arbiter.claim(claim).expect("an undisputed claim is answered");
    assert!(Grant::from_record(claim, &record).is_some(), "an undisputed claim won: {record:?}");
}

/// Runs all checks.
///
/// # Panics
/// If a check fails.
pub fn run(make: MakeClient<'_>) {
    never_owned(make);
    first_and_next(make);
    a_repeat_finds_its_own_record(make);
    a_loser_sees_the_winner(make);
    stale_and_gap(make);
    stopping(make);
    vms_are_apart(make);
    one_identity(make);
    all_vms_are_listed(make);
    tokens_are_found(make);
    for _ in 0..5 {
        one_winner(make);
    }
}

/// A VM that nobody owned has no standing.
///
/// # Panics
/// If the check fails.
pub fn never_owned(make: MakeClient<'_>) {
    assert_eq!(make().current(&fresh_vm("none")).expect("current answers"), None);
}

/// Terms are granted one after the other, and another client sees them.
///
/// # Panics
/// If the check fails.
pub fn first_and_next(make: MakeClient<'_>) {
    let vm = fresh_vm("row");
    for term in 1..=12 {
        let claim = claim(&vm, term, usize::try_from(term % 2).expect("0 or 1"));
        win(&*make(), &claim);
        let standing = make().current(&vm).expect("current answers").expect("the VM is owned");
        assert_eq!(standing.record, TermRecord { claim }, "current says the newest term");
        assert!(!standing.stopped, "nobody said that it stopped");
    }
}

/// The same claim again, from another client too, finds the record it made.
///
/// # Panics
/// If the check fails.
pub fn a_repeat_finds_its_own_record(make: MakeClient<'_>) {
    let vm = fresh_vm("repeat");
    let mine = claim(&vm, 1, 1);
    for _ in 0..3 {
        win(&*make(), &mine);
    }
    let reborn = claim(&vm, 1, 1);
    let record = make().claim(&reborn).expect("answered");
    assert_eq!(Grant::from_record(&reborn, &record), None, "another nonce is another claim");
}

/// Who comes second gets the winner's record, and no grant from it.
///
/// # Panics
/// If the check fails.
pub fn a_loser_sees_the_winner(make: MakeClient<'_>) {
    let vm = fresh_vm("loser");
    let (first, second) = (claim(&vm, 1, 1), claim(&vm, 1, 2));
    win(&*make(), &first);
    let record = make().claim(&second).expect("answered");
    assert_eq!(record.claim, first, "the loser sees the winner");
    assert_eq!(Grant::from_record(&second, &record), None);
}

/// Terms that are over and terms that leave a gap are refused.
///
/// # Panics
/// If the check fails.
pub fn stale_and_gap(make: MakeClient<'_>) {
    let vm = fresh_vm("stale");
    let arbiter = make();
    for wrong in [0, 2, u64::MAX] {
        let error = arbiter.claim(&claim(&vm, wrong, 1)).expect_err("not the first term");
        assert!(matches!(error, ArbiterError::Gap { newest: Term(0), .. }), "term {wrong} first: {error}");
    }
    let first = claim(&vm, 1, 1);
    win(&*arbiter, &first);
    let second = claim(&vm, 2, 2);
    win(&*arbiter, &second);
    let error = make().claim(&first).expect_err("term 1 is over, even for its owner");
    let ArbiterError::Stale { wanted, newest } = error else { panic!("term 1 is stale: {error}") };
    assert_eq!((wanted, newest.claim), (Term(1), second), "a stale claim is told the newest owner");
    for wrong in [4, u64::MAX] {
        let error = make().claim(&claim(&vm, wrong, 1)).expect_err("a gap");
        assert!(matches!(error, ArbiterError::Gap { newest: Term(2), .. }), "term {wrong}: {error}");
    }
    win(&*make(), &claim(&vm, 3, 1));
}

/// Only the owner of the newest term can say that the VM stopped, and the next term begins unstopped.
///
/// # Panics
/// If the check fails.
pub fn stopping(make: MakeClient<'_>) {
    let vm = fresh_vm("stop");
    let stopped = || make().current(&vm).expect("answers").expect("owned").stopped;
    let error = make().mark_stopped(&vm, Term(1), &host(1)).expect_err("never owned");
    assert!(matches!(error, ArbiterError::Gap { .. }), "{error}");
    win(&*make(), &claim(&vm, 1, 1));
    let error = make().mark_stopped(&vm, Term(1), &host(2)).expect_err("not the owner");
    assert!(matches!(error, ArbiterError::NotOwner { .. }), "{error}");
    assert!(!stopped(), "a stranger's word counts for nothing");
    for _ in 0..2 {
        make().mark_stopped(&vm, Term(1), &host(1)).expect("the owner may say so, twice");
        assert!(stopped(), "the owner said that it stopped");
    }
    win(&*make(), &claim(&vm, 2, 2));
    assert!(!stopped(), "a new term runs");
    let error = make().mark_stopped(&vm, Term(1), &host(1)).expect_err("term 1 is over");
    assert!(matches!(error, ArbiterError::Stale { .. }), "{error}");
    assert!(!stopped(), "an old owner's word counts for nothing");
}

/// Two VMs have terms of their own.
///
/// # Panics
/// If the check fails.
pub fn vms_are_apart(make: MakeClient<'_>) {
    let (one, other) = (fresh_vm("one"), fresh_vm("other"));
    win(&*make(), &claim(&one, 1, 1));
    assert_eq!(make().current(&other).expect("answers"), None);
    win(&*make(), &claim(&other, 1, 2));
}

/// All clients reach the same arbiter.
///
/// # Panics
/// If the check fails.
pub fn one_identity(make: MakeClient<'_>) {
    let identity = make().identity().expect("it has an identity");
    assert!(!identity.is_empty());
    assert_eq!(make().identity().expect("it has an identity"), identity);
    let view = make().look(&fresh_vm("who")).expect("look answers");
    assert_eq!(view.identity, identity, "every answer says whose it is");
}

/// VMs that were owned are listed, each once, and others are not.
///
/// # Panics
/// If the check fails.
pub fn all_vms_are_listed(make: MakeClient<'_>) {
    let seed = crate::store::random();
    // Names that sort oddly around the separators of paths and keys.
    let mut names: Vec<_> = ["", "-2", ".x", "0", "_"]
        .map(|end| VmName::new(&format!("zz-{seed:016x}{end}")).expect("a short name"))
        .to_vec();
    for name in &names {
        win(&*make(), &claim(name, 1, 1));
        win(&*make(), &claim(name, 2, 1));
    }
    names.sort();
    make().claim(&claim(&fresh_vm("zz-gap"), 5, 1)).expect_err("a gap");
    let mut listed = make().vms().expect("vms answers");
    listed.retain(|vm| vm.as_str().starts_with("zz-"));
    let mine: Vec<_> = listed.iter().filter(|vm| vm.as_str().contains(&format!("{seed:016x}"))).collect();
    assert_eq!(mine, names.iter().collect::<Vec<_>>());
    assert!(listed.iter().all(|vm| !vm.as_str().contains("gap")), "a VM without an owner is listed");
}

/// Every client finds the token that a host left last, and VMs know nothing of it.
///
/// # Panics
/// If the check fails.
pub fn tokens_are_found(make: MakeClient<'_>) {
    let (one, other) = (host(1), host(2));
    for token in [crate::store::random(), u64::MAX, 0] {
        make().leave_token(&one, token).expect("it is left");
        make().leave_token(&other, !token).expect("it is left");
        assert_eq!(make().token(&one).expect("answers"), Some(token));
        assert_eq!(make().token(&other).expect("answers"), Some(!token), "each host has its own");
    }
    let nobody = HostName::new(&format!("nobody-{:016x}", crate::store::random())).expect("a short name");
    assert_eq!(make().token(&nobody).expect("answers"), None);
    let vms = make().vms().expect("vms answers");
    assert!(vms.iter().all(|vm| !vm.as_str().contains("token")), "a token is no VM: {vms:?}");
}

/// [`CLAIMANTS`] clients claim the same term at once, term after term: one wins, and all are told the same.
///
/// # Panics
/// If the check fails.
pub fn one_winner(make: MakeClient<'_>) {
    let vm = fresh_vm("race");
    let start = Barrier::new(CLAIMANTS);
    for term in 1..=3 {
        let records: Vec<(Claim, TermRecord)> = std::thread::scope(|scope| {
            let race = |number| {
                let start = &start;
                // Whatever can fail is made before the start, where a failure leaves nobody waiting.
                let (arbiter, claim) = (make(), claim(&vm, term, number));
                scope.spawn(move || {
                    start.wait();
                    let record = arbiter.claim(&claim).expect("a claim of the next term is answered");
                    (claim, record)
                })
            };
            let racers: Vec<_> = (0..CLAIMANTS).map(race).collect();
            racers.into_iter().map(|racer| racer.join().expect("a claimant failed")).collect()
        });
        let winners = records.iter().filter(|(claim, record)| Grant::from_record(claim, record).is_some());
        assert_eq!(winners.count(), 1, "term {term} has one winner");
        assert!(records.iter().all(|(_, record)| *record == records[0].1), "all are told the same");
    }
}
