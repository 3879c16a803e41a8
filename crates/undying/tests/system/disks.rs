//! VMs with disks: whoever dies, what a client was told is on the disk with which the VM goes on.

use crate::kit::{Guest, Setup, binary, look, possible};
use lab::client::WriterReport;
use lab::cluster::Cluster;
use lab::topology::AGENT;
use std::path::{Path, PathBuf};
use std::process::Command;

pub const IMAGE: &str = "web.img";
pub const MIB: u64 = 192;

/// A Redis that answers no write before it is on its disk, at alpha.
pub fn boot(tag: &'static str) -> Guest {
    boot_of(Setup::new(tag))
}

/// The same with another machine.
pub fn boot_of(setup: Setup) -> Guest {
    let cluster = setup.cluster();
    cluster.make_disk("alpha", IMAGE, MIB).expect("a disk image");
    let file = setup.vm_file().on_disk(IMAGE);
    setup.boot_file_on(cluster, file)
}

/// The file system in a copy of an image is clean once its journal was replayed, as a mount does.
pub fn assert_sound(image: &Path, scratch: &Path) {
    let copy = scratch.join("fsck.img");
    std::fs::copy(image, &copy).expect("a copy");
    let fsck = |how: &str| {
        let output = Command::new("e2fsck").args(["-f", how]).arg(&copy).output().expect("e2fsck runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, said) = fsck("-p");
    assert!(code == Some(0) || code == Some(1), "the file system is damaged: {said}");
    let (code, said) = fsck("-n");
    assert_eq!(code, Some(0), "the file system is damaged: {said}");
}

/// The host of a VM that alpha runs and beta protects dies under load, there and back again: what a client was told is on
/// the disk each time.
pub fn there_and_back(guest: Guest) -> Guest {
    let (guest, first) = guest.survives("first", "alpha", "beta");
    // The guest's memory is gone after this: Redis has what its disk has.
    guest.reboot("beta");
    guest.still_holds(&first);

    // There and back again, with the disk that beta wrote meanwhile.
    guest.cluster.revive("alpha").expect("alpha is back");
    guest.protect("beta", "alpha");
    let (guest, second) = guest.survives("second", "beta", "alpha");
    guest.reboot("alpha");
    guest.still_holds(&first);
    guest.still_holds(&second);
    guest
}

/// Both hosts of a protected VM die, once clients were told something.
pub fn both_hosts_die(guest: Guest) -> (Guest, Vec<WriterReport>) {
    guest.protect("alpha", "beta");
    let loaded = guest.load("log");
    loaded.progress();
    let (guest, reports) = loaded.verdict_and_reports();
    for host in ["alpha", "beta"] {
        guest.cluster.lab.kill_host(host).expect("it dies");
    }
    (guest, reports)
}

/// Both hosts are back without the VM, which alpha owned: either disk has what was answered.
pub fn starts_from_the_newest_and_from_the_older(guest: &Guest, reports: &[WriterReport]) {
    guest.start_again("alpha", false).expect("the newest disk");
    guest.cluster.wait_ready("alpha", &guest.vm).expect("Redis serves");
    guest.still_holds(reports);

    // The older one has everything that was answered as well: its journal is applied first.
    guest.cluster.lab.kill_host("alpha").expect("alpha dies");
    guest.start_again("beta", true).expect("the older disk");
    guest.cluster.wait_ready("beta", &guest.vm).expect("Redis serves");
    guest.still_holds(reports);
}

#[test]
fn what_was_answered_is_on_the_disk_after_the_primary_host_died() {
    if !possible() {
        return;
    }
    let guest = boot("disk");
    guest.protect("alpha", "beta");
    let guest = there_and_back(guest);
    guest.stop("alpha");
    assert_sound(&guest.cluster.disk("alpha", IMAGE), guest.cluster.lab.directory());
}

#[test]
fn both_hosts_die_and_only_the_newest_disk_is_started_from() {
    if !possible() {
        return;
    }
    let (guest, reports) = both_hosts_die(boot("both"));
    for host in ["alpha", "beta"] {
        guest.cluster.revive(host).expect("it is back");
    }
    let error = guest.start_again("beta", false).expect_err("alpha owned it").to_string();
    assert!(error.contains("alpha owned it in term 1") && error.contains("--accept-older-disk"), "{error}");
    starts_from_the_newest_and_from_the_older(&guest, &reports);
    look::assert_no_panic(&guest.cluster);
}

#[test]
fn nothing_that_is_not_this_vms_is_overwritten() {
    if !possible() {
        return;
    }
    let guest = boot("keep");
    let theirs = guest.cluster.disk("beta", IMAGE);
    std::fs::create_dir_all(theirs.parent().expect("a directory")).expect("made");
    std::fs::write(&theirs, [7; 4096]).expect("a file");
    let mark = look::mark(&guest.cluster, "alpha");
    guest.ask_protect("alpha", "beta").expect("accepted");
    let failed = look::event(&guest.cluster, "alpha", "protect_failed", mark);
    assert!(failed.text.contains("not known as a disk of VM web"), "{}", failed.text);
    assert_eq!(std::fs::read(&theirs).expect("still there"), [7; 4096]);
    std::fs::remove_file(&theirs).expect("moved away");
    guest.protect("alpha", "beta");
}

/// Beta's agent in a mount namespace of its own, where what it keeps of VMs has so much room; where that is, for us.
fn beta_with_room(cluster: &Cluster, size: &str) -> PathBuf {
    let image = cluster.disk("beta", IMAGE);
    let state = image.ancestors().nth(2).expect("a state directory").join("vms");
    std::fs::create_dir_all(&state).expect("made");
    cluster.lab.kill("beta", AGENT).expect("the agent ends");
    let script = "mount -t tmpfs -o size=\"$1\" tmpfs \"$2\" && exec \"$3\" host --config \"$4\"";
    let mut agent = Command::new("unshare");
    agent.args(["--mount", "sh", "-c", script, "sh", size]).arg(&state).arg(binary());
    agent.arg(cluster.config("beta"));
    let pid = cluster.lab.start("beta", AGENT, &mut agent).expect("an agent");
    cluster.wait_agent("beta").expect("it answers");
    let inside = state.strip_prefix("/").expect("an absolute path");
    Path::new(&format!("/proc/{pid}/root")).join(inside)
}

#[test]
fn a_backup_without_room_for_its_journal_is_given_up_and_the_vm_goes_on() {
    if !possible() {
        return;
    }
    let loaded = boot("full").load("log");
    beta_with_room(&loaded.cluster, "16m");
    let mark = look::mark(&loaded.cluster, "alpha");
    loaded.ask_protect("alpha", "beta").expect("accepted");
    let refused = look::event(&loaded.cluster, "alpha", "protect_failed", mark);
    assert!(refused.text.contains("left on the file system of this VM's replicas"), "{}", refused.text);
    assert_eq!(loaded.runs_at("alpha").term, 1);

    // There is room when the standby comes, and none any more when its first epoch does.
    let vms = beta_with_room(&loaded.cluster, "300m");
    let marks = ["alpha", "beta"].map(|host| look::mark(&loaded.cluster, host));
    loaded.ask_protect_slowly("alpha", "beta", Some(20 << 20)).expect("accepted");
    look::event(&loaded.cluster, "alpha", "copying", marks[0]);
    std::fs::write(vms.join("filler"), vec![1; 290 << 20]).expect("it fits");
    let told = look::event(&loaded.cluster, "beta", "persist_failed", marks[1]);
    assert!(told.text.contains("No space left"), "{}", told.text);
    let lost = look::event(&loaded.cluster, "alpha", "backup_lost", marks[0]);
    assert!(lost.text.contains("cannot be made durable"), "{}", lost.text);
    loaded.runs_at("alpha");
    loaded.verdict();
}
