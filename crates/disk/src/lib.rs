//! Disks that the agent serves to its own QEMU.
//!
//! Owns a VM's disk between QEMU and the medium: QEMU's disk is an NBD client (`-blockdev nbd` on a unix socket),
//! the agent serves it from a file or block device ([`Image`]) and so sees each change and each flush in order
//! ([`Observer`]). QEMU's own file drivers would hide both.
//!
//! ```text
//!  QEMU ──NBD, unix socket──▶ export ──▶ nbd: handshake, requests ──▶ served: range lock
//!                                                                       │ 1. image     what the medium holds
//!                                                                       │ 2. observer  told in the same order
//!       ◀───────────────────────────────────────── reply ◀── 3. ◀───────┘
//! ```
//!
//! A machine in this process reaches the same without a socket ([`Direct`]).
//!
//! # What is promised
//! - Changes that overlap reach the image one after another, and the observer hears of them in that order, over
//!   all connections. Changes that do not overlap run in parallel.
//! - The client hears of a change after the observer did.
//! - Whatever a client sends: no panic, bounded memory, and no harm to other clients. A client that does not read
//!   its replies is not read any more.
//!
//! The protocol is the NBD project's `doc/proto.md`; section names in comments are of that document.

#![forbid(unsafe_code)]

pub mod differences;
mod direct;
mod export;
mod image;
pub mod journal;
mod nbd;
pub mod qcow2;
mod range_lock;
mod served;
mod socket;
mod stats;
mod tap;

pub use direct::Direct;
pub use export::{Export, ExportError};
pub use image::{Access, Discarded, Extent, Extents, Holes, Image, ImageError};
pub use stats::Stats;
pub use tap::{FlushUse, Observer, Pace, Unobserved};
