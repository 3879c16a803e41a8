//! Owns which pages a migration leaves for the stop: those that the guest writes again and again, its writable working
//! set (Clark et al., NSDI'05, §4). A page that was dirtied in round after round would be sent in vain.

use alloc::vec;
use alloc::vec::Vec;

/// A page that was dirtied in so many rounds, one after the other, is sent once it is not dirtied in one, or at the stop.
const HOT: u8 = 3;

/// A page: its RAM block and its index there.
type Page = (u8, u64);

/// Which pages are owed to the destination, and which of them are hot.
#[derive(Debug, Clone)]
pub struct WorkingSet {
    /// In how many rounds up to the newest each page was dirtied, of each block.
    streaks: Vec<Vec<u8>>,
    /// Those that were dirtied in the newest round.
    dirtied: Vec<Page>,
    /// Owed, and not to be sent now.
    hot: Vec<Page>,
}

impl WorkingSet {
    /// Of blocks with so many pages; nothing was dirtied yet.
    #[must_use]
    pub fn new(page_counts: &[u64]) -> Self {
        let zeroes = |&pages: &u64| vec![0; usize::try_from(pages).unwrap_or(usize::MAX)];
        Self { streaks: page_counts.iter().map(zeroes).collect(), dirtied: Vec::new(), hot: Vec::new() }
    }

    /// A round is over in which the guest dirtied these pages, and all that was asked for was sent. Gives those to be sent
    /// next. A page that does not exist is left out.
    pub fn after_round(&mut self, mut dirtied: Vec<Page>) -> Vec<Page> {
        dirtied.retain(|&page| self.streak(page).is_some());
        dirtied.sort_unstable();
        dirtied.dedup();
        for &page in &dirtied {
            if let Some(streak) = self.streak(page) {
                *streak = streak.saturating_add(1);
            }
        }
        for page in core::mem::take(&mut self.dirtied) {
            if dirtied.binary_search(&page).is_err()
                && let Some(streak) = self.streak(page)
            {
                *streak = 0;
            }
        }
        let cooled = core::mem::take(&mut self.hot).into_iter();
        let mut owed: Vec<Page> = cooled.filter(|page| dirtied.binary_search(page).is_err()).collect();
        owed.extend_from_slice(&dirtied);
        owed.sort_unstable();
        self.dirtied = dirtied;
        let (hot, send) =
            owed.into_iter().partition(|&page| self.streak(page).is_some_and(|streak| *streak >= HOT));
        self.hot = hot;
        send
    }

    fn streak(&mut self, (block, page): Page) -> Option<&mut u8> {
        self.streaks.get_mut(usize::from(block))?.get_mut(usize::try_from(page).ok()?)
    }

    /// Owed pages that are not to be sent now.
    #[must_use]
    pub fn hot(&self) -> &[Page] {
        &self.hot
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use proptest::prelude::*;

    #[test]
    fn a_page_that_is_written_in_every_round_is_left_and_sent_once_it_rests() {
        let mut set = WorkingSet::new(&[4, 4]);
        assert_eq!(set.after_round(vec![(1, 2), (0, 1)]), [(0, 1), (1, 2)]);
        assert_eq!(set.after_round(vec![(0, 1)]), [(0, 1)]);
        assert_eq!(set.after_round(vec![(0, 1), (0, 3)]), [(0, 3)], "the third time it is hot");
        assert_eq!(set.hot(), [(0, 1)]);
        assert_eq!(set.after_round(vec![]), [(0, 1)], "it rests");
        assert!(set.hot().is_empty());
        assert_eq!(set.after_round(vec![(0, 1)]), [(0, 1)], "and begins anew");
        assert_eq!(set.after_round(vec![(0, 9), (7, 0)]), [], "pages that are not there");
    }

    proptest! {
        /// The oracle: at any time what was written and not sent since is exactly what is to be sent now and what is hot.
        #[test]
        fn nothing_is_lost_and_nothing_is_sent_twice(
            rounds in prop::collection::vec(prop::collection::vec((0u8..2, 0u64..6), 0..8), 1..20),
        ) {
            let mut set = WorkingSet::new(&[6, 6]);
            let mut owed = BTreeSet::new();
            for dirtied in rounds {
                owed.extend(dirtied.iter().copied());
                let send = set.after_round(dirtied);
                let mut told: Vec<_> = send.iter().chain(set.hot()).copied().collect();
                told.sort_unstable();
                prop_assert_eq!(&told, &owed.iter().copied().collect::<Vec<_>>());
                for page in &send {
                    owed.remove(page);
                }
            }
        }
    }
}
