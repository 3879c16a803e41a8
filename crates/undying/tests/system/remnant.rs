//! Memory that a VM left at a host: a copy that comes back is compared with it, and is as good as any.

use crate::kit::{Loaded, Setup, look, possible_in_qemu};
use api::types::ProtectRequest;
use lab::topology::Link;
use protocol::HostName;

/// The owner told that the next backup, this host, had its memory from before.
fn was_compared(loaded: &Loaded, owner: &str, to: &str, mark: u64) {
    let told = look::event(&loaded.cluster, owner, "memory_compared", mark);
    let bytes = |what: &str| told.what[what].as_u64().unwrap_or_else(|| panic!("no {what} in {told:?}"));
    let (all, differing) = (bytes("compared_bytes"), bytes("differing_bytes"));
    assert_eq!(told.what["peer"], to);
    // Redis, its kernel and what they wrote meanwhile: far from all that they ever wrote.
    assert!(all > 100 << 20 && differing < all / 4, "{}", told.text);
}

/// The VM's owner has it protected at `to` again, which had its memory from before.
fn comes_back(loaded: &Loaded, owner: &str, to: &str, mark: u64) {
    loaded.protect(owner, to);
    was_compared(loaded, owner, to, mark);
    loaded.progress();
}

#[test]
fn what_a_vm_left_where_it_moved_from_is_its_copy_there_and_goes_on() {
    if !possible_in_qemu("memory that outlives it") {
        return;
    }
    let loaded = Setup::new("left").start();
    let mark = look::mark(&loaded.cluster, "beta");
    loaded.cluster.ask("alpha", |api| api.failover(&loaded.vm)).expect("the failover is accepted");
    loaded.runs_at("beta");
    loaded.cluster.wait_gone("alpha", &loaded.vm).expect("the old host lets go");
    comes_back(&loaded, "beta", "alpha", mark);
    // The new owner dies: what goes on is what was left, with all that came since.
    loaded.fails_over("beta", "alpha");
    loaded.verdict();
}

#[test]
fn a_copy_whose_link_was_cut_comes_back_and_goes_on() {
    if !possible_in_qemu("memory that outlives it") {
        return;
    }
    let loaded = Setup::new("leftcut").start();
    loaded.cluster.lab.cut_link(Link::Replication("alpha")).expect("cut");
    let (winner, loser) = loaded.winner();
    loaded.progress();
    loaded.cluster.lab.heal_link(Link::Replication("alpha")).expect("healed");
    let mark = look::mark(&loaded.cluster, winner);
    comes_back(&loaded, winner, loser, mark);
    loaded.fails_over(winner, loser);
    loaded.verdict();
}

#[test]
fn a_backup_that_was_changed_comes_back_beside_the_other() {
    if !possible_in_qemu("memory that outlives it") {
        return;
    }
    let loaded = Setup::new("leftside").hosts(&["alpha", "beta", "gamma"]).start();
    let mut mark = 0;
    for (old, to) in [("beta", "gamma"), ("gamma", "beta")] {
        mark = look::mark(&loaded.cluster, "alpha");
        let request = ProtectRequest::following(HostName::new(to).expect("a name"));
        loaded.cluster.change_backup(&loaded.vm, "alpha", &request).expect("the backup is changed");
        // A host that still lets go takes nothing.
        loaded.cluster.wait_gone(old, &loaded.vm).expect("the old backup lets go");
        loaded.progress();
    }
    was_compared(&loaded, "alpha", "beta", mark);
    loaded.fails_over("alpha", "beta");
    loaded.verdict();
}

#[test]
fn nothing_is_left_where_an_operator_ended_protection() {
    if !possible_in_qemu("memory that outlives it") {
        return;
    }
    let loaded = Setup::new("leftnone").start();
    let mark = look::mark(&loaded.cluster, "alpha");
    loaded.cluster.ask("alpha", |api| api.unprotect(&loaded.vm)).expect("accepted");
    loaded.runs_at("alpha");
    loaded.cluster.wait_gone("beta", &loaded.vm).expect("beta throws its copy away");
    assert_eq!(look::room(&loaded.cluster, "beta").remnant_bytes, 0);
    loaded.protect("alpha", "beta");
    loaded.progress();
    assert!(!look::has_event(&loaded.cluster, "alpha", "memory_compared", mark));
    loaded.verdict();
}
