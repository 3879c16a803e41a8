//! Owns memory that was not written for long: a second watch tells of each first write to it, so no scan looks at it.
//!
//! A userfaultfd lifts protections by itself or tells of writes, not both, and no memory can have two. So a region that
//! goes from one to the other is watched by neither for a moment. What is written then is found by comparing its pages
//! with a copy from before ([`Cold::move_one`]).

use super::TrackerError;
use super::pagemap::{Pagemap, Wanted};
use super::regions::{Cooling, Regions, Watch};
use super::told::Told;
use super::uffd::Uffd;
use crate::process_memory::ProcessMemory;
use crate::range::{PAGE_SIZE, Range, byte_count, normalize, subtract};
use std::sync::Arc;
use std::time::Instant;

const PAGE: usize = PAGE_SIZE as usize;

/// The cold part of what a tracker tracks.
#[derive(Debug)]
pub(super) struct Cold {
    uffd: Arc<Uffd>,
    told: Told,
    regions: Regions,
    memory: ProcessMemory,
    /// A region's pages before it was moved, and after; kept for their allocations.
    before: Vec<u8>,
    after: Vec<u8>,
    /// Pages told of; kept for its allocation.
    pages: Vec<Range>,
    /// A region could not be moved: none is moved any more.
    stuck: bool,
}

/// What came of an attempt to move a region.
#[derive(Debug)]
pub(super) enum Moved {
    /// There was none to move.
    Nothing,
    /// One was looked at. These pages of it have perhaps been written, and no scan will find them.
    One(Vec<Range>),
    /// It is watched by nobody any more.
    Lost(Range),
}

impl Cold {
    /// Memory of process `pid`, all of it warm until it is moved. `uffd` tells of writes.
    pub(super) fn new(
        uffd: Uffd,
        pid: u32,
        ranges: &[Range],
        cooling: Cooling,
    ) -> Result<Self, TrackerError> {
        let uffd = Arc::new(uffd);
        let told = Told::listen(Arc::clone(&uffd))
            .map_err(|error| TrackerError::system("listen for writes to", pid, Range::new(0, 0), error))?;
        Ok(Self {
            uffd,
            told,
            regions: Regions::new(ranges, cooling, Instant::now()),
            memory: ProcessMemory::open(pid)?,
            before: Vec::new(),
            after: Vec::new(),
            pages: Vec::new(),
            stuck: false,
        })
    }

    /// Puts what a scan has to look at into `warm`.
    pub(super) fn warm(&self, warm: &mut Vec<Range>) {
        self.regions.watched(Watch::Scanned, warm);
    }

    /// A scan of what is warm has found `dirty`. Adds what was written of the rest since it was last asked.
    ///
    /// # Errors
    /// If a page cannot be protected again, or a writer hangs. What was told of stays noted.
    pub(super) fn complete(&mut self, dirty: &mut Vec<Range>) -> Result<(), TrackerError> {
        let now = Instant::now();
        self.regions.found(dirty, now);
        let regions = &mut self.regions;
        self.told.take(|page| regions.told(page, now), &mut self.pages)?;
        if !self.pages.is_empty() {
            dirty.append(&mut self.pages);
            normalize(dirty);
        }
        Ok(())
    }

    /// Moves the next region that should be watched otherwise, from or to `scanned`, while the target runs.
    ///
    /// It is copied, and its watch knows what was written of it until then: nothing, or what it has told of. Then nobody
    /// watches it for a moment; then it is compared with the copy under its new watch. A write that the comparison does
    /// not see has left the page as it was.
    pub(super) fn move_one(&mut self, scanned: &Uffd, pagemap: &mut Pagemap) -> Result<Moved, TrackerError> {
        let now = Instant::now();
        let Some((index, region, to)) = self.regions.next_to_move(now).filter(|_| !self.stuck) else {
            return Ok(Moved::Nothing);
        };
        let whole = std::slice::from_ref(&region);
        let mut present = Vec::new();
        pagemap.scan(whole, Wanted::Present, &mut present)?;
        if may_be_swapped_out(region, &present) {
            self.regions.stays(index, now);
            return Ok(Moved::One(Vec::new()));
        }
        read(&self.memory, &present, &mut self.before)?;
        if to == Watch::Told {
            let mut written = Vec::new();
            pagemap.scan(whole, Wanted::Written, &mut written)?;
            if !written.is_empty() {
                self.regions.stays(index, now);
                return Ok(Moved::One(Vec::new()));
            }
        }
        let (from, into) = match to {
            Watch::Told => (scanned, &*self.uffd),
            Watch::Scanned => (&*self.uffd, scanned),
        };
        if from.unregister(region).and_then(|()| watch(into, region)).is_ok() {
            self.regions.moved(index, to, now);
        } else {
            self.stuck = true;
            let _ = into.unregister(region);
            if watch(from, region).is_err() {
                return Ok(Moved::Lost(region));
            }
        }
        let owed = self.compare(region, &present, pagemap);
        // What cannot be compared counts as written.
        Ok(Moved::One(owed.unwrap_or_else(|_| vec![region])))
    }

    /// Ends the watch over what is cold.
    pub(super) fn end(&self) {
        let mut cold = Vec::new();
        self.regions.watched(Watch::Told, &mut cold);
        for range in cold {
            let _ = self.uffd.unregister(range);
        }
    }

    /// The pages of `region` that are not as they were when `present` was copied.
    fn compare(
        &mut self,
        region: Range,
        present: &[Range],
        pagemap: &mut Pagemap,
    ) -> Result<Vec<Range>, TrackerError> {
        let mut differ = Vec::new();
        pagemap.scan(&[region], Wanted::Present, &mut differ)?;
        differ = subtract(&differ, present);
        read(&self.memory, present, &mut self.after)?;
        let pages = present.iter().flat_map(Range::pages);
        for ((page, before), after) in pages.zip(self.before.chunks(PAGE)).zip(self.after.chunks(PAGE)) {
            if before != after {
                differ.push(Range::new(page, PAGE_SIZE));
            }
        }
        normalize(&mut differ);
        Ok(differ)
    }
}

fn watch(uffd: &Uffd, region: Range) -> Result<(), TrackerError> {
    uffd.register(region)?;
    uffd.write_protect(region)
}

fn read(memory: &ProcessMemory, ranges: &[Range], into: &mut Vec<u8>) -> Result<(), TrackerError> {
    into.resize(usize::try_from(byte_count(ranges)).expect("a region fits"), 0);
    Ok(memory.read_ranges(ranges, into)?)
}

/// A page that is written and then swapped out while nobody watches would be missed: a page without an entry may be such
/// a one, if anything can be swapped out here.
fn may_be_swapped_out(region: Range, present: &[Range]) -> bool {
    present != [region] && rustix::system::sysinfo().totalswap > 0
}
