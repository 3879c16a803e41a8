//! Owns the way of committed epochs into the disk images.

use super::error::JournalError;
use super::log::Journal;
use super::open::Opened;
use super::replay::{Replay, Step};
use super::storage::Storage;
use protocol::Epoch;
use protocol::{Change, What};
use std::io;

/// A disk image.
pub trait Target {
    /// Writes bytes.
    ///
    /// # Errors
    /// As the image's storage says.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes a range zero.
    ///
    /// # Errors
    /// As the image's storage says.
    fn write_zeroes(&mut self, offset: u64, len: u64) -> io::Result<()>;
    /// Gives a range up. Must leave every disk image of the VM reading alike, whatever was there before.
    ///
    /// # Errors
    /// As the image's storage says.
    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()>;
    /// Makes all of it durable.
    ///
    /// # Errors
    /// As the image's storage says.
    fn sync(&mut self) -> io::Result<()>;
}

/// Applies all epochs of a replay and syncs the images; returns the newest one, if there was any. Only then may
/// [`Journal::mark_applied`] be told. What fails halfway is mended by applying the same epochs again.
///
/// # Errors
/// If the journal cannot be read, an image fails, or a change is for a disk that was not given.
pub fn apply<S: Storage>(
    replay: &mut Replay<S>,
    targets: &mut [&mut dyn Target],
) -> Result<Option<Epoch>, JournalError> {
    let mut newest = None;
    while let Some(step) = replay.step()? {
        match step {
            Step::Change(epoch, change) => apply_change(epoch, &change, targets)?,
            Step::Commit(epoch) => newest = Some(epoch),
        }
    }
    for (disk, target) in targets.iter_mut().enumerate() {
        target.sync().map_err(|source| JournalError::Target { action: "sync", disk, source })?;
    }
    Ok(newest)
}

fn apply_change(
    epoch: Epoch,
    change: &Change<'_>,
    targets: &mut [&mut dyn Target],
) -> Result<(), JournalError> {
    let disks = targets.len();
    let disk = usize::from(change.disk);
    let Some(target) = targets.get_mut(disk) else {
        return Err(JournalError::NoDisk { epoch, disk: change.disk, disks });
    };
    let (action, done) = match change.what {
        What::Data(data) => ("write to", target.write_at(change.offset, data)),
        What::Zeroes(len) => ("write zeroes to", target.write_zeroes(change.offset, len)),
        What::Discard(len) => ("discard from", target.discard(change.offset, len)),
    };
    done.map_err(|source| JournalError::Target { action, disk, source })
}

/// Does all that is left to do after a crash: applies what is owed to the images, syncs them, and begins the
/// journal's next life. A crash within is mended by doing it again.
///
/// # Errors
/// As [`apply`], and if the mark cannot be written.
pub fn recover<S: Storage>(
    opened: Opened<S>,
    targets: &mut [&mut dyn Target],
) -> Result<Journal<S>, JournalError> {
    if let Some(mut replay) = opened.replay() {
        apply(&mut replay, targets)?;
    }
    opened.finish()
}
