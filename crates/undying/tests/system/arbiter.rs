//! An arbiter that cannot be reached: protection goes on and says so; when it is needed nobody goes on, and all heals by
//! itself when it is back. With each kind of arbiter, really killed.

use crate::kit::{Guest, Loaded, Setup, look, possible};
use api::types::Role;
use lab::arbiters::ArbiterKind;
use lab::topology::Link;
use std::path::Path;

/// Whether this kind can be had here; says loudly if not.
fn possible_with(kind: ArbiterKind) -> bool {
    if kind == ArbiterKind::Etcd && !Path::new(arbiter::etcd::members::PROGRAM).exists() {
        eprintln!("SKIPPED: this test needs the Debian package etcd-server");
        return false;
    }
    possible()
}

/// Waits until `vm status` at this host warns, or no longer warns, of the arbiter.
fn warns(guest: &Guest, host: &str, wanted: bool) {
    let warnings = || guest.status(host).warnings;
    let so = || {
        let warned = warnings().iter().any(|text| text.contains("the arbiter is of no use now"));
        (warned == wanted).then_some(())
    };
    let what = format!("a warning of the arbiter at {host} to be {wanted}");
    crate::kit::wait_for(&what, so, || format!("{:?}\n{}", warnings(), look::logs(&guest.cluster)));
}

/// The arbiter is gone, and as long as nothing else fails that is all: the VM stays protected, and `vm status` warns.
fn lose(loaded: &Loaded) {
    warns(loaded, "alpha", false);
    loaded.cluster.lose_arbiter().expect("it is gone");
    for host in ["alpha", "beta"] {
        warns(loaded, host, true);
    }
    let before = loaded.status("alpha");
    loaded.progress();
    let after = loaded.status("alpha");
    assert_eq!((after.phase.as_str(), loaded.status("beta").phase.as_str()), ("protected", "armed"));
    assert!(after.acked_epoch > before.acked_epoch, "checkpoints go on");
    assert_eq!(after.term, before.term);
}

/// Waits until a host has asked in vain twice more.
fn asks_in_vain(guest: &Guest, host: &str) {
    for _ in 0..2 {
        let mark = look::mark(&guest.cluster, host);
        look::event(&guest.cluster, host, "arbiter_unreachable", mark);
    }
}

/// The link is cut while the arbiter is gone: both hosts ask in vain and nobody's output leaves. It comes back: one wins.
fn a_cut_link(kind: ArbiterKind, tag: &'static str) {
    if !possible_with(kind) {
        return;
    }
    let loaded = Setup::new(tag).arbiter(kind).start();
    lose(&loaded);
    loaded.cluster.lab.cut_link(Link::Replication("beta")).expect("cut");
    asks_in_vain(&loaded, "alpha");
    asks_in_vain(&loaded, "beta");
    let held = loaded.acknowledged();
    let (alpha, beta) = (loaded.status("alpha"), loaded.status("beta"));
    assert_eq!((alpha.role, alpha.phase.as_str()), (Role::Primary, "claiming"));
    assert!(alpha.warnings.iter().any(|text| text.contains("output is held")), "{:?}", alpha.warnings);
    assert_eq!((beta.role, beta.phase.as_str()), (Role::Backup, "claiming"));
    asks_in_vain(&loaded, "alpha");
    assert_eq!(loaded.acknowledged(), held, "a client got an answer that nobody may give");
    loaded.cluster.find_arbiter().expect("it is back");
    let (winner, loser) = if kind == ArbiterKind::Directory {
        loaded.winner()
    } else {
        // Only alpha reaches it; beta hears that it lost when its link is whole.
        loaded.runs_at("alpha");
        loaded.cluster.lab.heal_link(Link::Replication("beta")).expect("healed");
        loaded.winner()
    };
    loaded.progress();
    loaded.cluster.lab.heal_link(Link::Replication("beta")).expect("healed");
    warns(&loaded, winner, false);
    loaded.protect(winner, loser);
    loaded.verdict();
}

/// The primary's host dies while the arbiter is gone: the backup waits until it is back.
fn a_dead_primary(kind: ArbiterKind, tag: &'static str) {
    if !possible_with(kind) {
        return;
    }
    let loaded = Setup::new(tag).arbiter(kind).start();
    let mark = look::mark(&loaded.cluster, "beta");
    lose(&loaded);
    loaded.cluster.lab.kill_host("alpha").expect("alpha dies");
    asks_in_vain(&loaded, "beta");
    let held = loaded.acknowledged();
    let beta = loaded.status("beta");
    assert_eq!((beta.role, beta.phase.as_str()), (Role::Backup, "claiming"));
    asks_in_vain(&loaded, "beta");
    assert_eq!(loaded.acknowledged(), held);
    assert!(!look::has_event(&loaded.cluster, "beta", "promoting", mark));
    loaded.cluster.find_arbiter().expect("it is back");
    loaded.runs_at("beta");
    warns(&loaded, "beta", false);
    loaded.verdict();
}

