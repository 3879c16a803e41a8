//! Owns the view of a guest's RAM as numbered pages of numbered blocks: what the wire speaks of.

use os::memfd::MemoryError;
use os::process_memory::ProcessMemoryError;
use os::range::{PAGE_SIZE, Range};
use protocol::wire::pages::{PageData, PagesError, read_batch};
use std::sync::Arc;

/// One replicated RAM block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Where the machine has it, as far as ranges are concerned.
    pub address: u64,
    /// Its length in pages.
    pub pages: u64,
    /// The guest can write it. A ROM is copied once, because a standby starts with it empty.
    pub writable: bool,
}

/// Where the pages of the blocks are.
pub trait PageStore: Send + Sync {
    /// The parts of a block, by their offsets in it, that may hold anything but zeroes.
    ///
    /// # Errors
    /// If the system cannot tell.
    fn populated(&self, block: usize, whole: Range) -> Result<Vec<Range>, RamError>;

    /// Copies pages of one block into `dst`, one behind the other. The guest may run.
    ///
    /// # Errors
    /// If the machine is gone.
    fn copy_out(&self, block: usize, pages: &[(u8, u64)], dst: &mut [u8]) -> Result<(), RamError>;

    /// Writes a page of a guest that does not run.
    ///
    /// # Errors
    /// If the machine is gone.
    fn write(&self, block: usize, page: u64, bytes: &[u8; PAGE_SIZE as usize]) -> Result<(), RamError>;

    /// Makes so many pages of a guest that does not run zero.
    ///
    /// # Errors
    /// If the machine is gone.
    fn zero(&self, block: usize, first: u64, count: u64) -> Result<(), RamError>;
}

/// The replicated RAM of one machine.
#[derive(Clone)]
pub struct GuestRam {
    store: Arc<dyn PageStore>,
    blocks: Arc<[Block]>,
}

impl GuestRam {
    /// RAM blocks in the order in which the wire numbers them.
    ///
    /// # Panics
    /// If there are more blocks than the wire can number.
    #[must_use]
    pub fn new(store: Arc<dyn PageStore>, blocks: &[Block]) -> Self {
        assert!(blocks.len() <= 256, "{} RAM blocks", blocks.len());
        Self { store, blocks: blocks.into() }
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
    /// If the system cannot tell.
    pub fn populated(&self) -> Result<Vec<Range>, RamError> {
        let mut ranges = Vec::new();
        for (at, block) in self.blocks.iter().enumerate() {
            let parts = self.store.populated(at, Range::new(0, block.pages * PAGE_SIZE))?;
            ranges.extend(parts.iter().map(|part| Range::new(block.address + part.start, part.len)));
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
    /// If the machine is gone.
    pub fn copy_out(&self, pages: &[(u8, u64)], dst: &mut [u8]) -> Result<(), RamError> {
        let mut rest = dst;
        for run in pages.chunk_by(|a, b| a.0 == b.0) {
            let (here, after) = rest.split_at_mut(run.len() * PAGE_SIZE as usize);
            rest = after;
            self.store.copy_out(usize::from(run[0].0), run, here)?;
        }
        Ok(())
    }

    /// Writes a batch of page records into the blocks of a machine that does not run its guest.
    ///
    /// # Errors
    /// If the batch is malformed, or the machine is gone.
    pub fn apply(&self, body: &[u8], page_counts: &[u64]) -> Result<(), ApplyError> {
        let mut failed = None;
        read_batch(body, page_counts, |block, page, data| {
            let at = usize::from(block);
            let result = match data {
                PageData::Zeros(count) => self.store.zero(at, page, count),
                PageData::Page(bytes) => self.store.write(at, page, bytes),
                PageData::Delta(delta) => self.change_page((block, page), delta),
            };
            failed = failed.take().or(result.err());
        })?;
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    fn change_page(&self, page: (u8, u64), delta: &[u8; PAGE_SIZE as usize]) -> Result<(), RamError> {
        let mut bytes = [0; PAGE_SIZE as usize];
        let block = usize::from(page.0);
        self.store.copy_out(block, &[page], &mut bytes)?;
        bytes.iter_mut().zip(delta).for_each(|(byte, change)| *byte ^= change);
        self.store.write(block, page.1, &bytes)
    }
}

/// Why pages could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// The memory of a process.
    #[error(transparent)]
    Process(#[from] ProcessMemoryError),
    /// The shared memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The deterministic machine.
    #[error(transparent)]
    Hosted(#[from] rvrun::hosted::HostedError),
}

/// Why pages could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The batch.
    #[error(transparent)]
    Pages(#[from] PagesError),
    /// The standby's memory.
    #[error(transparent)]
    Ram(#[from] RamError),
}

fn range_of(block: &Block) -> Range {
    Range::new(block.address, block.pages * PAGE_SIZE)
}
