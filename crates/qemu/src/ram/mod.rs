//! Owns the map of a VM's memory: which blocks QEMU has, which must be replicated, and where they are.
//!
//! | block | kind | what happens to it |
//! |---|---|---|
//! | `ram0` | main | tracked and replicated, through the shared memfd |
//! | anything else the guest can write | writable | tracked and replicated, through the process's memory |
//! | `pc.bios`, `pc.rom`, option ROMs | ROM | copied once: a standby starts with empty ROMs |
//! | `/rom@etc/...`, `/rom@genroms/...` | rebuilt | QEMU makes it on every host; only its length is compared |
//!
//! QEMU 8.0 and newer tell where a block is. On 7.2 the guest addresses of the two known ROMs are looked up, which
//! works before the guest runs and may hide them; a VM with further blocks of unknown place is refused.

mod parse;

pub use parse::{BlockLine, host_address, ram_blocks};

use crate::launch::MAIN_MEMORY;
use crate::qmp::{Qmp, QmpError};
use os::process_memory::{self, ProcessMemoryError};
use os::{Memory, Range};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Why a VM's memory cannot be mapped.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// QEMU does not answer.
    #[error("cannot ask QEMU for its memory blocks: {0}")]
    Qmp(#[from] QmpError),
    /// The process's mappings cannot be read.
    #[error("cannot look up QEMU's memory: {0}")]
    Mappings(#[from] ProcessMemoryError),
    /// QEMU's answer has an unknown form.
    #[error(
        "QEMU's list of memory blocks has a line that cannot be understood: {0:?}; this QEMU is not supported"
    )]
    Table(String),
    /// The main memory is not one whole mapping of ours.
    #[error("QEMU has not mapped the VM's memory ({len} bytes of {name:?}) as a whole")]
    MainMemory {
        /// Its name.
        name: String,
        /// Its length.
        len: u64,
    },
    /// A block must be copied, but nobody tells where it is.
    #[error(
        "this QEMU does not tell where the memory block {0:?} is, so it cannot be replicated; use QEMU 8.0 or \
         newer, or remove the device that owns it (for an option ROM, add `romfile=` to the device)"
    )]
    NoAddress(String),
    /// A block is not whole pages.
    #[error("the memory block {name:?} has {len} bytes, which is not whole pages; it cannot be tracked")]
    NotPages {
        /// The block.
        name: String,
        /// Its length.
        len: u64,
    },
}

/// What is to be done with a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlockKind {
    /// Main memory: tracked and replicated.
    Main,
    /// Other memory that the guest can write: tracked and replicated.
    Writable,
    /// Never changes; copied once, because a standby starts with it empty.
    Rom,
    /// Made by each QEMU for itself; only compared.
    Rebuilt,
}

impl BlockKind {
    fn of(line: &BlockLine) -> Self {
        let name = line.name.as_str();
        let known_rom = matches!(name, "pc.bios" | "pc.rom" | "isa-bios") || name.ends_with(".rom");
        match line.read_only {
            _ if name == MAIN_MEMORY => Self::Main,
            _ if name.starts_with("/rom@") => Self::Rebuilt,
            Some(true) => Self::Rom,
            None if known_rom => Self::Rom,
            _ => Self::Writable,
        }
    }
}

/// A block as every host must have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockShape {
    /// QEMU's name for it.
    pub name: String,
    /// What is to be done with it.
    pub kind: BlockKind,
    /// Bytes in use.
    pub used: u64,
}

/// All blocks of a VM, sorted by name: comparable between hosts. Blocks are meant by their number in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RamLayout {
    /// The blocks.
    pub blocks: Vec<BlockShape>,
}

/// How two layouts differ.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the memory of the two QEMUs differs: {} here, {} there; use the same QEMU, machine and devices", self.first(), self.second())]
pub struct LayoutMismatch {
    only_first: Vec<BlockShape>,
    only_second: Vec<BlockShape>,
}

impl LayoutMismatch {
    /// The blocks that only the first has.
    #[must_use]
    pub fn first(&self) -> String {
        listed(&self.only_first)
    }

    /// The blocks that only the second has.
    #[must_use]
    pub fn second(&self) -> String {
        listed(&self.only_second)
    }
}

fn listed(blocks: &[BlockShape]) -> String {
    let all: Vec<String> = blocks.iter().map(ToString::to_string).collect();
    if all.is_empty() { "nothing more".to_string() } else { all.join(", ") }
}

