//! Owns a host's disks in the model: its copy of the VM's disk, the journal of a backup, and the stamp that says
//! how new the copy is.
//!
//! # Fault model
//! - A write is in the kernel's cache until it is flushed. A killed agent loses nothing of it. A *power loss* leaves
//!   of what was not flushed any part: each sector old, new or torn; each record of the journal there, gone or torn,
//!   in no order. What was flushed stays, sectors and records have checksums in the real thing, so a torn one is known.
//! - The journal's disk may be *full*, *fail*, or be *slow*, for a time. The disk that a running guest writes to does
//!   not fail: that is a fault inside the VM, which is replicated faithfully.
//! - Stamps are written whole or not at all. Of a difference map a crash leaves what its file durably has; the file itself
//!   is tested against crashes in `disk`.

use crate::rng::Rng;
use protocol::resync::record::{Layout, Row, sector};
use protocol::resync::{Base, Differences, DiskOffer, Grain};
use protocol::wire::disk::read_batch;
use protocol::{Epoch, Session, Term, What};
use std::rc::Rc;

pub(crate) const SECTOR: usize = 512;
/// Sectors of the guest's disk.
pub(crate) const SECTORS: usize = 28;
pub(crate) const DISK_SIZES: [u64; 1] = [(SECTOR * SECTORS) as u64];

/// Fine enough for a map of this small disk to leave something out.
const GRAIN: Grain = Grain { block: SECTOR as u64, blocks: 2 };

pub(crate) type Sector = Rc<[u8; SECTOR]>;

/// A copy of the VM's disk: what a reader sees, and what a power loss leaves at least.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    now: Vec<Sector>,
    flushed: Vec<Sector>,
}

impl Disk {
    pub(crate) fn blank(sectors: usize) -> Self {
        let zero = Rc::new([0; SECTOR]);
        let now = vec![zero; sectors];
        Self { flushed: now.clone(), now }
    }

    pub(crate) fn sectors(&self) -> &[Sector] {
        &self.now
    }

    pub(crate) fn write(&mut self, at: usize, sector: Sector) {
        self.now[at] = sector;
    }

    pub(crate) fn flush(&mut self) {
        self.flushed.clone_from(&self.now);
    }

    fn lose_power(&mut self, rng: &mut Rng) {
        for (now, flushed) in self.now.iter_mut().zip(&self.flushed).filter(|(a, b)| !Rc::ptr_eq(a, b)) {
            match rng.below(4) {
                0 => {}
                1 => {
                    let mut torn = **flushed;
                    torn[..SECTOR / 2].copy_from_slice(&now[..SECTOR / 2]);
                    *now = Rc::new(torn);
                }
                _ => *now = Rc::clone(flushed),
            }
        }
        self.flush();
    }
}

/// Applies an unpacked batch, whose ranges are whole sectors.
pub(crate) fn apply(sectors: &mut [Sector], records: &[u8]) {
    let done = read_batch(records, &DISK_SIZES, |change| match change.what {
        What::Data(bytes) => {
            for (sector, bytes) in (index(change.offset)..).zip(bytes.as_chunks::<SECTOR>().0) {
                sectors[sector] = Rc::new(*bytes);
            }
        }
        What::Zeroes(len) | What::Discard(len) => {
            sectors[index(change.offset)..index(change.offset + len)].fill(Rc::new([0; SECTOR]));
        }
    });
    assert!(done.is_ok(), "the reader let a bad batch pass");
}

fn map_of(sectors: usize, bases: &[Base]) -> Differences {
    Differences::new(GRAIN, &[(sectors * SECTOR) as u64], bases)
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX) / SECTOR
}

/// How new a copy of the disk is. The order is the rule by which the newest is found: by term; in one term the owner's
/// is newer than its backup's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp {
    pub(crate) term: Term,
    /// The VM ran on it.
    pub(crate) owner: bool,
    pub(crate) session: Session,
    epoch: Epoch,
}

