//! Repair without hands: whatever is lost, the VM is protected again by itself; it returns to where it should run; hosts are
//! drained. Nobody types `vm protect` twice.

use crate::disks::{IMAGE, MIB};
use crate::kit::{Guest, INTERVAL, Loaded, Setup, binary, look, possible, wait_for};
use api::types::{CopyKind, ProtectRequest, RepairRequest, VmStatus};
use protocol::HostName;
use std::process::{Command, Output};

pub const THREE: &[&str] = &["alpha", "beta", "gamma"];

pub fn host(name: &str) -> HostName {
    HostName::new(name).expect("a name")
}

/// As `vm protect --to …` asks.
pub fn request(to: &[&str], prefer: Option<&str>, settle_ms: u64) -> ProtectRequest {
    let repair = RepairRequest {
        others: to[1..].iter().map(|name| host(name)).collect(),
        on: true,
        prefer: prefer.map(host),
        settle_us: settle_ms * 1_000,
    };
    let interval_us = u64::try_from(INTERVAL.as_micros()).expect("a short time");
    ProtectRequest { repair, ..ProtectRequest::even(host(to[0]), interval_us) }
}

/// Under load at alpha, protected by the first of these.
fn loaded(tag: &'static str, to: &[&str]) -> Loaded {
    let loaded = Setup::new(tag).hosts(THREE).boot().load("log");
    loaded.cluster.protect_as(&loaded.vm, "alpha", &request(to, None, 0)).expect("it is protected");
    loaded.progress();
    loaded
}

/// Waits until the VM runs at `at` and `by` can take over, without being asked to; then its clients get answers.
fn mended(loaded: &Loaded, at: &str, by: &str) -> VmStatus {
    let status = guarded(loaded, at, by);
    loaded.progress();
    status
}

/// Waits until the VM runs at `at` and `by` can take over.
pub fn guarded(guest: &Guest, at: &str, by: &str) -> VmStatus {
    let found = || {
        let seen = look::status(&guest.cluster, at, &guest.vm)?;
        let standby = look::status(&guest.cluster, by, &guest.vm)?;
        let there = seen.phase == "protected" && seen.peer.as_ref() == Some(&host(by));
        (there && standby.phase == "armed").then_some(seen)
    };
    wait_for(&format!("the VM at {at}, protected by {by}"), found, || look::logs(&guest.cluster))
}

/// An operator's command at a host.
pub fn undying(guest: &Guest, at: &str, line: &str) -> Output {
    let mut command = Command::new(binary());
    command.args(line.split_whitespace()).arg("--socket").arg(guest.cluster.socket(at));
    command.output().expect("the command runs")
}

#[test]
fn a_vm_whose_hosts_die_one_after_the_other_is_protected_again_each_time() {
    if !possible() {
        return;
    }
    let loaded = loaded("mend", &["beta", "gamma"]);
    loaded.cluster.lab.kill_host("alpha").expect("the primary dies");
    let status = mended(&loaded, "beta", "gamma");
    let alpha = status.repair.candidates.iter().find(|candidate| candidate.host == host("alpha"));
    assert!(alpha.is_some_and(|alpha| alpha.why.is_some()), "{:?}", status.repair);
    loaded.cluster.revive("alpha").expect("alpha is back");
    loaded.cluster.lab.kill_host("gamma").expect("the backup dies");
    mended(&loaded, "beta", "alpha");
    loaded.cluster.lab.kill_host("beta").expect("the primary dies again");
    loaded.cluster.revive("gamma").expect("gamma is back");
    mended(&loaded, "alpha", "gamma");
    loaded.verdict();
}

#[test]
fn an_operators_unprotect_wins_over_repair() {
    if !possible() {
        return;
    }
    let loaded = loaded("off", &["beta", "gamma"]);
    loaded.cluster.ask("alpha", |api| api.unprotect(&loaded.vm)).expect("it ends");
    loaded.cluster.wait_gone("beta", &loaded.vm).expect("beta lets go");
    assert!(!loaded.runs_at("alpha").repair.on);
    loaded.progress();
    assert_eq!(loaded.status("alpha").phase, "unprotected");
    assert!(look::status(&loaded.cluster, "gamma", &loaded.vm).is_none());
    loaded.verdict();
}

