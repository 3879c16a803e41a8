//! The journal in daily use: group commit, reuse of its place, being full, being used wrongly.

use crate::model::{TERM, Write, apply_durable, changes, identity, images, layout, make_images};
use crate::storage::FaultyStorage;
use disk::journal::{Journal, JournalError, Layout, Step, load_stamp, save_stamp};
use protocol::journal::Stamp;
use protocol::journal::stamp::Content;
use protocol::{Change, Epoch, Session, Term, VmId, What};
use std::sync::Arc;

fn begun() -> (Arc<FaultyStorage>, Journal<FaultyStorage>) {
    let storage = Arc::new(FaultyStorage::default());
    make_images(&storage);
    let journal = Journal::create(Arc::clone(&storage), layout(), identity(), TERM, Epoch(0)).unwrap();
    (storage, journal)
}

fn write(byte: u8) -> Write {
    Write::Data(0, 1024, vec![byte; 700])
}

#[test]
fn one_sync_makes_all_sealed_epochs_durable() {
    let (storage, mut journal) = begun();
    for number in 1..=3 {
        journal.append(TERM, Epoch(number), &changes(&[write(number as u8)])).unwrap();
        journal.seal(TERM, Epoch(number)).unwrap();
    }
    assert!(journal.replay().unwrap().is_none(), "nothing is durable");
    let before = storage.operations();
    assert_eq!(journal.sync().unwrap(), Epoch(3));
    assert_eq!(storage.operations() - before, 1);
    let mut replay = journal.replay().unwrap().unwrap();
    for number in 1..=3 {
        let writes = [write(number as u8)];
        let change = Step::Change(Epoch(number), writes[0].change());
        assert_eq!(replay.step().unwrap(), Some(change));
        assert_eq!(replay.step().unwrap(), Some(Step::Commit(Epoch(number))));
    }
    assert_eq!(replay.step().unwrap(), None);
}

#[test]
fn place_is_reused_for_ever_and_only_after_the_mark() {
    let (storage, mut journal) = begun();
    let mut fulls = 0;
    for number in 1..500 {
        let epoch = Epoch(number);
        let writes = [write(number as u8), write(1)];
        if let Err(error) = journal.append(TERM, epoch, &changes(&writes)) {
            assert!(matches!(error, JournalError::Full { waiting: 1.., .. }), "{error}");
            fulls += 1;
            apply_durable(&storage, &mut journal).unwrap();
            assert_eq!(journal.applied(), Epoch(number - 1));
            journal.append(TERM, epoch, &changes(&writes)).unwrap();
        }
        journal.commit(TERM, epoch).unwrap();
        assert!(journal.used() <= journal.layout().size());
    }
    assert!(fulls > 20, "{fulls}");
    apply_durable(&storage, &mut journal).unwrap();
    assert_eq!(images(&storage)[0][1024..1724], [1; 700]);
}

#[test]
fn an_epoch_that_never_fits_is_refused_whole_and_the_journal_goes_on() {
    let (_, mut journal) = begun();
    journal.append(TERM, Epoch(1), &changes(&[write(1)])).unwrap();
    let huge = vec![7; 70_000];
    let change = Change { disk: 0, offset: 0, what: What::Data(&huge) };
    let full = journal.append(TERM, Epoch(1), &[change]).unwrap_err();
    assert!(matches!(full, JournalError::Full { waiting: 0, .. }), "{full}");
    let long = Change { disk: 0, offset: 9, what: What::Data(&huge[..30_000]) };
    journal.append(TERM, Epoch(1), &[long]).unwrap();
    journal.commit(TERM, Epoch(1)).unwrap();
    let mut replay = journal.replay().unwrap().unwrap();
    let (mut bytes, mut next) = (0, 9);
    while let Some(step) = replay.step().unwrap() {
        if let Step::Change(_, Change { offset, what: What::Data(data), .. }) = step
            && data[0] == 7
        {
            assert_eq!(offset, next, "the pieces follow each other");
            next += data.len() as u64;
            bytes += data.len();
        }
    }
    assert_eq!(bytes, 30_000);
}

