//! Owns the place where somebody looks at a disk's changes: what is told, when, and in which order.

use std::io;

/// A change of a disk that has reached the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// These bytes are there now.
    Data {
        /// Of the first byte.
        offset: u64,
        /// The bytes; never none.
        bytes: &'a [u8],
    },
    /// Zeroes are there now.
    Zeroes {
        /// Of the first byte.
        offset: u64,
        /// How many bytes; never 0.
        len: u64,
    },
    /// The client needs these bytes no more: they read as zeroes now, and their space was given back. A discard
    /// that the medium ignored changed nothing and is not told.
    Discard {
        /// Of the first byte.
        offset: u64,
        /// How many bytes; never 0.
        len: u64,
    },
}

impl Change<'_> {
    /// Where it begins.
    #[must_use]
    pub fn offset(&self) -> u64 {
        match *self {
            Self::Data { offset, .. } | Self::Zeroes { offset, .. } | Self::Discard { offset, .. } => offset,
        }
    }

    /// How many bytes of the disk it changed.
    #[must_use]
    pub fn len(&self) -> u64 {
        match *self {
            Self::Data { bytes, .. } => bytes.len() as u64,
            Self::Zeroes { len, .. } | Self::Discard { len, .. } => len,
        }
    }

    /// Whether it changed nothing; never so for what an observer is told.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What to do with a client's flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushUse {
    /// Bring everything onto the medium, then answer.
    Sync,
    /// Answer at once. For flushes that are not the guest's: QEMU's `stop` and `xen-save-devices-state` flush every
    /// writable disk, and an epoch does not wait for the primary's medium.
    AnswerAtOnce,
}

/// How fast the client may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// As fast as it can.
    Full,
    /// [`Observer::slow_down`] is to be called before the client hears of the change.
    Slow,
}

/// Looks at the changes of a disk. Called on the threads that serve the disk, several at a time.
pub trait Observer: Send + Sync {
    /// So many bytes from `offset` on are about to be changed: the last moment before the medium may hold anything of
    /// it. It may turn out that nothing changes. False if [`before`](Self::before) must be called first, which may wait.
    fn is_ready(&self, _offset: u64, _len: u64) -> bool {
        true
    }

    /// Makes ready for a change; it may be made when this returns.
    ///
    /// # Errors
    /// If they must not be changed; the client is told.
    fn before(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }

    /// `change` has reached the image, and its client has not heard of it yet. Calls for changes that overlap come
    /// one after another, in the order in which they reached the image. Not to wait in: all requests of the client
    /// would.
    fn written(&self, change: Change<'_>) -> Pace;

    /// Waits; the client's request waits with it, and changes that overlap it, but no other.
    fn slow_down(&self) {}

    /// A client flushes: all changes that it was told of should be on the medium. Not asked about writes with
    /// FUA, which always wait for the medium: QEMU sends them only for the guest.
    fn flush(&self) -> FlushUse;
}

/// Nobody looks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn written(&self, _: Change<'_>) -> Pace {
        Pace::Full
    }

    fn flush(&self) -> FlushUse {
        FlushUse::Sync
    }
}
