//! Planned failovers: there and back again, with the same open connections.

use crate::kit::{Setup, look, possible};
use api::client::Client;

#[test]
fn a_vm_is_moved_there_and_back_under_load() {
    if !possible() {
        return;
    }
    let loaded = Setup::new("plan").start();
    for (from, to) in [("alpha", "beta"), ("beta", "alpha")] {
        let (old, marks) = (loaded.process(from), [from, to].map(|host| look::mark(&loaded.cluster, host)));
        let standby = loaded.process(to);
        loaded.cluster.ask(from, |api| api.failover(&loaded.vm)).expect("the failover is accepted");
        loaded.runs_at(to);
        loaded.cluster.wait_gone(from, &loaded.vm).expect("the old host lets go");
        old.wait_gone();
        assert_eq!(loaded.process(to), standby, "the standby's process goes on: nothing was copied");
        let told = look::event(&loaded.cluster, to, "taking_over", marks[1]);
        assert_eq!(told.what["reason"], "Planned");
        assert!(!look::has_event(&loaded.cluster, from, "backup_lost", marks[0]));
        assert!(!look::has_event(&loaded.cluster, to, "primary_lost", marks[1]));
        loaded.protect(to, from);
        loaded.progress();
    }
    loaded.verdict();
}

#[test]
fn a_planned_failover_needs_a_backup_and_an_arbiter() {
    if !possible() {
        return;
    }
    let guest = Setup::new("noplan").boot();
    let failover = |client: &Client| client.failover(&guest.vm);
    let error = guest.cluster.ask("alpha", failover).expect_err("nobody to hand it to").to_string();
    assert!(error.contains("not protected"), "{error}");
    let loaded = guest.load("log");
    loaded.protect("alpha", "beta");
    let arbiter = loaded.cluster.arbiter();
    let away = arbiter.with_extension("away");
    std::fs::rename(&arbiter, &away).expect("rename");
    let failover = |client: &Client| client.failover(&loaded.vm);
    let error = loaded.cluster.ask("alpha", failover).expect_err("no arbiter").to_string();
    assert!(error.contains("no planned failover now"), "{error}");
    let error = loaded.cluster.ask("beta", failover).expect_err("not the owner").to_string();
    assert!(error.contains("planned failover") || error.contains("stands by"), "{error}");
    std::fs::rename(&away, &arbiter).expect("rename");
    // A refused failover changed nothing.
    assert_eq!(loaded.status("alpha").phase, "protected");
    loaded.verdict();
}
