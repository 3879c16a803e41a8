//! Owns the cache of decoded instructions: for each page of RAM that was executed, what stands at each of its places.
//!
//! The cache cannot be seen from inside the machine: every way in which RAM is written forgets what was decoded there.
//! The fast path writes to no page that is in here (see [`Tlb`](crate::tlb::Tlb)); all others call
//! [`Code::wrote`].

use crate::decode::{Kind, Op};
use crate::hot::Hot;
use crate::pieces::{Ops, Order, PLACES};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Pages that are kept at most, 16 KiB for each; if one more is executed all are forgotten.
const PAGES: usize = 4096;
/// A page to which so many stores went was perhaps used for something else.
const STORES: u32 = 256;
const NONE: u32 = u32::MAX;

/// One page of decoded instructions.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    /// One more than places: what follows the last instruction.
    pub ops: Box<Ops>,
    /// Where the page begins in RAM.
    pub start: usize,
    stores: u32,
    /// How often the interpreter was seen at each place.
    heat: Box<[u8; PLACES]>,
    /// What stood at the places at which machine code begins now.
    pieces: Vec<(usize, Op)>,
    /// Places whose machine code was ordered, and the orders' numbers.
    orders: Vec<(usize, u64)>,
}

impl Page {
    /// The interpreter carries out again what stands here. What was ordered is not wanted any more.
    fn forget_pieces(&mut self) {
        self.orders.clear();
        self.pieces.drain(..).for_each(|(place, _)| self.ops[place] = Op::UNDECODED);
    }
}

/// The cache.
#[derive(Debug)]
pub(crate) struct Code {
    /// For each page of RAM its number among `pages`.
    map: Vec<u32>,
    pub pages: Vec<Page>,
    free: Vec<u32>,
    /// Orders for machine code so far.
    orders: u64,
    pub hot: Hot,
}

impl Clone for Code {
    /// Nothing of it is state, and machine code belongs to one machine: a copy begins with nothing.
    fn clone(&self) -> Code {
        Code::new(self.map.len() * 0x1000)
    }
}

impl Code {
    /// For so many bytes of RAM.
    pub fn new(ram: usize) -> Code {
        Code {
            map: alloc::vec![NONE; ram / 0x1000],
            pages: Vec::new(),
            free: Vec::new(),
            orders: 0,
            hot: Hot::new(),
        }
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
            self.forget_all();
        }
        let number = match self.free.pop() {
            Some(number) => number as usize,
            None => {
                let ops: Box<[Op]> = alloc::vec![Op::UNDECODED; PLACES + 1].into();
                let heat: Box<[u8]> = alloc::vec![0; PLACES].into();
                let (ops, heat) = (ops.try_into().ok()?, heat.try_into().ok()?);
                self.pages.push(Page {
                    ops,
                    start: 0,
                    stores: 0,
                    heat,
                    pieces: Vec::new(),
                    orders: Vec::new(),
                });
                self.pages.len() - 1
            }
        };
        let page = &mut self.pages[number];
        page.ops.fill(Op::UNDECODED);
        page.ops[PLACES] = Op::PAGE_END;
        page.heat.fill(0);
        (page.start, page.stores) = (at & !0xfff, 0);
        self.map[at >> 12] = number as u32;
        Some(number)
    }

    /// Forgets everything.
    pub fn forget_all(&mut self) {
        self.forget_pieces();
        self.map.fill(NONE);
        self.pages.clear();
        self.free.clear();
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
        let had_pieces = !page.pieces.is_empty();
        page.forget_pieces();
        if let Some(compiler) = self.hot.compiler.as_mut().filter(|_| had_pieces) {
            compiler.forget(page.start >> 12);
        }
        page.stores += 1;
        if page.stores >= STORES {
            self.map[page.start >> 12] = NONE;
            self.free.push(number as u32);
        }
    }

    /// Notes that the interpreter was seen at a place of a page of RAM, and gives how often it was.
    pub fn warm(&mut self, page: usize, place: usize) -> u8 {
        let Some(number) = self.find(page << 12) else { return 0 };
        let seen = &mut self.pages[number].heat[place];
        *seen = seen.saturating_add(1);
        *seen
    }

    /// Orders machine code for what is executed from a place of a page of RAM on.
    pub fn compile(&mut self, page: usize, place: usize) {
        if self.hot.compiler.as_ref().is_some_and(|compiler| compiler.is_full()) {
            self.forget_pieces();
        }
        let Some(number) = self.find(page << 12) else { return };
        let Some(compiler) = &mut self.hot.compiler else { return };
        let found = &mut self.pages[number];
        // One that is not taken has to be found hot anew.
        found.heat[place] = 0;
        let is_ordered = found.orders.iter().any(|&(ordered, _)| ordered == place);
        if is_ordered || found.ops[place].kind == Kind::Compiled {
            return;
        }
        let mut ops = found.ops.clone();
        found.pieces.iter().for_each(|&(place, op)| ops[place] = op);
        let entries = found.pieces.iter().map(|&(place, _)| place).collect();
        self.orders += 1;
        if compiler.order(Order { number: self.orders, page, place, ops, entries }) {
            found.orders.push((place, self.orders));
        }
    }

    /// Takes the machine code that was made since, as far as it is still wanted.
    pub fn take_pieces(&mut self) {
        let Some(mut compiler) = self.hot.compiler.take() else { return };
        while let Some(made) = compiler.made() {
            let Some(number) = self.find(made.page << 12) else { continue };
            let page = &mut self.pages[number];
            let Some(at) = page.orders.iter().position(|&(_, order)| order == made.number) else { continue };
            let (place, _) = page.orders.swap_remove(at);
            if compiler.put() {
                let op = core::mem::replace(&mut page.ops[place], Op::COMPILED);
                page.pieces.push((place, op));
            }
        }
        self.hot.compiler = Some(compiler);
    }

    /// Forgets all machine code.
    pub fn forget_pieces(&mut self) {
        self.pages.iter_mut().for_each(Page::forget_pieces);
        if let Some(compiler) = &mut self.hot.compiler {
            compiler.clear();
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