impl fmt::Display for BlockShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {:#x} bytes ({:?})", self.name, self.used, self.kind)
    }
}

impl RamLayout {
    /// Checks that another host has the same blocks.
    ///
    /// # Errors
    /// Every difference.
    pub fn check_same(&self, other: &Self) -> Result<(), LayoutMismatch> {
        let only = |here: &Self, there: &Self| -> Vec<BlockShape> {
            here.blocks.iter().filter(|b| !there.blocks.contains(b)).cloned().collect()
        };
        let mismatch = LayoutMismatch { only_first: only(self, other), only_second: only(other, self) };
        if self == other { Ok(()) } else { Err(mismatch) }
    }

    /// The numbers of the blocks that are tracked and replicated.
    pub fn replicated(&self) -> impl Iterator<Item = usize> + '_ {
        let replicated = |b: &BlockShape| matches!(b.kind, BlockKind::Main | BlockKind::Writable);
        self.blocks.iter().enumerate().filter(move |(_, b)| replicated(b)).map(|(index, _)| index)
    }
}

/// A byte of a VM's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The block's number in the layout.
    pub block: usize,
    /// The byte in it.
    pub offset: u64,
}

/// Where one QEMU process has its blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RamMap {
    layout: RamLayout,
    /// Of each block; none of those that are only compared.
    hosts: Vec<Option<u64>>,
}

impl RamMap {
    /// Asks QEMU. On QEMU 7.2 this must be done before the guest runs.
    ///
    /// # Errors
    /// If QEMU does not tell, or a block cannot be replicated.
    pub fn discover(qmp: &Qmp, pid: u32, memory: &Memory) -> Result<Self, RamError> {
        let lines = ram_blocks(&qmp.human("info ramblock")?).map_err(RamError::Table)?;
        let main = main_memory(pid, memory)?;
        let mut found = Vec::new();
        for line in lines {
            let kind = BlockKind::of(&line);
            let host = match kind {
                BlockKind::Main => Some(main),
                BlockKind::Rebuilt => None,
                BlockKind::Rom | BlockKind::Writable => Some(host_of(qmp, &line)?),
            };
            found.push((BlockShape { name: line.name, kind, used: line.used }, host));
        }
        Self::new(found)
    }

    fn new(mut found: Vec<(BlockShape, Option<u64>)>) -> Result<Self, RamError> {
        found.sort_by(|a, b| a.0.name.cmp(&b.0.name));
        let (blocks, hosts) = found.into_iter().unzip();
        let map = Self { layout: RamLayout { blocks }, hosts };
        for index in map.layout.replicated() {
            let block = &map.layout.blocks[index];
            if !map.range(index).is_pages() {
                return Err(RamError::NotPages { name: block.name.clone(), len: block.used });
            }
        }
        Ok(map)
    }

    /// The blocks.
    #[must_use]
    pub fn layout(&self) -> &RamLayout {
        &self.layout
    }

    /// The address of a byte in the process.
    ///
    /// # Panics
    /// If there is no such byte, or the block is one that is only compared.
    #[must_use]
    pub fn address(&self, block: usize, offset: u64) -> u64 {
        let shape = &self.layout.blocks[block];
        assert!(offset < shape.used, "{shape} has no byte {offset:#x}");
        self.hosts[block].unwrap_or_else(|| panic!("{shape} is only compared")) + offset
    }

    fn range(&self, block: usize) -> Range {
        Range::new(self.hosts[block].unwrap_or(0), self.layout.blocks[block].used)
    }

    /// The addresses of all blocks that are replicated: what to track.
    #[must_use]
    pub fn tracked_ranges(&self) -> Vec<Range> {
        self.layout.replicated().map(|block| self.range(block)).collect()
    }

    /// The byte of the VM's memory that the process has at `address`, if it is of a replicated block.
    #[must_use]
    pub fn locate(&self, address: u64) -> Option<Place> {
        let block = self.layout.replicated().find(|block| self.range(*block).contains(address))?;
        Some(Place { block, offset: address - self.range(block).start })
    }
}

