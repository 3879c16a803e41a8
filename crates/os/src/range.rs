//! Owns ranges of pages: the currency between the tracker, process memory and its callers.

/// Size of a page in bytes. Fixed on x86-64; huge pages are tracked and reported in this unit too.
pub const PAGE_SIZE: u64 = 4096;

/// A run of pages: `start` and `len` in bytes, both multiples of [`PAGE_SIZE`] wherever the tracker is involved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    /// Address of the first byte.
    pub start: u64,
    /// Number of bytes.
    pub len: u64,
}

impl Range {
    /// `len` bytes from `start`.
    #[must_use]
    pub const fn new(start: u64, len: u64) -> Self {
        Self { start, len }
    }

    /// The bytes from `start` up to, without, `end`.
    #[must_use]
    pub const fn between(start: u64, end: u64) -> Self {
        Self { start, len: end - start }
    }

    /// Address of the first byte after the range.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.start + self.len
    }

    /// Whether the range has the byte at `address`.
    #[must_use]
    pub const fn contains(&self, address: u64) -> bool {
        self.start <= address && address < self.end()
    }

    /// Whether the range has every byte of `other`.
    #[must_use]
    pub const fn covers(&self, other: &Self) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }

    /// Whether `start` and `len` are multiples of the page size, `len` is not 0 and the end does not overflow.
    #[must_use]
    pub const fn is_pages(&self) -> bool {
        self.start.is_multiple_of(PAGE_SIZE)
            && self.len.is_multiple_of(PAGE_SIZE)
            && self.len > 0
            && self.start.checked_add(self.len).is_some()
    }

    /// The addresses of its pages, in order.
    pub fn pages(&self) -> impl Iterator<Item = u64> + use<> {
        (self.start..self.end()).step_by(4096)
    }

    /// Number of pages.
    #[must_use]
    pub const fn page_count(&self) -> u64 {
        self.len / PAGE_SIZE
    }
}

/// Total number of pages in `ranges`.
#[must_use]
pub fn page_count(ranges: &[Range]) -> u64 {
    ranges.iter().map(Range::page_count).sum()
}

/// Total number of bytes in `ranges`.
#[must_use]
pub fn byte_count(ranges: &[Range]) -> u64 {
    ranges.iter().map(|range| range.len).sum()
}

/// Appends `next`, which must not start before the last range, and joins the two if they touch or overlap.
pub(crate) fn push_joined(out: &mut Vec<Range>, next: Range) {
    push_near(out, next, 0);
}

/// Like [`push_joined`], but also swallows a gap of at most `gap` bytes.
pub(crate) fn push_near(out: &mut Vec<Range>, next: Range, gap: u64) {
    match out.last_mut() {
        Some(last) if next.start <= last.end().saturating_add(gap) => {
            debug_assert!(last.start <= next.start, "ranges out of order");
            last.len = last.end().max(next.end()) - last.start;
        }
        _ => out.push(next),
    }
}

/// Sorts `ranges` and joins those that touch or overlap.
pub fn normalize(ranges: &mut Vec<Range>) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let joins = next.start <= kept.end();
        if joins {
            kept.len = kept.end().max(next.end()) - kept.start;
        }
        joins
    });
}

/// What of `ranges` is not in `other`; both sorted and joined.
pub(crate) fn subtract(ranges: &[Range], other: &[Range]) -> Vec<Range> {
    let mut left = Vec::with_capacity(ranges.len());
    let mut first = 0;
    for range in ranges {
        first += other[first..].iter().take_while(|hole| hole.end() <= range.start).count();
        let mut start = range.start;
        for hole in other[first..].iter().take_while(|hole| hole.start < range.end()) {
            if start < hole.start {
                left.push(Range::between(start, hole.start));
            }
            start = hole.end();
        }
        if start < range.end() {
            left.push(Range::between(start, range.end()));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const P: u64 = PAGE_SIZE;

    #[test]
    fn normalizing_joins_what_touches_or_overlaps_and_keeps_gaps() {
        let mut ranges =
            vec![Range::new(8 * P, P), Range::new(0, 2 * P), Range::new(2 * P, P), Range::new(P, 4 * P)];
        normalize(&mut ranges);
        assert_eq!(ranges, [Range::new(0, 5 * P), Range::new(8 * P, P)]);
    }

    #[test]
    fn a_range_inside_another_does_not_shrink_it() {
        let mut ranges = vec![Range::new(0, 8 * P), Range::new(P, P)];
        normalize(&mut ranges);
        assert_eq!(ranges, [Range::new(0, 8 * P)]);
    }

    #[test]
    fn near_ranges_join_only_within_the_gap() {
        let mut out = Vec::new();
        for start in [0, 3 * P, 7 * P] {
            push_near(&mut out, Range::new(start, P), 2 * P);
        }
        assert_eq!(out, [Range::new(0, 4 * P), Range::new(7 * P, P)]);
    }

    #[test]
    fn pages_are_all_addresses_of_the_range() {
        let range = Range::between(4 * P, 7 * P);
        assert_eq!(range.pages().collect::<Vec<_>>(), [4 * P, 5 * P, 6 * P]);
        assert_eq!(page_count(&[range, Range::new(0, P)]), 4);
        assert!(!range.contains(7 * P) && range.contains(7 * P - 1));
    }

    proptest! {
        #[test]
        fn exactly_what_is_in_the_other_is_taken_away(
            ranges in prop::collection::btree_set(0u64..80, 0..50),
            other in prop::collection::btree_set(0u64..80, 0..50),
        ) {
            let joined = |pages: &std::collections::BTreeSet<u64>| {
                let mut ranges: Vec<_> = pages.iter().map(|page| Range::new(page * P, P)).collect();
                normalize(&mut ranges);
                ranges
            };
            let left = subtract(&joined(&ranges), &joined(&other));
            prop_assert_eq!(left, joined(&ranges.difference(&other).copied().collect()));
        }
    }

    #[test]
    fn what_is_not_whole_pages_is_told() {
        assert!(Range::new(P, P).is_pages());
        for bad in [Range::new(1, P), Range::new(P, 1), Range::new(P, 0), Range::new(u64::MAX - P + 1, 2 * P)]
        {
            assert!(!bad.is_pages(), "{bad:?}");
        }
    }
}
