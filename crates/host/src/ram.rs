//! Owns the view of a guest's RAM as numbered pages of numbered blocks: what the wire speaks of.

use os::Memory;
use os::memfd::MemoryError;
use os::process_memory::{ProcessMemory, ProcessMemoryError};
use os::range::{PAGE_SIZE, Range};
use protocol::wire::pages::{PageData, PagesError, read_batch};
use qemu::Qemu;
use qemu::ram::BlockKind;
use std::sync::Arc;

/// A run of zero pages at least this long is given back to the kernel instead of being written.
const DISCARD_FROM: u64 = 16;

/// One replicated RAM block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Where QEMU has it mapped.
    pub address: u64,
    /// Its length in pages.
    pub pages: u64,
    /// It is the guest's main memory: this file, from the beginning.
    pub main: bool,
    /// The guest can write it. A ROM is copied once, because a standby starts with it empty.
    pub writable: bool,
}

/// The replicated RAM of one QEMU process.
#[derive(Debug, Clone)]
pub struct GuestRam {
    main: Arc<Memory>,
    process: Arc<ProcessMemory>,
    blocks: Vec<Block>,
}

impl GuestRam {
    /// The RAM blocks of a process, in the order in which the wire numbers them.
    ///
    /// # Panics
    /// If there are more blocks than the wire can number.
    #[must_use]
    pub fn new(main: Arc<Memory>, process: ProcessMemory, blocks: Vec<Block>) -> Self {
        assert!(blocks.len() <= 256, "{} RAM blocks", blocks.len());
        Self { main, process: Arc::new(process), blocks }
    }

