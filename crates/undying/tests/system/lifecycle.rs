//! What operators ask for: unprotect, stop, start again elsewhere.

use crate::kit::process::VmProcess;
use crate::kit::{Setup, look, possible};
use lab::topology::Link;
use std::time::Duration;

#[test]
fn an_unprotected_vm_is_not_taken_over_by_its_old_backup() {
    if !possible() {
        return;
    }
    let loaded = Setup::new("unprot").start();
    let (standby, mark) = (loaded.process("beta"), look::mark(&loaded.cluster, "beta"));
    loaded.cluster.ask("alpha", |api| api.unprotect(&loaded.vm)).expect("accepted");
    assert_eq!(loaded.runs_at("alpha").term, 2);
    loaded.cluster.wait_gone("beta", &loaded.vm).expect("beta throws its copy away");
    standby.wait_gone();
    loaded.cluster.lab.cut_link(Link::Replication("beta")).expect("cut");
    loaded.progress();
    loaded.cluster.lab.heal_link(Link::Replication("beta")).expect("healed");
    loaded.protect("alpha", "beta");
    // The link goes at the same moment: whoever has the next term, only one has it.
    loaded.cluster.ask("alpha", |api| api.unprotect(&loaded.vm)).expect("accepted");
    loaded.cluster.lab.cut_link(Link::Replication("beta")).expect("cut");
    let (winner, _) = loaded.winner();
    assert_eq!(look::owners(&loaded.cluster, &["alpha", "beta"], &loaded.vm), [winner]);
    assert!(winner == "beta" || !look::has_event(&loaded.cluster, "beta", "promoting", mark));
    loaded.verdict();
}

#[test]
fn protection_may_end_at_any_moment_of_a_checkpoint() {
    if !possible() {
        return;
    }
    // Hardly a moment without a checkpoint.
    let loaded = Setup::new("often").interval(Duration::from_millis(2)).start();
    for _ in 0..8 {
        loaded.cluster.ask("alpha", |api| api.unprotect(&loaded.vm)).expect("accepted");
        loaded.runs_at("alpha");
        loaded.cluster.wait_gone("beta", &loaded.vm).expect("beta throws its copy away");
        // While the first copy runs, or its checkpoint is taken.
        loaded.ask_protect("alpha", "beta").expect("accepted");
        let _ended_or_over = loaded.cluster.ask("alpha", |api| api.unprotect(&loaded.vm));
        loaded.runs_at("alpha");
        loaded.cluster.wait_gone("beta", &loaded.vm).expect("beta throws its copy away");
        loaded.protect("alpha", "beta");
    }
    loaded.verdict();
}

#[test]
fn a_stopped_vm_ends_at_both_hosts_and_starts_at_the_other() {
    if !possible() {
        return;
    }
    let guest = Setup::new("stop").start().verdict();
    let processes = ["alpha", "beta"].map(|host| guest.process(host));
    guest.cluster.ask("alpha", |api| api.stop(&guest.vm)).expect("accepted");
    for host in ["alpha", "beta"] {
        guest.cluster.wait_gone(host, &guest.vm).expect("the VM ends");
    }
    processes.into_iter().for_each(VmProcess::wait_gone);
    let status = guest.cluster.start_vm("beta", &guest.file).expect("it starts at the other host");
    assert_eq!(status.term, guest.status("beta").term);
    assert!(guest.status("beta").term > 1, "a new life has a new term");
    guest.cluster.wait_ready("beta", &guest.vm).expect("it serves");
    guest.load("again").verdict();
}

#[test]
fn a_vm_that_runs_is_not_started_a_second_time() {
    if !possible() {
        return;
    }
    let guest = Setup::new("twice").boot();
    let start = |host: &str| guest.cluster.start_vm(host, &guest.file).expect_err("refused").to_string();
    let elsewhere = start("beta");
    assert!(elsewhere.contains("may be running at alpha"), "{elsewhere}");
    assert!(look::status(&guest.cluster, "beta", &guest.vm).is_none());
    let here = start("alpha");
    assert!(here.contains("already at host alpha"), "{here}");
    guest.protect("alpha", "beta");
    let standby = start("beta");
    assert!(standby.contains("already at host beta"), "{standby}");
    let loaded = guest.load("log");
    assert_eq!(loaded.status("alpha").phase, "protected");
    // Its host dies, and so does the other: nobody knows the VM, but the arbiter remembers.
    loaded.fails_over("alpha", "beta");
    let guest = loaded.verdict();
    guest.cluster.revive("alpha").expect("alpha is back");
    let start = guest.cluster.start_vm("alpha", &guest.file).expect_err("refused").to_string();
    assert!(start.contains("may be running at beta"), "{start}");
}
