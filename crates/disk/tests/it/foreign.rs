//! Clients of other authors: QEMU's own tools, which use the same driver as its guests' disks, and libnbd's.

use crate::support::{Fixture, Random, has, outcome, run};
use disk::Access;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

const MIB: u64 = 1 << 20;

fn has_qemu() -> bool {
    has("qemu-io", "qemu-utils") && has("qemu-img", "qemu-utils")
}

fn has_libnbd() -> bool {
    has("nbdinfo", "libnbd-bin") && has("nbdcopy", "libnbd-bin")
}

fn qemu_io(fixture: &Fixture, commands: &[&str]) -> String {
    let uri = fixture.uri();
    let mut arguments = vec!["-f", "raw"];
    for command in commands {
        arguments.extend(["-c", command]);
    }
    arguments.push(&uri);
    let text = run("qemu-io", &arguments);
    assert!(!text.contains("failed"), "{text}");
    text
}

#[test]
fn qemu_reads_what_it_wrote() {
    if !has_qemu() {
        return;
    }
    let mut fixture = Fixture::new(64 * MIB);
    qemu_io(
        &fixture,
        &[
            "write -P 0xaa 0 1M",
            "write -P 0xbb 512 512",
            "write -f -P 0xcc 33M 4k",
            "flush",
            "write -P 0xdd 40M 20M",
        ],
    );
    // Another process: nothing comes out of its own caches.
    qemu_io(
        &fixture,
        &[
            "read -P 0xaa 0 512",
            "read -P 0xbb 512 512",
            "read -P 0xaa 1k 1023k",
            "read -P 0 1M 32M",
            "read -P 0xcc 33M 4k",
            "read -P 0xdd 40M 20M",
        ],
    );
    let stats = fixture.export().stats();
    assert!(stats.writes >= 4 && stats.syncs >= 2, "{stats:?}");
    let bytes = fixture.bytes();
    assert_eq!((bytes[0], bytes[512], bytes[1024], bytes[33 << 20]), (0xaa, 0xbb, 0xaa, 0xcc));
}

#[test]
fn qemu_writes_zeroes_and_discards() {
    if !has_qemu() {
        return;
    }
    let fixture = Fixture::new(64 * MIB);
    qemu_io(
        &fixture,
        &[
            "write -P 0xaa 0 16M",
            "write -z 1M 1M",
            "write -z -u 3M 1M",
            "write -z 8704 512",
            "discard 8M 4M",
            "read -P 0 1M 1M",
            "read -P 0 3M 1M",
            "read -P 0xaa 8k 512",
            "read -P 0 8704 512",
            "read -P 0xaa 9k 512",
            "read -P 0xaa 2M 1M",
            "read -P 0xaa 12M 4M",
        ],
    );
    let stats = fixture.export().stats();
    assert!(stats.zeroes >= 2 && stats.discards >= 1 && stats.errors == 0, "{stats:?}");
}

#[test]
fn many_requests_of_qemu_are_in_flight() {
    if !has_qemu() {
        return;
    }
    let fixture = Fixture::new(64 * MIB);
    let writes: Vec<String> = (0..64).map(|n| format!("aio_write -P {} {}k 256k", n + 1, n * 256)).collect();
    let reads: Vec<String> = (0..64).map(|n| format!("aio_read -P {} {}k 256k", n + 1, n * 256)).collect();
    for commands in [&writes, &reads] {
        let mut commands: Vec<&str> = commands.iter().map(String::as_str).collect();
        commands.push("aio_flush");
        qemu_io(&fixture, &commands);
    }
    let bench = ["bench", "-f", "raw", "-w", "-c", "2000", "-d", "16", "-s", "4096", "-S", "8192"];
    run("qemu-img", &[&bench[..], &[&fixture.uri()]].concat());
    assert_eq!(fixture.export().stats().errors, 0);
}

#[test]
fn the_map_shows_data_and_holes() {
    if !has_qemu() || !has_libnbd() {
        return;
    }
    let fixture = Fixture::new(64 * MIB);
    qemu_io(&fixture, &["write -P 1 1M 1M", "write -P 2 10M 64k", "discard 1280k 256k"]);
    // Where the data is, in KiB, and how much.
    let expected = [(1024, 256), (1536, 512), (10240, 64)];
    let map = run("qemu-img", &["map", "-f", "raw", "--output=json", &fixture.uri()]);
    let map: serde_json::Value = serde_json::from_str(&map).unwrap();
    let data = map.as_array().unwrap().iter().filter(|part| part["data"] == true);
    let data: Vec<(u64, u64)> = data
        .map(|part| (part["start"].as_u64().unwrap() / 1024, part["length"].as_u64().unwrap() / 1024))
        .collect();
    assert_eq!(data, expected);
    let map = run("nbdinfo", &["--map", "--json", &fixture.uri()]);
    let map: serde_json::Value = serde_json::from_str(&map).unwrap();
    let data = map.as_array().unwrap().iter().filter(|part| part["type"] == 0);
    let data: Vec<(u64, u64)> = data
        .map(|part| (part["offset"].as_u64().unwrap() / 1024, part["length"].as_u64().unwrap() / 1024))
        .collect();
    assert_eq!(data, expected);
}