    /// The blocks of a QEMU process.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn of(qemu: &Qemu) -> Result<Self, ProcessMemoryError> {
        let map = qemu.ram();
        let blocks =
            map.layout().blocks.iter().enumerate().filter(|(_, shape)| shape.kind != BlockKind::Rebuilt);
        let blocks = blocks.map(|(index, shape)| Block {
            address: map.address(index, 0),
            pages: shape.used.div_ceil(PAGE_SIZE),
            main: shape.kind == BlockKind::Main,
            writable: shape.kind != BlockKind::Rom,
        });
        Ok(Self::new(Arc::clone(qemu.memory()), ProcessMemory::open(qemu.pid())?, blocks.collect()))
    }

    /// Addresses of all blocks that the guest can write, to track.
    #[must_use]
    pub fn tracked(&self) -> Vec<Range> {
        self.blocks.iter().filter(|block| block.writable).map(range_of).collect()
    }

    /// Pages of each block.
    #[must_use]
    pub fn page_counts(&self) -> Vec<u64> {
        self.blocks.iter().map(|block| block.pages).collect()
    }

    /// What must be copied at first: of main memory only what is not a hole.
    ///
    /// # Errors
    /// If the file of the main memory cannot be asked.
    pub fn populated(&self) -> Result<Vec<Range>, MemoryError> {
        let mut ranges = Vec::new();
        for block in &self.blocks {
            if block.main {
                for range in self.main.populated() {
                    let range = range?;
                    ranges.push(Range::new(block.address + range.start, range.len));
                }
            } else {
                ranges.push(Range::new(block.address, block.pages * PAGE_SIZE));
            }
        }
        Ok(ranges)
    }

    /// Numbers the pages of ranges of addresses.
    pub fn number(&self, ranges: &[Range], pages: &mut Vec<(u8, u64)>) {
        for range in ranges {
            let Some(at) = self.blocks.iter().position(|block| range_of(block).covers(range)) else {
                // A tracked range never crosses blocks, but two blocks may be neighbours in memory.
                self.number_split(range, pages);
                continue;
            };
            let first = (range.start - self.blocks[at].address) / PAGE_SIZE;
            let block = u8::try_from(at).unwrap_or(u8::MAX);
            pages.extend((first..first + range.len / PAGE_SIZE).map(|page| (block, page)));
        }
    }

    fn number_split(&self, range: &Range, pages: &mut Vec<(u8, u64)>) {
        for (at, block) in self.blocks.iter().enumerate() {
            let whole = range_of(block);
            let (start, end) = (range.start.max(whole.start), range.end().min(whole.end()));
            if start < end {
                let block_number = u8::try_from(at).unwrap_or(u8::MAX);
                let (first, last) = ((start - whole.start) / PAGE_SIZE, (end - whole.start) / PAGE_SIZE);
                pages.extend((first..last).map(|page| (block_number, page)));
            }
        }
    }

    /// Addresses of numbered pages.
    #[must_use]
    pub fn addresses(&self, pages: &[(u8, u64)]) -> Vec<Range> {
        let address = |&(block, page): &(u8, u64)| self.blocks[usize::from(block)].address + page * PAGE_SIZE;
        pages.iter().map(|page| Range::new(address(page), PAGE_SIZE)).collect()
    }

    /// Copies pages into `dst`, one behind the other.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn copy_out(&self, pages: &[(u8, u64)], dst: &mut [u8]) -> Result<(), ProcessMemoryError> {
        let mut rest = dst;
        for run in pages.chunk_by(|a, b| a.0 == b.0) {
            let (here, after) = rest.split_at_mut(run.len() * PAGE_SIZE as usize);
            rest = after;
            if self.blocks[usize::from(run[0].0)].main {
                let offsets: Vec<u64> = run.iter().map(|&(_, page)| page * PAGE_SIZE).collect();
                self.main.copy_pages_out(&offsets, here);
            } else {
                self.process.read_ranges(&self.addresses(run), here)?;
            }
        }
        Ok(())
    }

    /// Writes a batch of page records into the blocks of a process that does not run its guest.
    ///
    /// # Errors
    /// If the batch is malformed, or the process is gone.
    pub fn apply(&self, body: &[u8], page_counts: &[u64]) -> Result<(), ApplyError> {
        let mut failed = None;
        read_batch(body, page_counts, |block, page, data| {
            let block = &self.blocks[usize::from(block)];
            let result = match data {
                PageData::Zeros(count) => self.write_zeros(block, page, count),
                PageData::Page(bytes) => self.write_page(block, page, bytes),
                PageData::Delta(delta) => self.change_page(block, page, delta),
            };
            failed = failed.take().or(result.err());
        })?;
        failed.map_or(Ok(()), Err)
    }

    fn write_page(&self, block: &Block, page: u64, bytes: &[u8]) -> Result<(), ApplyError> {
        let offset = page * PAGE_SIZE;
        if block.main {
            self.main.write_at(offset, bytes);
            return Ok(());
        }
        Ok(self.process.write_forced(block.address + offset, bytes)?)
    }

    fn change_page(
        &self,
        block: &Block,
        page: u64,
        delta: &[u8; PAGE_SIZE as usize],
    ) -> Result<(), ApplyError> {
        let mut bytes = [0; PAGE_SIZE as usize];
        if block.main {
            self.main.copy_pages_out(&[page * PAGE_SIZE], &mut bytes);
        } else {
            let range = Range::new(block.address + page * PAGE_SIZE, PAGE_SIZE);
            self.process.read_ranges(&[range], &mut bytes)?;
        }
        bytes.iter_mut().zip(delta).for_each(|(byte, change)| *byte ^= change);
        self.write_page(block, page, &bytes)
    }

    fn write_zeros(&self, block: &Block, page: u64, count: u64) -> Result<(), ApplyError> {
        if block.main && count >= DISCARD_FROM {
            return Ok(self.main.discard(Range::new(page * PAGE_SIZE, count * PAGE_SIZE))?);
        }
        (page..page + count).try_for_each(|page| self.write_page(block, page, &[0; PAGE_SIZE as usize]))
    }
}

/// Why pages could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The batch.
    #[error(transparent)]
    Pages(#[from] PagesError),
    /// The standby's own memory.
    #[error(transparent)]
    Process(#[from] ProcessMemoryError),
    /// The shared memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

fn range_of(block: &Block) -> Range {
    Range::new(block.address, block.pages * PAGE_SIZE)
}
