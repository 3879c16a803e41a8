//! Owns disk images: plain files whose requests are carried out in order, at once.

use crate::medium::{Medium, SECTOR};
use crate::saved::{BLOCK, Blocks, before};
use rv::{Disk, Request};
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Why a disk image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It cannot be opened.
    #[error("cannot open the disk image {path}: {source}")]
    Open {
        /// The image.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its size is no number of sectors.
    #[error("the disk image {path} has {size} bytes, which is no multiple of 512: is it a raw image?")]
    Size {
        /// The image.
        path: PathBuf,
        /// Its size.
        size: u64,
    },
    /// Somebody else has it.
    #[error("the disk image {path} is in use by another machine")]
    Busy {
        /// The image.
        path: PathBuf,
    },
}

/// An open image.
#[derive(Debug)]
pub struct Image {
    file: File,
    disk: Disk,
    tracked: Option<Tracked>,
}

/// What is kept of an image's blocks for snapshots.
#[derive(Debug)]
struct Tracked {
    number: u8,
    written: BTreeSet<u64>,
    /// Written since changes were asked for last.
    changed: BTreeSet<u64>,
}

impl Image {
    /// Opens an image, for this program alone.
    pub fn open(path: &Path, read_only: bool) -> Result<Image, DiskError> {
        let failed = |source| DiskError::Open { path: path.to_owned(), source };
        let file = OpenOptions::new().read(true).write(!read_only).open(path).map_err(failed)?;
        let lock = if read_only { file.try_lock_shared() } else { file.try_lock() };
        match lock {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DiskError::Busy { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let size = file.metadata().map_err(failed)?.len();
        if !size.is_multiple_of(SECTOR) {
            return Err(DiskError::Size { path: path.to_owned(), size });
        }
        Ok(Image { file, disk: Disk { sectors: size / SECTOR, read_only }, tracked: None })
    }

    /// What the guest is told of it.
    pub fn disk(&self) -> Disk {
        self.disk
    }

    /// From now on what was written is known.
    pub fn track(&mut self, number: u8) {
        self.tracked = Some(Tracked { number, written: BTreeSet::new(), changed: BTreeSet::new() });
    }

    /// Makes ready for a request: before a block is written for the first time, what it was is put down, where there is a
    /// snapshot that may need it.
    pub fn prepare(&mut self, request: &Request, before: Option<&File>) -> io::Result<()> {
        let (Request::Write { sector, data }, false) = (request, self.disk.read_only) else { return Ok(()) };
        let first = sector * SECTOR / BLOCK as u64;
        let behind = (sector * SECTOR + data.len() as u64).div_ceil(BLOCK as u64);
        let Some(mut tracked) = self.tracked.take() else { return Ok(()) };
        let done = (first..behind).try_for_each(|block| {
            tracked.changed.insert(block);
            let first = tracked.written.insert(block);
            match before.filter(|_| first) {
                Some(before) => before::put_down(before, tracked.number, block, &self.block(block)?),
                None => Ok(()),
            }
        });
        self.tracked = Some(tracked);
        done
    }

    /// What the blocks hold that were written: all of them, or those since it was asked last.
    pub fn changes(&mut self, all: bool) -> io::Result<Blocks> {
        let Some(tracked) = &mut self.tracked else { return Ok(Blocks::new()) };
        let changed = std::mem::take(&mut tracked.changed);
        let numbers = if all { tracked.written.clone() } else { changed };
        numbers.into_iter().map(|block| Ok((block, self.block(block)?))).collect()
    }

    /// Puts blocks back.
    pub fn restore(&self, blocks: &Blocks) -> io::Result<()> {
        for (block, bytes) in blocks {
            let place = block * BLOCK as u64;
            let length = self.inside(place);
            self.file.write_all_at(&bytes[..length], place)?;
        }
        self.file.sync_data()
    }

    fn block(&self, block: u64) -> io::Result<Vec<u8>> {
        let place = block * BLOCK as u64;
        let mut bytes = vec![0; BLOCK];
        let length = self.inside(place);
        self.file.read_exact_at(&mut bytes[..length], place)?;
        Ok(bytes)
    }

    /// How many bytes of the block that begins here are in the image.
    fn inside(&self, place: u64) -> usize {
        self.size().saturating_sub(place).min(BLOCK as u64) as usize
    }
}

impl Medium for Image {
    fn size(&self) -> u64 {
        self.disk.sectors * SECTOR
    }

    fn is_read_only(&self) -> bool {
        self.disk.read_only
    }

    fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}
