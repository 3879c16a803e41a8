//! Owns the `PAGEMAP_SCAN` ioctl (Linux fs/proc/task_mmu.c): which pages of a process are written or present.

use super::TrackerError;
use crate::range::{PAGE_SIZE, Range, byte_count, push_joined};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

// include/uapi/linux/fs.h
const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;
const WP_MATCHING: u64 = 1 << 0;
const CHECK_WPASYNC: u64 = 1 << 1;
const IS_WRITTEN: u64 = 1 << 1;
const IS_PRESENT: u64 = 1 << 3;
const IS_SWAPPED: u64 = 1 << 4;
const IS_PFNZERO: u64 = 1 << 5;

/// Ranges per call. The kernel stops when the list is full, and is called again.
const REGIONS: usize = 2048;

/// Memory that is worth a thread of its own: page-table entries of so many bytes are walked in a quarter of a
/// millisecond.
const SHARE: u64 = 512 << 20;
/// Most threads that walk.
const MAX_WALKERS: usize = 8;

#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

#[repr(C)]
#[derive(Default)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// What to look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Pages written since they were last protected.
    Written,
    /// The same, and protect them again: reading and clearing in one atomic step for each page.
    WrittenAndProtect,
    /// Pages in memory, other than the shared zero page.
    Present,
    /// The same and what looks swapped out. Protection marks of pages that do not exist look so too.
    PresentOrSwapped,
}

impl Wanted {
    fn argument(self) -> ScanArgument {
        // With exactly these masks the kernel takes its shortest way, and counts a page-table entry that is empty and
        // not marked as protected as written: the safe side.
        let written = ScanArgument {
            flags: CHECK_WPASYNC,
            category_mask: IS_WRITTEN,
            return_mask: IS_WRITTEN,
            ..ScanArgument::default()
        };
        let present = ScanArgument {
            category_inverted: IS_PFNZERO,
            category_mask: IS_PFNZERO,
            category_anyof_mask: IS_PRESENT,
            return_mask: IS_PRESENT,
            ..ScanArgument::default()
        };
        match self {
            Self::Written => written,
            Self::WrittenAndProtect => ScanArgument { flags: CHECK_WPASYNC | WP_MATCHING, ..written },
            Self::Present => present,
            Self::PresentOrSwapped => {
                ScanArgument { category_anyof_mask: IS_PRESENT | IS_SWAPPED, ..present }
            }
        }
    }
}

/// The page tables of one process. Tied to its memory, not to its number.
#[derive(Debug)]
pub(super) struct Pagemap {
    /// One for each thread that may walk.
    walkers: Vec<Walker>,
}

impl Pagemap {
    pub(super) fn open(pid: u32) -> Result<Self, TrackerError> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let walkers =
            (0..processors.min(MAX_WALKERS)).map(|_| Walker::open(pid)).collect::<Result<_, _>>()?;
        Ok(Self { walkers })
    }

    #[cfg(feature = "ablation")]
    pub(super) fn walk_alone(&mut self) {
        self.walkers.truncate(1);
    }

    /// Appends to `out` the pages of `places` (sorted) that are `wanted`, in order, joined with what `out` ends with. Whatever
    /// was found (and perhaps protected) before an error is in `out` as well. Large memory is walked by several threads.
    pub(super) fn scan(
        &mut self,
        places: &[Range],
        wanted: Wanted,
        out: &mut Vec<Range>,
    ) -> Result<(), TrackerError> {
        let bytes = byte_count(places);
        let walkers = usize::try_from(bytes / SHARE).unwrap_or(usize::MAX).clamp(1, self.walkers.len());
        let shares = divide(places, walkers);
        let (first, others) = self.walkers[..shares.len().max(1)].split_at_mut(1);
        let Some((mine, theirs)) = shares.split_first() else { return Ok(()) };
        std::thread::scope(|scope| {
            let walks: Vec<_> = others
                .iter_mut()
                .zip(theirs)
                .map(|(walker, share)| {
                    scope.spawn(move || {
                        // The guest stands still meanwhile. Not allowed: it takes longer.
                        let _ = crate::sched::raise_current_thread();
                        let mut found = Vec::new();
                        let walked = walker.scan_each(share, wanted, &mut found);
                        (walked, found)
                    })
                })
                .collect();
            let mut result = first[0].scan_each(mine, wanted, out);
            for walk in walks {
                let (walked, found) = walk.join().expect("a walk does not panic");
                found.into_iter().for_each(|run| push_joined(out, run));
                result = result.and(walked);
            }
            result
        })
    }
}

