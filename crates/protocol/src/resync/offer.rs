//! Owns what a backup says of the copies that it has, and what its primary makes of it.
//!
//! Of disks it may be known where copies differ at most, so the offer names bases and marks. Of memory nothing is known: a
//! *remnant*, what is left of a VM's process that ended at the host, is compared whole.

use super::differences::{Base, Differences};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Most runs in an offer; with more, runs that are close to one another become one.
pub const MAX_RUNS: usize = 16_384;

/// A run of bytes of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Run {
    /// Index of the disk.
    pub disk: u8,
    /// Its first byte.
    pub offset: u64,
    /// How many bytes; not 0.
    pub len: u64,
}

impl Run {
    /// All bytes of everything that has such sizes.
    #[must_use]
    pub fn whole(sizes: impl IntoIterator<Item = u64>) -> Vec<Self> {
        let all = (0u8..).zip(sizes).filter(|(_, len)| *len > 0);
        all.map(|(disk, len)| Self { disk, offset: 0, len }).collect()
    }

    /// Whether it lies inside disks of these sizes.
    #[must_use]
    pub fn is_inside(&self, sizes: &[u64]) -> bool {
        let size = sizes.get(usize::from(self.disk)).copied().unwrap_or(0);
        self.len > 0 && self.offset.checked_add(self.len).is_some_and(|end| end <= size)
    }
}

/// What a backup has in the place of the primary's VM.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct Offer {
    /// In the place of its disks.
    pub disks: DiskOffer,
    /// In the place of its memory.
    pub memory: MemoryOffer,
}

/// What a backup has in the place of the primary's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub enum MemoryOffer {
    /// Memory that reads as zeroes.
    #[default]
    Blank,
    /// Memory of this VM, of some time. Nothing may be taken for granted of it.
    Remnant,
}

/// What a backup has in the place of the primary's disks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub enum DiskOffer {
    /// Nothing: the VM has no disks.
    #[default]
    NoDisks,
    /// Disks that read as zeroes.
    Blank,
    /// Copies of this VM's disks.
    Copies {
        /// What the copies' map is good for; none if nothing is known of what is in them.
        bases: Vec<Base>,
        /// Where the map is marked.
        marked: Vec<Run>,
    },
}

/// Why an offer was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// A run outside the disks.
    #[error("the backup offers {len} bytes at {offset} of disk {disk}, which do not exist in this VM")]
    OutOfRange {
        /// Index of the disk.
        disk: u8,
        /// First byte.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// More than any backup offers.
    #[error("the backup offers {0} runs, at most {MAX_RUNS} are allowed")]
    TooMany(usize),
}

/// What is to be done so that a backup's copies become the primary's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repair {
    /// Send all data: there is nothing to compare with.
    SendAll,
    /// Compare these runs, and send what differs. The rest is equal.
    Compare(Vec<Run>),
    /// Compare everything: the copies have no known state in common.
    CompareAll(Vec<Run>),
}

impl From<DiskOffer> for Offer {
    /// These disks, and blank memory.
    fn from(disks: DiskOffer) -> Self {
        Self { disks, memory: MemoryOffer::Blank }
    }
}

impl DiskOffer {
    /// The offer of copies that this map belongs to.
    #[must_use]
    pub fn of(map: &Differences) -> Self {
        Self::Copies { bases: map.bases().to_vec(), marked: few(map.runs(), MAX_RUNS) }
    }

    /// Whether it makes sense for disks of these sizes.
    ///
    /// # Errors
    /// If not.
    pub fn check(&self, sizes: &[u64]) -> Result<(), OfferError> {
        let Self::Copies { marked, .. } = self else { return Ok(()) };
        if marked.len() > MAX_RUNS {
            return Err(OfferError::TooMany(marked.len()));
        }
        match marked.iter().find(|run| !run.is_inside(sizes)) {
            None => Ok(()),
            Some(&Run { disk, offset, len }) => Err(OfferError::OutOfRange { disk, offset, len }),
        }
    }

