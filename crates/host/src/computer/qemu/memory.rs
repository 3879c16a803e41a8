//! Owns where the pages of a QEMU process are: main memory in a file that we map too, the rest in its own memory.

use crate::ram::{Block, GuestRam, PageStore, RamError};
use ::qemu::Qemu;
use ::qemu::ram::BlockKind;
use os::Memory;
use os::process_memory::ProcessMemory;
use os::range::{PAGE_SIZE, Range};
use std::sync::Arc;

/// A run of zero pages at least this long is given back to the kernel instead of being written.
const DISCARD_FROM: u64 = 16;

struct QemuPages {
    main: Arc<Memory>,
    process: ProcessMemory,
    /// The address of each block in the process, and whether it is main memory.
    blocks: Vec<(u64, bool)>,
}

/// The RAM blocks of a process. What QEMU makes anew from the VM's description is none of them.
pub fn ram_of(qemu: &Qemu) -> Result<GuestRam, RamError> {
    let map = qemu.ram();
    let (mut blocks, mut places) = (Vec::new(), Vec::new());
    for (index, shape) in map.layout().blocks.iter().enumerate() {
        if shape.kind != BlockKind::Rebuilt {
            let address = map.address(index, 0);
            let pages = shape.used.div_ceil(PAGE_SIZE);
            blocks.push(Block { address, pages, writable: shape.kind != BlockKind::Rom });
            places.push((address, shape.kind == BlockKind::Main));
        }
    }
    let (main, process) = (Arc::clone(qemu.memory()), ProcessMemory::open(qemu.pid())?);
    Ok(GuestRam::new(Arc::new(QemuPages { main, process, blocks: places }), &blocks))
}

impl PageStore for QemuPages {
    fn next_populated(&self, block: usize, rest: Range) -> Result<Option<Range>, RamError> {
        if !self.blocks[block].1 {
            return Ok(Some(rest).filter(|rest| rest.len > 0));
        }
        Ok(self.main.populated_in(rest).next().transpose()?)
    }

    fn copy_out(&self, block: usize, pages: &[(u8, u64)], dst: &mut [u8]) -> Result<(), RamError> {
        let (address, main) = self.blocks[block];
        if main {
            let offsets: Vec<u64> = pages.iter().map(|&(_, page)| page * PAGE_SIZE).collect();
            self.main.copy_pages_out(&offsets, dst);
            return Ok(());
        }
        let range = |&(_, page): &(u8, u64)| Range::new(address + page * PAGE_SIZE, PAGE_SIZE);
        let ranges: Vec<Range> = pages.iter().map(range).collect();
        Ok(self.process.read_ranges(&ranges, dst)?)
    }

    fn write(&self, block: usize, page: u64, bytes: &[u8; PAGE_SIZE as usize]) -> Result<(), RamError> {
        let (address, main) = self.blocks[block];
        if main {
            self.main.write_at(page * PAGE_SIZE, bytes);
            return Ok(());
        }
        Ok(self.process.write_forced(address + page * PAGE_SIZE, bytes)?)
    }

    fn zero(&self, block: usize, first: u64, count: u64) -> Result<(), RamError> {
        if self.blocks[block].1 && count >= DISCARD_FROM {
            return Ok(self.main.discard(Range::new(first * PAGE_SIZE, count * PAGE_SIZE))?);
        }
        (first..first + count).try_for_each(|page| self.write(block, page, &[0; PAGE_SIZE as usize]))
    }
}
