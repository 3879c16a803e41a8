//! Owns a row of bits: setting, clearing and finding runs.

use alloc::vec::Vec;
use core::ops::Range;

const WORD: usize = 64;

/// A row of bits of fixed length.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Bits {
    words: Vec<u64>,
    len: usize,
}

impl Bits {
    /// So many bits, all clear.
    pub(super) fn clear_row(len: usize) -> Self {
        Self { words: alloc::vec![0; len.div_ceil(WORD)], len }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, at: usize) -> bool {
        self.words[at / WORD] >> (at % WORD) & 1 == 1
    }

    pub(super) fn set(&mut self, range: Range<usize>) {
        self.each_word(range, |word, mask| *word |= mask);
    }

    pub(super) fn clear(&mut self, range: Range<usize>) {
        self.each_word(range, |word, mask| *word &= !mask);
    }

    fn each_word(&mut self, range: Range<usize>, mut change: impl FnMut(&mut u64, u64)) {
        debug_assert!(range.end <= self.len, "bits that are not there");
        let mut at = range.start;
        while at < range.end {
            let (word, from) = (at / WORD, at % WORD);
            let count = (WORD - from).min(range.end - at);
            let mask = (u64::MAX >> (WORD - count)) << from;
            change(&mut self.words[word], mask);
            at += count;
        }
    }

    pub(super) fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether every bit that is set here in `range` is set in `other` too.
    pub(super) fn is_within(&self, other: &Self, range: Range<usize>) -> bool {
        range.into_iter().all(|at| !self.get(at) || other.get(at))
    }

    /// Runs of set bits, in their order.
    pub(super) fn runs(&self) -> impl Iterator<Item = Range<usize>> {
        let mut at = 0;
        core::iter::from_fn(move || {
            let start = self.next(at, true)?;
            at = self.next(start, false).unwrap_or(self.len);
            Some(start..at)
        })
    }

    /// The next bit from `at` on that is as wanted.
    fn next(&self, mut at: usize, wanted: bool) -> Option<usize> {
        while at < self.len {
            let word = if wanted { self.words[at / WORD] } else { !self.words[at / WORD] };
            let rest = word >> (at % WORD);
            if rest != 0 {
                return Some(at + rest.trailing_zeros() as usize).filter(|&at| at < self.len);
            }
            at = (at / WORD + 1) * WORD;
        }
        None
    }

    /// `count` bytes of the row from byte `from` on, zeroes behind its end.
    pub(super) fn bytes(&self, from: usize, count: usize) -> impl Iterator<Item = u8> {
        (from..from + count).map(|at| {
            let word = self.words.get(at / 8).copied().unwrap_or(0);
            word.to_le_bytes()[at % 8]
        })
    }

    /// Sets the bits of these bytes, the first of which is byte `from` of the row. False if one lies behind its end.
    pub(super) fn set_bytes(&mut self, from: usize, bytes: &[u8]) -> bool {
        for (at, &byte) in (from..).zip(bytes).filter(|(_, byte)| **byte != 0) {
            for bit in (0..8).filter(|bit| byte >> bit & 1 == 1) {
                if at * 8 + bit >= self.len {
                    return false;
                }
                self.set(at * 8 + bit..at * 8 + bit + 1);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_a_row_of_bools(steps in prop::collection::vec((any::<bool>(), 0usize..200, 0usize..200), 0..30)) {
            let (mut bits, mut bools) = (Bits::clear_row(200), [false; 200]);
            for (set, one, other) in steps {
                let range = one.min(other)..one.max(other);
                if set { bits.set(range.clone()) } else { bits.clear(range.clone()) }
                bools[range].fill(set);
            }
            let found: Vec<bool> = (0..200).map(|at| bits.get(at)).collect();
            prop_assert_eq!(&found[..], &bools[..]);
            let mut from_runs = [false; 200];
            bits.runs().for_each(|run| from_runs[run].fill(true));
            prop_assert_eq!(from_runs, bools);
            let mut again = Bits::clear_row(200);
            let bytes: Vec<u8> = bits.bytes(0, 25).collect();
            prop_assert!(again.set_bytes(0, &bytes));
            prop_assert_eq!(again, bits);
        }
    }

    #[test]
    fn bits_behind_the_end_are_refused() {
        assert!(!Bits::clear_row(9).set_bytes(1, &[2]));
        assert!(Bits::clear_row(9).set_bytes(1, &[1]));
    }
}
