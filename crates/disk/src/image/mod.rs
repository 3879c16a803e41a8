//! Owns one disk's medium: a file or a block device, locked while it is open; an image on storage that hosts share while this
//! host has it.

mod error;
mod extents;
mod held;

pub use error::ImageError;
pub use extents::{Extent, Extents};

use held::Held;
use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags};
use rustix::pipe::{SpliceFlags, splice};
use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, IoSliceMut, Seek, SeekFrom};
use std::ops::{Deref, Range};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Disks consist of these.
const SECTOR: u64 = 512;
/// How much is written at a time where zeroes must be written one by one.
const ZEROES: usize = 256 << 10;

/// What an image is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Several may read it at a time; nobody writes it meanwhile.
    ReadOnly,
    /// For us alone.
    ReadWrite,
}

/// Whether writing zeroes may give space back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holes {
    /// It may.
    Allowed,
    /// The space stays ours: later writes there do not fail for want of space.
    Forbidden,
}

/// What came of a discard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discarded {
    /// The space was given back; zeroes are read.
    Zeroed,
    /// The medium cannot, or not this range: nothing has changed.
    Ignored,
}

/// A file or block device that holds one disk. Usable by several threads at a time; who orders changes that overlap
/// is the caller.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    medium: Held,
    size: u64,
    access: Access,
    /// After a failed write-back Linux calls the pages clean and the next fdatasync succeeds although data is lost
    /// (fsync(2), errors). So one failure is for good.
    flush_failed: AtomicBool,
}

