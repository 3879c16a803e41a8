//! Owns what the engine knows of the machine that a guest runs in, whatever carries it out: a QEMU process ([`qemu`]) or the
//! deterministic machine in this one ([`rv`]). Protection does not know which.

mod alike;
mod blueprint;
mod clock;
mod error;
mod events;
mod qemu;
mod rv;

pub use alike::{Decided, Print};
pub use blueprint::{Blueprint, Described};
pub use clock::ClockKeeper;
pub use error::MachineError;
pub use events::MachineEvent;

use crate::ram::GuestRam;
use crate::vm::Facts;
use ::qemu::Channels;
pub use ::qemu::Then;
use crossbeam_channel::Sender;
use os::Memory;
use os::range::Range;
use os::thread_time::ThreadTime;
use std::sync::Arc;

/// A machine that was built, with a guest in it or to stand by for one.
pub trait Built: Send + Sync {
    /// What does not change while it lives.
    fn facts(&self) -> Facts;

    /// Its memory.
    fn ram(&self) -> &GuestRam;

    /// Its main memory, if that outlives the machine.
    fn memory(&self) -> Option<&Arc<Memory>> {
        None
    }

    /// From now on the loop hears of what it does by itself.
    fn watch(&self, events: Sender<MachineEvent>);
}

/// A machine with a guest in it. Dropping the last reference ends it.
pub trait Computer: Built {
    /// What another host must have to build the same.
    ///
    /// # Errors
    /// If a file of it cannot be read any more.
    fn describe(&self) -> Result<Described, MachineError>;

    /// Refuses what cannot be protected.
    ///
    /// # Errors
    /// What and why.
    fn check_protectable(&self) -> Result<(), MachineError>;

    /// Lets the guest run.
    ///
    /// # Errors
    /// If it does not, or the machine is gone.
    fn cont(&self) -> Result<(), MachineError>;

    /// Stops the guest. What it sent and wrote before has left the machine when this returns.
    ///
    /// # Errors
    /// If it does not stop, or the machine is gone.
    fn stop(&self) -> Result<(), MachineError>;

    /// Lets the guest go on after a stop. One that has switched itself off meanwhile stays off, which is no failure: its
    /// event tells the loop.
    ///
    /// # Errors
    /// As for [`Computer::cont`].
    fn go_on(&self) -> Result<(), MachineError>;

    /// When it stopped last and when it went on last, in microseconds since 1970.
    fn last_pause(&self) -> Option<(u64, u64)>;

    /// Begins to track what the guest writes. All pages count as not written at first: copy them all after this.
    ///
    /// # Errors
    /// If that is not possible.
    fn track(&self) -> Result<Box<dyn PageTracker>, MachineError>;

    /// What takes checkpoints of its devices.
    ///
    /// # Errors
    /// If that is not possible.
    fn saver(&self) -> Result<Box<dyn StateSaver>, MachineError>;

    /// What corrects the guest's clock after pauses; none if that cannot be done.
    ///
    /// # Errors
    /// If its clock cannot be found.
    fn clock(&self) -> Result<Option<ClockKeeper>, MachineError>;

    /// The threads of its processors. They sleep while their processors are halted.
    ///
    /// # Errors
    /// If they are not known.
    fn processors(&self) -> Result<Vec<ThreadTime>, MachineError>;
}

/// A machine that was built like a primary's and waits: its memory is filled from outside.
pub trait Standby: Built {
    /// Gives it the devices' state: it stands then where the checkpoint was taken.
    ///
    /// # Errors
    /// If it does not accept it.
    fn load(self: Box<Self>, device: Vec<u8>) -> Result<Arc<dyn Computer>, MachineError>;
}

/// A computer with our ends of its channels.
pub type Launched = (Arc<dyn Computer>, Channels);

/// Tracks the pages that a guest writes, until it is dropped. Ranges are addresses of [`GuestRam`].
pub trait PageTracker: Send {
    /// Puts the pages written since the last scan, and those owed, into `dirty` (sorted, joined), and starts anew. For
    /// checkpoints: the guest stands still, or will in a moment. The caller takes the pages of `open` (sorted, joined) for
    /// written: they may be left out, and left as they are.
    ///
    /// # Errors
    /// If the machine is gone. What was read until then is owed.
    fn scan(&mut self, _open: &[Range], dirty: &mut Vec<Range>) -> Result<(), MachineError> {
        self.scan_live(dirty)
    }

    /// Whether the guest pays for its first write to a page behind a scan.
    fn costs_writes(&self) -> bool {
        false
    }

    /// The same as a scan where much is dirty, in the rounds of a first copy.
    ///
    /// # Errors
    /// As for [`PageTracker::scan`].
    fn scan_live(&mut self, dirty: &mut Vec<Range>) -> Result<(), MachineError>;

    /// Makes the next scan return `ranges` again: their marks were consumed, but they were not saved.
    fn give_back(&mut self, ranges: &[Range]);

    /// Does a millisecond's work, while the guest runs, to make later scans shorter. Returns whether there is more.
    ///
    /// # Errors
    /// If memory is not tracked any more.
    fn settle(&mut self) -> Result<bool, MachineError>;
}

/// Takes states of a machine's devices, one after the other.
pub trait StateSaver: Send {
    /// Stops the guest and has the state of its devices saved.
    ///
    /// # Errors
    /// If nothing was begun: the guest runs on.
    fn begin(&mut self, then: Then) -> Result<Box<dyn Saving + '_>, MachineError>;
}

/// A state that is being saved, while the guest stands still. If it is dropped, or fails, the guest may run again or not; if it
/// does, all that was read of it is to be given up.
pub trait Saving {
    /// Waits until the guest stands still.
    ///
    /// # Errors
    /// If it does not.
    fn wait_stopped(&mut self) -> Result<(), MachineError>;

    /// The state. The guest runs when this returns, if it was to, and not before this is called.
    ///
    /// # Errors
    /// If what was saved is none.
    fn take(self: Box<Self>) -> Result<Vec<u8>, MachineError>;
}
