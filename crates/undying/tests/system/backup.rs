//! The loss of the backup: the VM goes on alone, in a higher term, and says so loudly; then it is protected again.

use crate::kit::{Loaded, Setup, look, possible, possible_in_qemu};

/// The VM at alpha has lost its backup: it runs on alone, and says so.
fn goes_on_alone(loaded: &Loaded, mark: u64, term: u64) {
    let status = loaded.runs_at("alpha");
    assert_eq!(status.term, term);
    assert!(status.peer.is_none());
    assert!(status.warnings.iter().any(|text| text.contains("NOT PROTECTED")), "{:?}", status.warnings);
    look::event(&loaded.cluster, "alpha", "backup_lost", mark);
    let told = look::event(&loaded.cluster, "alpha", "unprotected", mark);
    assert!(told.text.contains("UNPROTECTED"), "{}", told.text);
}

#[test]
fn the_backup_host_dies_comes_back_and_takes_over_later() {
    if !possible() {
        return;
    }
    let loaded = Setup::new("backup").start();
    let mark = look::mark(&loaded.cluster, "alpha");
    loaded.cluster.lab.kill_host("beta").expect("beta dies");
    goes_on_alone(&loaded, mark, 2);
    loaded.cluster.revive("beta").expect("beta is back");
    assert!(look::status(&loaded.cluster, "beta", &loaded.vm).is_none(), "a new agent knows nothing");
    loaded.protect("alpha", "beta");
    loaded.progress();
    assert_eq!(loaded.fails_over("alpha", "beta").term, 3);
    loaded.verdict();
}

#[test]
fn the_standby_process_alone_is_killed() {
    if !possible_in_qemu("process of its own") {
        return;
    }
    let loaded = Setup::new("standby").start();
    let mark = look::mark(&loaded.cluster, "alpha");
    loaded.qemu("beta").kill();
    goes_on_alone(&loaded, mark, 2);
    loaded.cluster.wait_gone("beta", &loaded.vm).expect("beta forgets the VM");
    loaded.protect("alpha", "beta");
    loaded.progress();
    loaded.fails_over("alpha", "beta");
    loaded.verdict();
}

#[test]
fn a_frozen_backup_wakes_up_and_does_not_take_over() {
    if !possible() {
        return;
    }
    let loaded = Setup::new("sleeper").start();
    let (alpha, beta) = (look::mark(&loaded.cluster, "alpha"), look::mark(&loaded.cluster, "beta"));
    let standby = loaded.process("beta");
    loaded.cluster.lab.freeze("beta").expect("beta's agent stands still");
    goes_on_alone(&loaded, alpha, 2);
    loaded.cluster.lab.thaw("beta").expect("it goes on");
    loaded.cluster.wait_gone("beta", &loaded.vm).expect("beta throws its copy away");
    standby.wait_gone();
    assert!(!look::has_event(&loaded.cluster, "beta", "promoting", beta));
    loaded.protect("alpha", "beta");
    loaded.verdict();
}
