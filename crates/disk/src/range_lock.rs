//! Owns the order of changes that overlap: each waits for the earlier ones that touch the same bytes.
//!
//! Tickets are given in the order of arrival, and one goes on when no earlier ticket overlaps it. So nobody starves,
//! and since waiting is only ever for earlier tickets there is no deadlock.

use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Locks on ranges of bytes.
#[derive(Debug, Default)]
pub(crate) struct RangeLock {
    queue: Mutex<Queue>,
    left: Condvar,
}

impl RangeLock {
    /// Waits until nobody who came earlier has, or waits for, any byte of `range`. An empty range waits for nobody.
    /// If it has to wait, it calls `before_waiting` first.
    pub(crate) fn lock(&self, range: Range<u64>, before_waiting: impl FnOnce()) -> RangeGuard<'_> {
        let mut queue = self.queue();
        let ticket = queue.enter(range);
        // From here on the place is given back whatever happens.
        let guard = RangeGuard { lock: self, ticket };
        if !queue.may_go(ticket) {
            drop(queue);
            before_waiting();
            queue = self.queue();
        }
        while !queue.may_go(ticket) {
            queue = self.left.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        guard
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing in here panics between two changes of the queue: it is whole even if a thread died with the lock.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A locked range, until dropped.
#[must_use = "the range is free again as soon as this is dropped"]
#[derive(Debug)]
pub(crate) struct RangeGuard<'a> {
    lock: &'a RangeLock,
    ticket: u64,
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        let mut queue = self.lock.queue();
        queue.leave(self.ticket);
        let anyone = !queue.entries.is_empty();
        drop(queue);
        if anyone {
            self.lock.left.notify_all();
        }
    }
}

/// Who holds or waits, in the order of arrival. Short: at most one entry for each thread that serves the disk.
#[derive(Debug, Default)]
struct Queue {
    entries: Vec<(u64, Range<u64>)>,
    next: u64,
}

impl Queue {
    fn enter(&mut self, range: Range<u64>) -> u64 {
        let ticket = self.next;
        self.next += 1;
        self.entries.push((ticket, range));
        ticket
    }

    fn may_go(&self, ticket: u64) -> bool {
        let place = self.place(ticket);
        let (earlier, rest) = self.entries.split_at(place);
        earlier.iter().all(|(_, range)| !overlap(range, &rest[0].1))
    }

    fn leave(&mut self, ticket: u64) {
        let place = self.place(ticket);
        self.entries.remove(place);
    }

    fn place(&self, ticket: u64) -> usize {
        self.entries.binary_search_by_key(&ticket, |(ticket, _)| *ticket).expect("a ticket in the queue")
    }
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start.max(other.start) < one.end.min(other.end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    proptest! {
        /// The model: a board of cells, on each the tickets that want it in their order of arrival. A ticket may go
        /// if it is the first on all of its cells.
        #[test]
        fn it_agrees_with_a_board_of_cells(
            steps in prop::collection::vec((0u64..20, 0u64..6, any::<prop::sample::Index>(), any::<bool>()), 1..80)
        ) {
            let mut queue = Queue::default();
            let mut board = vec![Vec::new(); 30];
            let mut known: Vec<(u64, Range<u64>)> = Vec::new();
            for (start, len, who, enter) in steps {
                if enter || known.is_empty() {
                    let range = start..start + len;
                    let ticket = queue.enter(range.clone());
                    for cell in range.clone() {
                        board[usize::try_from(cell).unwrap()].push(ticket);
                    }
                    known.push((ticket, range));
                } else {
                    let (ticket, _) = known.remove(who.index(known.len()));
                    queue.leave(ticket);
                    board.iter_mut().for_each(|cell| cell.retain(|t| *t != ticket));
                }
                for (ticket, range) in &known {
                    let first = |cell: u64| board[usize::try_from(cell).unwrap()].first() == Some(ticket);
                    prop_assert_eq!(queue.may_go(*ticket), range.clone().all(first));
                }
            }
        }
    }

    #[test]
    fn nobody_shares_a_cell_with_another_thread() {
        let lock = RangeLock::default();
        let cells: Vec<AtomicU32> = (0..16).map(|_| AtomicU32::new(0)).collect();
        let work = |seed: u64| {
            for turn in 0..2000_u64 {
                let mixed = (seed * 7919 + turn * 104_729) >> 2;
                let (start, len) = (mixed % 12, 1 + mixed / 12 % 4);
                let _held = lock.lock(start..start + len, || ());
                let mine = || &cells[usize::try_from(start).unwrap()..usize::try_from(start + len).unwrap()];
                for cell in mine() {
                    assert_eq!(cell.fetch_add(1, Ordering::Relaxed), 0, "two threads hold one cell");
                }
                std::thread::yield_now();
                for cell in mine() {
                    cell.fetch_sub(1, Ordering::Relaxed);
                }
            }
        };
        std::thread::scope(|scope| {
            for seed in 0..4 {
                scope.spawn(move || work(seed));
            }
        });
        assert_eq!(lock.queue().entries, []);
    }

    #[test]
    fn a_thread_that_dies_gives_its_range_back() {
        let lock = RangeLock::default();
        let died = std::thread::scope(|scope| {
            let dies = scope.spawn(|| {
                let _held = lock.lock(0..10, || ());
                panic!("on purpose");
            });
            dies.join().is_err()
        });
        assert!(died);
        drop(lock.lock(5..6, || ()));
    }
}
