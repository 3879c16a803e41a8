//! The deterministic machine as a VM like any other: protected, moved, killed with its host, with the tests of QEMU's guests.

use crate::disks::{IMAGE, assert_sound, boot_of, there_and_back};
use crate::kit::{Guest, Setup, look, possible};
use crate::migrate::{arrived, ask};

fn setup(tag: &'static str) -> Setup {
    Setup::new(tag).deterministic()
}

#[test]
fn the_primary_host_of_a_deterministic_machine_dies() {
    if !possible() {
        return;
    }
    let loaded = setup("rvkill").start();
    let status = loaded.status("alpha");
    assert_eq!((status.machine.as_str(), status.pid), ("rv", None), "it has no process of its own");
    let status = loaded.fails_over("alpha", "beta");
    assert_eq!(status.term, 2);
    // There and back: the copy that was made of a promoted one is whole too.
    loaded.cluster.revive("alpha").expect("alpha is back");
    loaded.protect("beta", "alpha");
    loaded.progress();
    loaded.fails_over("beta", "alpha");
    loaded.verdict();
}

#[test]
fn its_disk_has_what_was_answered_after_its_host_died_and_it_rebooted() {
    if !possible() {
        return;
    }
    let guest = boot_of(setup("rvdisk"));
    guest.protect("alpha", "beta");
    let guest = there_and_back(guest);
    guest.stop("alpha");
    assert_sound(&guest.cluster.disk("alpha", IMAGE), guest.cluster.lab.directory());
}

#[test]
fn it_is_moved_by_plan_and_migrated_under_load() {
    if !possible() {
        return;
    }
    let loaded = setup("rvmove").start();
    let mark = look::mark(&loaded.cluster, "beta");
    loaded.cluster.ask("alpha", |api| api.failover(&loaded.vm)).expect("the failover is accepted");
    loaded.runs_at("beta");
    loaded.cluster.wait_gone("alpha", &loaded.vm).expect("the old host lets go");
    assert_eq!(look::event(&loaded.cluster, "beta", "taking_over", mark).what["reason"], "Planned");
    let mark = ask(&loaded, "beta", "alpha", |request| {
        request.limits.max_downtime = protocol::Micros(2_000_000);
    });
    assert_eq!(arrived(&loaded, "beta", "alpha").term, 3);
    let round = look::event(&loaded.cluster, "beta", "migration_round", mark);
    assert!(round.what["round"]["sent"].as_u64() > Some(1_000), "{}", round.what);
    loaded.verdict();
}

#[test]
fn one_that_switches_itself_off_ends_at_both_hosts() {
    if !possible() {
        return;
    }
    let guest: Guest = setup("rvoff").boot();
    guest.protect("alpha", "beta");
    let mark = look::mark(&guest.cluster, "beta");
    guest.pulse(|pulse| pulse.power_off()).expect("the order is sent");
    for host in ["alpha", "beta"] {
        guest.cluster.wait_gone(host, &guest.vm).expect("the VM ends");
    }
    assert!(!look::has_event(&guest.cluster, "beta", "promoting", mark));
}
