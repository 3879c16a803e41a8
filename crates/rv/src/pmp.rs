//! Owns physical memory protection: what each mode may touch of physical memory (RISC-V privileged architecture, 3.7).
//!
//! There are sixteen rules, of whole pages (a grain of 4 KiB): so a page is looked at once, when its translation is made, and
//! a change forgets all translations. Where the machine itself is the firmware it keeps nothing from the operating system.

use crate::csr::Csrs;
use crate::machine::{Machine, Mode};
use crate::mmu::Access;

const RULES: usize = 16;
const READ: u8 = 1;
const WRITE: u8 = 2;
const EXECUTE: u8 = 4;
const LOCKED: u8 = 1 << 7;
/// How a rule says what it covers.
const MATCHING: u8 = 3 << 3;
const TOP: u8 = 1 << 3;
const FOUR_BYTES: u8 = 2 << 3;
const POWER_OF_TWO: u8 = 3 << 3;
/// Addresses are kept without their lowest two bits; of a page's there are ten less than that.
const WITHIN_PAGE: u64 = 0x3ff;
/// The bits of an address that can be written.
pub(crate) const ADDRESS: u64 = (1 << 54) - 1;

impl Csrs {
    fn rule(&self, number: usize) -> u8 {
        self.pmpcfg[number / 8 * 2].to_le_bytes()[number % 8]
    }

    /// Writes eight rules at once, but those that are locked.
    pub(crate) fn write_rules(&mut self, register: usize, value: u64) {
        let old = self.pmpcfg[register].to_le_bytes();
        let mut new = value.to_le_bytes();
        for (new, old) in new.iter_mut().zip(old) {
            *new = if old & LOCKED != 0 { old } else { possible(*new) };
        }
        self.pmpcfg[register] = u64::from_le_bytes(new);
    }

    /// Writes a rule's address, unless it is locked, or is where a locked one begins.
    pub(crate) fn write_rule_address(&mut self, number: usize, value: u64) {
        let next = if number + 1 < RULES { self.rule(number + 1) } else { 0 };
        let begins_locked = next & LOCKED != 0 && next & MATCHING == TOP;
        if self.rule(number) & LOCKED == 0 && !begins_locked {
            self.pmpaddr[number] = value & ADDRESS;
        }
    }

    /// A rule's address as it is read: what the grain leaves open depends on how the rule matches.
    pub(crate) fn rule_address(&self, number: usize) -> u64 {
        let address = self.pmpaddr[number];
        if self.rule(number) & FOUR_BYTES != 0 { address | WITHIN_PAGE >> 1 } else { address & !WITHIN_PAGE }
    }

    /// Whether all rules are such as can be written.
    pub(crate) fn has_possible_rules(&self) -> bool {
        (0..RULES).all(|number| self.rule(number) == possible(self.rule(number)))
    }

    /// Whether a rule covers the page at this address.
    fn covers(&self, number: usize, physical: u64) -> bool {
        let place = physical >> 2;
        match self.rule(number) & MATCHING {
            TOP => {
                let from = number.checked_sub(1).map_or(0, |before| self.pmpaddr[before] & !WITHIN_PAGE);
                from <= place && place < self.pmpaddr[number] & !WITHIN_PAGE
            }
            POWER_OF_TWO => {
                let address = self.pmpaddr[number] | WITHIN_PAGE >> 1;
                // Ones at the end, and the zero before them, say how large it is.
                let within = address ^ address.wrapping_add(1);
                (place ^ address) & !within == 0
            }
            _ => false,
        }
    }

    /// Whether a mode may touch the page at this address: the first rule that covers it decides.
    fn permits(&self, physical: u64, access: Access, mode: Mode) -> bool {
        let needed = [EXECUTE, READ, WRITE][access as usize];
        match (0..RULES).find(|&number| self.covers(number, physical)).map(|number| self.rule(number)) {
            None => mode == Mode::Machine,
            Some(rule) => (mode == Mode::Machine && rule & LOCKED == 0) || rule & needed != 0,
        }
    }
}

