//! Owns what the model guest keeps on its disk: a ring of the newest stored writes, from which its server starts
//! after a power cut, and scratch sectors with versions.

use crate::guest::write_of;
use crate::rng::mix;
use crate::storage::{Disk, SECTOR, SECTORS, Sector};
use protocol::resync::Differences;
use protocol::wire::disk::DiskBatch;
use protocol::{Change, What};
use std::rc::Rc;

/// Sectors of the ring: write `n` is kept in sector `n` modulo this. More than a client has under way.
const RING: usize = 16;

/// A change of the disk, as the primary's host sees it pass.
#[derive(Debug, Clone)]
pub(crate) enum Tapped {
    Data(usize, Sector),
    Zeroes(usize),
    Discard(usize),
}

impl Tapped {
    fn sector(&self) -> usize {
        match self {
            Self::Data(at, _) | Self::Zeroes(at) | Self::Discard(at) => *at,
        }
    }
}

/// The guest's way to its disk. The host keeps what passes while the VM is protected, or about to be.
pub(crate) struct DiskPort<'a> {
    pub(crate) disk: &'a mut Disk,
    pub(crate) map: Option<&'a mut Differences>,
    pub(crate) tap: &'a mut Option<Vec<Tapped>>,
    /// A scratch sector is written in one step of so many.
    pub(crate) every: u64,
}

impl DiskPort<'_> {
    fn change(&mut self, change: Tapped) {
        if let Some(map) = self.map.as_mut().filter(|map| map.is_wanted()) {
            let offset = (change.sector() * SECTOR) as u64;
            let missing = map.inactive(0, offset, SECTOR as u64);
            map.list(&missing);
            map.activate(&missing);
            map.mark(0, offset, SECTOR as u64);
        }
        match &change {
            Tapped::Data(at, sector) => self.disk.write(*at, Rc::clone(sector)),
            Tapped::Zeroes(at) | Tapped::Discard(at) => self.disk.write(*at, Rc::new([0; SECTOR])),
        }
        if let Some(tap) = self.tap {
            tap.push(change);
        }
    }

    /// Keeps a stored write, durably: the guest answers only then.
    pub(crate) fn store(&mut self, write: u64) {
        if !self.disk.sectors().is_empty() {
            self.change(Tapped::Data(place(write), sector_of(write)));
            self.disk.flush();
        }
    }

    /// How many writes are stored, as the disk says, which holds the newest of `stored`.
    pub(crate) fn read_back(&self, stored: u64) -> u64 {
        match stored.checked_sub(1) {
            Some(newest) if !self.disk.sectors().is_empty() => {
                number(&self.disk.sectors()[place(newest)]).unwrap_or(0)
            }
            _ => stored,
        }
    }

    /// Uses the disk in a step of the guest; returns something that depends on what is on it.
    pub(crate) fn use_scratch(&mut self, digest: u64) -> u64 {
        if self.disk.sectors().is_empty() {
            return 0;
        }
        let at = |word: u64, from: usize, to: usize| {
            from + usize::try_from(word % (to - from) as u64).unwrap_or(0)
        };
        if digest.is_multiple_of(self.every) {
            let word = mix(digest);
            let at = at(word >> 8, RING, SECTORS);
            self.change(match word % 8 {
                0 => Tapped::Zeroes(at),
                1 => Tapped::Discard(at),
                _ => Tapped::Data(at, filled(digest)),
            });
        }
        let read = at(mix(digest ^ 0xd15c), 0, SECTORS);
        first_word(&self.disk.sectors()[read])
    }
}

fn place(write: u64) -> usize {
    usize::try_from(write % RING as u64).unwrap_or(0)
}

/// A sector of words that follow from its first one.
fn filled(word: u64) -> Sector {
    let mut bytes = [0; SECTOR];
    let words = bytes.as_chunks_mut::<8>().0;
    words[0] = word.to_le_bytes();
    words[1..].iter_mut().zip(1..).for_each(|(to, at)| *to = mix(word ^ at).to_le_bytes());
    Rc::new(bytes)
}

fn sector_of(write: u64) -> Sector {
    let (cell, add) = write_of(write);
    let mut sector = filled(write + 1);
    let words = Rc::make_mut(&mut sector).as_chunks_mut::<8>().0;
    words[1] = cell.to_le_bytes();
    words[2] = add.to_le_bytes();
    sector
}

fn first_word(sector: &Sector) -> u64 {
    u64::from_le_bytes(sector.as_chunks::<8>().0[0])
}

/// How many writes were stored when this sector of the ring was written; none if it is not one.
fn number(sector: &Sector) -> Option<u64> {
    let write = first_word(sector).checked_sub(1)?;
    (*sector == sector_of(write)).then_some(write + 1)
}

/// How many writes are stored, found on the disk alone.
pub(crate) fn stored_on(disk: &Disk) -> u64 {
    disk.sectors().iter().take(RING).filter_map(number).max().unwrap_or(0)
}

/// The first sector of the ring that does not hold the write that it should when so many are stored.
pub(crate) fn wrong_sector(disk: &Disk, stored: u64) -> Option<usize> {
    let newest = stored.saturating_sub(RING as u64)..stored;
    newest.map(|write| (place(write), sector_of(write))).find_map(|(at, sector)| {
        let held = disk.sectors().get(at)?;
        (*held != sector).then_some(at)
    })
}

/// The first copy: every sector.
pub(crate) fn whole(disk: &Disk) -> Vec<Tapped> {
    disk.sectors().iter().enumerate().map(|(at, sector)| Tapped::Data(at, Rc::clone(sector))).collect()
}

/// The body of a Disk frame.
pub(crate) fn encode(changes: &[Tapped]) -> Vec<u8> {
    let mut batch = DiskBatch::new();
    for change in changes {
        let (at, what) = match change {
            Tapped::Data(at, sector) => (at, What::Data(&**sector)),
            Tapped::Zeroes(at) => (at, What::Zeroes(SECTOR as u64)),
            Tapped::Discard(at) => (at, What::Discard(SECTOR as u64)),
        };
        let fits = batch.push(Change { disk: 0, offset: (at * SECTOR) as u64, what });
        assert!(fits, "a few sectors fit a frame");
    }
    batch.finish()
}
