//! Owns what can go wrong with a disk's image, in words that say what to do.

use std::io;
use std::path::PathBuf;

/// What went wrong with an image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It cannot be opened or created.
    #[error("cannot {action} disk image {}: {source}; check its path and its owner", .path.display())]
    Open {
        /// What was tried.
        action: &'static str,
        /// The image.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// It is to be written, and cannot be.
    #[error(
        "disk image {} cannot be written: {source}; attach it read-only, or make it or its medium writable",
        .path.display()
    )]
    ReadOnlyMedium {
        /// The image.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// Somebody else has it open.
    #[error(
        "disk image {} is in use: another process or another VM of this agent holds its lock; stop that one first \
         (fuser names it)",
        .path.display()
    )]
    InUse {
        /// The image.
        path: PathBuf,
    },
    /// It is to be created, and is there.
    #[error(
        "disk image {} exists already and is not overwritten; remove it first, or choose another name",
        .path.display()
    )]
    Exists {
        /// The image.
        path: PathBuf,
    },
    /// A size that no disk has.
    #[error(
        "disk image {} has, or should get, {size} bytes: a disk has at least one and only whole sectors of 512 bytes",
        .path.display()
    )]
    Size {
        /// The image.
        path: PathBuf,
        /// Its size.
        size: u64,
    },
    /// Not something that holds a disk.
    #[error("{} is neither a file nor a block device: it cannot hold a disk", .path.display())]
    Kind {
        /// What was named as an image.
        path: PathBuf,
    },
    /// On shared storage, and not this host's now.
    #[error("disk image {} is on storage that hosts share, and another host may have it now: nothing is written to it here", .path.display())]
    Elsewhere {
        /// The image.
        path: PathBuf,
    },
    /// On shared storage, and it became another size while another host had it.
    #[error("disk image {} has {has} bytes now and had {had}: was it changed by hand while its VM ran elsewhere?", .path.display())]
    Resized {
        /// The image.
        path: PathBuf,
        /// Its size when it was opened.
        had: u64,
        /// Its size now.
        has: u64,
    },
    /// A range that is not inside the disk.
    #[error("{len} bytes at {offset} are not inside disk image {} of {size} bytes", .path.display())]
    OutOfBounds {
        /// The image.
        path: PathBuf,
        /// Of the first byte.
        offset: u64,
        /// How many bytes.
        len: u64,
        /// The size of the disk.
        size: u64,
    },
    /// A change of an image that was opened to be read.
    #[error("disk image {} was opened read-only and is not changed", .path.display())]
    ReadOnly {
        /// The image.
        path: PathBuf,
    },
    /// It is reached through an export that has ended.
    #[error("disk image {} is served no more", .path.display())]
    Ended {
        /// The image.
        path: PathBuf,
    },
    /// A write stopped on its way.
    #[error(
        "cannot write {len} bytes at {offset} of disk image {}, {done} were written: {source}",
        .path.display()
    )]
    Write {
        /// The image.
        path: PathBuf,
        /// Of the first byte.
        offset: u64,
        /// How many bytes there were to write.
        len: u64,
        /// How many of them, from the first, are in the image.
        done: u64,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// A system call failed.
    #[error("cannot {action} {len} bytes at {offset} of disk image {}: {source}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The image.
        path: PathBuf,
        /// Of the first byte.
        offset: u64,
        /// How many bytes.
        len: u64,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// What was written could not be brought onto the medium, now or before.
    #[error(
        "cannot flush disk image {}: {source}; what was written since the last flush may be lost, and Linux does \
         not try again: check the medium, then start the VM anew",
        .path.display()
    )]
    Flush {
        /// The image.
        path: PathBuf,
        /// The kernel's reason, or that it failed before.
        #[source]
        source: io::Error,
    },
}

impl ImageError {
    /// The kernel's reason, if it was the kernel that refused.
    #[must_use]
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Open { source, .. }
            | Self::ReadOnlyMedium { source, .. }
            | Self::Write { source, .. }
            | Self::Io { source, .. }
            | Self::Flush { source, .. } => Some(source),
            Self::InUse { .. }
            | Self::Exists { .. }
            | Self::Size { .. }
            | Self::Kind { .. }
            | Self::OutOfBounds { .. }
            | Self::ReadOnly { .. }
            | Self::Elsewhere { .. }
            | Self::Resized { .. }
            | Self::Ended { .. } => None,
        }
    }
}
