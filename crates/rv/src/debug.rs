//! Owns what a debugger asks of a machine: registers and memory without touching anything, and where it shall stop.
//!
//! Nothing of it is a part of the state: a machine with a debugger does exactly what it would do without. A breakpoint is
//! a place, within any page, that the fast path leaves to [`Machine::step`], which is reached only after the program
//! counter was compared; a watched page is one that the fast path does not touch.

use crate::machine::{Machine, Mode, RAM, Stop};
use crate::mmu::Access;
use crate::pieces::PLACES;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

/// What is looked out for at a piece of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The first virtual address.
    pub address: u64,
    /// How many bytes.
    pub length: u64,
    /// Stop at loads.
    pub loads: bool,
    /// Stop at stores.
    pub stores: bool,
}

impl Watch {
    fn is_for(&self, access: Access) -> bool {
        match access {
            Access::Fetch => false,
            Access::Load => self.loads,
            Access::Store => self.stores,
        }
    }

    fn overlaps(&self, address: u64, length: u64) -> bool {
        let (begin, end) = (u128::from(self.address), u128::from(self.address) + u128::from(self.length));
        u128::from(address) < end && begin < u128::from(address) + u128::from(length)
    }
}

/// Where a machine shall stop: before the instruction at an address, after one that touched memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stops {
    /// Virtual addresses of instructions.
    pub breakpoints: BTreeSet<u64>,
    /// Pieces of memory.
    pub watches: Vec<Watch>,
}

/// Why [`Stop::Halted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// The next instruction is one of [`Stops::breakpoints`].
    Breakpoint,
    /// The last instruction touched this.
    Watched(Watch),
}

/// The stops of a machine, as it needs them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Debugged {
    stops: Stops,
    /// The places in a page at which some breakpoint is.
    places: BTreeSet<usize>,
    halt: Option<Halt>,
    /// The count of instructions and the address from which the machine goes on: no breakpoint.
    leaving: Option<(u64, u64)>,
}

impl Debugged {
    /// Whether the fast path must not carry out what stands at this place of a page.
    pub fn is_place(&self, place: usize) -> bool {
        self.places.contains(&place)
    }

    /// Whether the fast path must not touch the page of an address.
    pub fn is_page(&self, address: u64, access: Access) -> bool {
        let page = address & !0xfff;
        self.stops.watches.iter().any(|watch| watch.is_for(access) && watch.overlaps(page, 0x1000))
    }

    fn note(&mut self, address: u64, size: u64, access: Access) {
        let hit =
            self.stops.watches.iter().find(|watch| watch.is_for(access) && watch.overlaps(address, size));
        if let (Some(watch), None) = (hit, self.halt) {
            self.halt = Some(Halt::Watched(*watch));
        }
    }
}

impl Machine {
    /// From now on the machine stops there, and nowhere else.
    pub fn set_stops(&mut self, stops: &Stops) {
        self.debugged.leaving = None;
        if self.debugged.stops == *stops {
            return;
        }
        let places = stops.breakpoints.iter().map(|address| (address & 0xfff) as usize / 2);
        self.debugged.places = places.filter(|&place| place < PLACES).collect();
        self.debugged.stops = stops.clone();
        self.code.forget_all();
        for watch in &stops.watches {
            let last = watch.address.saturating_add(watch.length.saturating_sub(1));
            let mut page = watch.address & !0xfff;
            // No more pages than the cache of translations has places.
            for _ in 0..crate::tlb::SLOTS {
                self.tlb.keep_slow(page);
                if page >= last & !0xfff {
                    break;
                }
                page += 0x1000;
            }
        }
    }

    /// A breakpoint at the next instruction does not count: the machine shall go on from it. One at an interrupt's handler
    /// does, if that comes first.
    pub fn leave_breakpoint(&mut self) {
        self.debugged.leaving = Some((self.instructions, self.pc));
    }

    /// Why the machine came back with [`Stop::Halted`].
    pub fn halt(&self) -> Option<Halt> {
        self.debugged.halt
    }

    /// Asked before an instruction that the fast path does not carry out.
    pub(crate) fn halts_before(&mut self) -> bool {
        self.debugged.halt = None;
        let here = self.debugged.stops.breakpoints.contains(&self.pc);
        if here && self.debugged.leaving != Some((self.instructions, self.pc)) {
            self.debugged.halt = Some(Halt::Breakpoint);
        }
        self.debugged.halt.is_some()
    }

    /// Asked after an instruction that the fast path did not carry out.
    pub(crate) fn halts_after(&self) -> bool {
        self.debugged.halt.is_some()
    }

    /// Hears of every access that the fast path does not carry out.
    #[inline]
    pub(crate) fn touched(&mut self, address: u64, size: u64, access: Access) {
        if !self.debugged.stops.watches.is_empty() {
            self.debugged.note(address, size, access);
        }
    }

    /// Does what comes before the next instruction: a wait that is over ends, an interrupt that is due is taken. It would
    /// be done anyway, so that nothing changes but what can be seen in between.
    pub fn settle(&mut self) -> Option<Stop> {
        if let Some(stop) = self.stop {
            return Some(stop);
        }
        if self.waits && !self.wake() {
            return Some(Stop::Idle);
        }
        // A multiple of a fixed stride, not of where a run ended: where a run is cut must not matter.
        if self.check || self.instructions.is_multiple_of(crate::machine::STRIDE) {
            self.take_interrupt();
        }
        None
    }

    /// A floating-point register, as its bits.
    pub fn f(&self, register: usize) -> u64 {
        self.f.get(register).copied().unwrap_or(0)
    }

    /// The privilege mode.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// A control and status register by its number, whoever may read it; none if there is no such.
    pub fn csr(&self, number: u32) -> Option<u64> {
        self.csr_value(number)
    }

    /// Reads RAM by virtual addresses, as the running mode sees it but without asking for rights and without leaving a
    /// trace. How many bytes could be read: it ends where nothing is mapped, or no RAM.
    pub fn peek(&self, address: u64, into: &mut [u8]) -> usize {
        let mut done = 0;
        while done < into.len() {
            let at = address.wrapping_add(done as u64);
            let count = (0x1000 - (at & 0xfff) as usize).min(into.len() - done);
            let place = self.locate(at).and_then(|physical| usize::try_from(physical.checked_sub(RAM)?).ok());
            let Some(bytes) = place.and_then(|place| self.ram.get(place..place + count)) else { break };
            into[done..done + count].copy_from_slice(bytes);
            done += count;
        }
        done
    }

    /// The physical address, by the page tables as they are.
    fn locate(&self, address: u64) -> Option<u64> {
        let levels = match self.csr.satp >> 60 {
            _ if self.mode_of(Access::Load) == Mode::Machine => return Some(address),
            8 => 3_u32,
            9 => 4,
            _ => return Some(address),
        };
        let mut table = (self.csr.satp & ((1 << 44) - 1)) << 12;
        for level in (0..levels).rev() {
            let entry = self.ram_read(table + ((address >> (12 + 9 * level)) & 511) * 8, 8)?;
            let target = ((entry >> 10) & ((1 << 44) - 1)) << 12;
            match entry {
                _ if entry & 1 == 0 => return None,
                _ if entry & 0xe == 0 => table = target,
                _ => {
                    let within = (1_u64 << (12 + 9 * level)) - 1;
                    return Some(target & !within | address & within);
                }
            }
        }
        None
    }
}
