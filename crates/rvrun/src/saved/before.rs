//! Owns what stood on the disks before a run wrote there: each block once, put down before it is written for the first
//! time. With it, and with what snapshots hold of the blocks that were written, an image is brought to any snapshot of the
//! run, whatever the run did to it since.
//!
//! What is written for the first time between two snapshots is in a file with the number of the first of them, and in the
//! second of them: so a snapshot needs the file of its number and those behind it, and with the snapshots that are removed go
//! the files of their numbers. What was written before the first snapshot is in all of them.
//!
//! ```text
//! record*  disk: u8, block: u64, xxh3 of the bytes with the block's number as its seed: u64, 4096 bytes
//! ```
//!
//! A record that is cut short, at the end, belongs to a write that did not happen. Records outlive the program, not the
//! host: nothing is flushed to the medium before the guest's write.

use super::{BLOCK, Blocks, SavedError, named, numbers};
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The files' extension in the directory of a run's snapshots.
const EXTENSION: &str = "before";

/// The file that belongs to a snapshot.
pub(crate) fn beside(directory: &Path, number: u64) -> PathBuf {
    directory.join(named(number, EXTENSION))
}

/// Begins the file that belongs to a snapshot.
pub(crate) fn begin(directory: &Path, number: u64) -> Result<File, SavedError> {
    let path = beside(directory, number);
    File::create_new(&path).map_err(|source| SavedError::File { what: "write", path, source })
}

/// Puts a record down.
pub(crate) fn put_down(mut file: &File, disk: u8, block: u64, bytes: &[u8]) -> io::Result<()> {
    let mut record = Vec::with_capacity(BLOCK + 17);
    record.push(disk);
    record.extend(block.to_le_bytes());
    record.extend(xxh3_64_with_seed(bytes, block).to_le_bytes());
    record.extend(bytes);
    file.write_all(&record)
}

/// Reads all records from a snapshot on: for each disk its blocks.
///
/// # Errors
/// A file is not there, cannot be read, or was changed; or the snapshot was removed meanwhile.
pub(crate) fn read(snapshot: &Path, number: u64, disks: usize) -> Result<Vec<Blocks>, SavedError> {
    let directory = snapshot.parent().unwrap_or(Path::new(""));
    let read_all = || {
        let mut all = vec![Blocks::new(); disks];
        if disks > 0 {
            let last = numbers(directory, EXTENSION)?.last().map_or(number, |&last| last.max(number));
            (number..=last).try_for_each(|number| read_one(&beside(directory, number), &mut all))?;
        }
        Ok(all)
    };
    let all = read_all();
    // Its files are removed after it: if it is there now they all were.
    if snapshot.exists() { all } else { Err(SavedError::Missing { path: snapshot.to_owned() }) }
}

fn read_one(path: &Path, all: &mut [Blocks]) -> Result<(), SavedError> {
    let failed =
        |source| SavedError::File { what: "read what the disks held in", path: path.to_owned(), source };
    let damaged = || SavedError::Damaged {
        path: path.to_owned(),
        what: "what it holds of the disks was changed".to_owned(),
    };
    let mut file = BufReader::new(File::open(path).map_err(failed)?);
    loop {
        let mut head = [0; 17];
        let mut bytes = vec![0; BLOCK];
        match file.read_exact(&mut head).and_then(|()| file.read_exact(&mut bytes)) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
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