#[test]
fn without_its_directory_a_cut_link_holds_all_output_until_it_is_back() {
    a_cut_link(ArbiterKind::Directory, "noarb");
}

#[test]
fn without_a_quorum_of_etcd_a_cut_link_holds_all_output_until_it_is_back() {
    a_cut_link(ArbiterKind::Etcd, "noetcd");
}

#[test]
fn without_its_witness_a_cut_link_holds_all_output_until_it_is_back() {
    a_cut_link(ArbiterKind::Witness, "nowit");
}

#[test]
fn without_its_directory_a_backup_waits_until_it_is_back() {
    a_dead_primary(ArbiterKind::Directory, "wait");
}

#[test]
fn without_a_quorum_of_etcd_a_backup_waits_until_it_is_back() {
    a_dead_primary(ArbiterKind::Etcd, "waitet");
}

#[test]
fn without_its_witness_a_backup_waits_until_it_is_back() {
    a_dead_primary(ArbiterKind::Witness, "waitwi");
}

/// One member of three is dead, and it is no host's business: a failover, another one back, all with their answers.
#[test]
fn with_two_of_three_members_of_etcd_vms_go_on_from_host_to_host() {
    if !possible_with(ArbiterKind::Etcd) {
        return;
    }
    let loaded = Setup::new("twoof").arbiter(ArbiterKind::Etcd).start();
    loaded.cluster.kill_member(0).expect("it dies");
    loaded.fails_over("alpha", "beta");
    loaded.cluster.revive("alpha").expect("alpha is back");
    loaded.protect("beta", "alpha");
    loaded.fails_over("beta", "alpha");
    loaded.verdict();
}

/// The arbiter comes back with old data, as if no VM had ever been started. Whoever believed it could start a second
/// life; the hosts remember, warn, and go on once the newest data are back.
#[test]
fn an_arbiter_with_old_data_is_as_good_as_none_until_the_newest_are_back() {
    if !possible() {
        return;
    }
    let setup = Setup::new("oldarb");
    let cluster = setup.cluster();
    let here = cluster.arbiter();
    let [old, new] = ["old", "new"].map(|name| here.with_extension(name));
    std::fs::create_dir(&old).expect("a directory");
    for entry in std::fs::read_dir(&here).expect("the arbiter") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), old.join(entry.file_name())).expect("a copy");
    }
    let loaded = setup.start_on(cluster);
    // Both have seen who owns the VM.
    for host in ["alpha", "beta"] {
        let memory = loaded.cluster.lab.directory().join(host).join("arbiter").join("vm-web");
        crate::kit::wait_for("a memory", || memory.exists().then_some(()), || look::logs(&loaded.cluster));
    }
    std::fs::rename(&here, &new).and_then(|()| std::fs::rename(&old, &here)).expect("old data");
    for host in ["alpha", "beta"] {
        warns(&loaded, host, true);
        let warnings = loaded.status(host).warnings;
        assert!(warnings.iter().any(|text| text.contains("gone back in time")), "{warnings:?}");
    }
    loaded.progress();
    assert_eq!(loaded.status("alpha").phase, "protected");
    loaded.cluster.lab.kill_host("alpha").expect("alpha dies");
    asks_in_vain(&loaded, "beta");
    assert_eq!(loaded.status("beta").role, Role::Backup);
    std::fs::rename(&here, &old).and_then(|()| std::fs::rename(&new, &here)).expect("the newest data");
    loaded.runs_at("beta");
    loaded.verdict();
}

#[test]
fn a_guest_that_switches_itself_off_meanwhile_stays_off_and_ends_when_it_is_back() {
    if !possible() {
        return;
    }
    let guest = Setup::new("offwait").boot();
    guest.protect("alpha", "beta");
    let marks = ["alpha", "beta"].map(|host| look::mark(&guest.cluster, host));
    guest.cluster.lose_arbiter().expect("it is gone");
    guest.pulse(|pulse| pulse.power_off()).expect("the order is sent");
    // Checkpoints go on of a guest that does not run: that it stays off is no failure of theirs.
    asks_in_vain(&guest, "alpha");
    let epoch = guest.status("alpha").epoch;
    asks_in_vain(&guest, "alpha");
    assert!(guest.status("alpha").epoch > epoch, "alpha goes on protecting until it may end the VM");
    for (host, mark) in ["alpha", "beta"].into_iter().zip(marks) {
        for event in ["vm_died", "checkpoint_failed", "backup_lost", "primary_lost", "promoting"] {
            assert!(!look::has_event(&guest.cluster, host, event, mark), "{event} at {host}");
        }
    }
    guest.cluster.find_arbiter().expect("it is back");
    for host in ["alpha", "beta"] {
        guest.cluster.wait_gone(host, &guest.vm).expect("the VM ends");
    }
    assert!(!look::has_event(&guest.cluster, "beta", "promoting", marks[1]));
    guest.cluster.start_vm("beta", &guest.file).expect("it was stopped cleanly, and starts anywhere");
}
