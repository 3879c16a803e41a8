//! Owns the map of physical addresses: RAM, and which device answers where. It is the map of QEMU's `virt`.

use crate::devices::{PLACES, STRIDE, surroundings};
use crate::machine::{Machine, Output, RAM, Stop};

/// Timer and software interrupts.
pub(crate) const CLINT: u64 = 0x200_0000;
/// Interrupt controller.
pub(crate) const PLIC: u64 = 0xc00_0000;
/// Switches the machine off, or has it begin anew.
pub(crate) const SWITCH: u64 = 0x10_0000;
/// Real-time clock.
pub(crate) const CLOCK: u64 = 0x10_1000;
/// The first virtio device.
pub(crate) const VIRTIO: u64 = 0x1000_1000;
const VIRTIO_END: u64 = VIRTIO + STRIDE * PLACES as u64;
/// Serial port.
pub(crate) const UART: u64 = 0x1000_0000;

impl Machine {
    fn place(&self, address: u64, size: u64) -> Option<core::ops::Range<usize>> {
        let start = usize::try_from(address.checked_sub(RAM)?).ok()?;
        let end = start.checked_add(size as usize)?;
        (end <= self.ram.len()).then_some(start..end)
    }

    /// Reads RAM only.
    pub(crate) fn ram_read(&self, address: u64, size: u64) -> Option<u64> {
        let bytes = &self.ram[self.place(address, size)?];
        // A load of the host for each of these sizes, not a call that copies so many bytes.
        Some(match *bytes {
            [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            [a, b, c, d] => u32::from_le_bytes([a, b, c, d]).into(),
            [a, b] => u16::from_le_bytes([a, b]).into(),
            _ => bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)),
        })
    }

    /// Writes RAM only.
    pub(crate) fn ram_write(&mut self, address: u64, size: u64, value: u64) -> Option<()> {
        let place = self.place(address, size)?;
        self.code.wrote(place.start, size as usize);
        self.dirty.mark_range(place.start, size as usize);
        let (to, bytes) = (&mut self.ram[place], value.to_le_bytes());
        // As above: each of these is one store.
        match to.len() {
            8 => to.copy_from_slice(&bytes),
            4 => to.copy_from_slice(&bytes[..4]),
            2 => to.copy_from_slice(&bytes[..2]),
            size => to.copy_from_slice(&bytes[..size]),
        }
        Some(())
    }

    /// Reads RAM or a device; none where there is nothing.
    pub(crate) fn read(&mut self, address: u64, size: u64) -> Option<u64> {
        if address >= RAM {
            return self.ram_read(address, size);
        }
        self.check = true;
        match address {
            UART..0x1000_0008 if size == 1 => Some(self.uart.read(address - UART).into()),
            PLIC..0xc40_0000 if size == 4 => {
                let raised = self.raised();
                Some(self.plic.read(address - PLIC, raised).into())
            }
            CLINT..0x201_0000 => self.read_clint(address - CLINT, size),
            VIRTIO..VIRTIO_END => self.devices.read(address - VIRTIO, size),
            SWITCH..CLOCK if size <= 4 => Some(0),
            CLOCK..0x10_2000 if size == 4 => {
                let now = self.nanoseconds();
                Some(self.devices.rtc.read(address - CLOCK, now).into())
            }
            _ => None,
        }
    }

    /// Writes RAM or a device; none where there is nothing.
    pub(crate) fn write(&mut self, address: u64, size: u64, value: u64) -> Option<()> {
        if address >= RAM {
            return self.ram_write(address, size, value);
        }
        self.check = true;
        match address {
            UART..0x1000_0008 if size == 1 => {
                if let Some(byte) = self.uart.write(address - UART, value as u8) {
                    self.outputs.push(Output::Console(byte));
                }
            }
            PLIC..0xc40_0000 if size == 4 => self.plic.write(address - PLIC, value as u32),
            CLINT..0x201_0000 => self.write_clint(address - CLINT, size, value)?,
            SWITCH if matches!(size, 2 | 4) => match value & 0xffff {
                0x3333 | 0x5555 => self.stop = Some(Stop::PowerOff),
                0x7777 => self.stop = Some(Stop::Reboot),
                _ => {}
            },
            SWITCH..CLOCK if size <= 4 => {}
            VIRTIO..VIRTIO_END if size == 4 => {
                let Machine { ram, code, dirty, outputs, .. } = self;
                let mut all = surroundings(ram, code, dirty, outputs);
                self.devices.write(address - VIRTIO, value as u32, &mut all)?;
            }
            CLOCK..0x10_2000 if size == 4 => {
                let now = self.nanoseconds();
                self.devices.rtc.write(address - CLOCK, value as u32, now);
            }
            _ => return None,
        }
        Some(())
    }

    fn read_clint(&self, offset: u64, size: u64) -> Option<u64> {
        let (register, shift) = (offset & !7, 8 * (offset & 7));
        if !offset.is_multiple_of(size) {
            return None;
        }
        let value = match register {
            0 => u64::from(self.software_interrupt),
            0x4000 => self.timer,
            0xbff8 => self.time(),
            _ => 0,
        };
        Some((value >> shift) & (u64::MAX >> (64 - 8 * size)))
    }

    fn write_clint(&mut self, offset: u64, size: u64, value: u64) -> Option<()> {
        match (offset, size) {
            (0, 4) => self.software_interrupt = value & 1 != 0,
            (0x4000, 8) => self.timer = value,
            (0x4000, 4) => self.timer = (self.timer & !0xffff_ffff) | value & 0xffff_ffff,
            (0x4004, 4) => self.timer = (self.timer & 0xffff_ffff) | value << 32,
            (_, 4 | 8) => {}
            _ => return None,
        }
        Some(())
    }
}
