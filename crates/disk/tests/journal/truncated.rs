//! Power loss at every single byte of the log.

use crate::model::{TERM, Write, after, blank, changes, identity, images, layout, make_images, recovered};
use crate::storage::{Dice, FaultyStorage};
use disk::journal::{Journal, Storage};
use protocol::Epoch;
use std::collections::BTreeMap;
use std::sync::Arc;

const SEGMENTS: [&str; 3] = ["segment-000", "segment-001", "segment-002"];

fn log(storage: &FaultyStorage) -> Vec<u8> {
    SEGMENTS.iter().flat_map(|name| storage.content(name)).collect()
}

fn end(log: &[u8]) -> usize {
    log.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1)
}

#[test]
fn whatever_byte_is_the_last_one_the_disks_are_those_of_an_epoch() {
    let storage = Arc::new(FaultyStorage::default());
    let mut journal = Journal::create(Arc::clone(&storage), layout(), identity(), TERM, Epoch(0)).unwrap();
    let mut dice = Dice(4242);
    let mut history = vec![(Epoch(0), 0, blank())];
    for number in 1..=5 {
        let writes: Vec<_> = (0..3).map(|_| Write::random(&mut dice)).collect();
        let disks = after(&history[history.len() - 1].2, &writes);
        journal.append(TERM, Epoch(number), &changes(&writes)).unwrap();
        journal.commit(TERM, Epoch(number)).unwrap();
        history.push((Epoch(number), end(&log(&storage)), disks));
    }
    let whole = log(&storage);
    let segment_len = whole.len() / SEGMENTS.len();
    for rest in [0_u8, 0x55] {
        for last in 0..=end(&whole) {
            let mut cut = whole.clone();
            cut[last..].fill(rest);
            let mut files = BTreeMap::from([("marks".to_owned(), storage.content("marks"))]);
            for (name, bytes) in SEGMENTS.iter().zip(cut.chunks(segment_len)) {
                files.insert((*name).to_owned(), bytes.to_vec());
            }
            let crashed = Arc::new(FaultyStorage::holding(&files));
            make_images(&crashed);
            let acknowledged = history.iter().rev().find(|(_, end, _)| *end <= last).unwrap().0;
            let found = recovered(&crashed, acknowledged).unwrap_or_else(|e| panic!("{last}: {e}")).durable();
            let (.., disks) = history.iter().find(|(epoch, ..)| *epoch == found).unwrap();
            assert!(found >= acknowledged && images(&crashed) == *disks, "cut at {last}");
        }
    }
    assert!(storage.operations() > 0 && end(&whole) > segment_len, "more than one segment");
}

#[test]
fn a_shorter_or_missing_segment_is_refused() {
    let storage = Arc::new(FaultyStorage::default());
    Journal::create(Arc::clone(&storage), layout(), identity(), TERM, Epoch(0)).unwrap();
    storage.create(SEGMENTS[1], 4096).unwrap();
    let error = recovered(&storage, Epoch(0)).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("different lengths"), "{error}");
    storage.remove(SEGMENTS[2]).unwrap();
    storage.create(SEGMENTS[1], 5 * 4096).unwrap();
    let error = recovered(&storage, Epoch(0)).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("not what the marks say"), "{error}");
}
