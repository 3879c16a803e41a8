//! A small assembler: instructions one after the other, branches to names.

use std::collections::BTreeMap;

/// Registers by what they are called.
pub const ZERO: u32 = 0;
pub const RA: u32 = 1;
pub const T0: u32 = 5;
pub const T1: u32 = 6;
pub const T2: u32 = 7;
pub const A0: u32 = 10;
pub const A1: u32 = 11;
pub const A2: u32 = 12;
pub const A6: u32 = 16;
pub const A7: u32 = 17;
pub const S1: u32 = 9;
pub const S2: u32 = 18;
pub const S3: u32 = 19;
pub const S4: u32 = 20;
pub const S5: u32 = 21;
pub const S6: u32 = 22;
pub const S7: u32 = 23;
pub const S8: u32 = 24;
pub const S9: u32 = 25;
pub const S10: u32 = 26;
pub const S11: u32 = 27;

/// How much a load or store moves; loads of less than 8 bytes are without sign.
pub const BYTE: u32 = 0;
pub const HALF: u32 = 1;
pub const WORD: u32 = 2;
pub const DOUBLE: u32 = 3;

#[derive(Default)]
pub struct Program {
    words: Vec<u32>,
    names: BTreeMap<&'static str, usize>,
    /// Branches (true) and jumps (false) whose distance is not known yet.
    open: Vec<(usize, &'static str, bool)>,
}

impl Program {
    pub fn word(&mut self, word: u32) {
        self.words.push(word);
    }

    fn i_type(&mut self, opcode: u32, rd: u32, funct3: u32, rs1: u32, immediate: i32) {
        assert!((-2048..2048).contains(&immediate), "{immediate}");
        self.word((immediate as u32) << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode);
    }

    pub fn name(&mut self, name: &'static str) {
        assert!(self.names.insert(name, self.words.len()).is_none(), "{name}");
    }

    /// A number of 32 bits, with sign.
    pub fn set(&mut self, rd: u32, value: i32) {
        let low = value << 20 >> 20;
        let high = value.wrapping_sub(low) as u32;
        if high == 0 {
            return self.add_to(rd, ZERO, low);
        }
        self.word(high | rd << 7 | 0x37);
        if low != 0 {
            self.i_type(0x1b, rd, 0, rd, low);
        }
    }

    /// The address of this instruction and so many pages more.
    pub fn here(&mut self, rd: u32, pages: u32) {
        self.word(pages << 12 | rd << 7 | 0x17);
    }

    pub fn add_to(&mut self, rd: u32, rs1: u32, immediate: i32) {
        self.i_type(0x13, rd, 0, rs1, immediate);
    }

    pub fn and(&mut self, rd: u32, rs1: u32, immediate: i32) {
        self.i_type(0x13, rd, 7, rs1, immediate);
    }

    pub fn left(&mut self, rd: u32, rs1: u32, by: i32) {
        self.i_type(0x13, rd, 1, rs1, by);
    }

    pub fn right(&mut self, rd: u32, rs1: u32, by: i32) {
        self.i_type(0x13, rd, 5, rs1, by);
    }

    pub fn add(&mut self, rd: u32, rs1: u32, rs2: u32) {
        self.word(rs2 << 20 | rs1 << 15 | rd << 7 | 0x33);
    }

    pub fn load(&mut self, size: u32, rd: u32, rs1: u32, offset: i32) {
        let unsigned = if size < DOUBLE { 4 } else { 0 };
        self.i_type(0x03, rd, size | unsigned, rs1, offset);
    }

    pub fn store(&mut self, size: u32, rs2: u32, rs1: u32, offset: i32) {
        assert!((-2048..2048).contains(&offset), "{offset}");
        let offset = offset as u32;
        self.word((offset >> 5 & 127) << 25 | rs2 << 20 | rs1 << 15 | size << 12 | (offset & 31) << 7 | 0x23);
    }

    /// A branch if both are equal, or if they are not.
    pub fn branch(&mut self, equal: bool, rs1: u32, rs2: u32, to: &'static str) {
        self.open.push((self.words.len(), to, true));
        self.word(rs2 << 20 | rs1 << 15 | u32::from(!equal) << 12 | 0x63);
    }

    pub fn jump(&mut self, rd: u32, to: &'static str) {
        self.open.push((self.words.len(), to, false));
        self.word(rd << 7 | 0x6f);
    }

    pub fn back(&mut self) {
        self.i_type(0x67, ZERO, 0, RA, 0);
    }

    pub fn read_csr(&mut self, rd: u32, number: u32) {
        self.word(number << 20 | 2 << 12 | rd << 7 | 0x73);
    }

    pub fn write_csr(&mut self, number: u32, rs1: u32) {
        self.word(number << 20 | rs1 << 15 | 1 << 12 | 0x73);
    }

    pub fn wait(&mut self) {
        self.word(0x1050_0073);
    }

    /// Calls the firmware.
    pub fn call(&mut self, extension: i32, function: i32) {
        self.set(A7, extension);
        self.set(A6, function);
        self.word(0x73);
    }

    pub fn bytes(mut self) -> Vec<u8> {
        for (at, to, branch) in std::mem::take(&mut self.open) {
            let distance = 4 * (self.names[to] as i32 - at as i32);
            let by = distance as u32;
            self.words[at] |= if branch {
                assert!((-4096..4096).contains(&distance), "{to}");
                (by >> 12 & 1) << 31 | (by >> 5 & 63) << 25 | (by >> 1 & 15) << 8 | (by >> 11 & 1) << 7
            } else {
                (by >> 20 & 1) << 31 | (by >> 1 & 0x3ff) << 21 | (by >> 11 & 1) << 20 | by & 0xf_f000
            };
        }
        self.words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
}
