//! Owns which pages are hot: written in nearly every epoch, so that to watch them costs the guest a fault in each and tells
//! nothing.
//!
//! A hot page is not protected behind a scan, and counts as written: it is copied, and compared with what the backup has like
//! all that is sent again. So a page may be taken for hot in vain, but no write is missed. There are only as many as are copied
//! while the machine saves its devices, so the pause does not grow. Now and then each is watched again: one that was left alone
//! is hot no more.

use os::range::{PAGE_SIZE, Range, normalize, page_count};

/// Most hot pages.
const MOST: usize = 512;
/// A page that was found to be written in so many checkpoints, one after the other, is hot.
const ROW: u8 = 3;
/// A hot page is watched in one of so many checkpoints.
const TURNS: u64 = 16;
/// Larger checkpoints teach nothing: most of their pages could not be hot.
const WORTH: u64 = 4 * MOST as u64;

/// The hot pages of a session.
#[derive(Debug, Default)]
pub struct Hot {
    allowed: bool,
    /// Their addresses, sorted.
    pages: Vec<u64>,
    /// The same, joined.
    ranges: Vec<Range>,
    /// What the last scan found besides.
    found: Vec<Range>,
    /// Pages that were found, sorted, and in how many checkpoints up to the last.
    rows: Vec<(u64, u8)>,
    checkpoints: u64,
}

impl Hot {
    /// None yet; and none ever if the guest's first writes cost it nothing.
    pub fn new(allowed: bool) -> Self {
        Self { allowed, ..Self::default() }
    }

    /// The pages, sorted and joined.
    pub fn pages(&self) -> &[Range] {
        &self.ranges
    }

    /// Adds them to what a scan has found.
    pub fn join(&mut self, dirty: &mut Vec<Range>) {
        self.found.clear();
        if self.allowed && page_count(dirty) <= WORTH {
            self.found.extend_from_slice(dirty);
        }
        if !self.ranges.is_empty() {
            dirty.extend_from_slice(&self.ranges);
            normalize(dirty);
        }
    }

    /// Decides anew, by what the last scan found.
    pub fn learn(&mut self) {
        if !self.allowed {
            return;
        }
        let (mut rows, mut new) = (Vec::new(), Vec::new());
        let mut before = self.rows.iter().peekable();
        for page in self.found.iter().flat_map(Range::pages) {
            if self.pages.binary_search(&page).is_ok() {
                continue;
            }
            while before.next_if(|(earlier, _)| *earlier < page).is_some() {}
            let row = before.next_if(|(same, _)| *same == page).map_or(1, |(_, row)| row + 1).min(ROW);
            match row == ROW && self.pages.len() + new.len() < MOST {
                true => new.push(page),
                false => rows.push((page, row)),
            }
        }
        self.checkpoints += 1;
        let turn = self.checkpoints % TURNS;
        let watched = self.pages.extract_if(.., |page| *page / PAGE_SIZE % TURNS == turn);
        rows.extend(watched.map(|page| (page, ROW - 1)));
        rows.sort_unstable();
        self.rows = rows;
        self.pages.append(&mut new);
        self.pages.sort_unstable();
        self.ranges.clear();
        self.ranges.extend(self.pages.iter().map(|&page| Range::new(page, PAGE_SIZE)));
        normalize(&mut self.ranges);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranges(pages: impl IntoIterator<Item = u64>) -> Vec<Range> {
        let mut ranges: Vec<_> =
            pages.into_iter().map(|page| Range::new(page * PAGE_SIZE, PAGE_SIZE)).collect();
        normalize(&mut ranges);
        ranges
    }

    fn hot_pages(hot: &Hot) -> Vec<u64> {
        hot.pages().iter().flat_map(Range::pages).map(|page| page / PAGE_SIZE).collect()
    }

    /// A checkpoint behind an epoch in which the guest wrote these. Returns what it takes for written, and how many faults there were.
    fn checkpoint(hot: &mut Hot, written: &[u64]) -> (Vec<u64>, usize) {
        let open = hot_pages(hot);
        let seen: Vec<u64> = written.iter().copied().filter(|page| !open.contains(page)).collect();
        let faults = seen.len();
        let mut dirty = ranges(seen);
        hot.join(&mut dirty);
        hot.learn();
        (dirty.iter().flat_map(Range::pages).map(|page| page / PAGE_SIZE).collect(), faults)
    }

    #[test]
    fn what_is_always_written_is_rarely_watched_and_what_rests_is_watched_again() {
        let mut hot = Hot::new(true);
        let written: Vec<u64> = (100..200).collect();
        let faults: usize = (0..ROW).map(|_| checkpoint(&mut hot, &written).1).sum();
        assert_eq!(faults, 300);
        let faults: usize = (0..160).map(|_| checkpoint(&mut hot, &written).1).sum();
        assert!((900..=1_000).contains(&faults), "each page once in sixteen checkpoints: {faults}");
        let taken: usize = (0..TURNS).map(|_| checkpoint(&mut hot, &[]).0.len()).sum();
        assert!(hot.pages().is_empty(), "{taken} pages in vain");
        assert!(taken < 1_000, "half of them on the average: {taken}");
    }

    #[test]
    fn a_page_that_is_written_now_and_then_is_never_hot() {
        let mut hot = Hot::new(true);
        for epoch in 0..100 {
            let page = epoch % 3;
            checkpoint(&mut hot, &[page, page + 1]);
            assert!(hot.pages().is_empty(), "epoch {epoch}");
        }
    }

    #[test]
    fn there_are_never_too_many_and_large_checkpoints_make_none() {
        let mut hot = Hot::new(true);
        let many: Vec<u64> = (0..2 * MOST as u64).collect();
        (0..50).for_each(|_| drop(checkpoint(&mut hot, &many)));
        let count = hot_pages(&hot).len();
        assert!(
            (MOST - MOST / TURNS as usize..=MOST).contains(&count),
            "but for those that are watched: {count}"
        );
        let mut hot = Hot::new(true);
        let too_many: Vec<u64> = (0..=WORTH).collect();
        (0..50).for_each(|_| drop(checkpoint(&mut hot, &too_many)));
        assert!(hot.pages().is_empty());
        let mut hot = Hot::new(false);
        (0..50).for_each(|_| drop(checkpoint(&mut hot, &many)));
        assert!(hot.pages().is_empty());
    }

    proptest! {
        /// Whatever is written: all of it is taken for written.
        #[test]
        fn no_write_is_missed(
            epochs in prop::collection::vec(prop::collection::btree_set(0u64..40, 0..40), 0..60),
        ) {
            let mut hot = Hot::new(true);
            for written in epochs {
                let written: Vec<u64> = written.into_iter().collect();
                let (taken, _) = checkpoint(&mut hot, &written);
                prop_assert!(written.iter().all(|page| taken.contains(page)));
                prop_assert!(hot.pages().windows(2).all(|pair| pair[0].end() < pair[1].start));
            }
        }
    }
}
