//! Crashes at any operation, with whatever the storage then loses, again during recovery, and on with the journal.

use crate::model::{
    Disks, TERM, Write, after, apply_durable, blank, changes, identity, images, layout, make_images,
    recovered, with_targets,
};
use crate::storage::{Dice, FaultyStorage};
use disk::journal::{Journal, JournalError, recover};
use proptest::prelude::*;
use protocol::Epoch;
use protocol::journal::Verdict;
use protocol::journal::recovery::TABLE;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A backup's life with its journal, and what an honest observer knows of it.
struct Run {
    storage: Arc<FaultyStorage>,
    dice: Dice,
    /// The disks after each epoch that was sealed, or whose seal was tried.
    history: Vec<(Epoch, Disks)>,
    acknowledged: Epoch,
    /// What the recoveries found, and how often the journal was full.
    labels: BTreeMap<&'static str, u32>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let storage = Arc::new(FaultyStorage::default());
        make_images(&storage);
        let (history, acknowledged) = (vec![(Epoch(0), blank())], Epoch(0));
        Self { storage, dice: Dice(seed | 1), history, acknowledged, labels: BTreeMap::new() }
    }

    fn create(&self) -> Journal<FaultyStorage> {
        Journal::create(Arc::clone(&self.storage), layout(), identity(), TERM, Epoch(0)).unwrap()
    }

    /// Writes until the power is off.
    fn write(&mut self, journal: &mut Journal<FaultyStorage>) -> JournalError {
        loop {
            if let Err(error) = self.epoch(journal) {
                return error;
            }
        }
    }

    fn epoch(&mut self, journal: &mut Journal<FaultyStorage>) -> Result<(), JournalError> {
        let (newest, disks) = self.history.last().cloned().unwrap();
        let epoch = Epoch(newest.0 + 1 + self.dice.below(2));
        let mut all = Vec::new();
        for _ in 0..self.dice.below(3) {
            let writes: Vec<_> = (0..1 + self.dice.below(3)).map(|_| Write::random(&mut self.dice)).collect();
            match journal.append(TERM, epoch, &changes(&writes)) {
                Err(JournalError::Full { .. }) => {
                    *self.labels.entry("full").or_default() += 1;
                    self.sync(journal)?;
                    apply_durable(&self.storage, journal)?;
                    journal.append(TERM, epoch, &changes(&writes))?;
                }
                other => other?,
            }
            all.extend(writes);
        }
        self.history.push((epoch, after(&disks, &all)));
        match journal.seal(TERM, epoch) {
            Err(JournalError::Full { .. }) => {
                self.sync(journal)?;
                apply_durable(&self.storage, journal)?;
                journal.seal(TERM, epoch)?;
            }
            other => other?,
        }
        if self.dice.below(2) == 0 {
            self.sync(journal)?;
        }
        if self.dice.below(3) == 0 {
            apply_durable(&self.storage, journal)?;
        }
        Ok(())
    }

    fn sync(&mut self, journal: &mut Journal<FaultyStorage>) -> Result<(), JournalError> {
        self.acknowledged = journal.sync()?;
        Ok(())
    }

    fn crash(&mut self) {
        if self.dice.below(4) == 0 {
            self.storage.restart();
        } else {
            self.storage.lose_power(&mut self.dice);
        }
    }

    /// Recovers, with crashes within, and judges.
    fn recover(&mut self) -> Result<Journal<FaultyStorage>, String> {
        let required = if self.dice.below(2) == 0 { Epoch(0) } else { self.acknowledged };
        for _ in 0..self.dice.below(3) {
            self.storage.fail_after(self.dice.below(60));
            let outcome = recovered(&self.storage, required);
            self.crash();
            if let Err(refused @ JournalError::Refused { .. }) = outcome {
                return Err(format!("refused without a fault: {refused}"));
            }
        }
        let opened = Journal::open(Arc::clone(&self.storage), identity(), required);
        let opened = opened.map_err(|error| error.to_string())?;
        *self.labels.entry(opened.label()).or_default() += 1;
        let journal = with_targets(&self.storage, |targets| recover(opened, targets));
        let journal = journal.map_err(|error| error.to_string())?;
        let found = journal.durable();
        if found < self.acknowledged {
            return Err(format!("epoch {} was acknowledged, {found} is there", self.acknowledged));
        }
        let at = self.history.iter().position(|(epoch, _)| *epoch == found);
        let at = at.ok_or(format!("epoch {found} was never written"))?;
        if images(&self.storage) != self.history[at].1 {
            return Err(format!("the disks are not those of epoch {found}"));
        }
        self.history.truncate(at + 1);
        self.acknowledged = found;
        Ok(journal)
    }
}