/// Where the process has our memory: one mapping, or several that follow each other.
fn main_memory(pid: u32, memory: &Memory) -> Result<u64, RamError> {
    let inode = rustix::fs::fstat(memory.fd()).map(|stat| stat.st_ino).unwrap_or(0);
    let mut found: Option<Range> = None;
    for mapping in
        process_memory::mappings(pid)?.iter().filter(|m| m.shared && m.inode == inode && inode != 0)
    {
        found = match found {
            None if mapping.offset == 0 => Some(mapping.range),
            Some(range) if range.end() == mapping.range.start && range.len == mapping.offset => {
                Some(Range::between(range.start, mapping.range.end()))
            }
            other => other,
        };
    }
    found
        .filter(|range| range.len == memory.len())
        .map(|range| range.start)
        .ok_or_else(|| RamError::MainMemory { name: memory.name().to_string(), len: memory.len() })
}

/// Where the process has another block: from the table, or by the guest address at which a known ROM begins.
fn host_of(qmp: &Qmp, line: &BlockLine) -> Result<u64, RamError> {
    if let Some(host) = line.host {
        return Ok(host);
    }
    let guest = match line.name.as_str() {
        // The firmware ends at 4 GiB.
        "pc.bios" => (1_u64 << 32).checked_sub(line.used),
        "pc.rom" => Some(0xc_0000),
        _ => None,
    };
    let answer = match guest {
        Some(guest) => host_address(&qmp.human(&format!("gpa2hva {guest:#x}"))?),
        None => None,
    };
    match answer {
        Some((name, host)) if name == line.name => Ok(host),
        _ => Err(RamError::NoAddress(line.name.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use os::range::PAGE_SIZE;

    fn shape(name: &str, used: u64) -> BlockShape {
        let line = BlockLine { name: name.into(), used, total: used, host: None, read_only: None };
        BlockShape { name: name.into(), kind: BlockKind::of(&line), used }
    }

    fn map() -> RamMap {
        RamMap::new(vec![
            (shape("vga.vram", 2 * PAGE_SIZE), Some(0x9000)),
            (shape("ram0", 4 * PAGE_SIZE), Some(0x20000)),
            (shape("pc.bios", PAGE_SIZE), Some(0x50000)),
            (shape("/rom@etc/acpi/tables", 100), None),
        ])
        .unwrap()
    }

    #[test]
    fn only_what_the_guest_can_write_is_tracked() {
        let map = map();
        assert_eq!(
            map.tracked_ranges(),
            [Range::new(0x20000, 4 * PAGE_SIZE), Range::new(0x9000, 2 * PAGE_SIZE)]
        );
        assert_eq!(map.locate(0x50000), None);
        assert_eq!(map.locate(0x8fff), None);
        assert_eq!(map.locate(0xb000), None);
    }

    #[test]
    fn places_and_addresses_are_inverse() {
        let map = map();
        for address in [0x9000, 0xafff, 0x20000, 0x23fff] {
            let place = map.locate(address).unwrap();
            assert_eq!(map.address(place.block, place.offset), address);
        }
    }

    #[test]
    fn differences_between_layouts_are_named() {
        let (one, mut other) = (map().layout, map().layout);
        assert_eq!(one.check_same(&other), Ok(()));
        other.blocks[0].used += 1;
        other.blocks.pop();
        let mismatch = one.check_same(&other).unwrap_err();
        assert!(mismatch.first().contains("\"/rom@etc/acpi/tables\" of 0x64 bytes"), "{mismatch}");
        assert!(mismatch.first().contains("\"vga.vram\""), "{mismatch}");
        assert_eq!(mismatch.second(), "\"/rom@etc/acpi/tables\" of 0x65 bytes (Rebuilt)");
    }

    #[test]
    fn blocks_that_are_not_pages_are_refused() {
        let error = RamMap::new(vec![(shape("odd", 100), Some(0x1000))]).unwrap_err();
        assert!(matches!(error, RamError::NotPages { .. }));
    }

    #[test]
    fn what_later_versions_tell_decides_the_kind() {
        let line = |name: &str, ro| BlockLine {
            name: name.into(),
            used: 0,
            total: 0,
            host: None,
            read_only: Some(ro),
        };
        assert_eq!(BlockKind::of(&line("pc.rom", false)), BlockKind::Writable);
        assert_eq!(BlockKind::of(&line("system.flash0", true)), BlockKind::Rom);
        assert_eq!(BlockKind::of(&line("/rom@etc/acpi/rsdp", true)), BlockKind::Rebuilt);
    }
}
