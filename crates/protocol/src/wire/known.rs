//! Owns the versions of pages that the backup is known to have: what a page that is sent again is compared with.
//!
//! Most pages that a guest dirties it dirties in every epoch, and changes little of each (Cully et al., Remus,
//! NSDI'08, section 5.5 found it as well). Policy: every page of a checkpoint is kept, and every one that a first copy
//! sends again; when there is no room, a page goes that was not sent again since the hand of a clock last passed it
//! (Corbató 1968). What a first copy sends in its first round is not kept: it is everything once.
//!
//! It is right as long as it holds what was sent in this session, in order: an epoch that the backup throws away ends
//! the session, and a new session knows nothing. A page that is known is never sent past it.

use super::pages::PAGE;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Pages kept of one VM: 64 MiB.
pub const MAX_KNOWN: usize = 16 << 10;
/// Room is made for so many at a time, 1 MiB: page by page each would cost more than packing it.
const CHUNK: usize = 256;

/// A page: its RAM block and its index there.
type Key = (u8, u64);

struct Slot {
    key: Key,
    /// Sent since the hand passed.
    again: bool,
}

/// Versions of pages, within bounds.
pub struct KnownPages {
    max: usize,
    slots: Vec<Slot>,
    /// The versions in the slots, in chunks.
    data: Vec<Box<[[u8; PAGE]]>>,
    index: BTreeMap<Key, usize>,
    hand: usize,
}

impl KnownPages {
    /// None yet, and at most so many.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { max, slots: Vec::new(), data: Vec::new(), index: BTreeMap::new(), hand: 0 }
    }

    /// The version that was sent last, if it is known. It is about to be sent again.
    pub(super) fn version(&mut self, block: u8, page: u64) -> Option<&mut [u8; PAGE]> {
        let at = *self.index.get(&(block, page))?;
        self.slots[at].again = true;
        Some(self.data_of(at))
    }

    fn data_of(&mut self, at: usize) -> &mut [u8; PAGE] {
        &mut self.data[at / CHUNK][at % CHUNK]
    }

    /// Keeps a page that is not known and is sent now.
    pub(super) fn keep(&mut self, block: u8, page: u64, data: &[u8; PAGE]) {
        let key = (block, page);
        let at = self.slots.len();
        if at < self.max {
            if at.is_multiple_of(CHUNK) {
                self.data.push(alloc::vec![[0; PAGE]; CHUNK.min(self.max - at)].into_boxed_slice());
            }
            self.slots.push(Slot { key, again: false });
            self.index.insert(key, at);
            *self.data_of(at) = *data;
        } else if let Some(at) = self.victim() {
            let before = core::mem::replace(&mut self.slots[at], Slot { key, again: false });
            self.index.remove(&before.key);
            self.index.insert(key, at);
            *self.data_of(at) = *data;
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
    fn every_page_has_its_own_place() {
        let mut known = KnownPages::new(2 * CHUNK + 3);
        let byte = |page: u64| (page % 251) as u8;
        for page in 0..600 {
            known.keep(0, page, &[byte(page); PAGE]);
        }
        let kept = (0..600).filter(|&page| known.version(0, page).is_some());
        assert_eq!(kept.count(), 2 * CHUNK + 3);
        assert_eq!(known.bytes(), (2 * CHUNK + 3) * PAGE);
        for page in 0..600 {
            assert!(known.version(0, page).is_none_or(|data| *data == [byte(page); PAGE]), "page {page}");
        }
    }

    #[test]
    fn without_room_nothing_is_kept() {
        let mut known = KnownPages::new(0);
        known.keep(0, 1, &[1; PAGE]);
        assert_eq!(known.version(0, 1), None);
    }
}
