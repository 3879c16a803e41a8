//! Block devices: loop devices of files.

use disk::{Access, Discarded, Extent, Holes, Image, ImageError};
use std::path::{Path, PathBuf};
use std::process::Command;

const SIZE: u64 = 8 << 20;

/// A loop device, until dropped.
struct Loop(PathBuf);

impl Loop {
    /// `None`, said loudly, where none can be made.
    fn new(file: &Path, options: &[&str]) -> Option<Self> {
        let mut losetup = Command::new("losetup");
        match losetup.args(["--find", "--show"]).args(options).arg(file).output() {
            Ok(output) if output.status.success() => {
                Some(Self(String::from_utf8(output.stdout).unwrap().trim().into()))
            }
            other => {
                eprintln!("SKIPPED: no loop device, which needs root and losetup of util-linux: {other:?}");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let outcome = Command::new("losetup").arg("--detach").arg(&self.0).status();
        assert!(outcome.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

fn file(folder: &Path) -> PathBuf {
    let path = folder.join("medium");
    std::fs::File::create(&path).unwrap().set_len(SIZE).unwrap();
    path
}

#[test]
fn a_block_device_is_a_disk() {
    let folder = tempfile::tempdir().unwrap();
    let medium = file(folder.path());
    let Some(device) = Loop::new(&medium, &[]) else { return };
    let image = Image::open(&device.0, Access::ReadWrite).unwrap();
    assert_eq!(image.size(), SIZE);
    assert!(matches!(Image::open(&device.0, Access::ReadWrite), Err(ImageError::InUse { .. })));
    let ones = vec![1; usize::try_from(SIZE).unwrap()];
    image.write_at(0, &ones).unwrap();
    let mut model = ones;
    let mut zero = |start: u64, len: u64| {
        model[usize::try_from(start).unwrap()..usize::try_from(start + len).unwrap()].fill(0);
    };
    // Whole blocks, and parts of blocks, which the device itself cannot.
    for (start, len, holes) in [
        (0, 1 << 20, Holes::Allowed),
        (2 << 20, 1 << 20, Holes::Forbidden),
        ((4 << 20) + 3, 1000, Holes::Allowed),
        ((5 << 20) + 100, 300_000, Holes::Forbidden),
    ] {
        image.write_zeroes_at(start, len, holes).unwrap();
        zero(start, len);
    }
    if image.discard_at(6 << 20, 1 << 20).unwrap() == Discarded::Zeroed {
        zero(6 << 20, 1 << 20);
    }
    assert_eq!(image.discard_at((7 << 20) + 1, 100).unwrap(), Discarded::Ignored, "not a whole block");
    image.flush().unwrap();
    let mut now = vec![9; model.len()];
    image.read_at(0, &mut now).unwrap();
    assert!(now == model);
    let extents: Vec<Extent> = image.extents(0..SIZE).map(Result::unwrap).collect();
    assert_eq!(extents, [Extent { offset: 0, len: SIZE, hole: false }], "a device cannot tell");
    drop(image);
    drop(device);
    assert!(std::fs::read(&medium).unwrap() == model);
}

#[test]
fn a_read_only_medium_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let Some(device) = Loop::new(&file(folder.path()), &["--read-only"]) else { return };
    let error = Image::open(&device.0, Access::ReadWrite).unwrap_err();
    assert!(matches!(error, ImageError::ReadOnlyMedium { .. }), "{error}");
    assert!(error.to_string().contains("attach it read-only"), "{error}");
    assert_eq!(Image::open(&device.0, Access::ReadOnly).unwrap().size(), SIZE);
}
