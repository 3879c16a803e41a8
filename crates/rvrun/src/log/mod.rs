//! Owns the form of a recording.
//!
//! ```text
//! "UDRVLOG\0"  version: u32
//! block*       length: u32, xxh3 of the bytes with the block's number as its seed: u64, bytes
//! ```
//!
//! Numbers are little-endian. The first block is the [`Setup`](crate::setup::Setup), each other one holds
//! entries, all in postcard's form; an entry tells how many instructions passed since the entry before. A log whose
//! last block is cut short ends before it: so does a recording whose machine died.

mod reader;
mod writer;

pub(crate) use reader::Place;
pub use reader::{LogError, Reader};
pub use writer::Writer;

use rv::Input;
use serde::{Deserialize, Serialize};

const MAGIC: [u8; 8] = *b"UDRVLOG\0";
/// The version that is written, and the only one that is read.
const VERSION: u32 = 2;
/// Longer than any block that is written.
const LONGEST: u32 = 64 << 20;
/// A block is written when it has so many bytes.
const BLOCK: usize = 256 << 10;

/// What happened at an instruction count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// Something came from outside.
    Input(Input),
    /// The digest of everything that had left.
    Outputs(u64),
    /// The hash of the whole state.
    State(u64),
    /// The guest asked for a reboot, and a new machine began at instruction 0.
    Restart,
    /// The recording ended here.
    End,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    after: u64,
    event: Event,
}

fn checksum(number: u64, bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(bytes, number)
}

#[cfg(test)]
mod tests;