/// Divides places among so many threads at most, in order, into nearly equal shares of whole pages.
fn divide(places: &[Range], threads: usize) -> Vec<Vec<Range>> {
    let pages: u64 = places.iter().map(Range::page_count).sum();
    let share = pages.div_ceil(threads as u64).max(1) * PAGE_SIZE;
    let mut shares: Vec<Vec<Range>> = Vec::new();
    let mut room = 0;
    for place in places {
        let mut start = place.start;
        while start < place.end() {
            if room == 0 {
                shares.push(Vec::new());
                room = share;
            }
            let piece = Range::new(start, room.min(place.end() - start));
            (start, room) = (piece.end(), room - piece.len);
            shares.last_mut().expect("it was just made").push(piece);
        }
    }
    shares
}

#[derive(Debug)]
struct Walker {
    file: File,
    pid: u32,
    regions: Vec<Region>,
}

impl Walker {
    fn open(pid: u32) -> Result<Self, TrackerError> {
        let file = File::open(format!("/proc/{pid}/pagemap")).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => TrackerError::Gone { pid },
            _ => TrackerError::system("look at the page tables of", pid, Range::new(0, 0), source),
        })?;
        Ok(Self { file, pid, regions: vec![Region::default(); REGIONS] })
    }

    fn scan_each(
        &mut self,
        places: &[Range],
        wanted: Wanted,
        out: &mut Vec<Range>,
    ) -> Result<(), TrackerError> {
        places.iter().try_for_each(|place| self.scan(*place, wanted, out))
    }

    fn scan(&mut self, range: Range, wanted: Wanted, out: &mut Vec<Range>) -> Result<(), TrackerError> {
        let mut start = range.start;
        while start < range.end() {
            let rest = Range::between(start, range.end());
            // The kernel makes a list of this length for each call: for a few pages a short one is faster.
            let room = self.regions.len().min(usize::try_from(rest.page_count()).unwrap_or(usize::MAX));
            let mut argument = ScanArgument {
                size: size_of::<ScanArgument>() as u64,
                start,
                end: range.end(),
                vec: self.regions.as_mut_ptr() as u64,
                vec_len: room as u64,
                ..wanted.argument()
            };
            // SAFETY: the argument has the layout and the size that the ioctl expects; `vec` points to at least
            // `vec_len` regions that are borrowed exclusively through `self` for the length of the call.
            let found = unsafe { libc::ioctl(self.file.as_raw_fd(), PAGEMAP_SCAN, &raw mut argument) };
            if found == -1 {
                return Err(self.failed(rest, io::Error::last_os_error()));
            }
            let found = &self.regions[..usize::try_from(found).expect("not negative")];
            let mut reached = argument.walk_end;
            for region in found {
                push_joined(out, Range::between(region.start, region.end));
                // The kernel walks in portions of some 512 regions. Once one portion was full, `walk_end` stays
                // there, although the kernel went on: to begin there would find the rest twice.
                reached = reached.max(region.end);
            }
            assert!(reached > start, "PAGEMAP_SCAN made no progress at {start:#x}");
            start = reached;
        }
        Ok(())
    }

    fn failed(&self, range: Range, source: io::Error) -> TrackerError {
        match source.raw_os_error() {
            Some(libc::ENOTTY) => TrackerError::Kernel { release: crate::facts::kernel_release() },
            Some(libc::EPERM) => TrackerError::Lost { pid: self.pid, range },
            _ => TrackerError::system("scan", self.pid, range, source),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Every page once, in order, in shares that differ by a page at most from what is fair.
        #[test]
        fn shares_are_the_whole(lens in prop::collection::vec((0u64..4, 1u64..50), 0..10), threads in 1usize..9) {
            let mut places: Vec<Range> = Vec::new();
            for (gap, len) in lens {
                let start = places.last().map_or(0, |last| last.end()) + (gap + 1) * PAGE_SIZE;
                places.push(Range::new(start, len * PAGE_SIZE));
            }
            let shares = divide(&places, threads);
            prop_assert!(shares.len() <= threads);
            let mut joined = Vec::new();
            shares.iter().flatten().for_each(|piece| push_joined(&mut joined, *piece));
            prop_assert_eq!(&joined, &places);
            let fair = places.iter().map(Range::page_count).sum::<u64>().div_ceil(threads as u64);
            for share in &shares {
                prop_assert!(share.iter().map(Range::page_count).sum::<u64>() <= fair);
            }
        }
    }
}
