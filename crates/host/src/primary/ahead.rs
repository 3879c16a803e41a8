//! Owns copying ahead: pages that are copied while the guest still runs, shortly before it is stopped.
//!
//! One short round of live migration's pre-copy before each checkpoint. A page that the guest writes again meanwhile is
//! copied again while it stands still, and the first copy of it is not sent. Whether the round pays depends on the
//! guest, so it is tried where checkpoints are large, and left where most of it was in vain.

use crate::ablation::{Piece, without};
use crate::link::Part;
use crate::ram::GuestRam;
use crate::staging::Pool;
use os::range::Range;

/// Smaller checkpoints gain nothing: their pages are copied in the time that QEMU needs for its devices.
const LARGE: u64 = 512;
/// Longest time without another try, in checkpoints.
const LONGEST_PAUSE: u32 = 256;

/// Whether a round ahead of the next checkpoint is likely to pay.
#[derive(Debug, Default)]
pub struct Policy {
    /// Pages of the last checkpoint.
    last: u64,
    /// Checkpoints until the next try, and after how many the one behind it if that is in vain too.
    pause: u32,
    next_pause: u32,
}

impl Policy {
    /// Whether to try.
    pub fn tries(&self) -> bool {
        self.last >= LARGE && self.pause == 0 && !without(Piece::Ahead)
    }

    /// A checkpoint had so many pages in all; so many were copied ahead, of which so many had to be copied again.
    pub fn learn(&mut self, pages: u64, ahead: u64, again: u64) {
        self.last = pages;
        if ahead == 0 {
            self.pause = self.pause.saturating_sub(1);
        } else if again > ahead / 2 {
            self.next_pause = (self.next_pause * 2).clamp(8, LONGEST_PAUSE);
            self.pause = self.next_pause;
        } else {
            self.next_pause = 0;
        }
    }
}

/// What was copied ahead of a checkpoint.
#[derive(Debug, Default)]
pub struct Ahead {
    /// The address of each page. Their marks were consumed: they are owed if the checkpoint fails.
    pub addresses: Vec<Range>,
    /// The copies, in the same order.
    parts: Vec<Part>,
}

impl Ahead {
    /// Copies the dirty pages, by rising address, as far as there are buffers, of which it leaves one to the checkpoint.
    /// Returns what is left.
    pub fn copy(&mut self, ram: &GuestRam, pool: &Pool, dirty: &[Range]) -> Result<Vec<Range>, String> {
        let mut pages = Vec::new();
        ram.number(dirty, &mut pages);
        let mut left = pages.as_slice();
        while !left.is_empty() && pool.free().len() > 1 {
            let Some(buffer) = pool.try_take() else { break };
            let (now, after) = left.split_at(left.len().min(buffer.pages()));
            self.parts.push(Part::copy(ram, now, buffer).map_err(|error| error.to_string())?);
            self.addresses.extend(ram.addresses(now));
            left = after;
        }
        Ok(ram.addresses(left))
    }

    /// The copies, without those of pages that are dirty again, and how many those are.
    pub fn take(&mut self, dirty: &[Range]) -> (Vec<Part>, u64) {
        let mut addresses = self.addresses.iter();
        let mut newer = dirty.iter().peekable();
        let mut again = 0;
        let take = |mut part: Part| {
            for (at, page) in addresses.by_ref().take(part.copied()).enumerate() {
                while newer.next_if(|range| range.end() <= page.start).is_some() {}
                if newer.peek().is_some_and(|range| range.start <= page.start) {
                    part.leave_out(at);
                    again += 1;
                }
            }
            part
        };
        let parts = self.parts.drain(..).map(take).collect();
        (parts, again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use os::range::PAGE_SIZE;
    use proptest::prelude::*;

    /// So many pages of one block, copied ahead into buffers of four.
    fn copied(pages: &[u64]) -> Ahead {
        let pool = Pool::new(pages.len().div_ceil(4).max(1), 4).unwrap();
        let part = |pages: &[u64]| {
            let numbers: Vec<_> = pages.iter().map(|&page| (0, page)).collect();
            Part::new(&numbers, pool.try_take().unwrap())
        };
        let parts = pages.chunks(4).map(part).collect();
        Ahead {
            addresses: pages.iter().map(|&page| Range::new(page * PAGE_SIZE, PAGE_SIZE)).collect(),
            parts,
        }
    }

    proptest! {
        /// What is dirty again is left out, and nothing else.
        #[test]
        fn exactly_what_was_written_again_is_left_out(
            ahead in prop::collection::btree_set(0u64..60, 0..40),
            again in prop::collection::btree_set(0u64..60, 0..40),
        ) {
            let ahead: Vec<u64> = ahead.into_iter().collect();
            let mut dirty: Vec<_> = again.iter().map(|&page| Range::new(page * PAGE_SIZE, PAGE_SIZE)).collect();
            os::range::normalize(&mut dirty);
            let (parts, count) = copied(&ahead).take(&dirty);
            let sent: Vec<u64> = parts.iter().flat_map(Part::pages).map(|(_, page)| page).collect();
            let wanted: Vec<u64> = ahead.iter().copied().filter(|page| !again.contains(page)).collect();
            prop_assert_eq!(count as usize, ahead.len() - wanted.len());
            prop_assert_eq!(sent, wanted);
        }
    }

    #[test]
    fn small_checkpoints_are_not_copied_ahead() {
        let mut policy = Policy::default();
        assert!(!policy.tries());
        policy.learn(LARGE - 1, 0, 0);
        assert!(!policy.tries());
        policy.learn(LARGE, 0, 0);
        assert!(policy.tries());
    }

    #[test]
    fn what_pays_goes_on_and_what_does_not_is_tried_less_and_less() {
        let mut policy = Policy::default();
        policy.learn(10_000, 0, 0);
        for _ in 0..100 {
            assert!(policy.tries());
            policy.learn(10_000, 9_000, 200);
        }
        let mut tries = 0;
        for _ in 0..2_000 {
            let ahead = if policy.tries() { 9_000 } else { 0 };
            tries += u32::from(ahead > 0);
            policy.learn(10_000, ahead, ahead);
        }
        assert!((10..15).contains(&tries), "{tries} tries in vain");
        while !policy.tries() {
            policy.learn(10_000, 0, 0);
        }
        policy.learn(10_000, 9_000, 200);
        assert!(policy.tries(), "the guest has changed its ways");
    }
}
