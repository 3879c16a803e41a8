//! QEMU's qcow2 driver on an export: an image that grows, and one that has no contents yet.

use crate::support::{Fixture, has, outcome, run};
use disk::qcow2::{self, Header};
use disk::{Access, Export, Unobserved};
use std::path::Path;
use std::sync::Arc;

const MIB: u64 = 1 << 20;
const CLUSTER: u64 = 64 << 10;

fn has_qemu() -> bool {
    has("qemu-io", "qemu-utils") && has("qemu-img", "qemu-utils")
}

/// A new qcow2 image, opened as a VM's disk and served.
fn serve(size: u64, options: &str) -> (Fixture, Header) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.raw");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, &text(&path), &size.to_string()]);
    let (image, header) = qcow2::open(&path, Access::ReadWrite).unwrap();
    let export = Export::serve(image, "vda", &folder.path().join("nbd.sock"), Arc::new(Unobserved)).unwrap();
    (Fixture { folder, export: Some(export) }, header)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Runs commands of qemu-io on the disk in the image, through the export.
fn qemu_io(fixture: &Fixture, commands: &[String]) {
    let mut arguments = vec!["-t", "writeback", "-d", "unmap", "--image-opts"];
    arguments.extend(commands.iter().flat_map(|command| ["-c", command.as_str()]));
    let disk = disk(fixture);
    arguments.push(&disk);
    let said = run("qemu-io", &arguments);
    assert!(!said.contains("failed") && !said.contains("error"), "{said}");
}

/// The disk in the image, through the export, as QEMU's tools name it.
fn disk(fixture: &Fixture) -> String {
    format!(
        "driver=qcow2,discard=unmap,file.driver=nbd,file.discard=unmap,file.server.type=unix,file.server.path={},file.export=vda",
        fixture.socket().display()
    )
}

/// Ends the export and lets QEMU check the image as a file.
fn check(fixture: &mut Fixture) {
    fixture.end();
    run("qemu-img", &["check", "-q", "-f", "qcow2", &text(&fixture.image())]);
}

/// Bytes of the file that are used, as its reference counts have it.
fn end_of_image(fixture: &Fixture) -> u64 {
    let said = run("qemu-img", &["check", "-f", "qcow2", "--output=json", &text(&fixture.image())]);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    said["image-end-offset"].as_u64().unwrap()
}

#[test]
fn a_full_image_needs_what_qemu_reckons_and_gets_twice_that() {
    if !has_qemu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    for options in
        ["cluster_size=64k", "cluster_size=512", "cluster_size=2M", "extended_l2=on", "refcount_bits=64"]
    {
        for size in [512, MIB + 512, 1000 * MIB, 10 << 30, (3 << 40) + 1024] {
            let size_text = size.to_string();
            // More clusters than a table may have entries: QEMU makes no such image.
            let made = outcome(
                "qemu-img",
                &["create", "-q", "-f", "qcow2", "-o", options, &text(&path), &size_text],
            );
            if !made.status.success() {
                continue;
            }
            let said = run(
                "qemu-img",
                &["measure", "-O", "qcow2", "-o", options, "--size", &size_text, "--output=json"],
            );
            let said: serde_json::Value = serde_json::from_str(&said).unwrap();
            let (image, header) = qcow2::open(&path, Access::ReadWrite).unwrap();
            assert_eq!(header.virtual_size(), size);
            assert_eq!(image.size(), 2 * said["fully-allocated"].as_u64().unwrap(), "{options} {size}");
        }
    }
}

#[test]
fn an_image_grows_into_its_hole_until_it_is_full() {
    if !has_qemu() {
        return;
    }
    let (mut fixture, header) = serve(64 * MIB, "cluster_size=64k");
    assert_eq!(header.virtual_size(), 64 * MIB);
    qemu_io(&fixture, &["write -P 0xaa 0 32M".into(), "write -P 0xbb 32M 32M".into(), "flush".into()]);
    qemu_io(&fixture, &["read -P 0xaa 0 32M".into(), "read -P 0xbb 32M 32M".into()]);
    assert_eq!(fixture.export().stats().errors, 0);
    check(&mut fixture);
    // Stock QEMU takes it as it is, with its hole at the end.
    run("qemu-io", &["-f", "qcow2", "-c", "read -P 0xbb 32M 32M", &text(&fixture.image())]);
}

