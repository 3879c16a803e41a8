//! The replication protocol of Undying, as pure state machines.
//!
//! This crate owns every decision: when a checkpoint is taken, when output may leave, who may run a VM.
//! Events and the time come in as arguments, actions go out; there is no I/O, no clock, no thread and no
//! `unsafe` here, and `no_std` keeps the compiler's eye on it. The simulator (`sim`) and the engine (`host`)
//! drive the very same code.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod asking;
pub mod backup;
mod change;
pub mod detector;
pub mod doctor;
pub mod envelope;
pub mod ids;
pub mod journal;
mod le;
pub mod ledger;
pub mod migration;
pub mod notice;
pub mod ownership;
pub mod pacing;
pub mod packing;
pub mod paths;
pub mod primary;
pub mod repair;
pub mod resync;
pub mod slowing;
pub mod time;
pub mod timing;
pub mod wire;
pub mod witness;

pub use change::{Change, What};
pub use ids::{Epoch, HostName, Session, Term, VmId, VmName};
pub use ownership::{Claim, Grant, RunPermit, TermRecord};
pub use time::{Instant, Micros};
pub use timing::Timing;

/// Bugs that can be planted, to show that the simulator's checkers find them. Only in test builds of `sim`.
#[cfg(feature = "planted")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Planted {
    /// Output is released one epoch before its acknowledgement.
    pub release_early: bool,
    /// A backup promotes without the arbiter's word.
    pub promote_without_grant: bool,
    /// A backup counts an epoch as whole before all of it came.
    pub apply_partial: bool,
    /// A backup acknowledges an epoch before its disk changes are durable.
    pub ack_before_durable: bool,
    /// A backup takes only a part of an epoch's disk changes.
    pub apply_partial_disk: bool,
    /// An old owner that comes back as a backup does not say what it wrote and nobody acknowledged.
    pub hide_own_writes: bool,
    /// An owner takes its lease from the time-out that its backup has learnt, not from the shortest one, which is promised.
    pub lease_from_learnt: bool,
    /// An owner whose link is lost behind the last checkpoint of a migration goes on in its term, as before that checkpoint.
    pub stay_after_departure: bool,
    /// An owner changes to its new backup without the old one's word that it resigned.
    pub succeed_unresigned: bool,
    /// A backup says that it resigned, and stands by all the same.
    pub resign_and_stay: bool,
    /// An owner forgets what is acknowledged although its own disk does not durably have it.
    pub forget_unsynced: bool,
    /// An owner takes a remnant for its memory as it is.
    pub trust_remnant: bool,
}