impl Stamp {
    /// What a backup's disk is, once its journal is applied.
    fn base(&self) -> Base {
        Base { term: self.term, session: self.session }
    }

    pub(crate) fn owner(term: Term) -> Self {
        Self { term, owner: true, session: Session(0), epoch: Epoch(0) }
    }

    pub(crate) fn backup((term, session): (Term, Session), epoch: Epoch) -> Self {
        Self { term, owner: false, session, epoch }
    }
}

/// The disk changes of an epoch, whole.
#[derive(Debug)]
struct Record {
    number: u64,
    epoch: Epoch,
    batches: Vec<Vec<u8>>,
    applied: bool,
    synced: bool,
    torn: bool,
}

impl Record {
    fn apply(&self, sectors: &mut [Sector]) {
        self.batches.iter().for_each(|batch| apply(sectors, batch));
    }
}

#[derive(Debug, Default)]
pub(crate) struct Storage {
    pub(crate) disk: Disk,
    pub(crate) stamp: Option<Stamp>,
    /// The label's term while the disk is being filled, and there is no stamp.
    filling: Term,
    /// The difference map; none beside a disk of which nothing is known.
    pub(crate) map: Option<Differences>,
    journal: Vec<Record>,
    /// Number of the journal's first record, and of the next one.
    first: u64,
    next: u64,
    /// How many faults make it so.
    pub(crate) full: u32,
    pub(crate) failing: u32,
    /// By how much it is slower than the plan says.
    pub(crate) slow: u64,
}

impl Storage {
    /// Another VM's disk, or a new copy, is about to be written: what is here is worth nothing from now on.
    pub(crate) fn forget(&mut self, sectors: usize) {
        self.stamp = None;
        self.cut();
        self.disk = Disk::blank(sectors);
        self.map = Some(map_of(sectors, &[]));
    }

    /// The lowest term and session that may overwrite the disk.
    pub(crate) fn least(&self) -> (Term, Session) {
        match self.stamp {
            None => (self.filling, Session(0)),
            Some(stamp) if stamp.owner => (stamp.term.next(), Session(0)),
            Some(stamp) => (stamp.term, stamp.session.next()),
        }
    }

    /// A session of this term begins at this backup: what it has of the VM's disk, which is no disk from now on.
    pub(crate) fn offer(&mut self, sectors: usize, term: Term) -> DiskOffer {
        if sectors == 0 {
            self.forget(0);
            return DiskOffer::NoDisks;
        }
        self.filling = term;
        let stamp = self.stamp.take();
        if self.disk.now.len() != sectors {
            self.forget(sectors);
            return DiskOffer::Blank;
        }
        if let Some(stamp) = stamp.filter(|stamp| !stamp.owner) {
            if self.failing > 0 {
                self.map = None;
            } else {
                self.replay();
                self.map = Some(map_of(sectors, &[stamp.base()]));
            }
        }
        self.cut();
        let nothing = || map_of(sectors, &[]);
        DiskOffer::of(self.map.get_or_insert_with(nothing))
    }

    /// All that the map's file can say exactly it says, and extents that are long active are retired.
    pub(crate) fn retire(&mut self, keep: usize) {
        let Some(map) = &mut self.map else { return };
        let layout = Layout::new(GRAIN, &map.sizes());
        for (disk, at) in map.unsaved(&layout) {
            let bytes = sector(map, &layout, disk, Row::Saved, at);
            map.saved(&layout, disk, at, &bytes);
        }
        map.retire(keep);
    }

    /// The agent's memory is gone.
    pub(crate) fn crash(&mut self) {
        self.map = self.map.take().map(Differences::after_crash);
    }

    fn cut(&mut self) {
        self.journal.clear();
        self.first = self.next;
    }

    /// What of the first copy came, written at once.
    pub(crate) fn copy(&mut self, records: &[u8]) {
        apply(&mut self.disk.now, records);
    }

    pub(crate) fn append(&mut self, epoch: Epoch, batches: Vec<Vec<u8>>) {
        let (number, applied, synced, torn) = (self.next, false, false, false);
        self.next += 1;
        self.journal.push(Record { number, epoch, batches, applied, synced, torn });
    }

