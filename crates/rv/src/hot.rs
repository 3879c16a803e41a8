//! Owns which instructions are worth machine code: those at which the interpreter is found again and again. None of this
//! can be seen from inside the machine.

use crate::fast::Ending;
use crate::machine::{Machine, RAM};
use crate::mmu::Access;
use crate::pieces::{Compiler, Parts};
use alloc::boxed::Box;

/// So many instructions without a jump are a place to begin at, too.
const STRAIGHT: usize = 64;

/// When instructions are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hotness {
    /// So many instructions of the interpreter are between two looks at what it does.
    pub between: u64,
    /// What was seen so often is compiled.
    pub seen: u8,
}

impl Default for Hotness {
    /// To make code of an instruction takes as long as to interpret it some ten thousand times; most are never worth that.
    fn default() -> Hotness {
        Hotness { between: 1021, seen: 120 }
    }
}

/// A compiler, if there is one, and when to look next.
pub(crate) struct Hot {
    pub compiler: Option<Box<dyn Compiler>>,
    hotness: Hotness,
    /// Instructions until the next look.
    unseen: u64,
    /// Where the interpreter began, if that is where a piece or an instruction that is not for the fast path ended.
    begun: Option<u64>,
}

impl Hot {
    pub fn new() -> Hot {
        let hotness = Hotness::default();
        Hot { compiler: None, hotness, unseen: hotness.between, begun: None }
    }

    /// The interpreter begins anew here.
    #[inline]
    pub fn begin(&mut self, address: u64) {
        self.begun = Some(address);
    }
}

impl core::fmt::Debug for Hot {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Hot").field("unseen", &self.unseen).finish_non_exhaustive()
    }
}

impl Machine {
    /// Lets instructions that are executed often be translated into machine code by this compiler.
    pub fn compile_with(&mut self, compiler: Box<dyn Compiler>, hotness: Hotness) {
        self.code.forget_pieces();
        let hotness = Hotness { between: hotness.between.max(1), ..hotness };
        self.code.hot = Hot { compiler: Some(compiler), hotness, unseen: hotness.between, begun: None };
    }

    /// From now on all instructions are interpreted.
    pub fn interpret(&mut self) {
        self.code.forget_pieces();
        self.code.hot = Hot::new();
    }

    /// As [`Machine::run_fast`], with machine code where there is some. A debugger's stops end it as they end the fast path:
    /// a breakpoint is an instruction that neither carries out, a watched page one that neither touches.
    pub(crate) fn run_hot(&mut self, end: u64) -> Ending {
        if self.code.hot.compiler.is_none() {
            return self.run_fast(end);
        }
        loop {
            let count = self.instructions;
            let ending = self.run_fast(end.min(count.saturating_add(self.code.hot.unseen)));
            self.code.hot.unseen -= self.instructions - count;
            if self.code.hot.unseen == 0 {
                self.look(end);
                self.code.hot.unseen = self.code.hot.hotness.between;
                self.code.hot.begun = None;
                return Ending::Ready;
            }
            if ending != Ending::Compiled {
                return ending;
            }
            if !self.run_piece(end) {
                return Ending::Slow;
            }
            self.code.hot.begin(self.pc);
            // What comes next may not be for the fast path, and is not to be carried out any more.
            if self.instructions == end {
                return Ending::Ready;
            }
        }
    }

    /// Where instructions at an address are: a page of RAM and a place in it.
    fn place_of(&self, address: u64) -> Option<(usize, usize)> {
        let physical = self.tlb.find(address, Access::Fetch, self.view(Access::Fetch))?;
        let at = usize::try_from(physical.checked_sub(RAM)?).ok()?;
        Some((at >> 12, (at & 0xfff) / 2))
    }

    /// Runs the machine code that there is for the next instruction; false if it carried out none.
    fn run_piece(&mut self, end: u64) -> bool {
        let Some((page, place)) = self.place_of(self.pc) else { return false };
        let views = [Access::Fetch, Access::Load, Access::Store].map(|access| self.view(access));
        let left = end - self.instructions;
        let Machine { x, ram, tlb, code, pc, .. } = self;
        let Some(compiler) = &mut code.hot.compiler else { return false };
        let parts = Parts {
            x,
            ram,
            fetches: tlb.slots(Access::Fetch, views[0]),
            loads: tlb.slots(Access::Load, views[1]),
            stores: tlb.slots(Access::Store, views[2]),
            pc: *pc,
            left,
        };
        let (next, rest) = compiler.run(page, place, parts);
        debug_assert!(rest <= left);
        self.pc = next;
        self.instructions = end - rest;
        rest != left
    }

    /// Sees where the interpreter is, and orders machine code for that if it was seen often: from where it began, since it will
    /// begin there again, or else from the next place that something jumps to. Takes what was made meanwhile.
    fn look(&mut self, end: u64) {
        self.code.take_pieces();
        let Some(from) = self.code.hot.begun.or_else(|| self.next_jump(end)) else { return };
        let Some((page, place)) = self.place_of(from) else { return };
        if self.code.warm(page, place) >= self.code.hot.hotness.seen {
            self.code.compile(page, place);
        }
    }

    /// Goes on to the next place that is jumped to, if nothing is in the way.
    fn next_jump(&mut self, end: u64) -> Option<u64> {
        for _ in 0..STRAIGHT {
            let (before, count) = (self.pc, self.instructions);
            if count == end || self.run_fast(count + 1) != Ending::Ready || self.instructions == count {
                return None;
            }
            if self.pc.wrapping_sub(before) > 4 || self.pc == before {
                break;
            }
        }
        Some(self.pc)
    }
}
