//! Owns the control and status registers: what each holds, who may read and write it.

use crate::machine::{Machine, Mode};
use crate::pmp;
use crate::trap::{ILLEGAL, Trap};
use serde::{Deserialize, Serialize};

/// `mstatus` bits.
pub(crate) const SIE: u64 = 1 << 1;
pub(crate) const MIE: u64 = 1 << 3;
pub(crate) const SPIE: u64 = 1 << 5;
pub(crate) const MPIE: u64 = 1 << 7;
pub(crate) const SPP: u64 = 1 << 8;
pub(crate) const MPP: u64 = 3 << 11;
pub(crate) const FS: u64 = 3 << 13;
pub(crate) const MPRV: u64 = 1 << 17;
pub(crate) const SUM: u64 = 1 << 18;
pub(crate) const MXR: u64 = 1 << 19;
pub(crate) const TVM: u64 = 1 << 20;
pub(crate) const TW: u64 = 1 << 21;
pub(crate) const TSR: u64 = 1 << 22;
const SD: u64 = 1 << 63;
/// Both lower modes have 64 bits, for good.
pub(crate) const WIDTHS: u64 = 2 << 32 | 2 << 34;
const M_WRITABLE: u64 = S_WRITABLE | MIE | MPIE | MPP | MPRV | TVM | TW | TSR;
const S_WRITABLE: u64 = SIE | SPIE | SPP | FS | SUM | MXR;
/// The supervisor's interrupts: software, timer, external.
pub(crate) const S_INTERRUPTS: u64 = 0x222;
const M_INTERRUPTS: u64 = 0xaaa;
/// The exceptions that can be delegated.
const EXCEPTIONS: u64 = 0xb3ff;
/// RV64 with A, C, D, F, I, M, S and U.
const MISA: u64 = 2 << 62 | 0x14_112d;

/// The registers that hold state of their own.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Csrs {
    pub mstatus: u64,
    pub medeleg: u64,
    pub mideleg: u64,
    pub mie: u64,
    /// Bits that software set; the devices' lines are added by [`Machine::pending`].
    pub mip: u64,
    pub mtvec: u64,
    pub mscratch: u64,
    pub mepc: u64,
    pub mcause: u64,
    pub mtval: u64,
    pub mcounteren: u64,
    pub stvec: u64,
    pub sscratch: u64,
    pub sepc: u64,
    pub scause: u64,
    pub stval: u64,
    pub scounteren: u64,
    pub satp: u64,
    pub fflags: u64,
    pub frm: u64,
    pub pmpcfg: [u64; 4],
    pub pmpaddr: [u64; 16],
}

impl Csrs {
    /// Whether all hold what can be written to them.
    pub fn is_possible(&self) -> bool {
        let none_beyond = [
            (self.mstatus, M_WRITABLE),
            (self.medeleg, EXCEPTIONS),
            (self.mideleg, S_INTERRUPTS),
            (self.mie, M_INTERRUPTS),
            (self.mip, S_INTERRUPTS),
            (self.mtvec | self.stvec, !2),
            (self.mepc | self.sepc, !1),
            (self.mcounteren | self.scounteren, 7),
            (self.fflags, 31),
            (self.frm, 7),
            (self.pmpcfg[1] | self.pmpcfg[3], 0),
            (self.pmpaddr.iter().fold(0, |all, address| all | address), pmp::ADDRESS),
        ];
        none_beyond.iter().all(|(value, mask)| value & !mask == 0)
            && self.mstatus & MPP != 2 << 11
            && self.has_possible_rules()
            && matches!(self.satp >> 60, 0 | 8 | 9)
    }

    /// All of them, for the state hash.
    pub fn words(&self) -> [u64; 40] {
        let mut words = [0; 40];
        words[..20].copy_from_slice(&[
            self.mstatus,
            self.medeleg,
            self.mideleg,
            self.mie,
            self.mip,
            self.mtvec,
            self.mscratch,
            self.mepc,
            self.mcause,
            self.mtval,
            self.mcounteren,
            self.stvec,
            self.sscratch,
            self.sepc,
            self.scause,
            self.stval,
            self.scounteren,
            self.satp,
            self.fflags,
            self.frm,
        ]);
        words[20..24].copy_from_slice(&self.pmpcfg);
        words[24..].copy_from_slice(&self.pmpaddr);
        words
    }
}

impl Machine {
    fn status(&self) -> u64 {
        let status = self.csr.mstatus | WIDTHS;
        if status & FS == FS { status | SD } else { status }
    }

    /// Reads a register as the running mode.
    pub(crate) fn read_csr(&self, number: u32, instruction: u32) -> Result<u64, Trap> {
        let csr = &self.csr;
        let closed = match number {
            1..=3 => csr.mstatus & FS == 0,
            0xc00..=0xc02 => {
                let bit = 1 << (number & 3);
                (self.mode < Mode::Machine && csr.mcounteren & bit == 0)
                    || (self.mode == Mode::User && csr.scounteren & bit == 0)
            }
            0x180 => self.mode == Mode::Supervisor && csr.mstatus & TVM != 0,
            _ => false,
        };
        let open = !closed && self.mode as u32 >= (number >> 8) & 3;
        let value = if open { self.csr_value(number) } else { None };
        value.ok_or(Trap { cause: ILLEGAL, value: instruction.into() })
    }