fn run(seed: u64, crashes: usize, lies: bool) -> Result<(), String> {
    run_on(&mut Run::new(seed), crashes, lies)
}

fn run_on(run: &mut Run, crashes: usize, lies: bool) -> Result<(), String> {
    let mut journal = run.create();
    if lies {
        run.storage.let_syncs_lie();
    }
    for _ in 0..crashes {
        run.storage.fail_after(run.dice.below(150));
        let error = run.write(&mut journal);
        if !matches!(error, JournalError::Io { .. } | JournalError::Target { .. }) {
            return Err(format!("not the power: {error}"));
        }
        run.crash();
        journal = run.recover()?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn the_disks_are_those_of_a_committed_epoch_after_any_crash(seed: u64) {
        prop_assert_eq!(run(seed, 6, false), Ok(()));
    }
}

/// The runs reach what they are meant to reach: every row of the recovery table that is no refusal, and a full
/// journal.
#[test]
fn random_runs_reach_every_kind_of_recovery() {
    let mut labels = BTreeMap::new();
    for seed in 1..1500 {
        let mut run = Run::new(seed * 104_729);
        assert_eq!(run_on(&mut run, 6, false), Ok(()), "seed {seed}");
        for (label, count) in run.labels {
            *labels.entry(label).or_insert(0) += count;
        }
    }
    let rows = TABLE.iter().filter(|(.., verdict)| !matches!(verdict, Verdict::Refuse(_)));
    for label in rows.map(|(label, ..)| *label).chain(["full"]) {
        assert!(labels.get(label).is_some_and(|&count| count >= 5), "{label}: {labels:?}");
    }
}

/// A crash at each single operation of one history, and at each of the recovery that follows.
#[test]
fn a_crash_at_every_operation() {
    for at in 0..120 {
        for again in [0, 1, 2, 3, 5, 8, 13, 17, 19, 23, 30] {
            let mut run = Run::new(77);
            let mut journal = run.create();
            run.storage.fail_after(at);
            run.write(&mut journal);
            run.storage.lose_power(&mut Dice(at * 31 + again + 1));
            run.storage.fail_after(again);
            let _ = recovered(&run.storage, run.acknowledged);
            run.storage.lose_power(&mut Dice(at + again * 57 + 1));
            run.recover().map(|_| ()).unwrap();
        }
    }
}

/// The oracle is worth something: it sees epochs that are acknowledged before they are durable.
#[test]
fn a_storage_that_lies_about_syncs_is_seen() {
    let seen = (1..60).filter(|seed| run(seed * 7919, 4, true).is_err()).count();
    assert!(seen > 30, "only {seen} of 59 runs");
}

#[test]
fn a_crash_during_creation_leaves_no_journal_or_an_empty_one() {
    for at in 0..20 {
        for seed in 1..20 {
            let storage = Arc::new(FaultyStorage::default());
            make_images(&storage);
            storage.fail_after(at);
            let made = Journal::create(Arc::clone(&storage), layout(), identity(), TERM, Epoch(4)).is_ok();
            storage.lose_power(&mut Dice(seed * 97));
            match recovered(&storage, Epoch(0)) {
                Ok(journal) => assert_eq!(journal.durable(), Epoch(4)),
                Err(error) => {
                    assert!(!made && error.to_string().contains("create it anew"), "{error}");
                    Journal::create(Arc::clone(&storage), layout(), identity(), TERM, Epoch(4)).unwrap();
                }
            }
        }
    }
}