#[test]
fn a_host_that_returns_is_made_alike_by_difference_and_gets_the_vm_back() {
    if !possible() {
        return;
    }
    let setup = Setup::new("back");
    let cluster = setup.cluster();
    cluster.make_disk("alpha", IMAGE, MIB).expect("a disk image");
    let file = setup.vm_file().on_disk(IMAGE);
    let loaded = setup.boot_file_on(cluster, file).load("log");
    let request = request(&["beta"], Some("alpha"), 1_000);
    loaded.cluster.protect_as(&loaded.vm, "alpha", &request).expect("it is protected");
    loaded.progress();
    loaded.cluster.lab.kill_host("alpha").expect("the preferred host dies");
    loaded.runs_at("beta");
    let mark = look::mark(&loaded.cluster, "beta");
    loaded.cluster.revive("alpha").expect("alpha is back");
    let copied = look::event(&loaded.cluster, "beta", "disks_copied", mark);
    let kind: CopyKind = serde_json::from_value(copied.what["kind"].clone()).expect("a kind");
    assert_eq!(kind, CopyKind::Difference, "{}", copied.text);
    look::event(&loaded.cluster, "beta", "moving", mark);
    let status = mended(&loaded, "alpha", "beta");
    assert_eq!(status.repair.prefer, Some(host("alpha")));
    loaded.verdict();
}

#[test]
fn a_host_is_drained_of_a_primary_and_of_a_standby() {
    if !possible() {
        return;
    }
    let loaded = loaded("drain", &["beta", "gamma"]);
    // The standby's host: the primary goes to the other candidate.
    let drained = undying(&loaded, "beta", "host drain --output json");
    assert!(drained.status.success(), "{drained:?}");
    assert!(look::status(&loaded.cluster, "beta", &loaded.vm).is_none());
    mended(&loaded, "alpha", "gamma");
    // The agent dies and comes back: it is still drained, until an operator ends that.
    loaded.cluster.lab.kill_host("beta").expect("beta dies");
    loaded.cluster.revive("beta").expect("beta is back");
    assert!(loaded.cluster.ask("beta", |api| api.host_status()).expect("its status").draining);
    let undrained = undying(&loaded, "beta", "host undrain");
    assert!(undrained.status.success(), "{undrained:?}");
    // The primary's host: the VM moves, and since alpha takes nothing beta protects it.
    let drained = undying(&loaded, "alpha", "host drain");
    assert!(drained.status.success(), "{drained:?}");
    assert!(look::status(&loaded.cluster, "alpha", &loaded.vm).is_none());
    mended(&loaded, "gamma", "beta");
    let refused = loaded.start_again("alpha", false).expect_err("it takes no VMs").to_string();
    assert!(refused.contains("is being drained"), "{refused}");
    loaded.verdict();
}

#[test]
fn a_candidate_that_refuses_is_skipped_and_the_reason_is_shown() {
    if !possible() {
        return;
    }
    let loaded = Setup::new("skip").hosts(THREE).boot().load("log");
    loaded.cluster.ask("beta", |api| api.drain(true)).expect("beta takes nothing");
    let protected = undying(&loaded, "alpha", "vm protect web --to beta --to gamma --interval 25ms");
    assert!(protected.status.success(), "{protected:?}");
    assert_eq!(String::from_utf8_lossy(&protected.stdout), "VM web is protected by host gamma\n");
    mended(&loaded, "alpha", "gamma");
    let status = undying(&loaded, "alpha", "vm status web");
    let text = String::from_utf8_lossy(&status.stdout);
    assert!(text.contains("beta: the backup refused: host beta is being drained"), "{text}");
    // A standby without another place to go to stays, and the command says so.
    let stuck = undying(&loaded, "gamma", "host drain");
    assert_eq!(stuck.status.code(), Some(4), "{stuck:?}");
    assert!(String::from_utf8_lossy(&stuck.stderr).contains("is not drained"), "{stuck:?}");
    mended(&loaded, "alpha", "gamma");
    loaded.verdict();
}
