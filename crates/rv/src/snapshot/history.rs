//! Owns going back and forth between snapshots of one run, in memory: only pages that differ are touched.

use super::{Snapshot, SnapshotError, state::State};
use crate::dirty::PAGE;
use crate::machine::Machine;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

const ZEROS: [u8; PAGE] = [0; PAGE];

/// Snapshots of a run, in the run's order, and at which of them the machine was last.
#[derive(Debug)]
pub struct History {
    snapshots: Vec<Snapshot>,
    /// Pages that are dirty are so since this one.
    at: usize,
}

impl History {
    /// Begins with a whole snapshot of the machine: number 0.
    pub fn begin(machine: &mut Machine) -> History {
        History { snapshots: alloc::vec![machine.save()], at: 0 }
    }

    /// How many snapshots there are.
    #[expect(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        self.snapshots.len()
    }

    /// Bytes that it holds, about.
    pub fn bytes(&self) -> usize {
        self.snapshots.iter().map(|snapshot| snapshot.data.len() + snapshot.state.len()).sum()
    }

    /// The number of the snapshot at which the machine was last.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Takes one more snapshot, behind the one at which the machine was last, and gives its number; those behind it
    /// have higher numbers from now on. A machine that began anew, at a reboot, begins here with a whole one.
    ///
    /// # Errors
    /// The machine took snapshots for somebody else.
    pub fn keep(&mut self, machine: &mut Machine) -> Result<usize, SnapshotError> {
        let snapshot = match machine.saved {
            None => machine.save(),
            Some(id) if id == self.snapshots[self.at].id => machine.save_changes(),
            Some(_) => return Err(SnapshotError::NotNext),
        };
        self.at += 1;
        self.snapshots.insert(self.at, snapshot);
        Ok(self.at)
    }

    /// Brings the machine to a snapshot.
    ///
    /// # Errors
    /// There is none of this number, or the machine took snapshots for somebody else.
    pub fn go(&mut self, machine: &mut Machine, number: usize) -> Result<(), SnapshotError> {
        let target = self.snapshots.get(number).ok_or(SnapshotError::NotNext)?;
        let (from, to) = (self.at.min(number), self.at.max(number));
        let between = &self.snapshots[from + 1..=to];
        let known = machine.saved == Some(self.snapshots[self.at].id);
        let whole = !known || between.iter().any(|snapshot| snapshot.base.is_none());
        // A machine that began anew, and was not kept yet, has nothing in common with any of them.
        if (!known && machine.saved.is_some()) || machine.ram.len() as u64 != target.ram {
            return Err(SnapshotError::NotNext);
        }
        let pages: BTreeSet<u32> = match whole {
            true => (0..machine.ram.len().div_ceil(PAGE) as u32).collect(),
            false => {
                let changed = between.iter().flat_map(|snapshot| snapshot.pages.iter().copied());
                changed.chain(machine.dirty.pages()).collect()
            }
        };
        machine.take_state(State::decode(&target.state)?, target.id);
        for page in pages {
            machine.put_page(page, self.page(number, page));
        }
        self.at = number;
        Ok(())
    }

    /// Forgets a snapshot that is neither the first nor the one at which the machine was last; those behind it have lower
    /// numbers from now on. Whether there was one to forget.
    pub fn forget(&mut self, number: usize) -> bool {
        if number == 0 || number == self.at || number >= self.snapshots.len() {
            return false;
        }
        let gone = self.snapshots.remove(number);
        if self.at > number {
            self.at -= 1;
        }
        match self.snapshots.get_mut(number) {
            // What changed up to the one that is gone changed up to the next.
            Some(next) if next.base.is_some() => *next = gone.overlaid(next),
            _ => {}
        }
        true
    }

    /// The instruction count of a snapshot.
    pub fn instructions(&self, number: usize) -> Option<u64> {
        self.snapshots.get(number).map(Snapshot::instructions)
    }

    /// What a page was at a snapshot.
    fn page(&self, number: usize, page: u32) -> &[u8] {
        for snapshot in self.snapshots[..=number].iter().rev() {
            if let Some(bytes) = snapshot.page(page) {
                return bytes;
            }
            if snapshot.base.is_none() {
                break;
            }
        }
        &ZEROS
    }
}
