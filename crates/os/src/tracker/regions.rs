//! Owns which memory is cold: not written for long, and so not worth looking at in each scan.
//!
//! Tracked memory is divided into regions. A warm one is looked at by each scan; a cold one is left to a watch that tells
//! of each first write to a page, which costs the writer some 6 µs instead of 1.5. So a region is cold if it was not
//! written for a while, and warm again once the watch has told of too many pages.

use crate::range::{Range, byte_count, push_joined};
use std::time::{Duration, Instant};

/// When memory is cold.
#[derive(Debug, Clone, Copy)]
pub struct Cooling {
    /// Memory of fewer bytes than this is never divided: to look at all of it takes no time.
    pub from: u64,
    /// A region is cold if it was not written for so long.
    pub after: Duration,
    /// It is warm again if more of its pages than this are told of within the same time.
    pub most_told: u32,
}

impl Default for Cooling {
    fn default() -> Self {
        Self { from: 1 << 30, after: Duration::from_secs(10), most_told: 32 }
    }
}

/// What one page of page-table entries maps: the smallest region.
const SMALLEST: u64 = 2 << 20;
/// Most regions. Each may be a mapping of its own, of which a process may have 65,530 (`vm.max_map_count`).
const MOST: u64 = 16 << 10;

/// By whom a region is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watch {
    /// Each scan looks at it.
    Scanned,
    /// Each first write to a page is told.
    Told,
}

#[derive(Debug)]
struct Region {
    range: Range,
    heat: Heat,
}

#[derive(Debug, Clone, Copy)]
enum Heat {
    Warm { written: Instant },
    Cold { told: u32, since: Instant },
}

/// The tracked memory in regions, warm and cold.
#[derive(Debug)]
pub(super) struct Regions {
    cooling: Cooling,
    all: Vec<Region>,
    /// The next one to be asked whether it should be moved.
    next: usize,
}

impl Regions {
    /// `ranges` (sorted, joined), all of them warm.
    pub(super) fn new(ranges: &[Range], cooling: Cooling, now: Instant) -> Self {
        let bytes = byte_count(ranges);
        let size = bytes.div_ceil(MOST).next_power_of_two().max(SMALLEST);
        let heat = Heat::Warm { written: now };
        let all = ranges.iter().flat_map(|range| divide(*range, size)).map(|range| Region { range, heat });
        Self { cooling, all: all.collect(), next: 0 }
    }

    /// Puts what is watched so into `out`, sorted and joined.
    pub(super) fn watched(&self, by: Watch, out: &mut Vec<Range>) {
        out.clear();
        self.all
            .iter()
            .filter(|region| region.watch() == by)
            .for_each(|region| push_joined(out, region.range));
    }

    /// A scan has found that these were written.
    pub(super) fn found(&mut self, dirty: &[Range], now: Instant) {
        let mut at = 0;
        for range in dirty {
            at += self.all[at..].iter().take_while(|region| region.range.end() <= range.start).count();
            for region in self.all[at..].iter_mut().take_while(|region| region.range.start < range.end()) {
                if let Heat::Warm { written } = &mut region.heat {
                    *written = now;
                }
            }
        }
    }

    /// The watch has told of a write to this page. Returns whether it is in a cold region: else a scan finds it too.
    pub(super) fn told(&mut self, page: u64, now: Instant) -> bool {
        let after = self.cooling.after;
        let Some(Region { heat: Heat::Cold { told, since }, .. }) = self.region_of(page) else {
            return false;
        };
        if now.duration_since(*since) > after {
            (*told, *since) = (0, now);
        }
        *told += 1;
        true
    }

    /// The next region that should be watched otherwise, and how. To be called again only once it is moved, or
    /// [stays](Regions::stays) as it is.
    pub(super) fn next_to_move(&mut self, now: Instant) -> Option<(usize, Range, Watch)> {
        let count = self.all.len();
        let index = (self.next..self.next + count)
            .map(|index| index % count)
            .find(|&index| self.should_move(&self.all[index], now))?;
        self.next = index;
        let region = &self.all[index];
        Some((index, region.range, region.watch().other()))
    }

    /// The region is watched so from now on.
    pub(super) fn moved(&mut self, index: usize, to: Watch, now: Instant) {
        self.all[index].heat = match to {
            Watch::Scanned => Heat::Warm { written: now },
            Watch::Told => Heat::Cold { told: 0, since: now },
        };
    }

    /// It is not moved now, because it is written or for another reason: what speaks for moving it is counted anew.
    pub(super) fn stays(&mut self, index: usize, now: Instant) {
        let watch = self.all[index].watch();
        self.moved(index, watch, now);
        self.next = (index + 1) % self.all.len();
    }

    fn should_move(&self, region: &Region, now: Instant) -> bool {
        match region.heat {
            Heat::Warm { written } => now.duration_since(written) >= self.cooling.after,
            Heat::Cold { told, .. } => told > self.cooling.most_told,
        }
    }

    fn region_of(&mut self, page: u64) -> Option<&mut Region> {
        let at = self.all.partition_point(|region| region.range.end() <= page);
        self.all.get_mut(at).filter(|region| region.range.contains(page))
    }
}

impl Region {
    fn watch(&self) -> Watch {
        match self.heat {
            Heat::Warm { .. } => Watch::Scanned,
            Heat::Cold { .. } => Watch::Told,
        }
    }
}

