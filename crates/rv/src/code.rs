//! Owns the cache of decoded instructions: for each page of RAM that was executed, what stands at each of its places.
//!
//! The cache cannot be seen from inside the machine: every way in which RAM is written forgets what was decoded there.
//! The fast path writes to no page that is in here (see [`Tlb`](crate::tlb::Tlb)); all others call
//! [`Code::wrote`].

use crate::decode::Op;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Places of instructions in a page: one for each half.
pub(crate) const PLACES: usize = 2048;
/// Pages that are kept at most, 16 KiB for each; if one more is executed all are forgotten.
const PAGES: usize = 4096;
/// A page to which so many stores went was perhaps used for something else.
const STORES: u32 = 256;
const NONE: u32 = u32::MAX;

/// One page of decoded instructions.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    /// One more than places: what follows the last instruction.
    pub ops: Box<[Op; PLACES + 1]>,
    /// Where the page begins in RAM.
    pub start: usize,
    stores: u32,
}

/// The cache.
#[derive(Clone, Debug)]
pub(crate) struct Code {
    /// For each page of RAM its number among `pages`.
    map: Vec<u32>,
    pub pages: Vec<Page>,
    free: Vec<u32>,
}

impl Code {
    /// For so many bytes of RAM.
    pub fn new(ram: usize) -> Code {
        Code { map: alloc::vec![NONE; ram / 0x1000], pages: Vec::new(), free: Vec::new() }
    }

    /// The number of the page that holds this byte of RAM, if it is in here.
    pub fn find(&self, at: usize) -> Option<usize> {
        self.map.get(at >> 12).filter(|&&number| number != NONE).map(|&number| number as usize)
    }

    /// Takes in the page that holds this byte of RAM; none if RAM ends within it.
    pub fn insert(&mut self, at: usize) -> Option<usize> {
        if *self.map.get(at >> 12)? != NONE {
            return self.find(at);
        }
        if self.free.is_empty() && self.pages.len() == PAGES {
            self.map.fill(NONE);
            self.pages.clear();
        }
        let number = match self.free.pop() {
            Some(number) => number as usize,
            None => {
                let ops: Box<[Op]> = alloc::vec![Op::UNDECODED; PLACES + 1].into();
                self.pages.push(Page { ops: ops.try_into().ok()?, start: 0, stores: 0 });
                self.pages.len() - 1
            }
        };
        let page = &mut self.pages[number];
        page.ops.fill(Op::UNDECODED);
        page.ops[PLACES] = Op::PAGE_END;
        (page.start, page.stores) = (at & !0xfff, 0);
        self.map[at >> 12] = number as u32;
        Some(number)
    }

    /// Forgets what these bytes of RAM were, of which none lies in another page than the first.
    #[inline]
    pub fn wrote(&mut self, at: usize, size: usize) {
        if let Some(number) = self.find(at) {
            self.forget(number, at & 0xfff, size);
        }
    }

    #[cold]
    fn forget(&mut self, number: usize, within: usize, size: usize) {
        let page = &mut self.pages[number];
        // The instruction before may reach into what was written.
        let (first, last) = ((within / 2).saturating_sub(1), (within + size - 1) / 2);
        page.ops[first..=last.min(PLACES - 1)].fill(Op::UNDECODED);
        page.stores += 1;
        if page.stores >= STORES {
            self.map[page.start >> 12] = NONE;
            self.free.push(number as u32);
        }
    }

    /// The same for any range.
    pub fn wrote_range(&mut self, at: usize, size: usize) {
        let end = at + size;
        let mut from = at;
        while from < end {
            let to = ((from & !0xfff) + 0x1000).min(end);
            self.wrote(from, to - from);
            from = to;
        }
    }
}
