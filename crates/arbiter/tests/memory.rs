//! An arbiter that comes back with old data, empty, or as another one is not believed by a host that saw more.

mod support;

use arbiter::directory::{DirectoryArbiter, init};
use arbiter::memory::Remembering;
use arbiter::{Arbiter, ArbiterError};
use protocol::{Grant, Term};
use std::path::Path;
use support::{claim, copy, host, vm};

fn host_with(arbiter: &Path, memory: &Path) -> Remembering {
    Remembering::new(Box::new(DirectoryArbiter::new(arbiter)), memory).unwrap()
}

fn won(arbiter: &dyn Arbiter, term: u64, by: &str) {
    let claim = claim("web", term, by, 1);
    assert!(Grant::from_record(&claim, &arbiter.claim(&claim).unwrap()).is_some(), "term {term} for {by}");
}

/// All that a host could ask is refused, and says which file remembers.
fn assert_went_back(host_of: &Remembering, terms: &[u64]) {
    let mut errors: Vec<_> =
        terms.iter().map(|&term| host_of.claim(&claim("web", term, "beta", 9)).unwrap_err()).collect();
    errors.push(host_of.look(&vm("web")).unwrap_err());
    errors.push(host_of.mark_stopped(&vm("web"), Term(1), &host("beta")).unwrap_err());
    for error in errors {
        assert!(matches!(error, ArbiterError::WentBack { .. }), "{error}");
        assert!(!error.is_unreachable());
    }
}

#[test]
fn old_data_an_empty_arbiter_and_another_history_are_refused_until_the_newest_is_back() {
    let place = tempfile::tempdir().unwrap();
    let [here, old, empty, new] = ["here", "old", "empty", "new"].map(|name| place.path().join(name));
    std::fs::create_dir(&here).unwrap();
    init(&here).unwrap();
    copy(&here, &empty);
    let beta = host_with(&here, &place.path().join("beta"));
    won(&beta, 1, "alpha");
    beta.mark_stopped(&vm("web"), Term(1), &host("alpha")).unwrap();
    copy(&here, &old);
    won(&beta, 2, "beta");
    copy(&here, &new);
    let put = |data: &Path| {
        std::fs::remove_dir_all(&here).unwrap();
        copy(data, &here);
    };
    // In the old data the VM is stopped: whoever believed it could start a second life.
    put(&old);
    assert!(DirectoryArbiter::new(&here).current(&vm("web")).unwrap().unwrap().stopped);
    assert_went_back(&beta, &[1, 2, 3]);
    put(&empty);
    assert_went_back(&beta, &[1, 2, 3]);
    // Somebody who did not know better went on from the old data.
    put(&old);
    won(&DirectoryArbiter::new(&here), 2, "gamma");
    assert_went_back(&beta, &[2, 3]);
    let next = DirectoryArbiter::new(&here).current(&vm("web")).unwrap().unwrap().record.claim.term;
    assert_eq!(next, Term(2), "beta did not claim on top of it");
    put(&new);
    won(&beta, 2, "beta");
    won(&beta, 3, "beta");
}

#[test]
fn a_host_remembers_over_its_own_restart() {
    let place = tempfile::tempdir().unwrap();
    let (here, old) = (place.path().join("here"), place.path().join("old"));
    let memory = place.path().join("memory");
    std::fs::create_dir(&here).unwrap();
    init(&here).unwrap();
    won(&DirectoryArbiter::new(&here), 1, "alpha");
    copy(&here, &old);
    won(&host_with(&here, &memory), 2, "beta");
    std::fs::remove_dir_all(&here).unwrap();
    copy(&old, &here);
    let error = host_with(&here, &memory).look(&vm("web")).unwrap_err().to_string();
    let file = memory.join("vm-web");
    assert!(error.contains("term 1") && error.contains("term 2"), "{error}");
    assert!(error.contains(file.to_str().unwrap()), "{error}");
    std::fs::remove_file(file).unwrap();
    won(&host_with(&here, &memory), 2, "gamma");
}

#[test]
fn another_arbiter_in_the_same_place_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let (here, memory) = (place.path().join("here"), place.path().join("memory"));
    for round in 0..2 {
        std::fs::create_dir(&here).unwrap();
        init(&here).unwrap();
        let host_of = host_with(&here, &memory);
        let answers = [host_of.identity().err(), host_of.look(&vm("never-seen")).err()];
        for answer in answers {
            assert_eq!(matches!(answer, Some(ArbiterError::WentBack { .. })), round == 1, "{answer:?}");
        }
        std::fs::remove_dir_all(&here).unwrap();
    }
}

#[test]
fn a_memory_that_cannot_be_read_or_kept_is_named() {
    let place = tempfile::tempdir().unwrap();
    let (here, memory) = (place.path().join("here"), place.path().join("memory"));
    std::fs::create_dir(&here).unwrap();
    init(&here).unwrap();
    let open = || Remembering::new(Box::new(DirectoryArbiter::new(&here)), &memory);
    let host_of = open().unwrap();
    // A directory in the place of the file.
    std::fs::create_dir(memory.join("vm-web")).unwrap();
    won(&host_of, 1, "alpha");
    let mut error = None;
    support::until("the memory's trouble is told", || {
        error = host_of.identity().err();
        error.is_some()
    });
    assert!(error.unwrap().to_string().contains("vm-web"));
    drop(host_of);
    std::fs::remove_dir(memory.join("vm-web")).unwrap();
    std::fs::write(memory.join("vm-web"), "torn").unwrap();
    let error = open().err().expect("a torn memory is not a memory").to_string();
    assert!(error.contains("vm-web"), "{error}");
}

#[test]
fn a_memory_changes_nothing_as_long_as_the_arbiter_is_sound() {
    let place = tempfile::tempdir().unwrap();
    let here = place.path().join("here");
    std::fs::create_dir(&here).unwrap();
    init(&here).unwrap();
    let count = std::sync::atomic::AtomicU32::new(0);
    arbiter::conformance::run(&|| {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Box::new(host_with(&here, &place.path().join(format!("memory-{number}"))))
    });
}
