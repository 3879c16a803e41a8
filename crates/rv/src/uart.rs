//! Owns the serial port: a 16550 that sends at once and receives from a queue.

use alloc::collections::VecDeque;
use serde::{Deserialize, Serialize};

/// The interrupt that it raises, as a bit.
const LINE: u32 = 1 << 10;

/// The serial port.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Uart {
    received: VecDeque<u8>,
    enabled: u8,
    line: u8,
    modem: u8,
    scratch: u8,
    divisor: [u8; 2],
    fifo: bool,
    /// The guest has not yet been told that it may send.
    empty_untold: bool,
}

impl Uart {
    pub fn receive(&mut self, bytes: &[u8]) {
        self.received.extend(bytes);
    }

    /// Takes the oldest byte received.
    pub fn take(&mut self) -> Option<u8> {
        self.received.pop_front()
    }

    pub fn interrupts(&self) -> u32 {
        let receives = self.enabled & 1 != 0 && !self.received.is_empty();
        let sends = self.enabled & 2 != 0 && self.empty_untold;
        if receives || sends { LINE } else { 0 }
    }

    pub fn read(&mut self, offset: u64) -> u8 {
        let divides = self.line & 0x80 != 0;
        match offset {
            0 | 1 if divides => self.divisor[offset as usize],
            0 => self.take().unwrap_or(0),
            1 => self.enabled,
            2 => {
                let fifo = if self.fifo { 0xc0 } else { 0 };
                if self.enabled & 1 != 0 && !self.received.is_empty() {
                    return fifo | 4;
                }
                if self.enabled & 2 != 0 && self.empty_untold {
                    self.empty_untold = false;
                    return fifo | 2;
                }
                fifo | 1
            }
            3 => self.line,
            4 => self.modem,
            5 => 0x60 | u8::from(!self.received.is_empty()),
            6 => 0xb0,
            _ => self.scratch,
        }
    }

    /// Gives the byte that was sent.
    pub fn write(&mut self, offset: u64, value: u8) -> Option<u8> {
        let divides = self.line & 0x80 != 0;
        match offset {
            0 | 1 if divides => self.divisor[offset as usize] = value,
            0 => {
                self.empty_untold = true;
                return Some(value);
            }
            1 => {
                self.empty_untold |= value & 2 != 0;
                self.enabled = value & 15;
            }
            2 => {
                self.fifo = value & 1 != 0;
                if value & 2 != 0 {
                    self.received.clear();
                }
            }
            3 => self.line = value,
            4 => self.modem = value,
            7 => self.scratch = value,
            _ => {}
        }
        None
    }

    pub fn words(&self) -> impl Iterator<Item = u64> {
        let [low, high] = self.divisor;
        let flags = u8::from(self.fifo) | u8::from(self.empty_untold) << 1;
        let registers = [self.enabled, self.line, self.modem, self.scratch, low, high, flags];
        let queue = self.received.iter().map(|&byte| byte.into());
        registers.into_iter().map(u64::from).chain([self.received.len() as u64]).chain(queue)
    }
}
