//! A primary whose agent stands still and wakes up late: it must not speak.

use crate::kit::capture::Capture;
use crate::kit::{Setup, look, possible, possible_in_qemu};
use qemu::spec::Mac;
use std::time::Duration;

/// Alpha's agent stands still, and its QEMU if `all` of it does, until `longer` after beta has the VM.
fn freezes_and_wakes_up(tag: &'static str, all: bool, longer: Duration) {
    let loaded = Setup::new(tag).start();
    let process = loaded.process("alpha");
    let frozen = if all { process.0 } else { None };
    let mark = look::mark(&loaded.cluster, "alpha");
    let mac = Mac::derived(loaded.vm.as_str(), 0).to_string();
    let mut uplink = Capture::start(&loaded.cluster, "alpha", &mac);
    loaded.progress();
    assert!(uplink.frames(&loaded.cluster) > 0, "the capture sees the guest while it speaks");
    loaded.cluster.lab.freeze("alpha").expect("alpha's agent stands still");
    if let Some(qemu) = frozen {
        qemu.freeze();
    }
    assert_eq!(loaded.runs_at("beta").term, 2);
    assert!(process.is_there(), "the old copy is still there");
    let before = uplink.frames(&loaded.cluster);
    std::thread::sleep(longer);
    loaded.progress();
    if let Some(qemu) = frozen {
        qemu.thaw();
    }
    loaded.cluster.lab.thaw("alpha").expect("it goes on");
    let fenced = look::event(&loaded.cluster, "alpha", "fenced", mark);
    assert_eq!((&fenced.what["owner"], &fenced.what["term"]), (&"beta".into(), &2.into()));
    loaded.cluster.wait_gone("alpha", &loaded.vm).expect("alpha forgets the VM");
    process.wait_gone();
    assert_eq!(uplink.frames(&loaded.cluster), before, "the guest's old copy spoke after its host woke up");
    loaded.progress();
    loaded.protect("beta", "alpha");
    loaded.verdict();
}

#[test]
fn a_frozen_primary_wakes_up_fenced_and_says_nothing() {
    if !possible() {
        return;
    }
    freezes_and_wakes_up("freeze", false, Duration::ZERO);
}

#[test]
fn a_primary_frozen_with_its_vm_wakes_up_fenced_and_says_nothing() {
    if !possible_in_qemu("process of its own") {
        return;
    }
    freezes_and_wakes_up("iceblock", true, Duration::ZERO);
}

/// Longer than every time-out there is, TCP's own among them.
#[test]
#[ignore = "takes more than a minute"]
fn an_agent_frozen_for_more_than_a_minute_wakes_up_fenced_and_says_nothing() {
    if !possible() {
        return;
    }
    freezes_and_wakes_up("winter", false, Duration::from_secs(70));
}

/// As a virtual machine that is paused with everything in it.
#[test]
#[ignore = "takes more than a minute"]
fn a_host_frozen_for_more_than_a_minute_wakes_up_fenced_and_says_nothing() {
    if !possible_in_qemu("process of its own") {
        return;
    }
    freezes_and_wakes_up("iceage", true, Duration::from_secs(70));
}
