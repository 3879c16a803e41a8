//! Owns the cache of translations: for each kind of access and each view of memory, the pages that were found.
//!
//! It belongs to what the machine does: a guest that leaves out `sfence.vma` can see it. So it is filled and emptied by
//! the guest's instructions only, never by where a run is cut.

use crate::csr::{MPP, MPRV, SUM};
use crate::machine::{Machine, Mode, RAM};
use crate::mmu::Access;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Pages that are kept for each kind of access and each view.
pub const SLOTS: usize = 256;
/// Views: machine mode, user mode, supervisor mode without and with access to user pages.
const VIEWS: usize = 4;
/// In a slot's tag: not for the fast path.
const INDIRECT: u64 = 1;
/// In a slot's tag: nothing was found.
const EMPTY: Slot = Slot { tag: 2, addend: 0 };

/// A page that was found.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Slot {
    /// The virtual page's address, and marks in its lowest bits: the fast path finds only what has none.
    pub tag: u64,
    /// What a virtual address and its place in RAM differ by.
    pub addend: u64,
}

impl Slot {
    /// The physical page's address.
    fn target(&self) -> u64 {
        (self.tag & !0xfff).wrapping_add(self.addend).wrapping_add(RAM)
    }
}

/// What is in a cache, without what only the fast path needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Found {
    /// Kind of access and view, virtual page, physical page; by the first, then by their slots.
    pages: Vec<(u8, u64, u64)>,
    large: u64,
}

impl Found {
    /// All of it, word by word.
    pub fn words(&self) -> Vec<u64> {
        let pages = self.pages.iter().flat_map(|&(list, page, target)| [list.into(), page, target]);
        pages.chain([self.large]).collect()
    }

    /// Whether a cache can hold this, and gives it in this order.
    pub fn is_possible(&self) -> bool {
        let places = || self.pages.iter().map(|&(list, page, _)| (list, page as usize % SLOTS));
        let bits = self.pages.iter().fold(0, |bits, (_, page, target)| bits | page | target);
        bits >> 52 == 0
            && places().all(|(list, _)| usize::from(list) < 3 * VIEWS)
            && places().zip(places().skip(1)).all(|(one, next)| one < next)
    }
}

/// The cache.
#[derive(Clone, Debug)]
pub(crate) struct Tlb {
    slots: Vec<[Slot; SLOTS]>,
    /// Where pages of 2 MiB and more were found, one bit for GiBs whose number has the same six lowest bits: they fill
    /// many slots, each of which one fence has to empty.
    large: u64,
}

impl Default for Tlb {
    fn default() -> Tlb {
        Tlb { slots: alloc::vec![[EMPTY; SLOTS]; 3 * VIEWS], large: 0 }
    }
}

impl Tlb {
    /// What was found for this kind of access in this view.
    pub fn slots(&self, access: Access, view: usize) -> &[Slot; SLOTS] {
        &self.slots[access as usize * VIEWS + view]
    }

    pub fn find(&self, address: u64, access: Access, view: usize) -> Option<u64> {
        let slot = self.slots(access, view)[slot_of(address)];
        let found = slot.tag & !INDIRECT == address & !0xfff;
        found.then_some(address.wrapping_add(slot.addend).wrapping_add(RAM))
    }

    pub fn insert(&mut self, address: u64, access: Access, view: usize, target: u64, direct: bool) {
        let tag = address & !0xfff | if direct { 0 } else { INDIRECT };
        let addend = (target & !0xfff).wrapping_sub(address & !0xfff).wrapping_sub(RAM);
        self.slots[access as usize * VIEWS + view][slot_of(address)] = Slot { tag, addend };
    }

    /// Notes that the page lies in a larger one, of so many levels.
    pub fn note_large(&mut self, address: u64, level: u32) {
        match level {
            0 => {}
            1 | 2 => self.large |= gib(address),
            _ => self.large = u64::MAX,
        }
    }

    /// From now on stores to this physical page are not for the fast path.
    pub fn watch(&mut self, target: u64) {
        for slots in &mut self.slots[Access::Store as usize * VIEWS..] {
            for slot in slots.iter_mut().filter(|slot| slot.target() == target) {
                slot.tag |= INDIRECT;
            }
        }
    }

    /// From now on no store is for the fast path, until the page is found to be dirty.
    pub fn watch_all(&mut self) {
        for slots in &mut self.slots[Access::Store as usize * VIEWS..] {
            slots.iter_mut().for_each(|slot| slot.tag |= INDIRECT);
        }
    }

