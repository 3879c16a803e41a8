//! Owns the frames that were sent and are not known to have come, and which path carried them.

use super::{PathError, Slot};
use alloc::collections::VecDeque;

#[derive(Debug)]
struct Kept<F> {
    size: u64,
    /// None: it came, and was not consumed yet.
    frame: Option<F>,
    /// Bit by bit the paths whose present connection carried it.
    carried: u8,
}

/// What goes out.
#[derive(Debug)]
pub(super) struct Departures<F> {
    kept: VecDeque<Kept<F>>,
    /// Number of the first that is kept: all before it are consumed.
    first: u64,
    /// All before it came.
    received: u64,
    in_flight: u64,
    /// For each path: all before it need not be looked at.
    cursors: [u64; super::MAX_PATHS],
}

impl<F: Clone> Departures<F> {
    pub fn new() -> Self {
        Self { kept: VecDeque::new(), first: 0, received: 0, in_flight: 0, cursors: [0; super::MAX_PATHS] }
    }

    fn end(&self) -> u64 {
        self.first + self.kept.len() as u64
    }

    /// Bytes sent and not consumed.
    pub fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Bytes kept for sending again.
    #[cfg(test)]
    pub fn kept(&self) -> u64 {
        self.kept.iter().filter(|kept| kept.frame.is_some()).map(|kept| kept.size).sum()
    }

    pub fn all_came(&self) -> bool {
        self.received == self.end()
    }

    pub fn push(&mut self, size: u64, frame: F) {
        self.in_flight += size;
        self.kept.push_back(Kept { size, frame: Some(frame), carried: 0 });
    }

    /// Whether more than `bytes` wait for this path.
    pub fn waits_more_than(&self, slot: Slot, bytes: u64) -> bool {
        let from = self.index(self.cursors[slot.number()]);
        let mut waiting = 0;
        for kept in self.kept.range(from..) {
            if kept.frame.is_some() && kept.carried & bit(slot) == 0 {
                waiting += kept.size;
            }
            if waiting > bytes {
                return true;
            }
        }
        false
    }

    fn index(&self, seq: u64) -> usize {
        usize::try_from(seq.saturating_sub(self.first)).unwrap_or(usize::MAX).min(self.kept.len())
    }

    /// The next frame of at most `most` bytes that this path did not carry and that is not known to have come.
    pub fn next(&mut self, slot: Slot, most: u64) -> Option<(u64, F)> {
        let mut at = self.index(self.cursors[slot.number()]);
        let mut found = None;
        while let (None, Some(kept)) = (&found, self.kept.get_mut(at)) {
            at += 1;
            if let Some(frame) =
                kept.frame.as_ref().filter(|_| kept.size <= most && kept.carried & bit(slot) == 0)
            {
                found = Some((kept.size, frame.clone()));
                kept.carried |= bit(slot);
            }
        }
        self.cursors[slot.number()] = self.first + at as u64;
        found
    }

    /// A path shall carry what it left to another one.
    pub fn look_again(&mut self, slot: Slot) {
        self.cursors[slot.number()] = self.first;
    }

    /// A path's connection is over: nothing that it carried is known to have come.
    pub fn forget(&mut self, slot: Slot) {
        self.kept.iter_mut().for_each(|kept| kept.carried &= !bit(slot));
        self.look_again(slot);
    }

    /// All before `received` came, all before `consumed` is done with. True: there is more room.
    pub fn receipt(&mut self, received: u64, consumed: u64) -> Result<bool, PathError> {
        if received > self.end() || consumed > received {
            return Err(PathError::NeverSent);
        }
        while self.received < received {
            let index = self.index(self.received);
            if let Some(kept) = self.kept.get_mut(index) {
                kept.frame = None;
            }
            self.received += 1;
        }
        let mut more = false;
        while self.first < consumed
            && let Some(kept) = self.kept.pop_front()
        {
            self.in_flight -= kept.size;
            self.first += 1;
            more = true;
        }
        Ok(more)
    }
}

fn bit(slot: Slot) -> u8 {
    1 << slot.number()
}
