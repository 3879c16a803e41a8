//! An arbiter that cannot be reached when it is needed: nobody goes on, and all heals by itself when it is back.

use crate::kit::{Guest, Setup, look, possible};
use host::api::types::Role;
use lab::topology::Link;
use std::path::PathBuf;

/// The arbiter's directory, away.
struct Away {
    place: PathBuf,
    away: PathBuf,
}

impl Away {
    fn take(guest: &Guest) -> Self {
        let place = guest.cluster.arbiter();
        let away = place.with_extension("away");
        std::fs::rename(&place, &away).expect("rename");
        Self { place, away }
    }

    fn bring_back(self) {
        std::fs::rename(&self.away, &self.place).expect("rename");
    }
}

/// Waits until a host has asked in vain twice more.
fn asks_in_vain(guest: &Guest, host: &str) {
    for _ in 0..2 {
        let mark = look::mark(&guest.cluster, host);
        look::event(&guest.cluster, host, "arbiter_unreachable", mark);
    }
}

#[test]
fn without_an_arbiter_a_cut_link_holds_all_output_until_it_is_back() {
    if !possible() {
        return;
    }
    let loaded = Setup::new("noarb").start();
    let arbiter = Away::take(&loaded);
    // As long as nothing fails, nobody needs it.
    loaded.progress();
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
    arbiter.bring_back();
    let (winner, loser) = loaded.winner();
    loaded.progress();
    loaded.cluster.lab.heal_link(Link::Replication("beta")).expect("healed");
    loaded.protect(winner, loser);
    loaded.verdict();
}

#[test]
fn without_an_arbiter_a_backup_waits_until_it_is_back() {
    if !possible() {
        return;
    }
    let loaded = Setup::new("wait").start();
    let mark = look::mark(&loaded.cluster, "beta");
    let arbiter = Away::take(&loaded);
    loaded.cluster.lab.kill_host("alpha").expect("alpha dies");
    asks_in_vain(&loaded, "beta");
    let held = loaded.acknowledged();
    let beta = loaded.status("beta");
    assert_eq!((beta.role, beta.phase.as_str()), (Role::Backup, "claiming"));
    asks_in_vain(&loaded, "beta");
    assert_eq!(loaded.acknowledged(), held);
    assert!(!look::has_event(&loaded.cluster, "beta", "promoting", mark));
    arbiter.bring_back();
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
    let arbiter = Away::take(&guest);
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
    arbiter.bring_back();
    for host in ["alpha", "beta"] {
        guest.cluster.wait_gone(host, &guest.vm).expect("the VM ends");
    }
    assert!(!look::has_event(&guest.cluster, "beta", "promoting", marks[1]));
    guest.cluster.start_vm("beta", &guest.file).expect("it was stopped cleanly, and starts anywhere");
}
