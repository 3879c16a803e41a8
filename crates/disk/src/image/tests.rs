//! An image against a plain array of bytes, and what it refuses.

use super::*;
use proptest::prelude::*;
use std::os::unix::net::UnixListener;

const SIZE: u64 = 1 << 20;

fn fresh() -> (tempfile::TempDir, PathBuf, Image) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let image = Image::create(&path, SIZE).unwrap();
    (folder, path, image)
}

#[derive(Debug, Clone)]
enum Step {
    Write(u64, Vec<u8>),
    Zeroes(u64, u64, bool),
    Discard(u64, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let offset = || prop_oneof![0..SIZE, (0..SIZE / 4096).prop_map(|page| page * 4096)];
    let len = || prop_oneof![0..20_000_u64, (0..8_u64).prop_map(|pages| pages * 4096)];
    prop_oneof![
        (offset(), len(), any::<u8>()).prop_map(|(at, len, byte)| Step::Write(
            at,
            vec![byte; usize::try_from(len.min(SIZE - at)).unwrap()]
        )),
        (offset(), len(), any::<bool>()).prop_map(|(at, len, hole)| Step::Zeroes(
            at,
            len.min(SIZE - at),
            hole
        )),
        (offset(), len()).prop_map(|(at, len)| Step::Discard(at, len.min(SIZE - at))),
    ]
}

fn part(model: &mut [u8], at: u64, len: u64) -> &mut [u8] {
    &mut model[usize::try_from(at).unwrap()..usize::try_from(at + len).unwrap()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn it_holds_what_an_array_would_hold(steps in prop::collection::vec(step(), 1..20)) {
        let (_folder, _, image) = fresh();
        let mut model = vec![0; usize::try_from(SIZE).unwrap()];
        for step in steps {
            match step {
                Step::Write(at, bytes) => {
                    image.write_at(at, &bytes).unwrap();
                    part(&mut model, at, bytes.len() as u64).copy_from_slice(&bytes);
                }
                Step::Zeroes(at, len, hole) => {
                    let holes = if hole { Holes::Allowed } else { Holes::Forbidden };
                    image.write_zeroes_at(at, len, holes).unwrap();
                    part(&mut model, at, len).fill(0);
                }
                Step::Discard(at, len) => {
                    if image.discard_at(at, len).unwrap() == Discarded::Zeroed {
                        part(&mut model, at, len).fill(0);
                    }
                }
            }
        }
        let mut now = vec![1; model.len()];
        image.read_at(0, &mut now).unwrap();
        prop_assert!(now == model);
        let mut end = 0;
        for extent in image.extents(0..SIZE) {
            let extent = extent.unwrap();
            prop_assert_eq!(extent.offset, end, "a gap");
            prop_assert!(!extent.hole || part(&mut model, extent.offset, extent.len).iter().all(|b| *b == 0));
            end += extent.len;
        }
        prop_assert_eq!(end, SIZE);
    }
}

#[test]
fn zeroes_are_written_out_where_there_is_no_other_way() {
    let (_folder, _, image) = fresh();
    let len = 3 * ZEROES as u64 / 2 + 7;
    image.write_at(0, &vec![9; usize::try_from(SIZE).unwrap()]).unwrap();
    image.write_out_zeroes(5, len).unwrap();
    let mut bytes = vec![1; usize::try_from(SIZE).unwrap()];
    image.read_at(0, &mut bytes).unwrap();
    let zero: Vec<u64> = (0..SIZE).filter(|at| bytes[usize::try_from(*at).unwrap()] == 0).collect();
    assert_eq!((zero.first(), zero.last(), zero.len() as u64), (Some(&5), Some(&(4 + len)), len));
}

#[test]
fn it_is_locked_while_open() {
    let (_folder, path, image) = fresh();
    for access in [Access::ReadOnly, Access::ReadWrite] {
        assert!(matches!(Image::open(&path, access), Err(ImageError::InUse { .. })), "{access:?}");
    }
    drop(image);
    let one = Image::open(&path, Access::ReadOnly).unwrap();
    let two = Image::open(&path, Access::ReadOnly).unwrap();
    assert!(matches!(Image::open(&path, Access::ReadWrite), Err(ImageError::InUse { .. })));
    drop((one, two));
    assert_eq!(Image::open(&path, Access::ReadWrite).unwrap().size(), SIZE);
}

#[test]
fn a_copy_of_the_descriptor_does_not_keep_the_lock() {
    let (_folder, path, image) = fresh();
    // As in a child between fork and exec.
    let copy = image.medium.file().try_clone().unwrap();
    drop(image);
    Image::open(&path, Access::ReadWrite).unwrap();
    drop(copy);
}

#[test]
fn nothing_is_overwritten_and_no_half_disk_stays() {
    let (folder, path, image) = fresh();
    image.write_at(0, b"precious").unwrap();
    let error = Image::create(&path, SIZE).unwrap_err();
    assert!(matches!(error, ImageError::Exists { .. }));
    assert!(error.to_string().contains("not overwritten"), "{error}");
    let mut bytes = [0; 8];
    image.read_at(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"precious");
    let huge = folder.path().join("huge");
    let size = u64::try_from(i64::MAX).unwrap() / 512 * 512;
    if let Err(error) = Image::create(&huge, size) {
        assert!(matches!(error, ImageError::Open { action: "set the size of", .. }), "{error}");
        assert!(!huge.exists());
    }
}

#[test]
fn sizes_that_no_disk_has_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for size in [0, 1, 511, 513, u64::MAX / 512 * 512] {
        let path = folder.path().join("d");
        assert!(matches!(Image::create(&path, size), Err(ImageError::Size { .. })), "{size}");
        assert!(!path.exists());
    }
    let path = folder.path().join("odd");
    std::fs::write(&path, [0; 1000]).unwrap();
    assert!(matches!(Image::open(&path, Access::ReadWrite), Err(ImageError::Size { size: 1000, .. })));
}

#[test]
fn what_is_no_disk_is_refused_without_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let pipe = folder.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    for path in [folder.path(), &socket, &pipe, Path::new("/dev/null")] {
        let outcome = Image::open(path, Access::ReadOnly);
        assert!(matches!(outcome, Err(ImageError::Kind { .. })), "{}: {outcome:?}", path.display());
    }
    let absent = Image::open(&folder.path().join("absent"), Access::ReadOnly).unwrap_err();
    assert!(absent.to_string().contains("check its path"), "{absent}");
}

