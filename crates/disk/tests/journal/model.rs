//! A VM's disks and their history: what recovery is judged by.

use crate::storage::{Dice, FaultyStorage};
use disk::journal::{Journal, JournalError, Layout, Storage, Target, recover};
use protocol::journal::Identity;
use protocol::{Change, Epoch, Session, Term, VmId, What};
use std::io;
use std::sync::Arc;

pub const DISKS: usize = 2;
pub const DISK_LEN: usize = 8192;
pub const TERM: Term = Term(3);

pub fn identity() -> Identity {
    Identity { vm: VmId(0xfeed), session: Session(2) }
}

pub fn layout() -> Layout {
    Layout::new(3, 5 * 4096).unwrap()
}

/// A change that owns its data.
#[derive(Debug, Clone)]
pub enum Write {
    Data(u8, u64, Vec<u8>),
    Zeroes(u8, u64, u64),
    Discard(u8, u64, u64),
}

impl Write {
    pub fn random(dice: &mut Dice) -> Self {
        let disk = dice.below(DISKS as u64) as u8;
        let offset = dice.below(DISK_LEN as u64 - 1);
        let longest = (DISK_LEN as u64 - offset).min(1500);
        let len = 1 + dice.below(longest);
        match dice.below(6) {
            0 => Self::Zeroes(disk, offset, len),
            1 => Self::Discard(disk, offset, len),
            _ => Self::Data(disk, offset, (0..len).map(|_| dice.roll() as u8).collect()),
        }
    }

    pub fn change(&self) -> Change<'_> {
        match self {
            Self::Data(disk, offset, data) => Change { disk: *disk, offset: *offset, what: What::Data(data) },
            Self::Zeroes(disk, offset, len) => {
                Change { disk: *disk, offset: *offset, what: What::Zeroes(*len) }
            }
            Self::Discard(disk, offset, len) => {
                Change { disk: *disk, offset: *offset, what: What::Discard(*len) }
            }
        }
    }
}

pub fn changes(writes: &[Write]) -> Vec<Change<'_>> {
    writes.iter().map(Write::change).collect()
}

pub type Disks = Vec<Vec<u8>>;

pub fn blank() -> Disks {
    vec![vec![0; DISK_LEN]; DISKS]
}

/// The disks after these writes, computed without any of the journal's code. A discarded byte reads as 0xdd.
pub fn after(disks: &Disks, writes: &[Write]) -> Disks {
    let mut disks = disks.clone();
    for write in writes {
        let (disk, from, bytes) = match write {
            Write::Data(disk, from, data) => (*disk, *from, data.clone()),
            Write::Zeroes(disk, from, len) => (*disk, *from, vec![0; *len as usize]),
            Write::Discard(disk, from, len) => (*disk, *from, vec![0xdd; *len as usize]),
        };
        let from = from as usize;
        disks[usize::from(disk)][from..from + bytes.len()].copy_from_slice(&bytes);
    }
    disks
}

fn image(disk: usize) -> String {
    format!("image-{disk}")
}

/// An image on a faulty storage: written by whole sectors.
pub struct Image<'a>(&'a FaultyStorage, String);

impl Image<'_> {
    fn fill(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let from = offset as usize / 512 * 512;
        let until = (offset as usize + bytes.len()).next_multiple_of(512);
        let mut sectors = vec![0; until - from];
        self.0.read_at(&self.1, from as u64, &mut sectors)?;
        let at = offset as usize - from;
        sectors[at..at + bytes.len()].copy_from_slice(bytes);
        self.0.write_at(&self.1, from as u64, &sectors)
    }
}

impl Target for Image<'_> {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.fill(offset, bytes)
    }

    fn write_zeroes(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.fill(offset, &vec![0; len as usize])
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.fill(offset, &vec![0xdd; len as usize])
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync(&self.1)
    }
}

pub fn make_images(storage: &FaultyStorage) {
    for disk in 0..DISKS {
        storage.create(&image(disk), DISK_LEN as u64).unwrap();
        storage.sync(&image(disk)).unwrap();
    }
    storage.sync_dir().unwrap();
}

pub fn images(storage: &FaultyStorage) -> Disks {
    (0..DISKS).map(|disk| storage.content(&image(disk))).collect()
}

/// Runs something with the images as targets.
pub fn with_targets<T>(storage: &FaultyStorage, run: impl FnOnce(&mut [&mut dyn Target]) -> T) -> T {
    let mut owned: Vec<_> = (0..DISKS).map(|disk| Image(storage, image(disk))).collect();
    let mut targets: Vec<&mut dyn Target> = owned.iter_mut().map(|image| image as &mut dyn Target).collect();
    run(&mut targets)
}

/// Recovers journal and images; the journal goes on.
pub fn recovered(
    storage: &Arc<FaultyStorage>,
    required: Epoch,
) -> Result<Journal<FaultyStorage>, JournalError> {
    let opened = Journal::open(Arc::clone(storage), identity(), required)?;
    with_targets(storage, |targets| recover(opened, targets))
}

/// Applies what is durable and marks it.
pub fn apply_durable(
    storage: &FaultyStorage,
    journal: &mut Journal<FaultyStorage>,
) -> Result<(), JournalError> {
    let Some(mut replay) = journal.replay()? else { return Ok(()) };
    let newest = with_targets(storage, |targets| disk::journal::apply(&mut replay, targets))?;
    newest.map_or(Ok(()), |newest| journal.mark_applied(newest))
}