/// Why an image gets its hole; and that the end of one is an error to the guest and no damage.
#[test]
fn an_image_without_room_fails_writes_and_stays_whole() {
    if !has_qemu() {
        return;
    }
    let mut fixture = Fixture::new(MIB);
    fixture.end();
    run("qemu-img", &["create", "-q", "-f", "qcow2", &text(&fixture.image()), "64M"]);
    // A new image ends in the middle of a sector.
    std::fs::File::options().write(true).open(fixture.image()).unwrap().set_len(MIB).unwrap();
    fixture.serve_again(Access::ReadWrite);
    let said = outcome("qemu-io", &["-t", "writeback", "--image-opts", "-c", "write 0 32M", &disk(&fixture)]);
    let said = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    assert!(said.contains("write failed"), "{said}");
    assert!(fixture.export().stats().errors > 0);
    fixture.end();
    let said = outcome("qemu-img", &["check", "-f", "qcow2", &text(&fixture.image())]);
    // 3: clusters that nothing uses, and no other fault.
    assert!(matches!(said.status.code(), Some(0 | 3)), "{said:?}");
}

/// Small holes between clusters that are in use: what large writes cannot use lies idle, and the image needs more than
/// a full one.
#[test]
fn a_fragmented_image_has_room() {
    if !has_qemu() {
        return;
    }
    let size = 64 * MIB;
    let (mut fixture, _) = serve(size, "cluster_size=64k");
    let half = size / 2;
    // The clusters of both halves lie side by side in the file.
    let interleaved = (0..half / CLUSTER).flat_map(|at| [at * CLUSTER, half + at * CLUSTER]);
    let mut commands: Vec<_> = interleaved.map(|at| format!("write -q -P 1 {at} {CLUSTER}")).collect();
    // One half goes and comes back in large pieces.
    commands.extend([format!("discard 0 {half}"), "flush".into()]);
    commands.extend((0..half / (2 * MIB)).map(|at| format!("write -q -P 2 {} 2M", at * 2 * MIB)));
    for part in commands.chunks(500) {
        qemu_io(&fixture, part);
    }
    assert_eq!(fixture.export().stats().errors, 0);
    check(&mut fixture);
    let end = end_of_image(&fixture);
    println!("a disk of {size} bytes, fragmented: {end} bytes of image");
    assert!(end > size + size / 4, "it does not show what it should: {end}");
}

#[test]
fn qemu_opens_a_replica_that_has_nothing_but_a_placeholder() {
    if !has_qemu() {
        return;
    }
    for options in
        ["cluster_size=64k", "compat=0.10", "extended_l2=on", "cluster_size=512", "lazy_refcounts=on"]
    {
        let (mut fixture, header) = serve(64 * MIB, options);
        qemu_io(&fixture, &["write -P 7 1M 1M".into()]);
        fixture.end();
        let replica = fixture.folder.path().join("replica");
        let size = std::fs::metadata(fixture.image()).unwrap().len();
        let image = disk::Image::create(&replica, size).unwrap();
        image.write_at(0, &header.placeholder()).unwrap();
        drop(image);
        let said = run("qemu-img", &["info", "-f", "qcow2", "--output=json", &text(&replica)]);
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(said["virtual-size"], 64 * MIB, "{options}");
        run("qemu-io", &["-r", "-f", "qcow2", "-c", "read -P 0 0 64M", &text(&replica)]);
        // Then the contents come.
        std::fs::copy(fixture.image(), &replica).unwrap();
        run("qemu-io", &["-r", "-f", "qcow2", "-c", "read -P 7 1M 1M", &text(&replica)]);
    }
}

#[test]
fn what_is_more_than_one_file_is_refused() {
    if !has_qemu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| text(&folder.path().join(name));
    let create =
        |arguments: &[&str]| run("qemu-img", &[&["create", "-q", "-f", "qcow2"], arguments].concat());
    create(&[&at("base"), "64M"]);
    create(&["-b", &at("base"), "-F", "qcow2", &at("overlay")]);
    create(&["-o", &format!("data_file={}", at("data")), &at("external"), "64M"]);
    create(&[&at("snapshots"), "64M"]);
    run("qemu-img", &["snapshot", "-c", "one", &at("snapshots")]);
    for (name, why) in
        [("overlay", "backing file"), ("external", "external file"), ("snapshots", "1 internal snapshots")]
    {
        let before = std::fs::metadata(at(name)).unwrap().len();
        let error = qcow2::open(Path::new(&at(name)), Access::ReadWrite).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains(name), "{error}");
        assert_eq!(std::fs::metadata(at(name)).unwrap().len(), before, "it is left alone");
    }
}