#[test]
fn a_read_only_image_is_not_changed() {
    let (_folder, path, image) = fresh();
    drop(image);
    let image = Image::open(&path, Access::ReadOnly).unwrap();
    let is_refused = |error| matches!(error, ImageError::ReadOnly { .. });
    assert!(is_refused(image.write_at(0, &[1]).unwrap_err()));
    assert!(is_refused(image.write_zeroes_at(0, 512, Holes::Allowed).unwrap_err()));
    assert!(is_refused(image.discard_at(0, 512).unwrap_err()));
    image.flush().unwrap();
}

#[test]
fn what_is_outside_is_refused() {
    let (_folder, _, image) = fresh();
    for (offset, len) in [(SIZE, 1), (SIZE - 1, 2), (u64::MAX, 1), (u64::MAX - 5, 100)] {
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        let is_outside = |error| matches!(error, ImageError::OutOfBounds { .. });
        assert!(is_outside(image.read_at(offset, &mut bytes).unwrap_err()));
        assert!(is_outside(image.write_at(offset, &bytes).unwrap_err()));
        assert!(is_outside(image.write_zeroes_at(offset, len, Holes::Forbidden).unwrap_err()));
        assert!(is_outside(image.discard_at(offset, len).unwrap_err()));
    }
    assert_eq!(image.extents(SIZE..SIZE + 5).count(), 0);
    image.write_zeroes_at(SIZE, 0, Holes::Allowed).unwrap();
}

#[test]
fn a_write_that_the_kernel_refuses_says_how_much_was_written() {
    let (_folder, path, image) = fresh();
    drop(image);
    let file = OpenOptions::new().read(true).open(&path).unwrap();
    // Opened to be read, so that the kernel refuses the write.
    let image = Image::new(&path, file, SIZE, Access::ReadWrite);
    match image.write_at(512, &[1; 512]) {
        Err(ImageError::Write { offset: 512, len: 512, done: 0, source, .. }) => {
            assert_eq!(source.raw_os_error(), Some(Errno::BADF.raw_os_error()));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_failed_flush_is_not_forgotten() {
    let (_folder, _, image) = fresh();
    image.flush().unwrap();
    image.flush_failed.store(true, Ordering::SeqCst);
    let error = image.flush().unwrap_err();
    assert!(error.to_string().contains("an earlier flush failed"), "{error}");
}
