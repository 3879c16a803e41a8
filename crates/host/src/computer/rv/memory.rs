//! Owns the memory of the deterministic machine as pages, and which of them the guest writes: those are known exactly.

use super::driver::Driver;
use crate::computer::{MachineError, PageTracker};
use crate::ram::{Block, GuestRam, PageStore, RamError};
use os::range::{PAGE_SIZE, Range, normalize};
use std::sync::Arc;

/// Its one block of RAM. Addresses in ranges begin at 0 with it.
pub fn ram_of(driver: &Arc<Driver>) -> GuestRam {
    let pages = driver.hosted.ram_bytes() / PAGE_SIZE;
    GuestRam::new(Arc::new(RvPages(Arc::clone(driver))), &[Block { address: 0, pages, writable: true }])
}

struct RvPages(Arc<Driver>);

impl PageStore for RvPages {
    /// Zeroes cost next to nothing to send, and a moment to find.
    fn next_populated(&self, _block: usize, rest: Range) -> Result<Option<Range>, RamError> {
        Ok(Some(rest).filter(|rest| rest.len > 0))
    }

    fn copy_out(&self, _block: usize, pages: &[(u8, u64)], dst: &mut [u8]) -> Result<(), RamError> {
        let pages: Vec<u32> = pages.iter().map(|&(_, page)| number(page)).collect();
        Ok(self.0.hosted.copy_out(&pages, dst)?)
    }

    fn write(&self, _block: usize, page: u64, bytes: &[u8; PAGE_SIZE as usize]) -> Result<(), RamError> {
        Ok(self.0.hosted.copy_in(number(page), bytes)?)
    }

    fn zero(&self, _block: usize, first: u64, count: u64) -> Result<(), RamError> {
        Ok(self.0.hosted.zero(number(first), number(count))?)
    }
}

/// Tracks what its guest writes.
pub struct RvTracker {
    driver: Arc<Driver>,
    pages: Vec<u32>,
    owed: Vec<Range>,
}

impl RvTracker {
    pub fn attach(driver: &Arc<Driver>) -> Result<Self, MachineError> {
        let mut tracker = Self { driver: Arc::clone(driver), pages: Vec::new(), owed: Vec::new() };
        tracker.scan_live(&mut Vec::new())?;
        Ok(tracker)
    }
}

impl PageTracker for RvTracker {
    fn scan_live(&mut self, dirty: &mut Vec<Range>) -> Result<(), MachineError> {
        self.pages.clear();
        self.driver.hosted.take_dirty(&mut self.pages);
        dirty.clear();
        dirty.extend(self.pages.iter().map(|&page| Range::new(u64::from(page) * PAGE_SIZE, PAGE_SIZE)));
        dirty.append(&mut self.owed);
        normalize(dirty);
        Ok(())
    }

    fn give_back(&mut self, ranges: &[Range]) {
        self.owed.extend_from_slice(ranges);
    }

    /// Its scans take as long as there are dirty pages already.
    fn settle(&mut self) -> Result<bool, MachineError> {
        Ok(false)
    }
}

fn number(page: u64) -> u32 {
    u32::try_from(page).expect("its memory has fewer pages")
}
