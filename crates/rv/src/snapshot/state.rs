//! Owns what a machine is without its RAM, as bytes. They may come from anywhere: what no machine can be is refused.

use super::SnapshotError;
use crate::csr::Csrs;
use crate::devices::Devices;
use crate::machine::{LATEST, Machine, Mode, Stop};
use crate::plic::Plic;
use crate::tlb::Found;
use crate::uart::Uart;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Everything but RAM. The order is that of the bytes; a change needs another version.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct State {
    x: [u64; 32],
    f: [u64; 32],
    pc: u64,
    mode: Mode,
    csr: Csrs,
    reservation: Option<u64>,
    waits: bool,
    pub instructions: u64,
    idle: u64,
    timer: u64,
    software_interrupt: bool,
    serves_sbi: bool,
    check: bool,
    stop: Option<Stop>,
    plic: Plic,
    uart: Uart,
    devices: Devices,
    translations: Found,
}

impl State {
    pub fn of(machine: &Machine) -> State {
        State {
            x: machine.x,
            f: machine.f,
            pc: machine.pc,
            mode: machine.mode,
            csr: machine.csr.clone(),
            reservation: machine.reservation,
            waits: machine.waits,
            instructions: machine.instructions,
            idle: machine.idle,
            timer: machine.timer,
            software_interrupt: machine.software_interrupt,
            serves_sbi: machine.serves_sbi,
            check: machine.check,
            stop: machine.stop,
            plic: machine.plic.clone(),
            uart: machine.uart.clone(),
            devices: machine.devices.clone(),
            translations: machine.tlb.found(),
        }
    }

    pub fn put_into(self, machine: &mut Machine) {
        machine.x = self.x;
        machine.f = self.f;
        machine.pc = self.pc;
        machine.mode = self.mode;
        machine.csr = self.csr;
        machine.reservation = self.reservation;
        machine.waits = self.waits;
        machine.instructions = self.instructions;
        machine.idle = self.idle;
        machine.timer = self.timer;
        machine.software_interrupt = self.software_interrupt;
        machine.serves_sbi = self.serves_sbi;
        machine.check = self.check;
        machine.stop = self.stop;
        machine.plic = self.plic;
        machine.uart = self.uart;
        machine.devices = self.devices;
        let mut tlb = core::mem::take(&mut machine.tlb);
        tlb.take(&self.translations, |address, target, access| machine.is_direct(address, target, access));
        machine.tlb = tlb;
    }

    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("memory takes all bytes")
    }

    pub fn decode(bytes: &[u8]) -> Result<State, SnapshotError> {
        let (state, rest) = postcard::take_from_bytes::<State>(bytes)
            .map_err(|_| SnapshotError::Damaged("its state cannot be understood"))?;
        // Each state has one form only.
        if !rest.is_empty() || state.encode() != bytes {
            return Err(SnapshotError::Damaged("its state has more bytes than it needs"));
        }
        if !state.is_possible() {
            return Err(SnapshotError::Damaged("no machine can be in its state"));
        }
        Ok(state)
    }

    fn is_possible(&self) -> bool {
        self.x[0] == 0
            && self.pc & 1 == 0
            && self.csr.is_possible()
            // Counts that do not overflow, whatever the guest does next.
            && self.instructions <= LATEST
            && self.idle <= u64::MAX / 2
            && matches!(self.stop, None | Some(Stop::PowerOff | Stop::Reboot))
            && self.plic.is_possible()
            && self.devices.is_possible()
            && self.translations.is_possible()
    }
}