    /// What a register holds; none if there is no such.
    pub(crate) fn csr_value(&self, number: u32) -> Option<u64> {
        let csr = &self.csr;
        Some(match number {
            1 => csr.fflags,
            2 => csr.frm,
            3 => csr.frm << 5 | csr.fflags,
            0xc01 => self.time(),
            0xc00 | 0xc02 => self.instructions,
            0x100 => self.status() & (S_WRITABLE | SD | 3 << 32),
            0x104 => csr.mie & csr.mideleg,
            0x105 => csr.stvec,
            0x106 => csr.scounteren,
            0x140 => csr.sscratch,
            0x141 => csr.sepc,
            0x142 => csr.scause,
            0x143 => csr.stval,
            0x144 => self.pending() & csr.mideleg,
            0x180 => csr.satp,
            0x300 => self.status(),
            0x301 => MISA,
            0x302 => csr.medeleg,
            0x303 => csr.mideleg,
            0x304 => csr.mie,
            0x305 => csr.mtvec,
            0x306 => csr.mcounteren,
            0x340 => csr.mscratch,
            0x341 => csr.mepc,
            0x342 => csr.mcause,
            0x343 => csr.mtval,
            0x344 => self.pending(),
            0x3a0 | 0x3a2 => csr.pmpcfg[(number - 0x3a0) as usize],
            0x3b0..=0x3bf => csr.rule_address((number - 0x3b0) as usize),
            0xb00 | 0xb02 => self.instructions,
            0xf11..=0xf15 | 0x320 | 0x323..=0x33f | 0xb03..=0xb1f => 0,
            _ => return None,
        })
    }

    /// Writes a register that [`read_csr`](Self::read_csr) allowed to be read.
    pub(crate) fn write_csr(&mut self, number: u32, value: u64, instruction: u32) -> Result<(), Trap> {
        if number >> 10 == 3 {
            return Err(Trap { cause: ILLEGAL, value: instruction.into() });
        }
        self.check = true;
        let (status, satp) = (self.csr.mstatus, self.csr.satp);
        let csr = &mut self.csr;
        let merge = |old: u64, mask: u64| (old & !mask) | (value & mask);
        match number {
            1 => csr.fflags = value & 31,
            2 => csr.frm = value & 7,
            3 => (csr.fflags, csr.frm) = (value & 31, (value >> 5) & 7),
            0x100 => csr.mstatus = merge(csr.mstatus, S_WRITABLE),
            0x104 => csr.mie = merge(csr.mie, csr.mideleg),
            // A mode that there is not leaves the register as it was; the same for `mtvec` and `satp`.
            0x105 if value & 2 != 0 => {}
            0x105 => csr.stvec = value,
            0x106 => csr.scounteren = value & 7,
            0x140 => csr.sscratch = value,
            0x141 => csr.sepc = value & !1,
            0x142 => csr.scause = value,
            0x143 => csr.stval = value,
            // Of the supervisor's own only the software interrupt can be written.
            0x144 => csr.mip = merge(csr.mip, csr.mideleg & 2),
            0x180 => {
                if matches!(value >> 60, 0 | 8 | 9) {
                    csr.satp = value
                }
            }
            0x300 => {
                let mask = if value & MPP == 2 << 11 { M_WRITABLE & !MPP } else { M_WRITABLE };
                csr.mstatus = merge(csr.mstatus, mask);
            }
            0x302 => csr.medeleg = value & EXCEPTIONS,
            0x303 => csr.mideleg = value & S_INTERRUPTS,
            0x304 => csr.mie = value & M_INTERRUPTS,
            0x305 if value & 2 != 0 => {}
            0x305 => csr.mtvec = value,
            0x306 => csr.mcounteren = value & 7,
            0x340 => csr.mscratch = value,
            0x341 => csr.mepc = value & !1,
            0x342 => csr.mcause = value,
            0x343 => csr.mtval = value,
            0x344 => csr.mip = merge(csr.mip, S_INTERRUPTS),
            0x3a0 | 0x3a2 => csr.write_rules((number - 0x3a0) as usize, value),
            0x3b0..=0x3bf => csr.write_rule_address((number - 0x3b0) as usize, value),
            _ => {}
        }
        if matches!(number, 1..=3) {
            self.csr.mstatus |= FS;
        }
        // What was found depends on these; all else in `mstatus` that counts chooses another view.
        let rules = (0x3a0..=0x3bf).contains(&number);
        if (status ^ self.csr.mstatus) & MXR != 0 || satp != self.csr.satp || rules {
            self.flush();
        }
        Ok(())
    }
}