impl Image {
    /// Creates a file of `size` bytes that takes no space yet, and opens it to be written.
    ///
    /// # Errors
    /// If something of this name exists, the size is not some number of sectors, or the filesystem refuses.
    pub fn create(path: &Path, size: u64) -> Result<Self, ImageError> {
        check_size(path, size)?;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|source| match source.kind() {
            ErrorKind::AlreadyExists => ImageError::Exists { path: path.into() },
            _ => ImageError::Open { action: "create", path: path.into(), source },
        })?;
        let made = lock(path, &file, Access::ReadWrite).and_then(|()| {
            let refused = |source| ImageError::Open { action: "set the size of", path: path.into(), source };
            file.set_len(size).and_then(|()| file.sync_all()).map_err(refused)
        });
        if let Err(error) = made {
            // Half a disk would be taken for a whole one later. That it is still there then cannot be helped.
            let _ = std::fs::remove_file(path);
            return Err(error);
        }
        Ok(Self::new(path, file, size, Access::ReadWrite))
    }

    /// Opens and locks the image at `path`.
    ///
    /// # Errors
    /// If it is in use, cannot be written but should, is no file or block device, or has a size that no disk has.
    pub fn open(path: &Path, access: Access) -> Result<Self, ImageError> {
        let image = Self::open_any_size(path, access)?;
        image.check_size()?;
        Ok(image)
    }

    /// The same, of any size: for images that are looked at before they are given one.
    pub(crate) fn open_any_size(path: &Path, access: Access) -> Result<Self, ImageError> {
        let (file, size) = open_file(path, access)?;
        lock(path, &file, access)?;
        Ok(Self::new(path, file, size, access))
    }

    /// Whether it has a size that disks have.
    pub(crate) fn check_size(&self) -> Result<(), ImageError> {
        check_size(&self.path, self.size)
    }

    /// Whether it is a file, whose size can be changed, and no device.
    pub(crate) fn is_file(&self) -> bool {
        self.medium.file().metadata().is_ok_and(|metadata| metadata.is_file())
    }

    /// Gives a file that nobody uses yet a larger size; the new part is a hole.
    pub(crate) fn grow(&mut self, size: u64) -> io::Result<()> {
        let file = self.medium.file();
        file.set_len(size)?;
        file.sync_all()?;
        drop(file);
        self.size = size;
        Ok(())
    }

    fn new(path: &Path, file: File, size: u64, access: Access) -> Self {
        let medium = Held::here(file);
        Self { path: path.into(), medium, size, access, flush_failed: AtomicBool::new(false) }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The size of the disk in bytes; it stays the same while the image is open.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What it was opened for.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// Reads all of `bytes` from `offset` on.
    ///
    /// # Errors
    /// If that is not inside the disk, or the medium fails.
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), ImageError> {
        let len = bytes.len() as u64;
        self.check(offset, len)?;
        self.medium.file().read_exact_at(bytes, offset).map_err(|source| self.io("read", offset, len, source))
    }

    /// The same if the system has all of it in memory; whether it has. What `bytes` holds otherwise means nothing.
    ///
    /// # Errors
    /// If that is not inside the disk.
    pub(crate) fn read_in_memory_at(&self, offset: u64, bytes: &mut [u8]) -> Result<bool, ImageError> {
        let len = bytes.len();
        self.check(offset, len as u64)?;
        let file = self.medium.file();
        let read = rustix::io::preadv2(&*file, &mut [IoSliceMut::new(bytes)], offset, ReadWriteFlags::NOWAIT);
        // An error here may only mean that this filesystem cannot tell: reading in earnest finds out.
        Ok(read == Ok(len))
    }

    /// Puts some of `len` bytes from `offset` on into a pipe, without copying them, and tells how many; `None` if the
    /// filesystem cannot, or the pipe is full.
    ///
    /// # Errors
    /// If that is not inside the disk, or the medium fails.
    pub(crate) fn splice_at(
        &self,
        mut offset: u64,
        pipe: &OwnedFd,
        len: usize,
    ) -> Result<Option<usize>, ImageError> {
        self.check(offset, len as u64)?;
        let file = self.medium.file();
        loop {
            match splice(&*file, Some(&mut offset), pipe, None, len, SpliceFlags::NONBLOCK) {
                Ok(0) | Err(Errno::INVAL | Errno::AGAIN) => return Ok(None),
                Ok(n) => return Ok(Some(n)),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.io("read", offset, len as u64, errno.into())),
            }
        }
    }

    /// Writes all of `bytes` from `offset` on.
    ///
    /// # Errors
    /// If that is not inside the disk, or the medium fails: [`ImageError::Write`] says how much was written.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), ImageError> {
        let len = bytes.len() as u64;
        let file = self.to_change(offset, len)?;
        let mut done = 0;
        while done < bytes.len() {
            let outcome = match file.write_at(&bytes[done..], offset + done as u64) {
                Ok(0) => Err(ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == ErrorKind::Interrupted => Ok(0),
                other => other,
            };
            let done_before = done as u64;
            done += outcome.map_err(|source| self.write_stopped(offset, len, done_before, source))?;
        }
        Ok(())
    }

    /// Makes `len` bytes zero from `offset` on, without writing them if the medium can.
    ///
    /// # Errors
    /// As for [`write_at`](Self::write_at).
    pub fn write_zeroes_at(&self, offset: u64, len: u64, holes: Holes) -> Result<(), ImageError> {
        let how = match holes {
            Holes::Allowed => FallocateFlags::PUNCH_HOLE,
            Holes::Forbidden => FallocateFlags::ZERO_RANGE,
        };
        let made = allocate(&*self.to_change(offset, len)?, how, offset, len);
        match made {
            Ok(()) => Ok(()),
            Err(errno) if is_unable(errno) => self.write_out_zeroes(offset, len),
            Err(errno) => Err(self.write_stopped(offset, len, 0, errno.into())),
        }
    }

    /// Gives the space of `len` bytes from `offset` on back if the medium can.
    ///
    /// # Errors
    /// If that is not inside the disk, or the medium fails.
    pub fn discard_at(&self, offset: u64, len: u64) -> Result<Discarded, ImageError> {
        let made = allocate(&*self.to_change(offset, len)?, FallocateFlags::PUNCH_HOLE, offset, len);
        match made {
            Ok(()) => Ok(Discarded::Zeroed),
            Err(errno) if is_unable(errno) => Ok(Discarded::Ignored),
            Err(errno) => Err(self.io("discard", offset, len, errno.into())),
        }
    }

    /// Brings all that was written onto the medium: fdatasync(2).
    ///
    /// # Errors
    /// If the medium fails, or failed an earlier flush.
    pub fn flush(&self) -> Result<(), ImageError> {
        let failed = |source| ImageError::Flush { path: self.path.clone(), source };
        if self.flush_failed.load(Ordering::SeqCst) {
            return Err(failed(io::Error::other("an earlier flush failed")));
        }
        self.medium.file().sync_data().map_err(|source| {
            self.flush_failed.store(true, Ordering::SeqCst);
            failed(source)
        })
    }

    /// Which parts of `range` hold data; cut to the size of the disk.
    #[must_use]
    pub fn extents(&self, range: Range<u64>) -> Extents<'_> {
        Extents::new(self, range.start..range.end.min(self.size))
    }

    fn write_out_zeroes(&self, offset: u64, len: u64) -> Result<(), ImageError> {
        let zeroes = vec![0; ZEROES.min(usize::try_from(len).unwrap_or(ZEROES))];
        let mut done = 0;
        while done < len {
            let now = zeroes.len().min(usize::try_from(len - done).unwrap_or(ZEROES));
            self.write_at(offset + done, &zeroes[..now]).map_err(|error| match error {
                ImageError::Write { done: more, source, .. } => {
                    self.write_stopped(offset, len, done + more, source)
                }
                other => other,
            })?;
            done += now as u64;
        }
        Ok(())
    }

    fn check(&self, offset: u64, len: u64) -> Result<(), ImageError> {
        if offset.checked_add(len).is_some_and(|end| end <= self.size) {
            return Ok(());
        }
        Err(ImageError::OutOfBounds { path: self.path.clone(), offset, len, size: self.size })
    }

    /// The file, to change this range of it. It stays as it is until that is let go.
    fn to_change(&self, offset: u64, len: u64) -> Result<impl Deref<Target = File>, ImageError> {
        match self.access {
            Access::ReadWrite => self.check(offset, len)?,
            Access::ReadOnly => return Err(ImageError::ReadOnly { path: self.path.clone() }),
        }
        self.medium.file_to_change().ok_or_else(|| ImageError::Elsewhere { path: self.path.clone() })
    }

    /// A change that was not made because what is known of the disk cannot be kept.
    pub(crate) fn refused(&self, offset: u64, len: u64, source: io::Error) -> ImageError {
        self.io("note a change of", offset, len, source)
    }

    fn io(&self, action: &'static str, offset: u64, len: u64, source: io::Error) -> ImageError {
        ImageError::Io { action, path: self.path.clone(), offset, len, source }
    }

    fn write_stopped(&self, offset: u64, len: u64, done: u64, source: io::Error) -> ImageError {
        ImageError::Write { path: self.path.clone(), offset, len, done, source }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // Closing it is not enough: a child that is being started has copies of all descriptors for a moment, and
        // the lock would stay until the last is closed. It fails only for a file that has no lock.
        let _ = self.medium.file().unlock();
    }
}

