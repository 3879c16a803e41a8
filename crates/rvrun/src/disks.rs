//! Owns disk images: plain files whose requests are carried out in order, at once.

use rv::{Answer, Disk, Request};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const SECTOR: u64 = 512;

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
        Ok(Image { file, disk: Disk { sectors: size / SECTOR, read_only } })
    }

    /// What the guest is told of it.
    pub fn disk(&self) -> Disk {
        self.disk
    }

    /// Carries a request out.
    pub fn carry_out(&self, request: &Request) -> Answer {
        let done = match request {
            Request::Read { sector, length } => {
                let mut data = vec![0; *length as usize];
                self.file.read_exact_at(&mut data, sector * SECTOR).map(|()| Answer::Data(data))
            }
            Request::Write { sector, data } => {
                self.file.write_all_at(data, sector * SECTOR).map(|()| Answer::Done)
            }
            Request::Flush => self.file.sync_data().map(|()| Answer::Done),
        };
        // The guest is told, as by a real disk.
        done.unwrap_or(Answer::Failed)
    }
}
