//! The difference map's file: whatever is lost in a power failure, what was written and is not acknowledged is marked.

use crate::storage::{Dice, FaultyStorage};
use disk::differences::DifferenceMap;
use protocol::resync::{Base, DiskOffer, Run};
use protocol::{Epoch, Session, Term, VmId};
use std::collections::BTreeMap;
use std::sync::Arc;

const VM: VmId = VmId(7);
const BLOCK: u64 = 64 << 10;
/// More extents than one sector lists would be too slow here; more blocks than one sector saves are not.
const SIZES: [u64; 2] = [BLOCK * 5_000, BLOCK * 70 + 512];

fn base(session: u64) -> Base {
    Base { term: Term(1), session: Session(session) }
}

fn open(storage: &Arc<FaultyStorage>) -> Result<DifferenceMap<FaultyStorage>, disk::differences::MapError> {
    DifferenceMap::open(Arc::clone(storage), "differences", VM, &SIZES)
}

fn marked(map: &DifferenceMap<FaultyStorage>) -> Vec<Run> {
    match map.offer() {
        DiskOffer::Copies { marked, .. } => marked,
        other => panic!("a map offers copies, not {other:?}"),
    }
}

fn covers(runs: &[Run], disk: u8, block: u64) -> bool {
    let at = block * BLOCK;
    runs.iter().any(|run| run.disk == disk && run.offset <= at && at < run.offset + run.len)
}

/// One life of a host after another, each ended by a power failure; the oracle keeps the blocks that may differ.
fn lives(seed: u64) -> (u32, u32) {
    let mut dice = Dice(seed);
    let storage = Arc::new(FaultyStorage::default());
    drop(DifferenceMap::create(Arc::clone(&storage), "differences", VM, &SIZES, &[base(0)]).unwrap());
    let mut differ: BTreeMap<(u8, u64), Epoch> = BTreeMap::new();
    let (mut read, mut damaged) = (0, 0);
    for life in 1..=6 {
        let map = match open(&storage) {
            Ok(map) => map,
            // A sector torn by the power failure; known as such.
            Err(error) => {
                assert!(error.to_string().contains("damaged"), "{error}");
                damaged += 1;
                return (read, damaged);
            }
        };
        read += 1;
        let runs = marked(&map);
        let missing = differ.keys().find(|&&(disk, block)| !covers(&runs, disk, block));
        assert!(missing.is_none(), "seed {seed}, life {life}: {missing:?} is not marked");
        assert!(!map.status().bases.is_empty());
        storage.fail_after(dice.below(400));
        let mut epoch = Epoch(0);
        if map.begin_session(base(life)).is_err() {
            break;
        }
        differ.values_mut().for_each(|of| *of = Epoch(1));
        for _ in 0..dice.below(120) {
            match dice.below(12) {
                0..8 => {
                    let disk = dice.below(2) as u8;
                    let blocks = SIZES[usize::from(disk)] / BLOCK;
                    let block = dice.below(blocks);
                    let count = (1 + dice.below(100)).min(blocks - block);
                    if map.before_write(disk, block * BLOCK, count * BLOCK).is_err() {
                        break;
                    }
                    differ.extend((block..block + count).map(|at| ((disk, at), epoch.next())));
                }
                8 | 9 => {
                    epoch = epoch.next();
                    map.cut(epoch);
                    if epoch == Epoch(1) && map.propose(base(life)).is_err() {
                        break;
                    }
                }
                10 => {
                    map.acknowledged(epoch);
                    differ.retain(|_, of| *of > epoch);
                }
                _ => drop(map.clean(|| Ok(()))),
            }
        }
        if dice.below(4) == 0 {
            drop(map.close(|| Ok(())));
        }
        // Given up: the file is gone, and with it the base. Everything would be compared.
        if map.status().trouble.is_some() {
            break;
        }
        if dice.below(3) == 0 { storage.restart() } else { storage.lose_power(&mut dice) }
    }
    (read, damaged)
}

#[test]
fn after_every_power_failure_everything_that_may_differ_is_marked() {
    let (mut read, mut damaged) = (0, 0);
    for seed in 1..400 {
        let seen = lives(seed * 0x9e37_79b9);
        (read, damaged) = (read + seen.0, damaged + seen.1);
    }
    assert!(read > 800, "{read} maps were read, {damaged} were damaged");
}

#[test]
fn a_mark_that_is_not_durable_would_be_found() {
    let storage = Arc::new(FaultyStorage::default());
    let map = DifferenceMap::create(Arc::clone(&storage), "differences", VM, &SIZES, &[base(0)]).unwrap();
    storage.let_syncs_lie();
    map.before_write(0, 0, 1).unwrap();
    let lost = (1..200).any(|seed| {
        let mut dice = Dice(seed);
        storage.lose_power(&mut dice);
        open(&storage).is_ok_and(|map| marked(&map).is_empty())
    });
    assert!(lost, "the storage never lost it");
}

#[test]
fn a_write_is_refused_when_it_can_neither_be_marked_nor_the_map_removed() {
    let storage = Arc::new(FaultyStorage::default());
    let map = DifferenceMap::create(Arc::clone(&storage), "differences", VM, &SIZES, &[base(0)]).unwrap();
    storage.fail_after(0);
    let error = map.before_write(0, 0, 1).unwrap_err().to_string();
    assert!(error.contains("cannot remove the difference map"), "{error}");
    storage.restart();
    map.before_write(0, 0, 1).unwrap();
    assert_eq!(map.status().trouble, None, "it works again");
}

#[test]
fn what_is_marked_alone_stays_exact_when_the_map_is_closed() {
    let storage = Arc::new(FaultyStorage::default());
    let map = DifferenceMap::create(Arc::clone(&storage), "differences", VM, &SIZES, &[base(0)]).unwrap();
    map.before_write(0, BLOCK * 100, 4096).unwrap();
    assert_eq!(map.status().activations, 1);
    assert!(map.mark_at_once(0, BLOCK * 101, 4096), "the same extent");
    assert!(!map.mark_at_once(0, BLOCK * 128, 4096), "the next one");
    assert_eq!(map.status().activations, 1);
    drop(map);
    let exact = [Run { disk: 0, offset: BLOCK * 100, len: 2 * BLOCK }];
    let map = open(&storage).unwrap();
    assert_eq!(marked(&map), [Run { disk: 0, offset: BLOCK * 64, len: 64 * BLOCK }], "after a crash");
    drop(map);
    let map = DifferenceMap::create(Arc::clone(&storage), "differences", VM, &SIZES, &[base(0)]).unwrap();
    map.before_write(0, BLOCK * 100, 2 * BLOCK).unwrap();
    map.close(|| Ok(())).unwrap();
    assert_eq!(marked(&open(&storage).unwrap()), exact);
}

#[test]
fn nothing_is_forgotten_when_the_media_cannot_be_synced() {
    let storage = Arc::new(FaultyStorage::default());
    let map = DifferenceMap::create(Arc::clone(&storage), "differences", VM, &SIZES, &[base(0)]).unwrap();
    map.begin_session(base(1)).unwrap();
    map.before_write(0, 0, 1).unwrap();
    map.cut(Epoch(1));
    map.propose(base(1)).unwrap();
    assert!(map.acknowledged(Epoch(1)), "cleaning is due");
    map.clean(|| Err("the disk is broken".into())).unwrap_err();
    assert_eq!(marked(&map).len(), 1);
    map.clean(|| Ok(())).unwrap();
    assert_eq!(marked(&map), []);
    assert_eq!(open(&storage).unwrap().status().bases, [base(1)]);
}
