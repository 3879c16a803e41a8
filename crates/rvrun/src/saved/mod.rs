//! Owns snapshots of running machines as files: the machine, what its disks hold, and where in a recording it was.
//!
//! ```text
//! "UDRVSAV\0"  version: u32
//! block*       length: u32, xxh3 of the bytes with the block's number as its seed: u64, bytes
//! machine      the form of `rv::Snapshot`
//! ```
//!
//! The first block is the [`Head`] in postcard's form. Then come, for each disk, the blocks of 4 KiB that the head names,
//! in order, 256 to a block of the file. Nothing depends on the program's build or on the host.
//!
//! A directory holds the snapshots of one run: `0000001.snapshot` and so on, and with each of them, if there are disks, a
//! file `.before`. The first is whole, the others tell what changed since the one that they name. Older ones may be gone
//! (`thin`). A `.part` is what was written when the program was killed.

pub(crate) mod before;
mod form;
mod merge;
mod reader;
mod taker;
#[cfg(test)]
mod tests;
mod thin;

pub use reader::Saved;
pub use taker::Taker;
pub(crate) use taker::Where;

use crate::setup::Setup;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"UDRVSAV\0";
/// The version that is written, and the only one that is read.
const VERSION: u32 = 2;
/// The extension of a snapshot.
const EXTENSION: &str = "snapshot";
/// Bytes in a block of a disk.
pub(crate) const BLOCK: usize = 4096;
/// Blocks of a disk in one of the file.
const TOGETHER: usize = 256;

/// Blocks of a disk by their number. The last of a disk may be shorter than it is here.
pub(crate) type Blocks = BTreeMap<u64, Vec<u8>>;

/// Why a snapshot cannot be written or used.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// A file.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is none.
    #[error(
        "there is no snapshot {path}: a run that keeps only its last snapshots (`--keep-snapshots`) removes the older \
         ones; name one that is there"
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It is no snapshot, or was changed.
    #[error("{path} cannot be used: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// It is of another run than the recording.
    #[error("the snapshot {path} was not taken while this recording was made")]
    OtherRun {
        /// The file.
        path: PathBuf,
    },
    /// A disk is not the one that was saved.
    #[error("disk {disk} of the snapshot has {has} sectors, and the image that is given has {given}")]
    Disk {
        /// The disk, from 0.
        disk: usize,
        /// Of the machine.
        has: u64,
        /// Given.
        given: u64,
    },
}

/// What a snapshot says beside the machine and the disks' blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Its number among the snapshots of its run, from 1.
    pub number: u64,
    /// The machine, for its next boot.
    pub setup: Setup,
    /// The name of the file, in the same directory, to which this one tells changes.
    pub base: Option<String>,
    /// Instructions of boots before this one.
    pub before: u64,
    /// How often the guest began anew.
    pub reboots: u64,
    /// The digest of everything that left.
    pub outputs: u64,
    /// How many entries the run's recording had then, if it was recorded.
    pub entries: Option<u64>,
    /// For each disk the numbers of the blocks that are in here, in order.
    disks: Vec<Vec<u64>>,
}

/// The name of a file that belongs to a run's snapshot.
fn named(number: u64, extension: &str) -> String {
    format!("{number:07}.{extension}")
}

/// The numbers of a directory's files with an extension, in order.
fn numbers(directory: &Path, extension: &str) -> Result<Vec<u64>, SavedError> {
    let failed = |source| SavedError::File { what: "read the directory", path: directory.to_owned(), source };
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        // Of files with other names nothing is known.
        numbers.extend(number.filter(|&number| path.ends_with(named(number, extension))));
    }
    numbers.sort_unstable();
    Ok(numbers)
}