fn allocate(file: &File, how: FallocateFlags, offset: u64, len: u64) -> Result<(), Errno> {
    if len == 0 {
        return Ok(());
    }
    loop {
        match rustix::fs::fallocate(file, how | FallocateFlags::KEEP_SIZE, offset, len) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Whether fallocate(2) says that it cannot do this here; a block device says `EINVAL` to parts of its own blocks.
fn is_unable(errno: Errno) -> bool {
    matches!(errno, Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL)
}

/// Opens what holds a disk, and says how large it is.
fn open_file(path: &Path, access: Access) -> Result<(File, u64), ImageError> {
    let failed = |source| ImageError::Open { action: "open", path: path.into(), source };
    // Looked at before it is opened: opening a pipe waits, opening a device may do anything.
    check_kind(path, &std::fs::metadata(path).map_err(failed)?)?;
    let file = OpenOptions::new().read(true).write(access == Access::ReadWrite).open(path);
    let mut file = file.map_err(|source| match source.raw_os_error().map(Errno::from_raw_os_error) {
        // A read-only filesystem gives EROFS; some read-only block devices EACCES or EPERM, even to root.
        Some(Errno::ROFS | Errno::ACCESS | Errno::PERM) if access == Access::ReadWrite => {
            ImageError::ReadOnlyMedium { path: path.into(), source }
        }
        _ => failed(source),
    })?;
    let metadata = file.metadata().map_err(failed)?;
    check_kind(path, &metadata)?;
    if access == Access::ReadWrite && metadata.file_type().is_block_device() {
        check_writable(path, &file)?;
    }
    // Not by the metadata: a block device's size is 0 there.
    let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
    Ok((file, size))
}

fn check_kind(path: &Path, metadata: &Metadata) -> Result<(), ImageError> {
    let kind = metadata.file_type();
    if kind.is_file() || kind.is_block_device() {
        Ok(())
    } else {
        Err(ImageError::Kind { path: path.into() })
    }
}

fn check_writable(path: &Path, device: &File) -> Result<(), ImageError> {
    let failed = |source| ImageError::Open { action: "ask about", path: path.into(), source };
    if os::block::is_read_only(device).map_err(failed)? {
        return Err(ImageError::ReadOnlyMedium { path: path.into(), source: Errno::ROFS.into() });
    }
    Ok(())
}

fn check_size(path: &Path, size: u64) -> Result<(), ImageError> {
    let good = size > 0 && size.is_multiple_of(SECTOR) && i64::try_from(size).is_ok();
    if good { Ok(()) } else { Err(ImageError::Size { path: path.into(), size }) }
}

fn lock(path: &Path, file: &File, access: Access) -> Result<(), ImageError> {
    // flock(2): the lock belongs to the open file, ends with it, and works on block devices.
    let locked = match access {
        Access::ReadOnly => file.try_lock_shared(),
        Access::ReadWrite => file.try_lock(),
    };
    locked.map_err(|error| match error {
        TryLockError::WouldBlock => ImageError::InUse { path: path.into() },
        TryLockError::Error(source) => ImageError::Open { action: "lock", path: path.into(), source },
    })
}

#[cfg(test)]
mod tests;
