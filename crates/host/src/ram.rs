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
    /// The first range in the rest of a block, by offsets in it, that may hold anything but zeroes.
    ///
    /// # Errors
    /// If the system cannot tell.
    fn next_populated(&self, block: usize, rest: Range) -> Result<Option<Range>, RamError>;

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

    /// Bytes of each block.
    #[must_use]
    pub fn sizes(&self) -> Vec<u64> {
        self.blocks.iter().map(|block| block.pages * PAGE_SIZE).collect()
    }

    /// What must be copied at first: of main memory only what is not a hole.
    ///
    /// # Errors
    /// If the system cannot tell.
    pub fn populated(&self) -> Result<Vec<Range>, RamError> {
        let mut ranges = Vec::new();
        for (at, block) in self.blocks.iter().enumerate() {
            let end = block.pages * PAGE_SIZE;
            let mut rest = Range::new(0, end);
            while let Some(part) = self.store.next_populated(at, rest)? {
                ranges.push(Range::new(block.address + part.start, part.len));
                rest = Range::between(part.end(), end);
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

/// Which pages may hold anything but zeroes: the others are holes, which reading would fill. To be asked from the first page to
/// the last: where populated memory ends takes the system as long to find as there is of it, so that is remembered.
#[derive(Debug, Default)]
pub struct Occupied {
    block: u8,
    /// Populated pages.
    known: std::ops::Range<u64>,
}

impl Occupied {
    /// Those among these pages of a block, in order.
    ///
    /// # Errors
    /// If the system cannot tell.
    pub fn among(
        &mut self,
        ram: &GuestRam,
        block: u8,
        pages: std::ops::Range<u64>,
    ) -> Result<Vec<u64>, RamError> {
        let end = ram.blocks.get(usize::from(block)).map_or(0, |block| block.pages);
        let (mut at, mut found) = (pages.start, Vec::new());
        while at < pages.end.min(end) {
            if self.block != block || !self.known.contains(&at) {
                let rest = Range::between(at * PAGE_SIZE, end * PAGE_SIZE);
                let Some(next) = ram.store.next_populated(usize::from(block), rest)? else { break };
                (self.block, self.known) = (block, next.start / PAGE_SIZE..next.end() / PAGE_SIZE);
                at = self.known.start;
            }
            let to = self.known.end.min(pages.end);
            found.extend(at..to);
            at = to.max(at);
        }
        Ok(found)
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

#[cfg(test)]
pub mod plain {
    //! Owns RAM without a machine: one block in shared memory.

    use super::{Block, GuestRam, PageStore, RamError};
    use os::Memory;
    use os::range::{PAGE_SIZE, Range};
    use std::sync::Arc;

    struct Plain(Arc<Memory>);

    impl PageStore for Plain {
        fn next_populated(&self, _block: usize, rest: Range) -> Result<Option<Range>, RamError> {
            Ok(self.0.populated_in(rest).next().transpose()?)
        }

        fn copy_out(&self, _block: usize, pages: &[(u8, u64)], dst: &mut [u8]) -> Result<(), RamError> {
            let offsets: Vec<u64> = pages.iter().map(|(_, page)| page * PAGE_SIZE).collect();
            self.0.copy_pages_out(&offsets, dst);
            Ok(())
        }

        fn write(&self, _block: usize, page: u64, bytes: &[u8; PAGE_SIZE as usize]) -> Result<(), RamError> {
            self.0.write_at(page * PAGE_SIZE, bytes);
            Ok(())
        }

        fn zero(&self, _block: usize, first: u64, count: u64) -> Result<(), RamError> {
            Ok(self.0.discard(Range::new(first * PAGE_SIZE, count * PAGE_SIZE))?)
        }
    }

    /// All of this memory.
    pub fn ram_of(memory: &Arc<Memory>) -> GuestRam {
        let block = Block { address: 0, pages: memory.len() / PAGE_SIZE, writable: true };
        GuestRam::new(Arc::new(Plain(Arc::clone(memory))), &[block])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use os::Memory;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_occupied_is_found_in_parts_of_any_size(
            written in prop::collection::btree_set(0u64..200, 0..40),
            parts in prop::collection::vec(1u64..50, 1..20),
        ) {
            let memory = Arc::new(Memory::create("test-occupied", 200 * PAGE_SIZE).unwrap());
            written.iter().for_each(|page| memory.write_at(page * PAGE_SIZE, &[1]));
            let (ram, mut occupied) = (plain::ram_of(&memory), Occupied::default());
            let (mut at, mut found, mut parts) = (0, Vec::new(), parts.into_iter().cycle());
            while at < 200 {
                let to = at + parts.next().unwrap_or(1);
                found.extend(occupied.among(&ram, 0, at..to).unwrap());
                at = to;
            }
            prop_assert_eq!(&found, &written.into_iter().collect::<Vec<_>>());
            let pages: u64 = ram.populated().unwrap().iter().map(|range| range.len / PAGE_SIZE).sum();
            prop_assert_eq!(pages, found.len() as u64, "nothing was filled");
        }
    }
}
