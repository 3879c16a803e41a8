//! VMs whose disk is a qcow2 image: as with any disk, and the image is whole whoever died.

use crate::disks::{assert_sound, both_hosts_die, starts_from_the_newest_and_from_the_older, there_and_back};
use crate::kit::{Guest, Setup, look, possible_in_qemu};
use api::types::DiskStatus;
use lab::cluster::VmFile;
use qemu::spec::DiskFormat;
use std::path::Path;
use std::process::Command;

const IMAGE: &str = "web.qcow2";
const MIB: u64 = 192;

/// A Redis that answers no write before it is on its disk, at alpha.
fn boot(tag: &'static str) -> Guest {
    let setup = Setup::new(tag);
    let cluster = setup.cluster();
    cluster.make_qcow2_disk("alpha", IMAGE, MIB).expect("a disk image");
    let file = setup.vm_file().on_qcow2_disk(IMAGE);
    setup.boot_file_on(cluster, file)
}

/// What QEMU's tool finds in an image that nobody uses: 0 is nothing, 3 clusters that nothing refers to.
fn check(image: &Path) -> Option<i32> {
    let check = Command::new("qemu-img").args(["check", "-f", "qcow2"]).arg(image).output().expect("it runs");
    println!("{}", String::from_utf8_lossy(&check.stdout));
    check.status.code()
}

/// The VM is stopped at `host`; its image, and the file system in it, have no faults.
fn stop_and_check(guest: &Guest, host: &str) {
    guest.stop(host);
    assert_whole(&guest.cluster.disk(host, IMAGE), guest.cluster.lab.directory());
}

/// An image that nobody uses, and the file system in it, have no faults.
pub fn assert_whole(image: &Path, scratch: &Path) {
    assert_eq!(check(image), Some(0), "the image is damaged");
    let raw = scratch.join("inside.img");
    let mut convert = Command::new("qemu-img");
    let convert = convert.args(["convert", "-f", "qcow2", "-O", "raw"]).args([image, &raw]).status();
    assert!(convert.expect("it runs").success());
    assert_sound(&raw, scratch);
}

fn the_disk(guest: &Guest, host: &str) -> DiskStatus {
    guest.status(host).disks.into_iter().next().expect("a disk")
}

#[test]
fn what_was_answered_is_in_the_image_after_the_primary_host_died() {
    if !possible_in_qemu("disk of this format") {
        return;
    }
    let guest = boot("qcow");
    guest.protect("alpha", "beta");
    for host in ["alpha", "beta"] {
        let disk = the_disk(&guest, host);
        assert_eq!((disk.format, disk.size), (DiskFormat::Qcow2, MIB << 20), "at {host}");
        assert!(disk.image_size.is_some_and(|bytes| bytes > (2 * MIB) << 20), "room to grow: {disk:?}");
    }
    let guest = there_and_back(guest);
    assert_eq!(the_disk(&guest, "alpha").served.errors, 0);
    stop_and_check(&guest, "alpha");
}

#[test]
fn both_images_are_whole_after_both_hosts_died() {
    if !possible_in_qemu("disk of this format") {
        return;
    }
    let (guest, reports) = both_hosts_die(boot("qboth"));
    // A crash may leave clusters that nothing refers to, never one that is used twice or not counted.
    let found = check(&guest.cluster.disk("alpha", IMAGE));
    assert!(matches!(found, Some(0 | 3)), "the image is damaged: {found:?}");
    for host in ["alpha", "beta"] {
        guest.cluster.revive(host).expect("it is back");
    }
    starts_from_the_newest_and_from_the_older(&guest, &reports);
    stop_and_check(&guest, "beta");
    look::assert_no_panic(&guest.cluster);
}

#[test]
fn the_format_is_what_the_vm_file_says_or_the_vm_does_not_start() {
    if !possible_in_qemu("disk of this format") {
        return;
    }
    let setup = Setup::new("qfmt");
    let cluster = setup.cluster();
    let image = cluster.make_qcow2_disk("alpha", IMAGE, MIB).expect("a disk image");
    cluster.make_disk("alpha", "raw.img", MIB).expect("a disk image");
    let overlay = cluster.disk("alpha", "overlay.qcow2");
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]).args([&image, &overlay]);
    assert!(create.status().expect("it runs").success());

    let refused = |file: VmFile| cluster.start_vm("alpha", &file).expect_err("refused").to_string();
    let unsaid = refused(setup.vm_file().on_disk(IMAGE));
    assert!(
        unsaid.contains("begins like a qcow2 image") && unsaid.contains("format = \"qcow2\""),
        "{unsaid}"
    );
    let wrong = refused(setup.vm_file().on_qcow2_disk("raw.img"));
    assert!(wrong.contains("no qcow2 image"), "{wrong}");
    let backed = refused(setup.vm_file().on_qcow2_disk("overlay.qcow2"));
    assert!(backed.contains("backing file") && backed.contains("qemu-img convert"), "{backed}");
    let mut unknown = setup.vm_file().on_disk(IMAGE);
    unknown.toml.push_str("format = \"vmdk\"\n");
    assert!(refused(unknown).contains("expected `raw` or `qcow2`"));
    // None of them left a record, or touched an image that is not its own.
    assert_eq!(check(&image), Some(0));
    let file = setup.vm_file().on_qcow2_disk(IMAGE);
    cluster.start_vm("alpha", &file).expect("it starts");
    cluster.wait_ready("alpha", &file.name).expect("Redis serves");
}
