//! Owns the place where somebody looks at a disk's changes: what is told, when, and in which order.

use protocol::What;
use std::io;

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

    /// A change has reached the image at `offset`, and its client has not heard of it yet. It is never empty; a discard
    /// that the medium ignored changed nothing and is not told. Calls for changes that overlap come one after another,
    /// in the order in which they reached the image. Not to wait in: all requests of the client would.
    fn written(&self, offset: u64, what: What<'_>) -> Pace;

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
    fn written(&self, _: u64, _: What<'_>) -> Pace {
        Pace::Full
    }

    fn flush(&self) -> FlushUse {
        FlushUse::Sync
    }
}
