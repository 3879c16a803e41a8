//! Owns going back and forth between snapshots of one run, in memory: only pages that differ are touched.

use super::{Snapshot, SnapshotError, State, is_zero};
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

    /// Takes one more snapshot, behind that of number `behind`, and gives its number; those behind it have higher numbers
    /// from now on. The machine came here from where it was last, perhaps past others, but not past the next: what it wrote
    /// since holds all that they changed. A machine that began anew, at a reboot, begins here with a whole one.
    ///
    /// # Errors
    /// The machine was last at one that is later than that, or took snapshots for somebody else.
    pub fn keep(&mut self, machine: &mut Machine, behind: usize) -> Result<usize, SnapshotError> {
        if behind < self.at || behind >= self.snapshots.len() {
            return Err(SnapshotError::NotNext);
        }
        let snapshot = match machine.saved {
            None => machine.save(),
            Some(id) if id == self.snapshots[self.at].id => machine.save_changes(),
            Some(_) => return Err(SnapshotError::NotNext),
        };
        self.at = behind + 1;
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
        let whole = !known || between.iter().any(|snapshot| snapshot.base().is_none());
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
            Some(next) if next.base().is_some() => *next = gone.overlaid(next),
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
            if snapshot.base().is_none() {
                break;
            }
        }
        &ZEROS
    }
}

impl Snapshot {
    /// This one's pages with those of a later one over them, and all else of that one.
    fn overlaid(&self, next: &Snapshot) -> Snapshot {
        let (mut pages, mut data) = (Vec::new(), Vec::new());
        let mut add = |page: u32, bytes: &[u8]| {
            pages.push(page);
            data.extend_from_slice(bytes);
        };
        let mut old = self.each().peekable();
        for (page, bytes) in next.each() {
            while let Some((before, bytes)) = old.next_if(|(before, _)| *before < page) {
                add(before, bytes);
            }
            old.next_if(|(before, _)| *before == page);
            // A whole one leaves out what is zero.
            if self.base().is_some() || !is_zero(bytes) {
                add(page, bytes);
            }
        }
        old.for_each(|(page, bytes)| add(page, bytes));
        Snapshot {
            id: next.id,
            built: if self.base().is_some() { self.built } else { next.built.whole() },
            state: next.state.clone(),
            instructions: next.instructions,
            ram: self.ram,
            pages,
            data,
        }
    }

    /// The page of this number, if it is in here.
    fn page(&self, number: u32) -> Option<&[u8]> {
        let place = self.pages.binary_search(&number).ok()?;
        Some(&self.data[place * PAGE..(place + 1) * PAGE])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::RAM;
    use alloc::vec;

    #[test]
    fn a_history_goes_back_and_forth_and_over_a_reboot() {
        let mut machine = Machine::new(0x8000);
        let write = |machine: &mut Machine, page: u64, value: u8| {
            assert!(machine.put(RAM + page * 0x1000, &[value]));
            machine.x[5] = value.into();
        };
        write(&mut machine, 1, 1);
        let mut history = History::begin(&mut machine);
        let mut hashes = vec![machine.hash()];
        for value in 2..5 {
            write(&mut machine, value.into(), value);
            write(&mut machine, 1, value);
            let behind = history.at();
            assert_eq!(history.keep(&mut machine, behind), Ok(usize::from(value) - 1));
            hashes.push(machine.hash());
        }
        // The guest began anew.
        machine = Machine::new(0x8000);
        write(&mut machine, 6, 9);
        assert_eq!(history.keep(&mut machine, 3), Ok(4));
        hashes.push(machine.hash());
        for number in [3, 4, 0, 2, 1, 4, 4, 3, 2, 3, 0] {
            write(&mut machine, 7, 77);
            write(&mut machine, 1, 78);
            history.go(&mut machine, number).expect("it is there");
            assert_eq!((machine.hash(), history.at()), (hashes[number], number));
        }
        // One more in the middle, and one that is forgotten: the others stay what they are.
        history.go(&mut machine, 1).expect("it is there");
        write(&mut machine, 3, 3);
        assert_eq!(history.keep(&mut machine, 1), Ok(2));
        hashes.insert(2, machine.hash());
        assert!(history.forget(1) && !history.forget(0) && !history.forget(history.at()));
        hashes.remove(1);
        for number in [2, 0, 3, 1, 4, 0] {
            history.go(&mut machine, number).expect("it is there");
            assert_eq!(machine.hash(), hashes[number], "{number}");
        }
        assert_eq!(history.go(&mut machine, 5), Err(SnapshotError::NotNext));
        // It stands at a snapshot that is none of these.
        write(&mut machine, 5, 5);
        machine.save();
        assert_eq!(history.keep(&mut machine, 0), Err(SnapshotError::NotNext));
    }

    #[test]
    fn one_that_is_kept_past_others_lies_behind_them() {
        let mut machine = Machine::new(0x8000);
        let mut history = History::begin(&mut machine);
        // What the guest does, up to a moment: it writes one page each time, and another one twice.
        let run = |machine: &mut Machine, to: u8| {
            for (moment, page) in [1, 2, 3, 1, 4].into_iter().enumerate().take(to.into()) {
                assert!(machine.put(RAM + page * 0x1000, &[moment as u8 + 1]));
                machine.x[5] = moment as u64;
            }
        };
        let mut hashes = vec![machine.hash()];
        for moment in [2, 5] {
            run(&mut machine, moment);
            history.keep(&mut machine, history.at()).expect("kept");
            hashes.push(machine.hash());
        }
        // From the beginning past the first one that was kept.
        history.go(&mut machine, 0).expect("it is there");
        run(&mut machine, 4);
        assert_eq!(history.keep(&mut machine, 1), Ok(2));
        hashes.insert(2, machine.hash());
        for number in [0, 1, 2, 3, 1, 3, 0, 2, 0] {
            history.go(&mut machine, number).expect("it is there");
            assert_eq!(machine.hash(), hashes[number], "{number}");
        }
        assert_eq!(history.keep(&mut machine, 4), Err(SnapshotError::NotNext), "there are four");
        history.go(&mut machine, 2).expect("it is there");
        assert_eq!(history.keep(&mut machine, 1), Err(SnapshotError::NotNext), "it was at a later one");
    }
}
