//! Damage to what was durable, and journals that are not what they should be.

use crate::model::{
    Disks, TERM, Write, after, apply_durable, blank, changes, identity, images, layout, make_images,
    recovered, with_targets,
};
use crate::storage::{Dice, FaultyStorage};
use disk::journal::{Journal, JournalError, Storage, apply};
use protocol::journal::{Identity, Refused};
use protocol::{Epoch, Session};
use std::collections::BTreeMap;
use std::sync::Arc;

fn files(storage: &FaultyStorage) -> BTreeMap<String, Vec<u8>> {
    storage.list().unwrap().into_iter().map(|name| (name.clone(), storage.content(&name))).collect()
}

/// A journal with owed epochs, and the disks after each epoch.
struct Written {
    storage: Arc<FaultyStorage>,
    history: Vec<Disks>,
}

impl Written {
    fn new() -> (Self, Journal<FaultyStorage>) {
        let storage = Arc::new(FaultyStorage::default());
        make_images(&storage);
        let journal = Journal::create(Arc::clone(&storage), layout(), identity(), TERM, Epoch(0)).unwrap();
        (Self { storage, history: vec![blank()] }, journal)
    }

    fn epochs(&mut self, journal: &mut Journal<FaultyStorage>, count: usize) {
        for _ in 0..count {
            let epoch = self.newest();
            let mut dice = Dice(epoch.0 + 99);
            let writes: Vec<_> = (0..3).map(|_| Write::random(&mut dice)).collect();
            self.history.push(after(&self.history[self.history.len() - 1], &writes));
            journal.append(TERM, epoch.next(), &changes(&writes)).unwrap();
            journal.commit(TERM, epoch.next()).unwrap();
        }
    }

    fn newest(&self) -> Epoch {
        Epoch(self.history.len() as u64 - 1)
    }

    /// Lets each byte of the journal rot in turn and judges what recovery makes of it: the right disks, or a
    /// refusal. Without being told what was acknowledged, only rot in the group synced last may end an epoch
    /// early, and the disks are then those of that epoch. Counts: right, early, refused by a witness, refused
    /// because more was acknowledged.
    fn rot_everywhere(&self) -> [u32; 4] {
        let (files, newest) = (files(&self.storage), self.newest().0);
        let mut outcomes = [0; 4];
        for (name, bytes) in files.iter().filter(|(name, _)| !name.starts_with("image")) {
            for at in (0..bytes.len()).filter(|&at| at % 512 < 120 || (bytes[at] != 0 && at % 7 == 0)) {
                for required in [newest, 0] {
                    let rotten = Arc::new(FaultyStorage::holding(&files));
                    rotten.rot(name, at, (at % 8) as u8);
                    match recovered(&rotten, Epoch(required)) {
                        Ok(journal) => {
                            let found = journal.durable().0;
                            assert_eq!(images(&rotten), self.history[found as usize], "{name} {at}");
                            assert!(found == newest || found == newest - 1 && required == 0, "{name} {at}");
                            outcomes[usize::from(found != newest)] += 1;
                        }
                        Err(JournalError::Refused { why: Refused::Lost, .. }) => outcomes[2] += 1,
                        Err(JournalError::Refused { why: Refused::TooOld, .. }) => outcomes[3] += 1,
                        Err(other) => panic!("{name} {at}: {other}"),
                    }
                }
            }
        }
        outcomes
    }
}

/// Epochs 1 and 2 applied, 3 to 5 owed, each synced on its own.
fn written() -> Written {
    let (mut written, mut journal) = Written::new();
    written.epochs(&mut journal, 2);
    apply_durable(&written.storage, &mut journal).unwrap();
    written.epochs(&mut journal, 3);
    written
}

#[test]
fn rot_anywhere_never_gives_wrong_disks_or_silently_an_old_epoch() {
    let outcomes = written().rot_everywhere();
    assert!(outcomes.iter().all(|&count| count > 0), "{outcomes:?}");
}

#[test]
fn nor_does_it_in_a_later_life_whose_segments_went_round() {
    let (mut written, mut journal) = Written::new();
    for _ in 0..5 {
        written.epochs(&mut journal, 3);
        apply_durable(&written.storage, &mut journal).unwrap();
    }
    written.epochs(&mut journal, 1);
    let mut journal = recovered(&written.storage, written.newest()).unwrap();
    for _ in 0..5 {
        written.epochs(&mut journal, 3);
        apply_durable(&written.storage, &mut journal).unwrap();
    }
    written.epochs(&mut journal, 3);
    let outcomes = written.rot_everywhere();
    assert!(outcomes.iter().all(|&count| count > 0), "{outcomes:?}");
}

/// While the images are being changed a mark vouches for every epoch on its way: none ends early.
#[test]
fn nor_while_epochs_are_being_applied() {
    let (mut written, mut journal) = Written::new();
    written.epochs(&mut journal, 3);
    let mut replay = journal.replay().unwrap().unwrap();
    with_targets(&written.storage, |targets| apply(&mut replay, targets)).unwrap();
    let outcomes = written.rot_everywhere();
    assert!(outcomes[0] > 0 && outcomes[1] == 0 && outcomes[2] > 0, "{outcomes:?}");
}

/// A journal that was just recovered: rot takes its newest mark, and the life before is recovered once more.
#[test]
fn nor_does_it_at_the_beginning_of_a_life() {
    let written = written();
    recovered(&written.storage, Epoch(5)).unwrap();
    let outcomes = written.rot_everywhere();
    assert!(outcomes[0] > 0 && outcomes[1..] == [0; 3], "{outcomes:?}");
}

fn refusal(storage: &Arc<FaultyStorage>, identity: Identity) -> String {
    Journal::open(Arc::clone(storage), identity, Epoch(0)).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn a_journal_of_another_session_and_one_without_marks_are_refused() {
    let storage = written().storage;
    let other = Identity { session: Session(9), ..identity() };
    let error = refusal(&storage, other);
    assert!(error.contains("another VM or session") && error.contains(": marks, foreign marks"), "{error}");
    storage.rot("segment-000", 4096 + 700, 0);
    assert!(refusal(&storage, identity()).contains("segment-000 from byte 4"));
    storage.rot("segment-000", 4096 + 700, 0);
    storage.rot("marks", 50, 0);
    storage.rot("marks", 4096 + 50, 0);
    assert!(refusal(&storage, identity()).contains("marks are damaged"));
    storage.remove("marks").unwrap();
    assert!(refusal(&storage, identity()).contains("create it anew"));
}

#[test]
fn a_storage_that_cannot_be_read_is_named_and_nothing_is_decided() {
    let storage = written().storage;
    for at in 0..40 {
        storage.fail_after(at);
        match Journal::open(Arc::clone(&storage), identity(), Epoch(5)) {
            Ok(opened) => assert_eq!(opened.committed(), Epoch(5)),
            Err(error) => assert!(matches!(error, JournalError::Io { .. }), "{error}"),
        }
        storage.restart();
    }
}
