//! Owns the difference map of a VM's disks at one host: what is marked, for which bases the map is good, and when a
//! mark may go.
//!
//! The map exists twice: in memory, exact to a block, and in a file. After a crash the file must mark all that memory
//! did. So an extent is *listed* in the file and *active* when that is durable; only then may anything be written in
//! it. An active extent counts as wholly marked after a crash. Retiring one saves its blocks first.
//!
//! Marks go when the epochs that made them are acknowledged **and** the owner's medium was synced since: until then a
//! power loss could take back here what the backup has.

use super::bits::Bits;
use super::offer::Run;
use crate::ids::{Epoch, Session, Term};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ops::Range;
use serde::{Deserialize, Serialize};

/// A map is good for so many bases at most; of more the oldest are forgotten, and such a copy is compared whole.
pub const MAX_BASES: usize = 4;

/// Names the newest committed state of a session at its backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Base {
    /// The owner's term.
    pub term: Term,
    /// Its session.
    pub session: Session,
}

/// How fine a map is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grain {
    /// Bytes of a block.
    pub block: u64,
    /// Blocks of an extent.
    pub blocks: usize,
}

impl Grain {
    /// Of real disks: blocks of 64 KiB, extents of 4 MiB.
    pub const DISK: Self = Self { block: 64 << 10, blocks: 64 };

    /// Bits for the blocks and for the extents of a disk of this size in bytes.
    #[must_use]
    pub fn bits(&self, size: u64) -> (usize, usize) {
        let blocks = usize::try_from(size.div_ceil(self.block)).unwrap_or(usize::MAX);
        (blocks, blocks.div_ceil(self.blocks))
    }
}

/// An extent of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Extent {
    /// Index of the disk.
    pub disk: u8,
    /// Number of the extent in it.
    pub at: usize,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    pub(super) size: u64,
    /// Marked blocks.
    pub(super) blocks: Bits,
    /// Marked blocks, as the file has them.
    pub(super) saved: Bits,
    /// Extents that the file has, or is about to.
    pub(super) listed: Bits,
    /// Extents that the file durably has: they may be written in.
    active: Bits,
    /// The newest generation in which each extent was written; 0: nothing is marked in it.
    written: Vec<u64>,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Differences {
    pub(super) grain: Grain,
    pub(super) bases: Vec<Base>,
    pub(super) disks: Vec<Disk>,
    /// Of the writes that come now; a cut begins the next one.
    generation: u64,
    /// All writes up to this generation are acknowledged.
    settled: u64,
    /// The session under way, as a base.
    session: Option<Base>,
    /// Epochs that were cut and are not acknowledged: the generation that each closed.
    cuts: VecDeque<(Epoch, u64)>,
    /// Active extents, the longest active first; some are not active any more.
    order: VecDeque<Extent>,
}

impl Differences {
    /// A map of disks of these sizes in which nothing is marked.
    #[must_use]
    pub fn new(grain: Grain, sizes: &[u64], bases: &[Base]) -> Self {
        let disk = |&size: &u64| {
            let (blocks, extents) = grain.bits(size);
            let (blocks, row) = (Bits::clear_row(blocks), Bits::clear_row(extents));
            let written = alloc::vec![0; extents];
            Disk { size, saved: blocks.clone(), blocks, listed: row.clone(), active: row, written }
        };
        Self {
            grain,
            bases: bases.to_vec(),
            disks: sizes.iter().map(disk).collect(),
            generation: 2,
            settled: 0,
            session: None,
            cuts: VecDeque::new(),
            order: VecDeque::new(),
        }
    }

    /// What is left of a map when its host crashed: what the file has.
    #[must_use]
    pub fn after_crash(mut self) -> Self {
        for disk in &mut self.disks {
            disk.blocks.clone_from(&disk.saved);
            for extent in disk.listed.runs() {
                let blocks = blocks_of(self.grain, extent, disk.blocks.len());
                disk.blocks.set(blocks);
            }
            disk.active.clone_from(&disk.listed);
            let mut written = alloc::vec![0; disk.listed.len()];
            for run in disk.blocks.runs() {
                // Older than any generation of this life, newer than what could be settled.
                written[extents_of(self.grain, run)].fill(1);
            }
            disk.written = written;
        }
        let listed = (0u8..).zip(&self.disks);
        let order =
            listed.flat_map(|(disk, row)| row.listed.runs().flatten().map(move |at| Extent { disk, at }));
        self.order = order.collect();
        (self.generation, self.settled, self.session) = (2, 0, None);
        self.cuts.clear();
        self
    }

