//! The replication protocol of Undying, as pure state machines.
//!
//! This crate owns every decision: when a checkpoint is taken, when output may leave, who may run a VM.
//! Events and the time come in as arguments, actions go out; there is no I/O, no clock, no thread and no
//! `unsafe` here, and `no_std` keeps the compiler's eye on it. The simulator (`sim`) and the engine (`host`)
//! drive the very same code.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod ids;
pub mod ownership;
pub mod time;

pub use ids::{Epoch, HostName, Session, Term, VmId, VmName};
pub use ownership::{Claim, Grant, TermRecord};
pub use time::{Instant, Micros};
