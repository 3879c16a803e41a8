//! Owns putting a kernel, an initial file system and a device tree into RAM.

use crate::device_tree::describe;
use crate::devices::{Hardware, PLACES};
use crate::machine::{Machine, RAM};

/// Kernels begin at a multiple of 2 MiB; the first is left to firmware.
const KERNEL: u64 = RAM + 0x20_0000;

/// Why a machine could not be made ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootError {
    /// The file is no RISC-V `Image`.
    NotAKernel,
    /// Kernel, initial file system and device tree need more RAM than there is.
    TooLittleRam,
    /// More devices than there are places.
    TooManyDevices,
}

impl core::fmt::Display for BootError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            BootError::NotAKernel => "the kernel is no RISC-V image: give an uncompressed `Image` file",
            BootError::TooLittleRam => {
                "the machine has too little RAM for the kernel and the initial file system"
            }
            BootError::TooManyDevices => {
                "disks, network cards, console and entropy are more than the 8 devices that the machine has places for"
            }
        })
    }
}

impl core::error::Error for BootError {}

impl Machine {
    /// A machine about to begin a Linux kernel, without disks and network.
    ///
    /// # Errors
    /// The kernel is none, or RAM is too small.
    pub fn with_kernel(
        ram: usize,
        kernel: &[u8],
        initrd: &[u8],
        command_line: &str,
    ) -> Result<Machine, BootError> {
        Machine::with_hardware(ram, &Hardware::default(), kernel, initrd, command_line)
    }

    /// A machine with these devices, about to begin a Linux kernel.
    ///
    /// # Errors
    /// The kernel is none, RAM is too small, or there are too many devices.
    pub fn with_hardware(
        ram: usize,
        hardware: &Hardware,
        kernel: &[u8],
        initrd: &[u8],
        command_line: &str,
    ) -> Result<Machine, BootError> {
        if hardware.count() > PLACES {
            return Err(BootError::TooManyDevices);
        }
        if kernel.get(0x38..0x3c) != Some(b"RSC\x05".as_slice()) {
            return Err(BootError::NotAKernel);
        }
        let mut machine = Machine::new(ram);
        let end = RAM + ram as u64;
        let start = end.saturating_sub(initrd.len() as u64) & !0xfff;
        let place = (!initrd.is_empty()).then_some((start, start + initrd.len() as u64));
        let tree = describe(ram as u64, hardware, command_line, place);
        let tree_at = start.saturating_sub(tree.len() as u64) & !0xfff;
        // The kernel's own size, with what it clears for itself behind the file.
        let declared = kernel[0x10..0x18].iter().rev().fold(0, |size, &byte| size << 8 | u64::from(byte));
        let needed = declared.max(kernel.len() as u64);
        if KERNEL.checked_add(needed).is_none_or(|end| end > tree_at) {
            return Err(BootError::TooLittleRam);
        }
        let all = machine.put(KERNEL, kernel) && machine.put(start, initrd) && machine.put(tree_at, &tree);
        if !all {
            return Err(BootError::TooLittleRam);
        }
        machine.equip(hardware);
        machine.begin_kernel(KERNEL, tree_at);
        Ok(machine)
    }
}
