//! Owns the question: which pages of another process have been written since we last asked?
//!
//! A userfaultfd in asynchronous write-protect mode watches the target's memory: a write to a protected page lifts
//! the protection by itself (about 0.7 µs, once per page and scan), and `PAGEMAP_SCAN` lists the pages that are not
//! protected any more. It sees writes by the target's threads, by a hypervisor's guest mode, and by the kernel on
//! the target's behalf (`read`, virtio back ends, `process_vm_writev`), to shared and to private memory alike.
//!
//! **What it cannot see**: writes through another mapping of the same memory (another process, or ours), direct
//! memory access by devices, buffers registered with the kernel for long. Memory given back (`MADV_DONTNEED`)
//! reads as zeros without counting as written.
//!
//! A scan looks at each page-table entry. What was not written for long is spared that ([`Tracker::settle`]): a second
//! userfaultfd tells of the first write to each of its pages.
//!
//! Reading the written marks consumes them. Pages that were returned by a scan but could not be saved are owed:
//! [`Tracker::give_back`] makes the next scan return them again.

mod cold;
mod error;
mod pagemap;
mod regions;
mod self_test;
mod told;
mod uffd;

pub use error::TrackerError;
pub use regions::Cooling;
pub use self_test::{SelfTestReport, self_test};

use crate::process::PidFd;
use crate::process_memory::mappings;
use crate::range::{Range, byte_count, normalize, push_near, subtract};
use cold::{Cold, Moved};
use pagemap::{Pagemap, Wanted};
use uffd::{OnWrite, Uffd};

/// In the second step of a scan, ranges nearer than this are treated as one: a call for each costs as much as
/// walking over this many bytes' worth of clean pages.
const NEAR: u64 = 128 * crate::range::PAGE_SIZE;

/// Tracks the writes to some memory of one process, until it is dropped.
#[derive(Debug)]
pub struct Tracker {
    pid: u32,
    uffd: Uffd,
    pagemap: Pagemap,
    ranges: Vec<Range>,
    /// What a scan looks at: all ranges, without what is cold.
    warm: Vec<Range>,
    /// None for small memory, and where the kernel does not allow it.
    cold: Option<Cold>,
    /// Memory that nobody watches any more.
    lost: Option<Range>,
    /// Returned by a scan and given back: not written since, perhaps, but not saved either.
    owed: Vec<Range>,
    /// First step's findings; kept for its allocation.
    found: Vec<Range>,
}

impl Tracker {
    /// Begins to track `ranges` (addresses in process `pid`, whole pages). All pages count as not written at first:
    /// copy them all *after* this. Stops the process's main thread for some 0.1 ms.
    ///
    /// # Errors
    /// If the kernel or the process does not allow it; the process is then as it was.
    pub fn attach(pid: u32, ranges: &[Range]) -> Result<Self, TrackerError> {
        Self::attach_cooling(pid, ranges, Cooling::default())
    }

    /// The same, with other bounds to when memory is cold.
    ///
    /// # Errors
    /// As for [`Tracker::attach`].
    pub fn attach_cooling(pid: u32, ranges: &[Range], cooling: Cooling) -> Result<Self, TrackerError> {
        let target = PidFd::open(pid)?;
        let attach = || {
            check_mapped(pid, ranges)?;
            Self::begin(pid, |on_write| Uffd::inside(&target, on_write), ranges, cooling)
        };
        // A process that has just died has no mappings: that would be told as bad ranges.
        attach().map_err(|error| if target.is_dead() { TrackerError::Gone { pid } } else { error })
    }

