//! Owns reading snapshots, and bringing disks to what they say. Their bytes may be anything.

use super::{BLOCK, Blocks, Head, MAGIC, SavedError, TOGETHER, VERSION, before};
use rv::{Machine, Snapshot};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A snapshot with all that it is built on, ready to go on from.
#[derive(Debug)]
pub struct Saved {
    pub(crate) path: PathBuf,
    pub(crate) head: Head,
    pub(crate) machine: Machine,
    pub(crate) id: u64,
    /// Blocks that the run had written by then.
    disks: Vec<Blocks>,
}

/// One file.
pub(super) struct One {
    pub head: Head,
    pub disks: Vec<Blocks>,
    pub machine: Snapshot,
}

impl Saved {
    /// Reads a snapshot, and those in its directory that it is built on.
    ///
    /// # Errors
    /// One of them cannot be read, is damaged, or is not the one that it was.
    pub fn load(path: &Path) -> Result<Saved, SavedError> {
        let damaged = |what: &str| SavedError::Damaged { path: path.to_owned(), what: what.to_owned() };
        let mut files = vec![read(path)?];
        let mut names = BTreeSet::new();
        while let Some(base) = files.last().and_then(|one| one.head.base.clone()) {
            let plain = Path::new(&base).file_name() == Some(base.as_ref());
            if !plain || !names.insert(base.clone()) {
                return Err(damaged("it is not built on another file of its directory"));
            }
            files.push(read(&path.with_file_name(base))?);
        }
        let unfit = |source: rv::SnapshotError| damaged(&source.to_string());
        let first = files.pop().ok_or_else(|| damaged("it is empty"))?;
        let mut machine = first.machine.machine().map_err(unfit)?;
        let (mut head, mut id, mut disks) = (first.head, first.machine.id(), first.disks);
        for next in files.into_iter().rev() {
            machine.follow(&next.machine).map_err(unfit)?;
            if next.disks.len() != disks.len() {
                return Err(damaged("it has other disks than what it is built on"));
            }
            disks.iter_mut().zip(next.disks).for_each(|(blocks, later)| blocks.extend(later));
            (head, id) = (next.head, next.machine.id());
        }
        Ok(Saved { path: path.to_owned(), head, machine, id, disks })
    }

    /// What it says of the run.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// What its machine is called: see [`rv::Snapshot::id`].
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What a disk held, wherever the run wrote: before the snapshot, or only after it.
    ///
    /// # Errors
    /// What stood there before the run cannot be read.
    pub(crate) fn disks(&self) -> Result<Vec<Blocks>, SavedError> {
        let mut all = before::read(&self.path.with_file_name(before::NAME), self.disks.len())?;
        all.iter_mut().zip(&self.disks).for_each(|(blocks, later)| blocks.extend(later.clone()));
        Ok(all)
    }
}

pub(super) fn read(path: &Path) -> Result<One, SavedError> {
    let bytes = std::fs::read(path).map_err(|source| SavedError::File {
        what: "read the snapshot",
        path: path.to_owned(),
        source,
    })?;
    decode(&bytes).map_err(|what| SavedError::Damaged { path: path.to_owned(), what })
}

pub(super) fn decode(bytes: &[u8]) -> Result<One, String> {
    let rest = bytes.strip_prefix(&MAGIC).ok_or("it is no snapshot of a running machine")?;
    let (version, rest) = rest.split_first_chunk().ok_or("it is cut short")?;
    let version = u32::from_le_bytes(*version);
    if version != VERSION {
        return Err(format!("it has version {version}, this program reads version {VERSION}"));
    }
    let mut file = FileBlocks { rest, number: 0 };
    let head: Head = postcard::from_bytes(file.next()?).map_err(|_| "its head cannot be understood")?;
    if head.disks.len() != head.setup.disks.len() {
        return Err("it speaks of other disks than the machine has".to_owned());
    }
    let mut disks = Vec::new();
    for (numbers, (sectors, _)) in head.disks.iter().zip(&head.setup.disks) {
        let ordered = numbers.is_sorted_by(|one, next| one < next);
        if !ordered || numbers.last().is_some_and(|&last| last >= sectors.div_ceil(BLOCK as u64 / 512)) {
            return Err("its disks' blocks are not in order".to_owned());
        }
        let mut blocks = Blocks::new();
        for some in numbers.chunks(TOGETHER) {
            let bytes = file.next()?;
            if bytes.len() != some.len() * BLOCK {
                return Err("a block of its disks is cut short".to_owned());
            }
            blocks.extend(some.iter().copied().zip(bytes.chunks(BLOCK).map(<[u8]>::to_vec)));
        }
        disks.push(blocks);
    }
    let machine = Snapshot::from_bytes(file.rest).map_err(|error| error.to_string())?;
    if machine.base().is_some() != head.base.is_some() {
        return Err("its head and its machine do not belong together".to_owned());
    }
    Ok(One { head, disks, machine })
}

struct FileBlocks<'a> {
    rest: &'a [u8],
    number: u64,
}

impl<'a> FileBlocks<'a> {
    fn next(&mut self) -> Result<&'a [u8], &'static str> {
        let cut = "it is cut short";
        let (length, rest) = self.rest.split_first_chunk().ok_or(cut)?;
        let (sum, rest) = rest.split_first_chunk().ok_or(cut)?;
        let (bytes, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or(cut)?;
        if xxh3_64_with_seed(bytes, self.number) != u64::from_le_bytes(*sum) {
            return Err("a checksum is wrong");
        }
        self.rest = rest;
        self.number += 1;
        Ok(bytes)
    }
}
