//! Owns the firmware's calls (SBI 2.0): base, timer, ipi, rfence, hsm, srst, debug console and the legacy console.

use crate::machine::{Machine, Output, Stop};

const NOT_SUPPORTED: i64 = -2;
const INVALID: i64 = -3;
const ALREADY_AVAILABLE: i64 = -6;
const TIMER: u64 = 0x5449_4d45;
const IPI: u64 = 0x0073_5049;
const FENCES: u64 = 0x5246_4e43;
const HARTS: u64 = 0x0048_534d;
const RESET: u64 = 0x5352_5354;
const CONSOLE: u64 = 0x4442_434e;

impl Machine {
    /// Serves the call that the registers describe.
    pub(crate) fn call_firmware(&mut self) {
        let [a0, a1, a2, function, extension] = [10, 11, 12, 16, 17].map(|register| self.x[register]);
        self.check = true;
        if extension < 9 {
            self.x[10] = self.call_legacy(extension, a0);
            return;
        }
        let (error, value) = match (extension, function) {
            (0x10, _) => base(function, a0),
            (TIMER, 0) => {
                self.timer = a0;
                (0, 0)
            }
            (IPI, 0) => {
                if a1 == u64::MAX || (a1 == 0 && a0 & 1 != 0) {
                    self.csr.mip |= 2;
                }
                (0, 0)
            }
            (FENCES, 0..=6) => {
                self.flush();
                (0, 0)
            }
            (HARTS, 0) => (ALREADY_AVAILABLE, 0),
            (HARTS, 2) if a0 == 0 => (0, 0),
            (HARTS, 2) => (INVALID, 0),
            (RESET, 0) => {
                self.stop = Some(if a0 == 0 { Stop::PowerOff } else { Stop::Reboot });
                (0, 0)
            }
            (CONSOLE, 0..=2) => self.call_console(function, [a0, a1, a2]),
            _ => (NOT_SUPPORTED, 0),
        };
        self.x[10] = error as u64;
        self.x[11] = value;
    }

    fn call_legacy(&mut self, extension: u64, a0: u64) -> u64 {
        match extension {
            0 => self.timer = a0,
            1 => self.outputs.push(Output::Console(a0 as u8)),
            2 => return self.uart.take().map_or(u64::MAX, u64::from),
            3 => self.csr.mip &= !2,
            4 => self.csr.mip |= 2,
            5..=7 => self.flush(),
            _ => self.stop = Some(Stop::PowerOff),
        }
        0
    }

    fn call_console(&mut self, function: u64, [a0, a1, a2]: [u64; 3]) -> (i64, u64) {
        if function == 2 {
            self.outputs.push(Output::Console(a0 as u8));
            return (0, 0);
        }
        // No more than the buffer holds, and no more than the machine has memory.
        let length = a0.min(self.ram.len() as u64);
        if a2 != 0 || a1.checked_add(length).is_none() {
            return (INVALID, 0);
        }
        for at in 0..length {
            if function == 0 {
                let Some(byte) = self.ram_read(a1 + at, 1) else { return (INVALID, at) };
                self.outputs.push(Output::Console(byte as u8));
            } else {
                if self.ram_read(a1 + at, 1).is_none() {
                    return (INVALID, at);
                }
                let Some(byte) = self.uart.take() else { return (0, at) };
                if self.ram_write(a1 + at, 1, byte.into()).is_none() {
                    return (INVALID, at);
                }
            }
        }
        (0, length)
    }
}

fn base(function: u64, extension: u64) -> (i64, u64) {
    match function {
        0 => (0, 2 << 24),
        3 => {
            let known = matches!(extension, 0..=8 | 0x10 | TIMER | IPI | FENCES | HARTS | RESET | CONSOLE);
            (0, known.into())
        }
        1 | 2 | 4..=6 => (0, 0),
        _ => (NOT_SUPPORTED, 0),
    }
}