    fn begin(
        pid: u32,
        uffd: impl Fn(OnWrite) -> Result<Uffd, TrackerError>,
        ranges: &[Range],
        cooling: Cooling,
    ) -> Result<Self, TrackerError> {
        let mut ranges = ranges.to_vec();
        normalize(&mut ranges);
        let lifting = uffd(OnWrite::Lift)?;
        let pagemap = Pagemap::open(pid)?;
        // Without the privilege all memory stays warm.
        let telling = if byte_count(&ranges) >= cooling.from { uffd(OnWrite::Tell).ok() } else { None };
        let cold = telling.map(|uffd| Cold::new(uffd, pid, &ranges, cooling)).transpose()?;
        for range in &ranges {
            lifting.register(*range)?;
            lifting.write_protect(*range)?;
        }
        let warm = ranges.clone();
        let (owed, found) = (Vec::new(), Vec::new());
        Ok(Self { pid, uffd: lifting, pagemap, ranges, warm, cold, lost: None, owed, found })
    }

    /// Whether memory that is not written for long is spared from scans here: [`Tracker::settle`] does something.
    #[must_use]
    pub fn cools(&self) -> bool {
        self.cold.is_some()
    }

    /// The same tracker, which never walks the page tables by more than one thread.
    #[cfg(feature = "ablation")]
    #[must_use]
    pub fn walking_alone(mut self) -> Self {
        self.pagemap.walk_alone();
        self
    }

    /// The tracked process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The tracked memory, sorted and joined.
    #[must_use]
    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// Puts the pages written since the last scan, and those owed, into `dirty` (sorted, joined), and starts anew.
    ///
    /// Made for a paused target that is a hypervisor with page tables of its own (KVM): protecting a range drops
    /// its entries there, dirty or not. So this looks first, and then reads and protects only near what it has found.
    /// It is exact in any case: a page that is written while this runs is returned now or by the next scan, and a
    /// copy made afterwards is not older than what is returned. Only a paused target makes that copy consistent.
    ///
    /// # Errors
    /// If the target is gone or has changed its mappings. What was read until then is owed, so nothing is lost.
    pub fn scan_paused(&mut self, dirty: &mut Vec<Range>) -> Result<(), TrackerError> {
        self.scan_but(&[], dirty)
    }

    /// Like [`Tracker::scan_paused`], but leaves the pages of `open` (sorted, joined) as they are: they are not returned, unless
    /// they are owed, and their marks stay. Who takes them for written spares the target the faults at their first writes; the
    /// first scan that does not leave them out returns those that were written since they were last returned.
    ///
    /// # Errors
    /// As for [`Tracker::scan_paused`].
    pub fn scan_but(&mut self, open: &[Range], dirty: &mut Vec<Range>) -> Result<(), TrackerError> {
        let mut found = std::mem::take(&mut self.found);
        found.clear();
        let looked = self.look(&mut found);
        let result = looked.and_then(|()| self.consume(&subtract(&found, open), dirty));
        self.found = found;
        result
    }

    /// Like [`Tracker::scan_paused`], in one step over everything, and just as exact: takes less time itself, and so
    /// is better where there are no second page tables (TCG), or where much is dirty, as in the rounds of a first copy
    /// while the target runs.
    ///
    /// # Errors
    /// As for [`Tracker::scan_paused`].
    pub fn scan_live(&mut self, dirty: &mut Vec<Range>) -> Result<(), TrackerError> {
        let warm = std::mem::take(&mut self.warm);
        let result = self.consume(&warm, dirty);
        self.warm = warm;
        result
    }

    /// Moves one piece of memory (2 MiB; more where there are more than 32 GiB) to or from what scans look at, if it is
    /// time: takes about a millisecond. Returns whether there may be another. The target runs on.
    ///
    /// # Errors
    /// If the target is gone, or its memory is not watched any more.
    pub fn settle(&mut self) -> Result<bool, TrackerError> {
        let Some(cold) = &mut self.cold else { return Ok(false) };
        match cold.move_one(&self.uffd, &mut self.pagemap)? {
            Moved::Nothing => return Ok(false),
            Moved::One(written) => self.owed.extend(written),
            Moved::Lost(range) => self.lost = Some(range),
        }
        cold.warm(&mut self.warm);
        normalize(&mut self.owed);
        self.check_watched()?;
        Ok(true)
    }

