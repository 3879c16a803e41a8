//! A primary whose agent stands still and wakes up late: it must not speak.

use crate::kit::capture::Capture;
use crate::kit::{Setup, look, possible};
use qemu::spec::Mac;

#[test]
fn a_frozen_primary_wakes_up_fenced_and_says_nothing() {
    if !possible() {
        return;
    }
    let loaded = Setup::new("freeze").start();
    let qemu = loaded.qemu("alpha");
    let mark = look::mark(&loaded.cluster, "alpha");
    let mac = Mac::derived(loaded.vm.as_str(), 0).to_string();
    let mut uplink = Capture::start(&loaded.cluster, "alpha", &mac);
    loaded.progress();
    assert!(uplink.frames(&loaded.cluster) > 0, "the capture sees the guest while it speaks");
    loaded.cluster.lab.freeze("alpha").expect("alpha's agent stands still");
    assert_eq!(loaded.runs_at("beta").term, 2);
    assert!(qemu.is_alive(), "the old copy is still there, and its guest runs");
    let before = uplink.frames(&loaded.cluster);
    loaded.cluster.lab.thaw("alpha").expect("it goes on");
    let fenced = look::event(&loaded.cluster, "alpha", "fenced", mark);
    assert_eq!((&fenced.what["owner"], &fenced.what["term"]), (&"beta".into(), &2.into()));
    loaded.cluster.wait_gone("alpha", &loaded.vm).expect("alpha forgets the VM");
    qemu.wait_gone();
    assert_eq!(uplink.frames(&loaded.cluster), before, "the guest's old copy spoke after its host woke up");
    loaded.progress();
    loaded.protect("beta", "alpha");
    loaded.verdict();
}