#[test]
fn libnbd_sees_what_is_offered() {
    if !has_libnbd() {
        return;
    }
    let mut fixture = Fixture::new(64 * MIB);
    let info = |fixture: &Fixture| -> serde_json::Value {
        let text = run("nbdinfo", &["--json", &fixture.uri()]);
        serde_json::from_str(&text).unwrap()
    };
    let offered = info(&fixture);
    assert_eq!(offered["protocol"], "newstyle-fixed");
    assert_eq!(offered["structured"], true);
    let export = &offered["exports"][0];
    assert_eq!(export["export-size"], 64 * MIB);
    assert_eq!(export["contexts"], serde_json::json!(["base:allocation"]));
    for can in ["can_flush", "can_fua", "can_trim", "can_zero", "can_multi_conn", "can_df"] {
        assert_eq!(export[can], true, "{can}");
    }
    assert_eq!((&export["is_read_only"], &export["block_size_minimum"]), (&false.into(), &512.into()));
    let list =
        run("nbdinfo", &["--list", "--json", &format!("nbd+unix://?socket={}", fixture.socket().display())]);
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list["exports"][0]["export-name"], "vda");
    let stranger = format!("nbd+unix:///vdb?socket={}", fixture.socket().display());
    assert!(!outcome("nbdinfo", &[&stranger]).status.success());
    fixture.serve_again(Access::ReadOnly);
    assert_eq!(info(&fixture)["exports"][0]["is_read_only"], true);
}

#[test]
fn a_read_only_disk_is_read_and_not_written() {
    if !has_qemu() {
        return;
    }
    let mut fixture = Fixture::new(MIB);
    qemu_io(&fixture, &["write -P 7 0 1M"]);
    fixture.serve_again(Access::ReadOnly);
    let refused = outcome("qemu-io", &["-f", "raw", "-c", "write -P 8 0 512", &fixture.uri()]);
    assert!(!refused.status.success());
    run("qemu-io", &["-r", "-f", "raw", "-c", "read -P 7 0 1M", &fixture.uri()]);
    assert!(fixture.bytes().iter().all(|byte| *byte == 7));
}

/// A file with data of any length at any place, and holes between.
fn random_sparse_file(path: &Path, size: u64, seed: u64) {
    let mut random = Random(seed);
    let mut file = std::fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    for _ in 0..60 {
        let mut bytes = vec![0; usize::try_from(1 + random.below(300_000)).unwrap()];
        let offset = random.below(size - bytes.len() as u64);
        random.fill(&mut bytes);
        file.seek(SeekFrom::Start(offset)).unwrap();
        file.write_all(&bytes).unwrap();
    }
}

#[test]
fn nbdcopy_brings_a_sparse_file_there_and_back() {
    if !has_libnbd() {
        return;
    }
    let size = 64 * MIB;
    let mut fixture = Fixture::new(size);
    let path = |name: &str| fixture.folder.path().join(name).to_str().unwrap().to_owned();
    let (there, back) = (path("there"), path("back"));
    for seed in [11, 12] {
        // The second time over the first: what became a hole must read as zeroes.
        random_sparse_file(Path::new(&there), size, seed);
        run("nbdcopy", &["--flush", &there, &fixture.uri()]);
        run("nbdcopy", &[&fixture.uri(), &back]);
        assert!(std::fs::read(&there).unwrap() == std::fs::read(&back).unwrap(), "{seed}");
    }
    let stats = fixture.export().stats();
    assert_eq!((stats.errors, stats.broken_connections), (0, 0), "{stats:?}");
    assert!(stats.syncs > 0, "{stats:?}");
    let wanted = std::fs::read(&there).unwrap();
    assert!(fixture.bytes() == wanted);
}

#[test]
fn qcow2_lives_on_the_export() {
    if !has_qemu() {
        return;
    }
    let fixture = Fixture::new(64 * MIB);
    let uri = fixture.uri();
    run("qemu-img", &["create", "-q", "-f", "qcow2", &uri, "48M"]);
    let commands =
        ["-c", "write -P 5 3M 7M", "-c", "write -z 4M 1M", "-c", "read -P 5 5M 5M", "-c", "read -P 0 4M 1M"];
    run("qemu-io", &[&["-f", "qcow2"], &commands[..], &[&uri]].concat());
    let check = run("qemu-img", &["check", "-f", "qcow2", &uri]);
    assert!(check.contains("No errors"), "{check}");
}
