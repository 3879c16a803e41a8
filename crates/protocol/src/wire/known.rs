//! Owns the versions of pages that the backup is known to have: what a page that is sent again is compared with.
//!
//! Most pages that a guest dirties it dirties in every epoch, and changes little of each (Cully et al., Remus,
//! NSDI'08, section 5.5 found it as well). Policy: every page of a checkpoint is kept; when there is no room, a page
//! goes that was not sent again since the hand of a clock last passed it (Corbató 1968). The first copy is not kept:
//! it is everything once.
//!
//! It is right as long as it holds what was sent in this session, in order: an epoch that the backup throws away ends
//! the session, and a new session knows nothing.

use super::pages::PAGE;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Pages kept of one VM: 64 MiB.
pub const MAX_KNOWN: usize = 16 << 10;

/// A page: its RAM block and its index there.
type Key = (u8, u64);

struct Slot {
    key: Key,
    /// Sent since the hand passed.
    again: bool,
    data: Box<[u8; PAGE]>,
}

/// Versions of pages, within bounds.
pub struct KnownPages {
    max: usize,
    slots: Vec<Slot>,
    index: BTreeMap<Key, usize>,
    hand: usize,
}

impl KnownPages {
    /// None yet, and at most so many.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { max, slots: Vec::new(), index: BTreeMap::new(), hand: 0 }
    }

    /// The version that was sent last, if it is known. It is about to be sent again.
    pub(super) fn version(&mut self, block: u8, page: u64) -> Option<&mut [u8; PAGE]> {
        let slot = &mut self.slots[*self.index.get(&(block, page))?];
        slot.again = true;
        Some(&mut slot.data)
    }

    /// Keeps a page that is not known and is sent now.
    pub(super) fn keep(&mut self, block: u8, page: u64, data: &[u8; PAGE]) {
        let key = (block, page);
        if self.slots.len() < self.max {
            self.index.insert(key, self.slots.len());
            self.slots.push(Slot { key, again: false, data: Box::new(*data) });
        } else if let Some(at) = self.victim() {
            let slot = &mut self.slots[at];
            self.index.remove(&slot.key);
            self.index.insert(key, at);
            (slot.key, slot.again, *slot.data) = (key, false, *data);
        }
    }

    /// Bytes of pages kept.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.slots.len() * PAGE
    }

    fn victim(&mut self) -> Option<usize> {
        let len = self.slots.len();
        // In the second round nothing is marked any more.
        (0..2 * len).find_map(|_| {
            let at = self.hand % len;
            self.hand = (at + 1) % len;
            (!core::mem::take(&mut self.slots[at].again)).then_some(at)
        })
    }
}

impl core::fmt::Debug for KnownPages {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("KnownPages").field("pages", &self.slots.len()).field("max", &self.max).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_is_sent_again_outlives_those_that_are_not() {
        let mut known = KnownPages::new(3);
        for page in 0..3 {
            known.keep(0, page, &[u8::try_from(page).unwrap(); PAGE]);
        }
        for page in 3..20 {
            assert_eq!(known.version(0, 1).map(|data| data[0]), Some(1), "before page {page}");
            known.keep(0, page, &[9; PAGE]);
        }
        assert_eq!(known.version(0, 0), None);
        assert_eq!(known.bytes(), 3 * PAGE);
    }

    #[test]
    fn without_room_nothing_is_kept() {
        let mut known = KnownPages::new(0);
        known.keep(0, 1, &[1; PAGE]);
        assert_eq!(known.version(0, 1), None);
    }
}
