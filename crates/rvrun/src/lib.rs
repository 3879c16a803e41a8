//! The deterministic machine in the real world: it is given disks, network, a terminal and time, and what enters is
//! recorded, so that the run can be replayed.
//!
//! - [`setup`]: what a machine is made of, and making it;
//! - [`live`]: running it, with `beat`, `pace`, and `disks`, `network` and `terminal`;
//! - [`hosted`]: running it for a host, who stops it, looks into it and lets it go on;
//! - [`log`]: the recording's form;
//! - [`replay`]: doing the same again, and going on live from there;
//! - [`bisect`]: finding where two runs begin to differ;
//! - [`saved`]: snapshots in files;
//! - [`debug`]: gdb, for a live machine and for a recording.

#![forbid(unsafe_code)]

mod beat;
pub mod bisect;
pub mod debug;
mod digest;
mod disks;
pub mod hosted;
pub mod live;
pub mod log;
mod medium;
mod network;
mod pace;
pub mod replay;
pub mod saved;
pub mod setup;
mod terminal;
mod world;

pub use digest::Digest;
pub use disks::DiskError;
pub use medium::Medium;
pub use terminal::{RawMode, Screen};
pub use world::{World, WorldError};
