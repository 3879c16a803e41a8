//! Owns the form of a snapshot's file (see [`super`]), read and written piece by piece: a disk's blocks may be more than
//! memory takes. What is read may be anything.

use super::{BLOCK, Head, MAGIC, TOGETHER, VERSION};
use rv::Snapshot;
use std::io::{self, ErrorKind, Read, Write};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Why a file cannot be read.
pub(super) enum Wrong {
    /// The system says so.
    Read(io::Error),
    /// What is in it.
    Form(String),
}

impl From<io::Error> for Wrong {
    fn from(error: io::Error) -> Wrong {
        match error.kind() {
            ErrorKind::UnexpectedEof => "it is cut short".into(),
            _ => Wrong::Read(error),
        }
    }
}

impl From<&str> for Wrong {
    fn from(what: &str) -> Wrong {
        Wrong::Form(what.to_owned())
    }
}

/// A file of which the head was read: next come, for each disk, its blocks, and then the machine.
pub(super) struct Reading<R> {
    pub head: Head,
    pieces: Pieces<R>,
}

impl<R: Read> Reading<R> {
    pub fn begin(mut file: R) -> Result<Reading<R>, Wrong> {
        let (mut magic, mut version) = ([0; MAGIC.len()], [0; 4]);
        let none = "it is no snapshot of a running machine";
        match file.read_exact(&mut magic) {
            Ok(()) if magic == MAGIC => {}
            Err(error) if error.kind() != ErrorKind::UnexpectedEof => return Err(error.into()),
            _ => return Err(none.into()),
        }
        file.read_exact(&mut version)?;
        let version = u32::from_le_bytes(version);
        if version != VERSION {
            let what = format!("it has version {version}, this program reads version {VERSION}");
            return Err(Wrong::Form(what));
        }
        let mut pieces = Pieces { file, number: 0 };
        let head: Head = postcard::from_bytes(&pieces.next()?)
            .map_err(|_| Wrong::from("its head cannot be understood"))?;
        if head.disks.len() != head.setup.disks.len() {
            return Err("it speaks of other disks than the machine has".into());
        }
        for (numbers, (sectors, _)) in head.disks.iter().zip(&head.setup.disks) {
            let ordered = numbers.is_sorted_by(|one, next| one < next);
            if !ordered || numbers.last().is_some_and(|&last| last >= sectors.div_ceil(BLOCK as u64 / 512)) {
                return Err("its disks' blocks are not in order".into());
            }
        }
        Ok(Reading { head, pieces })
    }

    /// The next so many blocks of the disk that is read, one behind the other.
    pub fn blocks(&mut self, count: usize) -> Result<Vec<u8>, Wrong> {
        let bytes = self.pieces.next()?;
        if bytes.len() == count * BLOCK { Ok(bytes) } else { Err("a block of its disks is cut short".into()) }
    }

    /// The machine, once all disks were read.
    pub fn machine(mut self) -> Result<(Head, Snapshot), Wrong> {
        let mut rest = Vec::new();
        self.pieces.file.read_to_end(&mut rest)?;
        let machine = Snapshot::from_bytes(&rest).map_err(|error| Wrong::Form(error.to_string()))?;
        if machine.base().is_some() != self.head.base.is_some() {
            return Err("its head and its machine do not belong together".into());
        }
        Ok((self.head, machine))
    }
}

struct Pieces<R> {
    file: R,
    number: u64,
}

impl<R: Read> Pieces<R> {
    fn next(&mut self) -> Result<Vec<u8>, Wrong> {
        let (mut length, mut sum) = ([0; 4], [0; 8]);
        self.file.read_exact(&mut length)?;
        self.file.read_exact(&mut sum)?;
        // No more memory is taken than there are bytes.
        let (length, mut bytes) = (u32::from_le_bytes(length), Vec::new());
        self.file.by_ref().take(length.into()).read_to_end(&mut bytes)?;
        if bytes.len() != length as usize {
            return Err("it is cut short".into());
        }
        if xxh3_64_with_seed(&bytes, self.number) != u64::from_le_bytes(sum) {
            return Err("a checksum is wrong".into());
        }
        self.number += 1;
        Ok(bytes)
    }
}

/// A file that is written: for each disk its blocks, and then the machine.
pub(super) struct Writing<W> {
    file: W,
    number: u64,
    /// Blocks of a disk that are no whole piece yet.
    some: Vec<u8>,
}

impl<W: Write> Writing<W> {
    pub fn begin(mut file: W, head: &Head) -> io::Result<Writing<W>> {
        file.write_all(&MAGIC)?;
        file.write_all(&VERSION.to_le_bytes())?;
        let mut writing = Writing { file, number: 0, some: Vec::new() };
        writing.piece(&postcard::to_stdvec(head).map_err(io::Error::other)?)?;
        Ok(writing)
    }

    /// The next block of the disk.
    pub fn block(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.some.extend_from_slice(bytes);
        if self.some.len() == TOGETHER * BLOCK { self.put_some() } else { Ok(()) }
    }

    /// The disk has no more; the next block is the next one's.
    pub fn end_disk(&mut self) -> io::Result<()> {
        if self.some.is_empty() { Ok(()) } else { self.put_some() }
    }

    /// The machine, behind all disks; gives the file back.
    pub fn machine(mut self, machine: &Snapshot) -> io::Result<W> {
        machine.write(|bytes| self.file.write_all(bytes))?;
        Ok(self.file)
    }

    fn put_some(&mut self) -> io::Result<()> {
        let some = std::mem::take(&mut self.some);
        self.piece(&some)
    }

    fn piece(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        self.file.write_all(&length.to_le_bytes())?;
        self.file.write_all(&xxh3_64_with_seed(bytes, self.number).to_le_bytes())?;
        self.file.write_all(bytes)?;
        self.number += 1;
        Ok(())
    }
}