impl Watch {
    fn other(self) -> Self {
        match self {
            Self::Scanned => Self::Told,
            Self::Told => Self::Scanned,
        }
    }
}

/// Pieces of at most `size` bytes, which begin and end at its multiples where the range does not.
fn divide(range: Range, size: u64) -> impl Iterator<Item = Range> {
    let first = range.start / size;
    (first..range.end().div_ceil(size)).map(move |number| {
        Range::between(range.start.max(number * size), range.end().min((number + 1) * size))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::range::PAGE_SIZE;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn regions(ranges: &[Range], begin: Instant) -> Regions {
        Regions::new(ranges, Cooling { from: 0, after: 10 * SECOND, most_told: 2 }, begin)
    }

    fn warm(regions: &Regions) -> Vec<Range> {
        let mut warm = Vec::new();
        regions.watched(Watch::Scanned, &mut warm);
        warm
    }

    #[test]
    fn what_is_not_written_for_long_is_moved_and_comes_back_when_too_much_is_told_of() {
        let begin = Instant::now();
        let whole = Range::new(SMALLEST, 3 * SMALLEST);
        let mut regions = regions(&[whole], begin);
        assert_eq!(regions.next_to_move(begin + 9 * SECOND), None);
        regions.found(&[Range::new(2 * SMALLEST + PAGE_SIZE, PAGE_SIZE)], begin + 5 * SECOND);
        let now = begin + 10 * SECOND;
        for _ in 0..2 {
            let (index, range, to) = regions.next_to_move(now).unwrap();
            assert!(index != 1 && to == Watch::Told, "{range:?}");
            regions.moved(index, to, now);
        }
        assert_eq!(regions.next_to_move(now), None);
        assert_eq!(warm(&regions), [Range::new(2 * SMALLEST, SMALLEST)]);
        // Three in eleven seconds are not too many, three in ten are.
        for (page, second) in [(0, 0), (1, 0), (2, 11), (3, 12), (4, 13)] {
            assert_eq!(regions.next_to_move(now), None, "page {page}");
            assert!(regions.told(SMALLEST + page * PAGE_SIZE, now + second * SECOND));
        }
        assert_eq!(regions.next_to_move(now), Some((0, Range::new(SMALLEST, SMALLEST), Watch::Scanned)));
        regions.moved(0, Watch::Scanned, now);
        assert!(!regions.told(SMALLEST, now), "a scan finds it");
        assert_eq!(warm(&regions), [Range::new(SMALLEST, 2 * SMALLEST)]);
    }

    #[test]
    fn a_cold_region_that_cannot_be_moved_is_tried_again_only_once_more_is_told_of() {
        let begin = Instant::now();
        let mut regions = regions(&[Range::new(0, SMALLEST)], begin);
        regions.moved(0, Watch::Told, begin);
        for _ in 0..2 {
            (0..3).for_each(|page| assert!(regions.told(page * PAGE_SIZE, begin)));
            assert!(regions.next_to_move(begin).is_some());
            regions.stays(0, begin);
            assert_eq!(regions.next_to_move(begin), None);
        }
    }

    #[test]
    fn a_region_that_was_written_meanwhile_does_not_keep_others_waiting() {
        let begin = Instant::now();
        let mut regions = regions(&[Range::new(0, 2 * SMALLEST)], begin);
        let now = begin + 10 * SECOND;
        for expected in [Some(0), Some(1), None] {
            let next = regions.next_to_move(now).map(|(index, ..)| index);
            assert_eq!(next, expected);
            next.into_iter().for_each(|index| regions.stays(index, now));
        }
    }

    proptest! {
        /// Whatever is moved: what is warm and what is cold are together all that is tracked, and a write keeps exactly the
        /// regions that it touches from cooling.
        #[test]
        fn each_page_has_one_watch(
            lens in prop::collection::vec((1u64..3000, 1u64..3000), 1..5),
            moves in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
            written in prop::collection::vec((0u64..20_000, 1u64..1500), 0..8),
        ) {
            let mut ranges: Vec<Range> = Vec::new();
            for (gap, len) in lens {
                let start = ranges.last().map_or(0, Range::end) + gap * PAGE_SIZE;
                ranges.push(Range::new(start, len * PAGE_SIZE));
            }
            let begin = Instant::now();
            let mut regions = regions(&ranges, begin);
            for index in moves {
                let index = index.index(regions.all.len());
                let to = regions.all[index].watch().other();
                regions.moved(index, to, begin);
            }
            let (mut all, mut cold) = (warm(&regions), Vec::new());
            regions.watched(Watch::Told, &mut cold);
            all.extend(&cold);
            prop_assert_eq!(byte_count(&all), byte_count(&ranges), "none has both");
            crate::range::normalize(&mut all);
            prop_assert_eq!(all, ranges);

            let mut dirty: Vec<Range> = written.iter().map(|(page, count)| Range::new(page * PAGE_SIZE, count * PAGE_SIZE)).collect();
            crate::range::normalize(&mut dirty);
            regions.found(&dirty, begin + 5 * SECOND);
            for region in &regions.all {
                let touched = dirty.iter().any(|d| d.start < region.range.end() && region.range.start < d.end());
                if region.watch() == Watch::Scanned {
                    prop_assert_eq!(regions.should_move(region, begin + 10 * SECOND), !touched);
                }
            }
        }
    }
}
