//! Owns telling two machines apart: what differs between them, by name.

use crate::machine::{Machine, RAM};
use crate::mmu::Access;
use crate::snapshot::State;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

const INTEGERS: [&str; 32] = [
    "zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1", "a0", "a1", "a2", "a3", "a4", "a5", "a6",
    "a7", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6",
];
/// In the order of [`Csrs::words`](crate::csr::Csrs::words), without those of PMP.
const CONTROLS: [&str; 20] = [
    "mstatus",
    "medeleg",
    "mideleg",
    "mie",
    "mip",
    "mtvec",
    "mscratch",
    "mepc",
    "mcause",
    "mtval",
    "mcounteren",
    "stvec",
    "sscratch",
    "sepc",
    "scause",
    "stval",
    "scounteren",
    "satp",
    "fflags",
    "frm",
];

/// Something in which two machines differ, with what it is in the one and in the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// A register of the hart, or what counts as one.
    Register {
        /// Its name.
        name: String,
        /// What it holds.
        values: [u64; 2],
    },
    /// Eight bytes of RAM.
    Memory {
        /// Their physical address.
        address: u64,
        /// What they hold.
        values: [u64; 2],
    },
    /// A device, or a cache.
    Part {
        /// Which one.
        name: &'static str,
    },
}

impl Machine {
    /// Whether two machines are in the same state, to the last bit.
    pub fn equals(&self, other: &Machine) -> bool {
        State::of(self).encode() == State::of(other).encode() && self.ram == other.ram
    }

    /// What differs between two machines; of RAM no more than the first `most` places.
    pub fn differences(&self, other: &Machine, most: usize) -> Vec<Difference> {
        let registers = self.registers().into_iter().zip(other.registers());
        let registers = registers.filter(|((_, one), (_, two))| one != two);
        let mut all: Vec<Difference> = registers
            .map(|((name, one), (_, two))| Difference::Register { name, values: [one, two] })
            .collect();
        let parts = self.parts().into_iter().zip(other.parts()).filter(|((_, one), (_, two))| one != two);
        all.extend(parts.map(|((name, _), _)| Difference::Part { name }));
        let pages = self.ram.chunks(0x1000).zip(other.ram.chunks(0x1000)).enumerate();
        let words = pages.filter(|(_, (one, two))| one != two).flat_map(|(page, (one, two))| {
            let words = one.chunks(8).zip(two.chunks(8)).enumerate();
            words.map(move |(at, (one, two))| (RAM + (page * 0x1000 + at * 8) as u64, word(one), word(two)))
        });
        let differing = words.filter(|(_, one, two)| one != two).take(most);
        all.extend(differing.map(|(address, one, two)| Difference::Memory { address, values: [one, two] }));
        all
    }

    /// The instruction at the program counter; none if there is none to be read. It is for a machine that does not go on:
    /// to look is to put translations into the cache.
    pub fn look_ahead(&mut self) -> Option<u32> {
        let half = |machine: &mut Machine, address: u64| {
            let physical = machine.translate(address, Access::Fetch).ok()?;
            machine.ram_read(physical, 2).map(|half| half as u32)
        };
        let low = half(self, self.pc)?;
        if low & 3 != 3 { Some(low) } else { Some(half(self, self.pc.wrapping_add(2))? << 16 | low) }
    }

    fn registers(&self) -> Vec<(String, u64)> {
        let named = |(name, value): (&&str, u64)| (name.to_string(), value);
        let mut all: Vec<(String, u64)> = INTEGERS.iter().zip(self.x).map(named).collect();
        all.extend((0..).zip(self.f).map(|(number, value): (u32, u64)| (format!("f{number}"), value)));
        let controls = self.csr.words();
        all.extend(CONTROLS.iter().zip(controls).map(named));
        all.extend(
            (0..).zip(&controls[20..]).map(|(number, &value): (u32, _)| (format!("pmp{number}"), value)),
        );
        let others = [
            ("pc", self.pc),
            ("mode", self.mode as u64),
            ("instructions", self.instructions),
            ("clock", self.clock()),
            ("timer", self.timer),
            ("waits", self.waits.into()),
            ("software interrupt", self.software_interrupt.into()),
            ("reservation", self.reservation.unwrap_or(u64::MAX)),
        ];
        all.extend(others.map(|(name, value)| (name.to_string(), value)));
        all
    }

    /// All else, as bytes to be compared.
    fn parts(&self) -> [(&'static str, Vec<u64>); 5] {
        let mut devices = Vec::new();
        self.devices.words(&mut |word| devices.push(word));
        let ended = u64::from(self.check) | (self.stop.map_or(0, |stop| 1 + stop as u64)) << 1;
        [
            ("the interrupt controller", self.plic.words().collect()),
            ("the serial port", self.uart.words().collect()),
            ("the clock, disks, cards, console or entropy", devices),
            ("what is looked for before the next instruction", alloc::vec![ended]),
            ("the cache of translations", self.tlb.found().words()),
        ]
    }
}

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Input;

    #[test]
    fn differences_have_names() {
        let mut one = Machine::new(0x3800);
        let mut two = one.clone();
        assert!(one.equals(&two) && one.differences(&two, 9).is_empty());
        one.x[10] = 5;
        one.csr.satp = 8 << 60;
        two.input(Input::Console(alloc::vec![1]));
        assert!(one.put(RAM + 0x37f9, &[1]) && two.put(RAM + 8, &[2, 3]) && two.put(RAM + 0x1000, &[4]));
        assert!(!one.equals(&two));
        let register = |name: &str, values| Difference::Register { name: name.to_string(), values };
        let memory = |at, values| Difference::Memory { address: RAM + at, values };
        let expected = [
            register("a0", [5, 0]),
            register("satp", [8 << 60, 0]),
            Difference::Part { name: "the serial port" },
            Difference::Part { name: "what is looked for before the next instruction" },
            memory(8, [0, 0x302]),
            memory(0x1000, [0, 4]),
        ];
        assert_eq!(one.differences(&two, 2), expected);
        assert_eq!(one.differences(&two, 3).last(), Some(&memory(0x37f8, [0x100, 0])));
    }

    #[test]
    fn each_state_that_is_told_apart_has_a_difference_to_show() {
        let one = Machine::new(0x1000);
        let mut two = one.clone();
        two.stop = Some(crate::machine::Stop::PowerOff);
        assert_eq!((one.equals(&two), one.differences(&two, 1).len()), (false, 1));
        let mut three = one.clone();
        three.tlb.insert(0x5000, Access::Load, 1, RAM, true);
        assert_eq!((one.equals(&three), one.differences(&three, 1).len()), (false, 1));
    }
}