    /// Makes the next scan return `ranges` again: their marks were consumed, but they could not be saved.
    ///
    /// # Panics
    /// If they are not tracked.
    pub fn give_back(&mut self, ranges: &[Range]) {
        for range in ranges {
            let tracked = range.is_pages() && self.ranges.iter().any(|r| r.covers(range));
            assert!(tracked, "{range:?} is given back but was never tracked");
        }
        self.owed.extend_from_slice(ranges);
        normalize(&mut self.owed);
    }

    /// The pages of `ranges` that the target has in memory or in swap: all others read as zeros.
    ///
    /// For private memory. Of shared memory it sees only what the target has touched itself through this mapping:
    /// ask [`crate::Memory::populated`] instead. If the target has anything swapped out, pages that do not exist are
    /// returned too.
    ///
    /// # Errors
    /// If the target is gone.
    pub fn present(&mut self, ranges: &[Range]) -> Result<Vec<Range>, TrackerError> {
        let mut present = Vec::new();
        let swapped_before = self.has_swapped()?;
        self.pagemap.scan(ranges, Wanted::Present, &mut present)?;
        if swapped_before || self.has_swapped()? {
            present.clear();
            self.pagemap.scan(ranges, Wanted::PresentOrSwapped, &mut present)?;
        }
        self.check_alive()?;
        Ok(present)
    }

    fn look(&mut self, found: &mut Vec<Range>) -> Result<(), TrackerError> {
        for range in &self.warm {
            let mut written = Vec::new();
            self.pagemap.scan(std::slice::from_ref(range), Wanted::Written, &mut written)?;
            // Near ranges become one only within a warm range: between two there may be anything.
            let first_of_range = found.len();
            for run in written {
                if found.len() == first_of_range {
                    found.push(run);
                } else {
                    push_near(found, run, NEAR);
                }
            }
        }
        Ok(())
    }

    /// Reads and clears the marks in `places`, adds what is owed.
    fn consume(&mut self, places: &[Range], dirty: &mut Vec<Range>) -> Result<(), TrackerError> {
        dirty.clear();
        let read = self.pagemap.scan(places, Wanted::WrittenAndProtect, dirty);
        let complete = read.and_then(|()| self.cold.as_mut().map_or(Ok(()), |cold| cold.complete(dirty)));
        if let Err(error) = complete.and_then(|()| self.check_watched()) {
            self.owed.append(dirty);
            normalize(&mut self.owed);
            return Err(error);
        }
        if !self.owed.is_empty() {
            dirty.append(&mut self.owed);
            normalize(dirty);
        }
        Ok(())
    }

    fn check_watched(&self) -> Result<(), TrackerError> {
        match self.lost {
            Some(range) => Err(self.uffd.lost(range)),
            None => self.check_alive(),
        }
    }

    /// After a scan: the memory was there all the time if it is there now.
    fn check_alive(&self) -> Result<(), TrackerError> {
        if self.uffd.is_alive() { Ok(()) } else { Err(TrackerError::Gone { pid: self.pid }) }
    }

    fn has_swapped(&self) -> Result<bool, TrackerError> {
        let pid = self.pid;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
            .map_err(|e| TrackerError::system("look for swapped", pid, Range::new(0, 0), e))?;
        let swap = status.lines().find_map(|line| line.strip_prefix("VmSwap:"));
        Ok(swap.is_some_and(|amount| amount.trim() != "0 kB"))
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        // Closing does it as well, but only with the last copy of the descriptor: a child of ours that has not yet
        // reached its exec may hold one. It fails only if the target is gone, and then there is nothing to do.
        for range in &self.warm {
            let _ = self.uffd.unregister(*range);
        }
        if let Some(cold) = &self.cold {
            cold.end();
        }
    }
}

fn check_mapped(pid: u32, ranges: &[Range]) -> Result<(), TrackerError> {
    let mut mapped: Vec<Range> = mappings(pid)?.iter().map(|m| m.range).collect();
    normalize(&mut mapped);
    let bad = ranges.iter().find(|range| !range.is_pages() || !mapped.iter().any(|m| m.covers(range)));
    bad.map_or(Ok(()), |range| Err(TrackerError::BadRange { pid, range: *range }))
}