/// What is kept of a rule that is written: no rule covers less than a page, and none lets write what cannot be read.
fn possible(rule: u8) -> u8 {
    let rule = rule & (LOCKED | MATCHING | EXECUTE | WRITE | READ);
    let rule = if rule & MATCHING == FOUR_BYTES { rule & !MATCHING } else { rule };
    if rule & (WRITE | READ) == WRITE { rule & !WRITE } else { rule }
}

impl Machine {
    /// Whether the page at a physical address may be touched.
    pub(crate) fn may_touch(&self, physical: u64, access: Access, mode: Mode) -> bool {
        self.serves_sbi || self.csr.permits(physical, access, mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::RAM;
    use crate::trap::{FETCH_ACCESS, LOAD_ACCESS, STORE_ACCESS, Trap};
    use Access::{Fetch, Load, Store};
    use Mode::{Supervisor, User};

    const ALL: u64 = u64::MAX;

    /// Rules with their addresses, as they are written one after the other.
    fn with(rules: &[(u8, u64)]) -> Csrs {
        let mut csrs = Csrs::default();
        for (number, &(_, address)) in rules.iter().enumerate() {
            csrs.write_rule_address(number, address >> 2);
        }
        let mut bytes = [0; 8];
        for (byte, &(rule, _)) in bytes.iter_mut().zip(rules) {
            *byte = rule;
        }
        csrs.write_rules(0, u64::from_le_bytes(bytes));
        csrs
    }

    #[test]
    fn without_a_rule_only_the_firmware_reaches_memory() {
        let csrs = Csrs::default();
        assert!(csrs.permits(0x8000_0000, Store, Mode::Machine));
        assert!(!csrs.permits(0x8000_0000, Load, Supervisor) && !csrs.permits(0, Fetch, User));
        let open = with(&[(POWER_OF_TWO | READ | WRITE | EXECUTE, ALL)]);
        assert!([Fetch, Load, Store].iter().all(|&access| open.permits(u64::MAX >> 8, access, User)));
    }

    #[test]
    fn the_first_rule_that_covers_a_page_decides() {
        // 64 KiB that only the firmware has, then all memory but for stores; and a range.
        let size = |address: u64, size: u64| address | (size / 2 - 1);
        let csrs = with(&[
            (POWER_OF_TWO, size(0x8000_0000, 0x1_0000)),
            (TOP, 0x9000_0000),
            (TOP | READ | WRITE, 0x9000_2000),
            (POWER_OF_TWO | READ | EXECUTE, ALL),
        ]);
        for (address, load, store) in [
            (0x7fff_ffff, true, false),
            (0x8000_0000, false, false),
            (0x8000_ffff, false, false),
            (0x8001_0000, false, false),
            (0x9000_0000, true, true),
            (0x9000_1fff, true, true),
            (0x9000_2000, true, false),
        ] {
            assert_eq!(csrs.permits(address, Load, Supervisor), load, "{address:x}");
            assert_eq!(csrs.permits(address, Store, User), store, "{address:x}");
            assert!(csrs.permits(address, Store, Mode::Machine), "{address:x}: no rule is locked");
        }
        assert!(csrs.permits(0x9000_2000, Fetch, User) && !csrs.permits(0x9000_1000, Fetch, User));
    }

    #[test]
    fn a_locked_rule_binds_the_firmware_and_stays() {
        let mut csrs = with(&[(0, 0x8000_0000), (LOCKED | TOP | READ, 0x8000_1000)]);
        assert!(csrs.permits(0x8000_0fff, Load, Mode::Machine));
        assert!(!csrs.permits(0x8000_0000, Store, Mode::Machine));
        assert!(csrs.permits(0x8000_1000, Store, Mode::Machine));
        let before = csrs.words();
        csrs.write_rules(0, u64::from(POWER_OF_TWO | READ) << 8);
        csrs.write_rule_address(0, 5);
        csrs.write_rule_address(1, 5);
        assert_eq!(csrs.words(), before, "neither itself nor where it begins changes");
        csrs.write_rule_address(2, 5 << 10);
        assert_eq!(csrs.rule_address(2), 5 << 10);
    }

    #[test]
    fn rules_are_of_whole_pages_and_firmware_can_find_that_out() {
        let mut csrs = Csrs::default();
        csrs.write_rule_address(3, ALL);
        assert_eq!(csrs.rule_address(3).trailing_zeros(), 10, "off: zeros below the grain");
        csrs.write_rules(0, u64::from(FOUR_BYTES | READ | WRITE | EXECUTE) << 24);
        assert_eq!(csrs.rule(3), READ | WRITE | EXECUTE, "less than a page: off");
        csrs.write_rule_address(3, 0);
        csrs.write_rules(0, u64::from(POWER_OF_TWO | WRITE) << 24);
        assert_eq!(csrs.rule(3), POWER_OF_TWO, "writable only is no rule");
        assert_eq!(csrs.rule_address(3), 0x1ff, "ones: the smallest is a page");
        assert!(csrs.covers(3, 0xfff) && !csrs.covers(3, 0x1000));
        csrs.write_rules(2, u64::from(TOP | 0x60));
        assert_eq!((csrs.rule(8), csrs.has_possible_rules()), (TOP, true));
        csrs.pmpcfg[0] = 0x60;
        assert!(!csrs.has_possible_rules());
    }

    const PAGE_TABLE: u64 = RAM + 0x2000;

    /// A machine of which one page has a rule of its own; all else is open.
    fn machine(page: u64, rule: u8) -> Machine {
        let mut machine = Machine::new(1 << 20);
        let all = POWER_OF_TWO | READ | WRITE | EXECUTE;
        for (number, value) in [
            (0x3b0, page >> 2 | 0x1ff),
            (0x3b1, ALL),
            (0x3a0, u64::from_le_bytes([rule, all, 0, 0, 0, 0, 0, 0])),
        ] {
            machine.write_csr(number, value, 0).expect("machine mode");
        }
        machine
    }

    #[test]
    fn a_page_that_is_closed_is_an_access_fault_to_lower_modes_at_once() {
        let mut machine = machine(RAM + 0x1000, POWER_OF_TWO | READ);
        let fault = |cause, value| Err(Trap { cause, value });
        machine.mode = Supervisor;
        assert_eq!(machine.load(RAM + 0x1000, 8), Ok(0));
        let store = |value| Trap { cause: STORE_ACCESS, value };
        assert_eq!(machine.store(RAM + 0x1008, 8, 1), Err(store(RAM + 0x1008)));
        assert_eq!(machine.translate(RAM + 0x1004, Fetch), fault(FETCH_ACCESS, RAM + 0x1004));
        assert_eq!(machine.store(RAM + 0xffc, 8, 1), Err(store(RAM + 0x1000)));
        assert_eq!(machine.load(RAM + 0xff8, 8), Ok(0), "neither page was written");
        machine.mode = Mode::Machine;
        machine.store(RAM + 0x1000, 8, 7).expect("no rule is locked");
        // Nothing that was found before is used any more.
        machine.write_csr(0x3a0, 0x1f18, 0).expect("machine mode");
        machine.mode = Supervisor;
        assert_eq!(machine.load(RAM + 0x1000, 8), fault(LOAD_ACCESS, RAM + 0x1000));
        assert_eq!(machine.load(RAM + 0x2000, 8), Ok(0));
        machine.serves_sbi = true;
        assert_eq!(machine.load(RAM + 0x1000, 8), Ok(7), "the machine's own firmware keeps nothing back");
    }

    #[test]
    fn page_tables_are_read_and_marked_with_the_supervisors_rights() {
        let entry = RAM >> 12 << 10 | 0xf;
        for (rule, marked, expected) in [
            (POWER_OF_TWO, true, Err(Trap { cause: LOAD_ACCESS, value: 0x10 })),
            (POWER_OF_TWO | READ, false, Err(Trap { cause: LOAD_ACCESS, value: 0x10 })),
            (POWER_OF_TWO | READ, true, Ok(0)),
            (POWER_OF_TWO | READ | WRITE, false, Ok(0)),
        ] {
            let mut machine = machine(PAGE_TABLE, rule);
            let marks = if marked { 0xc0 } else { 0 };
            // A page of 1 GiB, which begins where RAM does.
            machine.ram_write(PAGE_TABLE, 8, entry | marks).expect("in RAM");
            machine.csr.satp = 8 << 60 | PAGE_TABLE >> 12;
            machine.mode = Supervisor;
            assert_eq!(machine.load(0x10, 8), expected, "rule {rule:x}, marked {marked}");
        }
    }
}
