use super::form::Reading;
use super::reader::read_all;
use super::taker::encode;
use super::*;
use crate::setup::FileId;
use proptest::prelude::*;
use rv::{Machine, RAM};

pub(super) fn setup() -> Setup {
    Setup {
        memory: 1 << 14,
        command_line: "quiet".into(),
        kernel: FileId { path: "/k".into(), length: 5, digest: 6 },
        initrd: None,
        disks: vec![(4096, false), (12, true)],
        cards: Vec::new(),
        seed: vec![1, 2],
        from: None,
        firmware: None,
        terminal: false,
    }
}

/// Whether these bytes can be read.
fn reads(bytes: &[u8]) -> bool {
    Reading::begin(bytes).and_then(read_all).is_ok()
}

/// A whole snapshot and one of changes, as files.
fn files() -> [Vec<u8>; 2] {
    let mut machine = Machine::new(1 << 14);
    assert!(machine.put(RAM, &[1; 5000]));
    let whole = machine.save();
    assert!(machine.put(RAM + 8192, &[2; 9]));
    let changes = machine.save_changes();
    let block = |byte| vec![byte; BLOCK];
    let disks = [Blocks::from([(0, block(1)), (300, block(2))]), Blocks::from([(1, block(3))])];
    let numbers = |disks: &[Blocks; 2]| disks.iter().map(|blocks| blocks.keys().copied().collect()).collect();
    let head = |number, base: Option<&str>, disks: &[Blocks; 2]| Head {
        number,
        setup: setup(),
        base: base.map(str::to_owned),
        before: 7,
        reboots: 1,
        outputs: 9,
        entries: Some(3),
        disks: numbers(disks),
    };
    let later = [Blocks::from([(0, block(4)), (511, block(5))]), Blocks::new()];
    [
        encode(Vec::new(), &head(1, None, &disks), &disks, &whole).unwrap(),
        encode(Vec::new(), &head(2, Some("1"), &later), &later, &changes).unwrap(),
    ]
}

#[test]
fn a_snapshot_is_read_with_those_that_it_is_built_on() {
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name);
    let [whole, changes] = files();
    std::fs::write(place("1"), &whole).unwrap();
    std::fs::write(place("2"), &changes).unwrap();
    for (number, records) in [(2, vec![(0, 0, 8), (0, 7, 9)]), (3, vec![(0, 7, 5), (1, 1, 10)])] {
        let before = before::begin(directory.path(), number).unwrap();
        for (disk, block, byte) in records {
            before::put_down(&before, disk, block, &vec![byte; BLOCK]).unwrap();
        }
        before::put_down(&before, 0, 9, &[5; 100]).unwrap();
    }
    let saved = Saved::load(&place("2")).unwrap();
    assert_eq!((saved.head().before, saved.head().entries, saved.machine.ram()[8192]), (7, Some(3), 2));
    let disks = saved.disks().unwrap();
    let first =
        |blocks: &Blocks| blocks.iter().map(|(&number, bytes)| (number, bytes[0])).collect::<Vec<_>>();
    // What was written, and where nothing was written by then what stood there; the records cut short never happened.
    assert_eq!(first(&disks[0]), [(0, 4), (7, 9), (300, 2), (511, 5)]);
    assert_eq!(first(&disks[1]), [(1, 3)]);
    // Of what stood there nothing may be missing.
    std::fs::remove_file(before::beside(directory.path(), 2)).unwrap();
    assert!(saved.disks().is_err());
    // The one that it is built on is another one, is not there, or is itself.
    for base in [Some(&changes), None] {
        match base {
            Some(bytes) => std::fs::write(place("1"), bytes).unwrap(),
            None => std::fs::remove_file(place("1")).unwrap(),
        }
        assert!(Saved::load(&place("2")).is_err());
    }
}

proptest! {
    #[test]
    fn a_changed_or_cut_snapshot_is_refused(which in 0_usize..2, place in any::<prop::sample::Index>(), bit in 0_u8..8, cut in any::<bool>()) {
        let mut bytes = files()[which].clone();
        prop_assert!(reads(&bytes));
        let place = place.index(bytes.len());
        if cut { bytes.truncate(place) } else { bytes[place] ^= 1 << bit }
        prop_assert!(!reads(&bytes));
    }

    #[test]
    fn no_head_makes_the_reader_panic(place in any::<prop::sample::Index>(), value in any::<u8>(), more in prop::collection::vec(any::<u8>(), 0..90)) {
        let whole = &files()[0];
        let length = u32::from_le_bytes(whole[12..16].try_into().unwrap()) as usize;
        let mut head = whole[24..24 + length].to_vec();
        let place = place.index(length);
        head[place] = value;
        for head in [head, more] {
            let mut bytes = whole[..12].to_vec();
            bytes.extend((head.len() as u32).to_le_bytes());
            bytes.extend(xxhash_rust::xxh3::xxh3_64(&head).to_le_bytes());
            bytes.extend(&head);
            bytes.extend(&whole[24 + length..]);
            reads(&bytes);
        }
    }
}
