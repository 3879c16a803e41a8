//! Disks on storage that the hosts share: handed over when the VM migrates, by one to the other and never both.

use crate::disks::{MIB, assert_sound};
use crate::kit::{Guest, Loaded, Setup, look, possible, possible_in_qemu};
use crate::migrate::{ask, migrates};
use crate::migrate_ends::{destination_dies, source_dies};
use crate::qcow2::assert_whole;
use lab::client::WriterReport;
use lab::cluster::{Cluster, VmFile};
use std::fs::File;
use std::path::PathBuf;

/// The image, where all hosts see it.
fn image(cluster: &Cluster) -> PathBuf {
    cluster.lab.directory().join("shared").join("web.img")
}

/// The same to a VM file.
fn named(cluster: &Cluster) -> String {
    image(cluster).to_str().expect("a plain path").to_owned()
}

/// The image, locked as who writes it locks it; none while somebody has it.
fn locked(cluster: &Cluster) -> Option<File> {
    Some(file(cluster)).filter(|file| file.try_lock().is_ok())
}

fn file(cluster: &Cluster) -> File {
    File::options().read(true).write(true).open(image(cluster)).expect("it is there")
}

fn shared(mut file: VmFile) -> VmFile {
    file.toml.push_str("shared = true\n");
    file
}

/// A Redis that answers no write before it is on its disk, at alpha.
fn boot(setup: Setup) -> Guest {
    let cluster = setup.cluster();
    boot_on(setup, cluster)
}

fn boot_on(setup: Setup, cluster: Cluster) -> Guest {
    cluster.make_disk("alpha", &named(&cluster), MIB).expect("a disk image");
    let file = shared(setup.vm_file().on_disk(&named(&cluster)));
    setup.boot_file_on(cluster, file)
}

/// What clients were told is on the disk with which the VM goes on at `host`: its memory is gone after this.
fn is_on_the_disk(guest: &Guest, host: &str, reports: &[&[WriterReport]]) {
    guest.reboot(host);
    for reports in reports {
        guest.still_holds(reports);
    }
    let disk = guest.status(host).disks.into_iter().next().expect("a disk");
    assert!(disk.shared && disk.served.errors == 0 && disk.copy.is_none(), "{disk:?}");
}

