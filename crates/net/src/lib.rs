//! The gate: everything a VM sends waits here until a crash can no longer take it back.
//!
//! Owns the way of a VM's output from QEMU to the world: frames between QEMU's `-netdev stream` socket and a TAP
//! device, and the bytes of its serial console. Output belongs to the epoch in which the gate read its last byte
//! and leaves, in order, when that epoch is committed (Remus §2.5, network buffering); input goes straight in.
//! Owns too what the world must hear after a promotion: the addresses that the VM uses ([`addresses`]) and their
//! announcement ([`announce`]).
//!
//! ```text
//!  QEMU ──socket──▶ held (open epoch) ──cut──▶ held (epoch n) ──release──▶ outgoing ──▶ TAP / console sink
//!       ◀─socket──────────────────────── straight in ───────────────────────────────── TAP
//! ```
//!
//! # Policy of the bounds
//! - Frames: the gate always reads QEMU's socket (QEMU sends synchronously from its main loop). When
//!   [`GateLimits`] is reached the newest frame is dropped and counted: a network may lose packets, never take
//!   them back.
//! - Console bytes are never dropped: past the limit the gate stops reading, and the guest's serial port waits.
//!   Only `cut` reads past it, by no more than the socket holds.
//! - Input: when QEMU's socket is full the gate stops reading the TAP, whose own bounded queue then drops whole
//!   frames. A frame that was partly written is always finished first.

#![forbid(unsafe_code)]

pub mod addresses;
pub mod announce;
mod console;
mod event;
pub mod framing;
mod gate;
pub mod histogram;
mod ledger;
mod nic;
mod state;
mod stats;

pub use addresses::{Addresses, Mac};
pub use console::{ConsoleLog, ConsoleLogError, ConsoleSink};
pub use event::{GateError, GateEvent, PortFailure, Side};
pub use gate::{Gate, GateLimits, PortConfig};
pub use ledger::Mode;
pub use state::{ConsoleCut, CutReport, GuestWorks, InputFrame, InputObserver};
pub use stats::{GateStats, PortStats};
