//! Owns which pages of RAM were written since the marks were taken away last, by a snapshot or by who
//! asked for them: exactly those, and no other.
//!
//! The fast path marks nothing. It stores only to pages that are marked already (see
//! [`Machine::is_direct`](crate::machine::Machine::is_direct)); with the marks goes what the fast path may do. Everybody else who writes RAM marks what was written.

use alloc::vec::Vec;

/// Bytes in a page.
pub(crate) const PAGE: usize = 0x1000;

/// One bit for each page.
#[derive(Clone, Debug)]
pub(crate) struct Dirty {
    bits: Vec<u64>,
}

impl Dirty {
    /// For so many bytes of RAM, none of them written.
    pub fn new(ram: usize) -> Dirty {
        Dirty { bits: alloc::vec![0; ram.div_ceil(64 * PAGE)] }
    }

    #[inline]
    fn mark(&mut self, page: usize) {
        self.bits[page / 64] |= 1 << (page % 64);
    }

    /// Marks the pages that these bytes of RAM are in.
    #[inline]
    pub fn mark_range(&mut self, at: usize, size: usize) {
        if size == 0 {
            return;
        }
        for page in at / PAGE..=(at + size - 1) / PAGE {
            self.mark(page);
        }
    }

    /// Whether the page of this byte of RAM is marked.
    pub fn holds(&self, at: usize) -> bool {
        let page = at / PAGE;
        self.bits.get(page / 64).is_some_and(|bits| bits >> (page % 64) & 1 != 0)
    }

    /// The numbers of all pages that are marked, in order.
    pub fn pages(&self) -> impl Iterator<Item = u32> {
        (0_u32..).zip(&self.bits).flat_map(|(at, &bits)| {
            let rest = core::iter::successors(Some(bits), |bits| Some(bits & bits.wrapping_sub(1)));
            rest.take_while(|&bits| bits != 0).map(move |bits| at * 64 + bits.trailing_zeros())
        })
    }

    /// Takes all marks away.
    pub fn clear(&mut self) {
        self.bits.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_given_in_order() {
        let mut dirty = Dirty::new(200 * PAGE + 1);
        assert_eq!(dirty.pages().next(), None);
        dirty.mark_range(200 * PAGE, 1);
        dirty.mark_range(65 * PAGE - 1, 2);
        dirty.mark_range(63 * PAGE, 0);
        dirty.mark_range(0, PAGE);
        assert_eq!(dirty.pages().collect::<Vec<_>>(), [0, 64, 65, 200]);
        assert_eq!(
            [1, 64, 66, 200, 1000].map(|page| dirty.holds(page * PAGE + 7)),
            [false, true, false, true, false]
        );
        dirty.clear();
        assert_eq!(dirty.pages().count(), 0);
    }
}