#[test]
fn wrong_use_is_refused_and_changes_nothing() {
    let (_, mut journal) = begun();
    journal.append(TERM, Epoch(2), &changes(&[write(1)])).unwrap();
    for (term, epoch) in [(TERM, 3), (TERM, 1), (Term(2), 2)] {
        let error = journal.append(term, Epoch(epoch), &changes(&[write(1)])).unwrap_err();
        assert!(matches!(error, JournalError::Order { .. }), "{error}");
    }
    assert!(matches!(journal.mark_applied(Epoch(2)), Err(JournalError::NotDurable { .. })));
    for what in [What::Zeroes(0), What::Discard(u64::MAX)] {
        let error = journal.append(TERM, Epoch(2), &[Change { disk: 0, offset: 1, what }]).unwrap_err();
        assert!(matches!(error, JournalError::Range { .. }), "{error}");
    }
    journal.commit(TERM, Epoch(2)).unwrap();
    assert!(matches!(journal.commit(TERM, Epoch(2)), Err(JournalError::Order { .. })));
    journal.commit(TERM, Epoch(3)).unwrap();
    assert_eq!(journal.durable(), Epoch(3));
}

#[test]
fn a_failed_write_or_sync_ends_the_journal() {
    for operations in [0, 1] {
        let (storage, mut journal) = begun();
        journal.append(TERM, Epoch(1), &changes(&[write(1)])).unwrap();
        storage.fail_after(operations);
        assert!(matches!(journal.commit(TERM, Epoch(1)), Err(JournalError::Io { .. })));
        storage.restart();
        assert!(matches!(journal.sync(), Err(JournalError::Failed)));
        assert!(matches!(journal.seal(TERM, Epoch(2)), Err(JournalError::Failed)));
    }
}

#[test]
fn a_change_for_a_disk_that_is_not_there_is_named() {
    let (storage, mut journal) = begun();
    journal.append(TERM, Epoch(1), &changes(&[Write::Zeroes(9, 0, 1)])).unwrap();
    journal.commit(TERM, Epoch(1)).unwrap();
    let error = apply_durable(&storage, &mut journal).unwrap_err().to_string();
    assert!(error.contains("disk 9, but only 2 disks"), "{error}");
}

#[test]
fn layouts_keep_their_limit() {
    for limit in [200_000, 1 << 20, (1 << 30) + 5] {
        assert!(Layout::within(limit).unwrap().size() + 8192 <= limit);
    }
    assert!(matches!(Layout::within(100_000), Err(JournalError::Size { .. })));
    assert!(matches!(Layout::new(1, 1 << 20), Err(JournalError::Size { .. })));
}

#[test]
fn a_stamp_is_the_old_or_the_new_one_after_a_crash_at_any_operation() {
    use crate::storage::Dice;
    let stamp = |epoch| {
        let (vm, term, session) = (VmId(5), Term(1), Session(2));
        Stamp { vm, term, session, epoch: Epoch(epoch), content: Content::Epoch }
    };
    for at in 0..8 {
        for seed in 1..30 {
            let storage = FaultyStorage::default();
            assert_eq!(load_stamp(&storage, "stamp", VmId(5)).unwrap(), None);
            save_stamp(&storage, "stamp", &stamp(1)).unwrap();
            storage.fail_after(at);
            let saved = save_stamp(&storage, "stamp", &stamp(2)).is_ok();
            storage.lose_power(&mut Dice(seed * 1009));
            let found = load_stamp(&storage, "stamp", VmId(5)).unwrap();
            assert!(found == Some(stamp(2)) || (!saved && found == Some(stamp(1))), "{at} {seed} {found:?}");
        }
    }
}