    /// What a primary whose disks have this map does with an offer that was found right.
    #[must_use]
    pub fn repair(&self, ours: &Differences) -> Repair {
        match self {
            Self::NoDisks | Self::Blank => Repair::SendAll,
            Self::Copies { bases, marked } if bases.iter().any(|base| ours.bases().contains(base)) => {
                Repair::Compare(ours.runs_with(marked))
            }
            Self::Copies { .. } => Repair::CompareAll(ours.everything()),
        }
    }
}

/// At most `limit` runs that cover these, which are in order: the smallest gaps are closed first, roughly.
fn few(mut runs: Vec<Run>, limit: usize) -> Vec<Run> {
    let mut gap = 1 << 16;
    while runs.len() > limit && gap < u64::MAX / 4 {
        runs.dedup_by(|next, run| {
            let near = run.disk == next.disk && next.offset - (run.offset + run.len) <= gap;
            if near {
                run.len = next.offset + next.len - run.offset;
            }
            near
        });
        gap *= 2;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Session, Term};
    use crate::resync::Grain;
    use proptest::prelude::*;

    const GRAIN: Grain = Grain { block: 512, blocks: 2 };

    fn base(term: u64) -> Base {
        Base { term: Term(term), session: Session(term) }
    }

    fn map(bases: &[Base], marked: &[(u64, u64)]) -> Differences {
        let mut map = Differences::new(GRAIN, &[4096], bases);
        for &(offset, len) in marked {
            let missing = map.inactive(0, offset, len);
            map.list(&missing);
            map.activate(&missing);
            map.mark(0, offset, len);
        }
        map
    }

    fn run(offset: u64, len: u64) -> Run {
        Run { disk: 0, offset, len }
    }

    #[test]
    fn only_copies_with_a_base_in_common_are_repaired_by_difference() {
        let ours = map(&[base(1), base(2)], &[(0, 1), (3000, 100)]);
        let theirs = DiskOffer::of(&map(&[base(2)], &[(512, 512)]));
        assert_eq!(theirs.repair(&ours), Repair::Compare(alloc::vec![run(0, 1024), run(2560, 1024)]));
        let foreign = DiskOffer::of(&map(&[base(3)], &[]));
        assert_eq!(foreign.repair(&ours), Repair::CompareAll(alloc::vec![run(0, 4096)]));
        assert_eq!(
            DiskOffer::of(&map(&[], &[])).repair(&ours),
            Repair::CompareAll(alloc::vec![run(0, 4096)])
        );
        assert_eq!(DiskOffer::Blank.repair(&ours), Repair::SendAll);
        let nothing = map(&[], &[]);
        assert_eq!(
            DiskOffer::of(&map(&[], &[])).repair(&nothing),
            Repair::CompareAll(alloc::vec![run(0, 4096)])
        );
    }

    #[test]
    fn nonsense_is_refused() {
        let offer = |run: Run| DiskOffer::Copies { bases: Vec::new(), marked: alloc::vec![run] };
        assert_eq!(offer(run(0, 4096)).check(&[4096]), Ok(()));
        for bad in [run(0, 4097), run(4096, 1), run(0, 0), run(u64::MAX, 2), Run { disk: 1, ..run(0, 1) }] {
            assert!(offer(bad).check(&[4096]).is_err(), "{bad:?}");
        }
        let many = DiskOffer::Copies { bases: Vec::new(), marked: alloc::vec![run(0, 1); MAX_RUNS + 1] };
        assert_eq!(many.check(&[4096]), Err(OfferError::TooMany(MAX_RUNS + 1)));
    }

    proptest! {
        #[test]
        fn fewer_runs_cover_as_much(starts in prop::collection::btree_set(0u64..1 << 40, 0..100), limit in 1usize..20) {
            let starts: Vec<u64> = starts.into_iter().collect();
            let ends = starts.iter().skip(1).copied().chain([u64::MAX]);
            let runs: Vec<Run> = starts.iter().zip(ends).map(|(&at, next)| run(at, (next - at).min(4096))).collect();
            let fewer = few(runs.clone(), limit);
            prop_assert!(fewer.len() <= limit);
            for run in runs {
                prop_assert!(fewer.iter().any(|f| f.offset <= run.offset && f.offset + f.len >= run.offset + run.len));
            }
        }
    }
}