    /// Everything that was found, in order.
    pub fn found(&self) -> Found {
        let mut found = Found { pages: Vec::new(), large: self.large };
        for (list, slots) in (0..).zip(&self.slots) {
            let full = slots.iter().filter(|slot| slot.tag & EMPTY.tag == 0);
            found.pages.extend(full.map(|slot| (list, slot.tag >> 12, slot.target() >> 12)));
        }
        found
    }

    /// Forgets everything, and takes what was found by another.
    pub fn take(&mut self, found: &Found, direct: impl Fn(u64, u64, Access) -> bool) {
        self.flush();
        self.large = found.large;
        for &(list, page, target) in &found.pages {
            let access = [Access::Fetch, Access::Load, Access::Store][usize::from(list) / VIEWS];
            self.insert(
                page << 12,
                access,
                usize::from(list) % VIEWS,
                target << 12,
                direct(page << 12, target << 12, access),
            );
        }
    }

    /// From now on loads and stores to this virtual page are not for the fast path, in any view.
    pub fn keep_slow(&mut self, page: u64) {
        for slots in &mut self.slots[Access::Load as usize * VIEWS..] {
            let slot = &mut slots[slot_of(page)];
            if slot.tag == page {
                slot.tag |= INDIRECT;
            }
        }
    }

    /// Forgets everything.
    pub fn flush(&mut self) {
        self.slots.fill([EMPTY; SLOTS]);
        self.large = 0;
    }

    /// Forgets what was found for an address.
    pub fn flush_address(&mut self, address: u64) {
        if self.large & gib(address) != 0 {
            self.flush();
            return;
        }
        for slots in &mut self.slots {
            let slot = &mut slots[slot_of(address)];
            if slot.tag & !INDIRECT == address & !0xfff {
                *slot = EMPTY;
            }
        }
    }
}

fn gib(address: u64) -> u64 {
    1 << (address >> 30 & 63)
}

/// Where an address is looked for.
#[inline(always)]
pub(crate) fn slot_of(address: u64) -> usize {
    (address >> 12) as usize % SLOTS
}

impl Machine {
    /// The mode whose rights an access has.
    pub(crate) fn mode_of(&self, access: Access) -> Mode {
        if access != Access::Fetch && self.csr.mstatus & MPRV != 0 {
            return Mode::from_bits((self.csr.mstatus & MPP) >> 11);
        }
        self.mode
    }

    /// The view of memory that an access has.
    pub(crate) fn view(&self, access: Access) -> usize {
        match self.mode_of(access) {
            Mode::Machine => 0,
            Mode::User => 1,
            Mode::Supervisor if access != Access::Fetch && self.csr.mstatus & SUM != 0 => 3,
            Mode::Supervisor => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_for_an_address_forgets_what_was_found_for_it_and_for_the_large_page_around_it() {
        let (page, beside) = (0x1_4000_1000, 0x1_4000_2000);
        let mut tlb = Tlb::default();
        let fill = |tlb: &mut Tlb| {
            for address in [page, beside] {
                tlb.insert(address, Access::Load, 1, 0x8000_3000, true);
            }
        };
        fill(&mut tlb);
        assert_eq!(tlb.find(page | 5, Access::Load, 1), Some(0x8000_3005));
        assert_eq!((tlb.find(page, Access::Load, 2), tlb.find(page, Access::Store, 1)), (None, None));
        tlb.flush_address(page | 8);
        assert_eq!(
            (tlb.find(page, Access::Load, 1), tlb.find(beside, Access::Load, 1)),
            (None, Some(0x8000_3000))
        );
        // Both lie in one page of 2 MiB: one fence is for all of it.
        tlb.note_large(page, 1);
        fill(&mut tlb);
        tlb.flush_address(page);
        assert_eq!(tlb.find(beside, Access::Load, 1), None);
    }

    #[test]
    fn what_is_watched_is_found_but_not_directly() {
        let mut tlb = Tlb::default();
        tlb.insert(0x5000, Access::Store, 3, 0x8000_1000, true);
        let tag = |tlb: &Tlb| tlb.slots(Access::Store, 3)[5].tag;
        assert_eq!(tag(&tlb), 0x5000);
        tlb.watch(0x8000_1000);
        assert_ne!(tag(&tlb), 0x5000);
        assert_eq!(tlb.find(0x5008, Access::Store, 3), Some(0x8000_1008));
    }
}
