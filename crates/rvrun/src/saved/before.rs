//! Owns what stood on the disks before a run wrote there: each block once, put down before it is written for the first
//! time. With it, and with what snapshots hold of the blocks that were written, an image is brought to any snapshot of the
//! run, whatever the run did to it since.
//!
//! ```text
//! record*  disk: u8, block: u64, xxh3 of the bytes with the block's number as its seed: u64, 4096 bytes
//! ```
//!
//! A record that is cut short, at the end, belongs to a write that did not happen. Records outlive the program, not the
//! host: nothing is flushed to the medium before the guest's write.

use super::{BLOCK, Blocks, SavedError};
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::path::Path;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The file's name in the directory of a run's snapshots.
pub const NAME: &str = "before";

/// Puts a record down.
pub(crate) fn put_down(mut file: &File, disk: u8, block: u64, bytes: &[u8]) -> io::Result<()> {
    let mut record = Vec::with_capacity(BLOCK + 17);
    record.push(disk);
    record.extend(block.to_le_bytes());
    record.extend(xxh3_64_with_seed(bytes, block).to_le_bytes());
    record.extend(bytes);
    file.write_all(&record)
}

/// Reads all records: for each disk its blocks.
///
/// # Errors
/// The file cannot be read, or was changed.
pub(crate) fn read(path: &Path, disks: usize) -> Result<Vec<Blocks>, SavedError> {
    let failed = |source| SavedError::File { what: "read", path: path.to_owned(), source };
    let damaged = || SavedError::Damaged {
        path: path.to_owned(),
        what: "what it holds of the disks was changed".to_owned(),
    };
    let mut file = BufReader::new(File::open(path).map_err(failed)?);
    let mut all = vec![Blocks::new(); disks];
    loop {
        let mut head = [0; 17];
        let mut bytes = vec![0; BLOCK];
        match file.read_exact(&mut head).and_then(|()| file.read_exact(&mut bytes)) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(all),
            Err(error) => return Err(failed(error)),
        }
        let field =
            |at: usize| head[at..at + 8].iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
        let block = field(1);
        let blocks = all.get_mut(usize::from(head[0])).ok_or_else(damaged)?;
        if xxh3_64_with_seed(&bytes, block) != field(9) {
            return Err(damaged());
        }
        blocks.entry(block).or_insert(bytes);
    }
}
