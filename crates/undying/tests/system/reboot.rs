//! Guests that reboot or switch themselves off while they are protected.

use crate::kit::process::VmProcess;
use crate::kit::{Guest, Setup, look, possible, wait_for};
use arbiter::Arbiter;

/// New clients find an empty Redis that works.
fn serves(guest: Guest, prefix: &str) -> Guest {
    guest.load(prefix).verdict()
}

#[test]
fn a_guest_reboots_while_protected_and_again_after_a_failover() {
    if !possible() {
        return;
    }
    let guest = Setup::new("reboot").boot();
    guest.protect("alpha", "beta");
    let mark = look::mark(&guest.cluster, "alpha");
    guest.reboot("alpha");
    assert!(!look::has_event(&guest.cluster, "alpha", "backup_lost", mark), "a reboot is no failure");
    let loaded = guest.load("second");
    loaded.progress();
    loaded.fails_over("alpha", "beta");
    let guest = loaded.verdict();
    // The standby began without its ROMs: only a guest that boots shows that they were copied.
    guest.reboot("beta");
    let guest = serves(guest, "third");
    guest.cluster.revive("alpha").expect("alpha is back");
    guest.protect("beta", "alpha");
    serves(guest, "fourth");
}

#[test]
fn a_guest_that_switches_itself_off_ends_at_both_hosts_and_is_marked_stopped() {
    if !possible() {
        return;
    }
    let guest = Setup::new("off").boot();
    guest.protect("alpha", "beta");
    let processes = ["alpha", "beta"].map(|host| guest.process(host));
    let mark = look::mark(&guest.cluster, "beta");
    guest.pulse(|pulse| pulse.power_off()).expect("the order is sent");
    for host in ["alpha", "beta"] {
        guest.cluster.wait_gone(host, &guest.vm).expect("the VM ends");
    }
    processes.into_iter().for_each(VmProcess::wait_gone);
    assert!(!look::has_event(&guest.cluster, "beta", "promoting", mark));
    let arbiter = arbiter::directory::DirectoryArbiter::new(&guest.cluster.arbiter());
    let standing = || arbiter.current(&guest.vm).expect("the arbiter answers").expect("the VM has a record");
    wait_for("the mark at the arbiter", || standing().stopped.then_some(()), || format!("{:?}", standing()));
    assert_eq!(standing().record.claim.host.as_str(), "alpha");
    // It may be switched on anywhere.
    guest.cluster.start_vm("beta", &guest.file).expect("it starts at the other host");
    guest.cluster.wait_ready("beta", &guest.vm).expect("it serves");
    assert_eq!(guest.status("beta").term, standing().record.claim.term.0);
    serves(guest, "again");
}
