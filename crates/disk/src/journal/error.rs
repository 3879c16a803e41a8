//! Owns what can go wrong with a journal, in words for people.

use protocol::Epoch;
use protocol::journal::{RecordError, Refused};
use std::io;

/// Why the journal could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The storage failed.
    #[error("cannot {action} {file}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Path of the file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// Recovery touched nothing.
    #[error("the disk journal cannot be recovered: {file}, {label}: {why}")]
    Refused {
        /// Path of the segment and the byte, or of the marks where the journal as a whole is meant.
        file: String,
        /// Label of the row of the recovery table.
        label: &'static str,
        /// Why.
        why: Refused,
    },
    /// The files are not the ones that were created.
    #[error(
        "the disk journal's files around {file} are not those that were created: {what}; restore them, or use the primary's copy"
    )]
    Layout {
        /// Path of a file.
        file: String,
        /// What is wrong.
        what: &'static str,
    },
    /// The size asked for makes no journal.
    #[error(
        "a disk journal needs at least two segments of a multiple of 4096 bytes, at least 16384: {segments} of {segment_len} are none; raise its limit"
    )]
    Size {
        /// Asked for.
        segments: u32,
        /// Asked for.
        segment_len: u64,
    },
    /// No room; nothing was written.
    #[error(
        "the disk journal is full ({limit} bytes) at epoch {epoch}; {waiting} committed epochs wait to be applied: apply them and repeat, or raise the limit if none do"
    )]
    Full {
        /// The epoch that did not fit.
        epoch: Epoch,
        /// Size of the whole journal in bytes.
        limit: u64,
        /// Committed epochs that still hold their place.
        waiting: usize,
    },
    /// An epoch that cannot come now; nothing was written.
    #[error(
        "epoch {epoch} cannot be written behind epoch {newest}: an epoch is sealed before the next one begins, and terms do not fall"
    )]
    Order {
        /// Asked for.
        epoch: Epoch,
        /// The newest one in the journal.
        newest: Epoch,
    },
    /// A change that no disk can carry out; nothing was written.
    #[error("a change of epoch {epoch} has an impossible range: {len} bytes at {offset} of disk {disk}")]
    Range {
        /// Its epoch.
        epoch: Epoch,
        /// Its disk.
        disk: u8,
        /// Its first byte.
        offset: u64,
        /// Its length.
        len: u64,
    },
    /// An epoch was said to be applied that is not durable here.
    #[error("epoch {epoch} cannot be marked as applied: {durable} is the newest durable one")]
    NotDurable {
        /// Said to be applied.
        epoch: Epoch,
        /// The newest durable one.
        durable: Epoch,
    },
    /// An earlier write or sync failed: what is on the storage is unknown.
    #[error(
        "the disk journal failed before and takes nothing more; open it again to recover what is durable"
    )]
    Failed,
    /// A record that was whole is not any more.
    #[error(
        "the record at byte {at} of {file} is damaged: {why:?}; check the device, use the primary's copy"
    )]
    Damaged {
        /// Path of the segment.
        file: String,
        /// Where.
        at: u64,
        /// What is wrong; none if another record stands there.
        why: Option<RecordError>,
    },
    /// A change for a disk that the VM has not.
    #[error(
        "epoch {epoch} has a change for disk {disk}, but only {disks} disks were given; give all of the VM's disks, in their order"
    )]
    NoDisk {
        /// Its epoch.
        epoch: Epoch,
        /// Index of the disk.
        disk: u8,
        /// How many were given.
        disks: usize,
    },
    /// A disk image failed.
    #[error(
        "cannot {action} the image of disk {disk}: {source}; it is mended by recovering the journal again"
    )]
    Target {
        /// What was tried.
        action: &'static str,
        /// Index of the disk.
        disk: usize,
        /// What the system said.
        source: io::Error,
    },
    /// A stamp was refused.
    #[error("the stamp {file} is of no use: {source}; the other host's copy must be judged without it")]
    Stamp {
        /// Path of the stamp.
        file: String,
        /// Why.
        source: protocol::journal::stamp::StampError,
    },
}
