//! Owns translation of addresses (Sv39, Sv48), and access to guest memory by it.

use crate::csr::{MXR, SUM};
use crate::machine::{Machine, Mode, RAM};
use crate::trap::*;

/// What memory is touched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Fetch,
    Load,
    Store,
}

impl Access {
    fn page_fault(self) -> u64 {
        [FETCH_PAGE, LOAD_PAGE, STORE_PAGE][self as usize]
    }

    pub(crate) fn access_fault(self) -> u64 {
        [FETCH_ACCESS, LOAD_ACCESS, STORE_ACCESS][self as usize]
    }
}

const ACCESSED: u64 = 1 << 6;
const DIRTY: u64 = 1 << 7;

impl Machine {
    /// Forgets all translations.
    pub(crate) fn flush(&mut self) {
        self.tlb.flush();
    }

    /// The physical address.
    pub(crate) fn translate(&mut self, address: u64, access: Access) -> Result<u64, Trap> {
        let view = self.view(access);
        if let Some(physical) = self.tlb.find(address, access, view) {
            return Ok(physical);
        }
        let (physical, level) = self.walk(address, access)?;
        if !self.may_touch(physical, access, self.mode_of(access)) {
            return Err(Trap { cause: access.access_fault(), value: address });
        }
        self.tlb.note_large(address, level);
        let direct = self.is_direct(address, physical, access);
        self.tlb.insert(address, access, view, physical, direct);
        Ok(physical)
    }

    /// Whether the fast path may touch a page: RAM, for stores none of which instructions were decoded, and one that is
    /// marked as dirty already; none that a debugger watches.
    pub(crate) fn is_direct(&self, address: u64, physical: u64, access: Access) -> bool {
        let Some(at) = physical.checked_sub(RAM).map(|at| at as usize & !0xfff) else { return false };
        at < self.ram.len()
            && self.ram.len() - at >= 0x1000
            && (access != Access::Store || (self.code.find(at).is_none() && self.dirty.holds(at)))
            && !self.debugged.is_page(address, access)
    }

    /// The physical address, and the level at which it was found: 0 for a page of 4 KiB.
    fn walk(&mut self, address: u64, access: Access) -> Result<(u64, u32), Trap> {
        let mode = self.mode_of(access);
        let levels = match self.csr.satp >> 60 {
            _ if mode == Mode::Machine => return Ok((address, 0)),
            8 => 3_u32,
            9 => 4,
            _ => return Ok((address, 0)),
        };
        let fault = Trap { cause: access.page_fault(), value: address };
        let unused = 64 - (12 + 9 * levels);
        if ((address << unused) as i64 >> unused) as u64 != address {
            return Err(fault);
        }
        let mut table = (self.csr.satp & ((1 << 44) - 1)) << 12;
        for level in (0..levels).rev() {
            let place = table + ((address >> (12 + 9 * level)) & 511) * 8;
            let unreachable = Trap { cause: access.access_fault(), value: address };
            if !self.may_touch(place, Access::Load, Mode::Supervisor) {
                return Err(unreachable);
            }
            let entry = self.ram_read(place, 8).ok_or(unreachable)?;
            // Bits that this machine gives no meaning must be clear.
            if entry & 1 == 0 || entry & 6 == 4 || entry >> 54 != 0 {
                return Err(fault);
            }
            let target = ((entry >> 10) & ((1 << 44) - 1)) << 12;
            if entry & 0xe == 0 {
                if entry & 0xd0 != 0 {
                    return Err(fault);
                }
                table = target;
                continue;
            }
            let within = (1_u64 << (12 + 9 * level)) - 1;
            if target & within != 0 || !self.allows(entry, access, mode) {
                return Err(fault);
            }
            let marked = entry | ACCESSED | if access == Access::Store { DIRTY } else { 0 };
            if marked != entry {
                if !self.may_touch(place, Access::Store, Mode::Supervisor) {
                    return Err(unreachable);
                }
                self.ram_write(place, 8, marked).ok_or(unreachable)?;
            }
            return Ok((target | address & within, level));
        }
        Err(fault)
    }

    fn allows(&self, entry: u64, access: Access, mode: Mode) -> bool {
        let user = entry & 0x10 != 0;
        let reachable = match mode {
            Mode::User => user,
            _ => !user || (access != Access::Fetch && self.csr.mstatus & SUM != 0),
        };
        let executable = entry & 8 != 0;
        reachable
            && match access {
                Access::Fetch => executable,
                Access::Load => entry & 2 != 0 || (executable && self.csr.mstatus & MXR != 0),
                Access::Store => entry & 4 != 0,
            }
    }

    /// Loads 1 to 8 bytes; addresses need not be aligned.
    pub(crate) fn load(&mut self, address: u64, size: u64) -> Result<u64, Trap> {
        if (address & 0xfff) + size > 0x1000 {
            let mut value = 0;
            for at in 0..size {
                value |= self.load(address.wrapping_add(at), 1)? << (8 * at);
            }
            return Ok(value);
        }
        let physical = self.translate(address, Access::Load)?;
        self.touched(address, size, Access::Load);
        self.read(physical, size).ok_or(Trap { cause: LOAD_ACCESS, value: address })
    }

    /// Stores 1 to 8 bytes; where a page ends between them both are translated before either changes.
    pub(crate) fn store(&mut self, address: u64, size: u64, value: u64) -> Result<(), Trap> {
        if (address & 0xfff) + size > 0x1000 {
            self.translate(address, Access::Store)?;
            self.translate((address | 0xfff).wrapping_add(1), Access::Store)?;
            for at in 0..size {
                self.store(address.wrapping_add(at), 1, value >> (8 * at) & 0xff)?;
            }
            return Ok(());
        }
        let physical = self.translate(address, Access::Store)?;
        self.write(physical, size, value).ok_or(Trap { cause: STORE_ACCESS, value: address })?;
        self.touched(address, size, Access::Store);
        if self.is_direct(address, physical, Access::Store) {
            // The page is marked as dirty now, and instructions that were decoded there may be forgotten.
            let view = self.view(Access::Store);
            self.tlb.insert(address, Access::Store, view, physical, true);
        }
        Ok(())
    }
}