    /// The bases that the map is good for.
    #[must_use]
    pub fn bases(&self) -> &[Base] {
        &self.bases
    }

    /// The sizes of the disks in bytes.
    #[must_use]
    pub fn sizes(&self) -> Vec<u64> {
        self.disks.iter().map(|disk| disk.size).collect()
    }

    /// Whether marks are of any use: the map is good for something, or about to be.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        !self.bases.is_empty() || self.session.is_some()
    }

    /// A session begins at its owner.
    pub fn begin_session(&mut self, session: Base) {
        self.session = Some(session);
        self.cuts.clear();
    }

    /// It is over. What was not acknowledged in it stays marked.
    pub fn end_session(&mut self) {
        self.session = None;
        self.cuts.clear();
    }

    /// An epoch of the session was cut: every write so far belongs to it or an earlier one.
    pub fn cut(&mut self, epoch: Epoch) {
        self.cuts.push_back((epoch, self.generation));
        self.generation += 1;
    }

    /// The first epoch of this session, the present one or one begun beside it, is about to be sent: its backup may have this
    /// state from now on. The file must know before it is sent.
    pub fn propose(&mut self, base: Base) {
        if self.bases.contains(&base) {
            return;
        }
        if self.bases.len() >= MAX_BASES {
            self.bases.remove(0);
        }
        self.bases.push(base);
    }

    /// This session, begun beside the present one, takes its place: the newest cut was its first epoch.
    pub fn succeed(&mut self, session: Base) {
        let cut = self.cuts.back().map(|&(_, generation)| (Epoch(1), generation));
        self.begin_session(session);
        self.cuts.extend(cut);
    }

    /// An epoch of the session, and all before it, are acknowledged. True for the first time in the session: the copies
    /// have a new base.
    pub fn acknowledged(&mut self, epoch: Epoch) -> bool {
        while let Some((_, generation)) = self.cuts.pop_front_if(|(cut, _)| *cut <= epoch) {
            self.settled = self.settled.max(generation);
        }
        let Some(base) = self.session else { return false };
        let first = self.bases != [base];
        if first {
            self.bases = alloc::vec![base];
        }
        first
    }

    /// Extents that must be active before these bytes may be written, and are not.
    #[must_use]
    pub fn inactive(&self, disk: u8, offset: u64, len: u64) -> Vec<Extent> {
        let Some((row, blocks)) = self.blocks(disk, offset, len) else { return Vec::new() };
        let extents = extents_of(self.grain, blocks);
        extents.filter(|&at| !row.active.get(at)).map(|at| Extent { disk, at }).collect()
    }

    /// These are about to be written into the file.
    pub fn list(&mut self, extents: &[Extent]) {
        for extent in extents {
            self.disks[usize::from(extent.disk)].listed.set(extent.at..extent.at + 1);
        }
    }

    /// The file durably has them.
    pub fn activate(&mut self, extents: &[Extent]) {
        for &extent in extents {
            let disk = &mut self.disks[usize::from(extent.disk)];
            // Retired while they were written: not so, see `retire`.
            assert!(disk.listed.get(extent.at), "an extent that is not listed");
            if !disk.active.get(extent.at) {
                disk.active.set(extent.at..extent.at + 1);
                self.order.push_back(extent);
            }
        }
    }

    /// These bytes are about to be written.
    ///
    /// # Panics
    /// If their extents are not active: an error of the caller.
    pub fn mark(&mut self, disk: u8, offset: u64, len: u64) {
        let (grain, generation) = (self.grain, self.generation);
        let Some((_, blocks)) = self.blocks(disk, offset, len) else { return };
        let row = &mut self.disks[usize::from(disk)];
        for at in extents_of(grain, blocks.clone()) {
            assert!(row.active.get(at), "a write in an extent that is not active");
            row.written[at] = generation;
        }
        row.blocks.set(blocks);
    }

    fn blocks(&self, disk: u8, offset: u64, len: u64) -> Option<(&Disk, Range<usize>)> {
        let row = self.disks.get(usize::from(disk))?;
        let end = offset.saturating_add(len).min(row.size);
        let at = |byte: u64| usize::try_from(byte / self.grain.block).unwrap_or(usize::MAX);
        (offset < end).then(|| (row, at(offset)..at(end - 1) + 1))
    }

    /// The newest generation that is acknowledged. Once everything written before this was asked is on the owner's
    /// medium, it may be given to [`forget`](Self::forget).
    #[must_use]
    pub fn settled(&self) -> u64 {
        self.settled
    }

    /// Whether there is anything marked that [`forget`](Self::forget) would take now.
    #[must_use]
    pub fn has_settled(&self) -> bool {
        self.disks
            .iter()
            .any(|disk| disk.written.iter().any(|&written| written > 0 && written <= self.settled))
    }

    /// Takes the marks away of all extents that were last written up to this generation.
    pub fn forget(&mut self, settled: u64) {
        assert!(settled <= self.settled, "not acknowledged");
        for disk in &mut self.disks {
            for at in 0..disk.written.len() {
                if (1..=settled).contains(&disk.written[at]) {
                    disk.written[at] = 0;
                    disk.blocks.clear(blocks_of(self.grain, at..at + 1, disk.blocks.len()));
                    disk.active.clear(at..at + 1);
                    disk.listed.clear(at..at + 1);
                }
            }
        }
        self.drop_inactive();
    }

    /// Retires the extents that are longest active, until `keep` are left, as far as their blocks are durably saved.
    pub fn retire(&mut self, keep: usize) {
        let surplus = self.order.len().saturating_sub(keep);
        for &Extent { disk, at } in self.order.iter().take(surplus) {
            let row = &mut self.disks[usize::from(disk)];
            let blocks = blocks_of(self.grain, at..at + 1, row.blocks.len());
            if row.blocks.is_within(&row.saved, blocks) {
                row.active.clear(at..at + 1);
                row.listed.clear(at..at + 1);
            }
        }
        self.drop_inactive();
    }

    fn drop_inactive(&mut self) {
        let disks = &self.disks;
        self.order.retain(|extent| disks[usize::from(extent.disk)].active.get(extent.at));
    }

    /// How many extents are active.
    #[must_use]
    pub fn active(&self) -> usize {
        self.order.len()
    }

    /// Marked bytes of a disk, to the block.
    #[must_use]
    pub fn marked_bytes(&self, disk: u8) -> u64 {
        let row = self.disks.get(usize::from(disk));
        row.map_or(0, |row| (row.blocks.count() as u64 * self.grain.block).min(row.size))
    }

    /// What is marked, in order.
    #[must_use]
    pub fn runs(&self) -> Vec<Run> {
        self.runs_with(&[])
    }

    /// What is marked here or in `others`, in order.
    #[must_use]
    pub fn runs_with(&self, others: &[Run]) -> Vec<Run> {
        let mut runs = Vec::new();
        for (disk, row) in (0u8..).zip(&self.disks) {
            let mut blocks = row.blocks.clone();
            for run in others.iter().filter(|run| run.disk == disk) {
                if let Some((_, range)) = self.blocks(disk, run.offset, run.len) {
                    blocks.set(range);
                }
            }
            runs.extend(blocks.runs().map(|run| {
                let (offset, end) = (run.start as u64 * self.grain.block, run.end as u64 * self.grain.block);
                Run { disk, offset, len: end.min(row.size) - offset }
            }));
        }
        runs
    }

    /// All bytes of all disks.
    #[must_use]
    pub fn everything(&self) -> Vec<Run> {
        Run::whole(self.disks.iter().map(|row| row.size))
    }
}

fn extents_of(grain: Grain, blocks: Range<usize>) -> Range<usize> {
    blocks.start / grain.blocks..blocks.end.div_ceil(grain.blocks)
}

fn blocks_of(grain: Grain, extents: Range<usize>, blocks: usize) -> Range<usize> {
    extents.start * grain.blocks..(extents.end * grain.blocks).min(blocks)
}

#[cfg(test)]
mod tests;