/// Nothing of a migration is left beside the image.
fn stands_alone(guest: &Guest) {
    let directory = image(&guest.cluster).parent().expect("a directory").to_path_buf();
    let names: Vec<_> = std::fs::read_dir(directory)
        .expect("it is there")
        .map(|entry| entry.expect("a name").file_name())
        .collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
fn a_shared_disk_changes_hands_there_and_back() {
    if !possible() {
        return;
    }
    let guest = boot(Setup::new("share"));
    let refused = guest.ask_protect("alpha", "beta").expect_err("an epoch cannot be taken back").to_string();
    assert!(refused.contains("shared storage") && refused.contains("migrated"), "{refused}");

    let loaded = guest.load("there");
    loaded.progress();
    let mark = migrates(&loaded, "alpha", "beta");
    assert!(!look::has_event(&loaded.cluster, "alpha", "disks_copied", mark), "nothing of it was copied");
    let (guest, there) = loaded.verdict_and_reports();
    assert!(locked(&guest.cluster).is_none(), "beta has it");
    is_on_the_disk(&guest, "beta", &[&there]);
    stands_alone(&guest);

    let loaded = guest.load("back");
    loaded.progress();
    migrates(&loaded, "beta", "alpha");
    let (guest, back) = loaded.verdict_and_reports();
    is_on_the_disk(&guest, "alpha", &[&there, &back]);
    guest.stop("alpha");
    assert!(locked(&guest.cluster).is_some(), "nobody has it");
    assert_sound(&image(&guest.cluster), guest.cluster.lab.directory());
    stands_alone(&guest);
}

#[test]
fn a_shared_qcow2_disk_changes_hands_beside_a_disk_that_is_copied() {
    if !possible_in_qemu("disk of this format") {
        return;
    }
    let setup = Setup::new("shareq");
    let cluster = setup.cluster();
    cluster.make_qcow2_disk("alpha", &named(&cluster), MIB).expect("a disk image");
    cluster.make_disk("alpha", "own.img", 16).expect("a second one");
    let mut file = shared(setup.vm_file().on_qcow2_disk(&named(&cluster)));
    file.toml.push_str("[[disk]]\nimage = \"own.img\"\n");
    let loaded = setup.boot_file_on(cluster, file).load("log");
    loaded.progress();
    let mark = migrates(&loaded, "alpha", "beta");
    look::event(&loaded.cluster, "alpha", "disks_copied", mark);
    let (guest, reports) = loaded.verdict_and_reports();
    is_on_the_disk(&guest, "beta", &[&reports]);
    assert!(guest.cluster.disk("beta", "own.img").exists());
    assert_eq!(guest.status("beta").disks.iter().map(|disk| disk.shared).collect::<Vec<_>>(), [true, false]);
    guest.stop("beta");
    assert_whole(&image(&guest.cluster), guest.cluster.lab.directory());
}

#[test]
fn an_image_of_the_same_name_on_storage_of_its_own_is_not_taken_for_the_shared_one() {
    if !possible() {
        return;
    }
    let setup = Setup::new("sharenot");
    let cluster = setup.cluster();
    for host in ["alpha", "beta"] {
        cluster.make_disk(host, "web.img", MIB).expect("a disk image");
    }
    let file = shared(setup.vm_file().on_disk("web.img"));
    let loaded = setup.boot_file_on(cluster, file).load("log");
    let before = std::fs::read(loaded.cluster.disk("beta", "web.img")).expect("an image");
    let mark = ask(&loaded, "alpha", "beta", |_| ());
    let stays = look::event(&loaded.cluster, "alpha", "stays", mark);
    assert!(stays.text.contains("Mount the same storage"), "{}", stays.text);
    loaded.progress();
    assert!(
        std::fs::read(loaded.cluster.disk("beta", "web.img")).expect("an image") == before,
        "it was touched"
    );
    loaded.verdict();
}

/// The VM goes on at alpha in this term, with its disk.
fn has_it_again(loaded: &Loaded, term: u64) {
    let status = loaded.runs_at("alpha");
    assert_eq!(status.term, term);
    assert!(!status.warnings.iter().any(|text| text.contains("shared disk")), "{:?}", status.warnings);
}

#[test]
fn a_source_that_goes_on_has_its_shared_disk_again() {
    if !possible() {
        return;
    }
    let loaded = destination_dies(Setup::new("shareback"), boot_on);
    has_it_again(&loaded, 2);
    let (guest, reports) = loaded.verdict_and_reports();
    is_on_the_disk(&guest, "alpha", &[&reports]);
}

#[test]
fn a_destination_that_cannot_have_the_disk_gives_the_vm_back() {
    if !possible() {
        return;
    }
    let loaded = boot(Setup::new("sharedecl")).load("log");
    loaded.progress();
    let mark = ask(&loaded, "alpha", "beta", |_| ());
    // Somebody waits for its lock, and has it between the two: a backup program, say.
    let theirs = file(&loaded.cluster);
    theirs.lock().expect("alpha lets go");
    look::event(&loaded.cluster, "beta", "promotion_failed", 0);
    drop(theirs);
    look::event(&loaded.cluster, "alpha", "stays", mark);
    has_it_again(&loaded, 3);
    let (guest, reports) = loaded.verdict_and_reports();
    is_on_the_disk(&guest, "alpha", &[&reports]);
}

#[test]
fn the_source_dies_once_the_disk_was_handed_over() {
    if !possible() {
        return;
    }
    let (guest, reports) = source_dies(Setup::new("sharedies"), boot_on).verdict_and_reports();
    is_on_the_disk(&guest, "beta", &[&reports]);
}