    /// Why a sync cannot succeed now.
    pub(crate) fn trouble(&self) -> Option<&'static str> {
        if self.failing > 0 {
            return Some("input/output error");
        }
        (self.full > 0).then_some("no space left on the disk")
    }

    /// The journal is durable up to this epoch; and what was written to the disk before there was a stamp. Returns
    /// how many epochs that were not became so.
    pub(crate) fn sync(&mut self, epoch: Epoch, stamp: Stamp) -> u64 {
        if self.stamp.is_none() {
            self.disk.flush();
            self.map = Some(map_of(self.disk.now.len(), &[stamp.base()]));
        }
        self.stamp = Some(stamp);
        let mut count = 0;
        for record in self.journal.iter_mut().filter(|record| record.epoch <= epoch && !record.synced) {
            record.synced = true;
            count += 1;
        }
        count
    }

    /// Writes a committed epoch to the disk, and those before it.
    pub(crate) fn commit(&mut self, epoch: Epoch) {
        let due = self.journal.iter_mut().filter(|record| record.epoch <= epoch && !record.applied);
        for record in due {
            record.apply(&mut self.disk.now);
            record.applied = true;
        }
    }

    /// Flushes the disk and frees what the journal holds of it.
    pub(crate) fn trim(&mut self) {
        self.disk.flush();
        self.journal.retain(|record| !record.applied);
        self.first = self.journal.first().map_or(self.next, |record| record.number);
    }

    /// Whether the disk at its worst, after a power loss now and replay up to this epoch, would be this one.
    pub(crate) fn keeps(&self, epoch: Epoch, expected: &[Sector]) -> bool {
        let mut worst = self.disk.flushed.clone();
        let kept = self.journal.iter().filter(|record| record.synced && record.epoch <= epoch);
        kept.for_each(|record| record.apply(&mut worst));
        worst == expected
    }

    /// The VM goes on from this epoch, in this term: what the journal holds of later ones is cut off. Returns how many
    /// epochs that were.
    pub(crate) fn promote(&mut self, epoch: Epoch, (of, session): (Term, Session), term: Term) -> u64 {
        let cut = self.journal.iter().filter(|record| record.epoch > epoch).count();
        self.journal.retain(|record| record.epoch <= epoch);
        self.commit(epoch);
        self.disk.flush();
        self.cut();
        self.map = Some(map_of(self.disk.now.len(), &[Base { term: of, session }]));
        self.stamp = (!self.disk.now.is_empty()).then_some(Stamp::owner(term));
        cut as u64
    }

    /// After a crash the VM shall start from here: whole records that follow on one another are replayed, whatever
    /// their epoch; the rest is gone. Returns whether all of them were.
    pub(crate) fn recover(&mut self, term: Term) -> bool {
        let whole = self.replay();
        if let Some(stamp) = self.stamp.filter(|stamp| !stamp.owner) {
            self.map = Some(map_of(self.disk.now.len(), &[stamp.base()]));
        }
        self.stamp = Some(Stamp::owner(term));
        whole
    }

    fn replay(&mut self) -> bool {
        let mut whole = true;
        for record in &self.journal {
            if record.torn || record.number != self.first {
                whole = false;
                break;
            }
            record.apply(&mut self.disk.now);
            self.first += 1;
        }
        self.disk.flush();
        self.cut();
        whole
    }

    /// Returns how many records were not there yet.
    pub(crate) fn lose_power(&mut self, rng: &mut Rng) -> u64 {
        self.disk.lose_power(rng);
        let mut harmed = 0;
        self.journal.retain_mut(|record| {
            let fate = if record.synced { 0 } else { rng.below(3) };
            harmed += u64::from(fate > 0);
            if fate == 1 {
                record.batches.truncate(record.batches.len() / 2);
                record.torn = true;
            }
            record.synced = true;
            fate < 2
        });
        harmed
    }
}
