//! Owns traps: exceptions, interrupts, and the return from both.

use crate::csr::{MIE, MPIE, MPP, MPRV, SIE, SPIE, SPP, TSR};
use crate::machine::{Machine, Mode};

/// Causes of exceptions.
pub(crate) const FETCH_ACCESS: u64 = 1;
pub(crate) const ILLEGAL: u64 = 2;
pub(crate) const BREAKPOINT: u64 = 3;
pub(crate) const LOAD_MISALIGNED: u64 = 4;
pub(crate) const LOAD_ACCESS: u64 = 5;
pub(crate) const STORE_MISALIGNED: u64 = 6;
pub(crate) const STORE_ACCESS: u64 = 7;
pub(crate) const CALL: u64 = 8;
pub(crate) const FETCH_PAGE: u64 = 12;
pub(crate) const LOAD_PAGE: u64 = 13;
pub(crate) const STORE_PAGE: u64 = 15;
const INTERRUPT: u64 = 1 << 63;

/// Why an instruction could not be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trap {
    pub cause: u64,
    pub value: u64,
}

impl Machine {
    /// Takes the most urgent interrupt that is allowed, if there is one.
    pub(crate) fn take_interrupt(&mut self) {
        self.check = false;
        let ready = self.pending() & self.csr.mie;
        let to_machine = ready & !self.csr.mideleg;
        let to_supervisor = ready & self.csr.mideleg;
        let machine = self.mode < Mode::Machine || self.csr.mstatus & MIE != 0;
        let supervisor =
            self.mode == Mode::User || (self.mode == Mode::Supervisor && self.csr.mstatus & SIE != 0);
        let chosen = if machine && to_machine != 0 {
            to_machine
        } else if supervisor && to_supervisor != 0 {
            to_supervisor
        } else {
            return;
        };
        let first = [11, 3, 7, 9, 1, 5].into_iter().find(|bit| chosen >> bit & 1 != 0);
        if let Some(first) = first {
            self.enter(Trap { cause: INTERRUPT | first, value: 0 });
        }
    }

    /// Goes to the handler of a trap.
    pub(crate) fn enter(&mut self, trap: Trap) {
        let code = trap.cause & 63;
        let interrupt = trap.cause & INTERRUPT != 0;
        let delegated = if interrupt { self.csr.mideleg } else { self.csr.medeleg } >> code & 1 != 0;
        let from = self.mode as u64;
        let status = self.csr.mstatus;
        let vector = if self.mode < Mode::Machine && delegated {
            self.csr.scause = trap.cause;
            self.csr.stval = trap.value;
            self.csr.sepc = self.pc;
            let enabled = if status & SIE != 0 { SPIE } else { 0 };
            self.csr.mstatus = (status & !(SIE | SPIE | SPP)) | enabled | from << 8;
            self.mode = Mode::Supervisor;
            self.csr.stvec
        } else {
            self.csr.mcause = trap.cause;
            self.csr.mtval = trap.value;
            self.csr.mepc = self.pc;
            let enabled = if status & MIE != 0 { MPIE } else { 0 };
            self.csr.mstatus = (status & !(MIE | MPIE | MPP)) | enabled | from << 11;
            self.mode = Mode::Machine;
            self.csr.mtvec
        };
        let beyond = if interrupt && vector & 1 != 0 { 4 * code } else { 0 };
        self.pc = (vector & !3).wrapping_add(beyond);
        self.reservation = None;
    }

    /// `sret`.
    pub(crate) fn return_from_supervisor(&mut self, instruction: u32) -> Result<(), Trap> {
        let status = self.csr.mstatus;
        if self.mode == Mode::User || (self.mode == Mode::Supervisor && status & TSR != 0) {
            return Err(Trap { cause: ILLEGAL, value: instruction.into() });
        }
        self.mode = if status & SPP != 0 { Mode::Supervisor } else { Mode::User };
        let enabled = if status & SPIE != 0 { SIE } else { 0 };
        self.csr.mstatus = (status & !(SIE | SPP | MPRV)) | SPIE | enabled;
        self.pc = self.csr.sepc;
        self.check = true;
        self.reservation = None;
        Ok(())
    }

    /// `mret`.
    pub(crate) fn return_from_machine(&mut self, instruction: u32) -> Result<(), Trap> {
        let status = self.csr.mstatus;
        if self.mode != Mode::Machine {
            return Err(Trap { cause: ILLEGAL, value: instruction.into() });
        }
        self.mode = Mode::from_bits(status >> 11);
        let enabled = if status & MPIE != 0 { MIE } else { 0 };
        let kept = if self.mode == Mode::Machine { MPRV } else { 0 };
        self.csr.mstatus = (status & !(MIE | MPP | (MPRV ^ kept))) | MPIE | enabled;
        self.pc = self.csr.mepc;
        self.check = true;
        self.reservation = None;
        Ok(())
    }
}
