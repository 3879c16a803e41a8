//! Owns putting a kernel, an initial file system and a device tree into RAM.

use crate::device_tree::describe;
use crate::devices::{Hardware, PLACES};
use crate::machine::{Machine, RAM};
use alloc::vec::Vec;

/// Kernels begin at a multiple of 2 MiB; the first is left to firmware.
const KERNEL: u64 = RAM + 0x20_0000;
/// Half of what is left to firmware: it needs room for its stacks and tables behind the file.
const FIRMWARE: usize = 0x10_0000;
/// What firmware may add to the device tree.
const TREE_GROWS: u64 = 0x1_0000;
/// Linux reads no more of its command line on RISC-V.
const COMMAND_LINE: usize = 1023;

/// What a machine begins with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Files<'a> {
    /// Firmware that begins in machine mode, such as OpenSBI's `fw_dynamic.bin`; without, the machine is the firmware.
    pub firmware: Option<&'a [u8]>,
    /// A RISC-V kernel, an uncompressed `Image`.
    pub kernel: &'a [u8],
    /// Its initial file system; empty for none.
    pub initrd: &'a [u8],
    /// Its command line.
    pub command_line: &'a str,
}

/// Why a machine could not be made ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootError {
    /// The file is no RISC-V `Image`.
    NotAKernel,
    /// Firmware of more bytes than there is room for.
    LargeFirmware,
    /// Kernel, initial file system and device tree need more RAM than there is.
    TooLittleRam,
    /// The host cannot give so much RAM.
    TooMuchRam,
    /// More devices than there are places.
    TooManyDevices,
    /// The kernel would cut the command line short.
    LongCommandLine,
}

impl core::fmt::Display for BootError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            BootError::NotAKernel => "the kernel is no RISC-V image: give an uncompressed `Image` file",
            BootError::TooLittleRam => {
                "the machine has too little RAM for the kernel and the initial file system"
            }
            BootError::TooMuchRam => "the machine shall have more RAM than this host can give",
            BootError::LargeFirmware => "the firmware has more than 1 MiB: give `fw_dynamic.bin` or `fw_jump.bin` of OpenSBI",
            BootError::LongCommandLine => "the kernel's command line has more than 1,023 bytes, of which Linux reads no more",
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
        let files = Files { firmware: None, kernel, initrd, command_line };
        Machine::with_hardware(ram, &Hardware::default(), &files)
    }

    /// A machine with these devices, about to begin its firmware or a Linux kernel.
    ///
    /// # Errors
    /// The kernel is none, RAM is too small or too large, there are too many devices, or a file is too large.
    pub fn with_hardware(ram: usize, hardware: &Hardware, files: &Files<'_>) -> Result<Machine, BootError> {
        let Files { firmware, kernel, initrd, command_line } = *files;
        if hardware.count() > PLACES {
            return Err(BootError::TooManyDevices);
        }
        if kernel.get(0x38..0x3c) != Some(b"RSC\x05".as_slice()) {
            return Err(BootError::NotAKernel);
        }
        if command_line.len() > COMMAND_LINE {
            return Err(BootError::LongCommandLine);
        }
        if firmware.is_some_and(|firmware| firmware.len() > FIRMWARE) {
            return Err(BootError::LargeFirmware);
        }
        // Addresses have 56 bits. Asked for once before: what is not there then is an error, not the end of the program.
        let end = RAM.checked_add(ram as u64).filter(|end| end >> 56 == 0).ok_or(BootError::TooMuchRam)?;
        Vec::<u8>::new().try_reserve_exact(ram).map_err(|_| BootError::TooMuchRam)?;
        let mut machine = Machine::new(ram);
        let start = end.saturating_sub(initrd.len() as u64) & !0xfff;
        let place = (!initrd.is_empty()).then_some((start, start + initrd.len() as u64));
        let tree = describe(ram as u64, hardware, files, place);
        let spare = if firmware.is_some() { TREE_GROWS } else { 0 };
        let tree_at = start.saturating_sub(tree.len() as u64 + spare) & !0xfff;
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
        match firmware {
            Some(firmware) => machine.begin_firmware(firmware, tree_at, start)?,
            None => machine.begin_kernel(KERNEL, tree_at),
        }
        Ok(machine)
    }

    /// Lets firmware begin at the start of RAM. What it shall begin itself, in supervisor mode, is told in OpenSBI's way,
    /// before `end`.
    fn begin_firmware(&mut self, firmware: &[u8], device_tree: u64, end: u64) -> Result<(), BootError> {
        // Magic, version, where to go, in which mode, no options, the hart that boots.
        let words = [0x4942_534f_u64, 2, KERNEL, 1, 0, 0];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let told = end - 0x100;
        if !self.put(RAM, firmware) || !self.put(told, &bytes) {
            return Err(BootError::TooLittleRam);
        }
        (self.x[10], self.x[11], self.x[12]) = (0, device_tree, told);
        Ok(())
    }
}
