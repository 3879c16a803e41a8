//! Owns reading snapshots, and what disks held at them. Their bytes may be anything, and while they are read older ones may be
//! merged into them and removed (see [`super::thin`]).

use super::form::{Reading, Wrong};
use super::{Blocks, Head, SavedError, TOGETHER, before};
use rv::{Machine, Snapshot};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

/// How often it is begun anew when what a snapshot is built on was removed meanwhile.
const TRIES: usize = 3;

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
        let mut tries = 1..TRIES;
        loop {
            match Saved::load_once(path) {
                // Before that one was removed, this one or one between was made whole.
                Err(SavedError::Missing { path: missing }) if missing != path => {
                    if tries.next().is_none() {
                        let what = format!("{}, which it is built on, is not there", missing.display());
                        return Err(SavedError::Damaged { path: path.to_owned(), what });
                    }
                }
                done => return done,
            }
        }
    }

    fn load_once(path: &Path) -> Result<Saved, SavedError> {
        let damaged = |what: &str| SavedError::Damaged { path: path.to_owned(), what: what.to_owned() };
        let unfit = |source: rv::SnapshotError| damaged(&source.to_string());
        let mut saved: Option<Saved> = None;
        for file in chain(path)?.iter().rev() {
            let One { head, disks, machine: next } = read_all(open(file)?).map_err(|wrong| wrong.at(file))?;
            let id = next.id();
            let Some(so_far) = saved.as_mut().filter(|_| next.base().is_some()) else {
                let machine = next.machine().map_err(unfit)?;
                saved = Some(Saved { path: path.to_owned(), head, machine, id, disks });
                continue;
            };
            so_far.machine.follow(&next).map_err(unfit)?;
            if disks.len() != so_far.disks.len() {
                return Err(damaged("it has other disks than what it is built on"));
            }
            so_far.disks.iter_mut().zip(disks).for_each(|(blocks, later)| blocks.extend(later));
            (so_far.head, so_far.id) = (head, id);
        }
        saved.ok_or_else(|| damaged("it is empty"))
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
        let mut all = before::read(&self.path, self.head.number, self.disks.len())?;
        all.iter_mut().zip(&self.disks).for_each(|(blocks, later)| blocks.extend(later.clone()));
        Ok(all)
    }
}

/// A snapshot and those that it is built on, the newest first.
pub(super) fn chain(path: &Path) -> Result<Vec<PathBuf>, SavedError> {
    let (mut files, mut names) = (vec![path.to_owned()], BTreeSet::new());
    loop {
        let file = &files[files.len() - 1];
        let Some(base) = open(file)?.head.base else { return Ok(files) };
        let plain = Path::new(&base).file_name() == Some(base.as_ref());
        if !plain || !names.insert(base.clone()) {
            let what = "it is not built on another file of its directory".to_owned();
            return Err(SavedError::Damaged { path: path.to_owned(), what });
        }
        files.push(path.with_file_name(base));
    }
}

/// Opens a snapshot and reads its head.
pub(super) fn open(path: &Path) -> Result<Reading<BufReader<File>>, SavedError> {
    let file = File::open(path).map_err(|source| match source.kind() {
        ErrorKind::NotFound => SavedError::Missing { path: path.to_owned() },
        _ => Wrong::Read(source).at(path),
    })?;
    Reading::begin(BufReader::new(file)).map_err(|wrong| wrong.at(path))
}

/// Reads what is behind a head.
pub(super) fn read_all<R: Read>(mut file: Reading<R>) -> Result<One, Wrong> {
    let mut disks = Vec::new();
    for disk in 0..file.head.disks.len() {
        let numbers = file.head.disks[disk].clone();
        let mut blocks = Blocks::new();
        for some in numbers.chunks(TOGETHER) {
            let bytes = file.blocks(some.len())?;
            blocks.extend(some.iter().copied().zip(bytes.chunks(super::BLOCK).map(<[u8]>::to_vec)));
        }
        disks.push(blocks);
    }
    let (head, machine) = file.machine()?;
    Ok(One { head, disks, machine })
}

impl Wrong {
    /// In this file.
    pub(super) fn at(self, path: &Path) -> SavedError {
        let path = path.to_owned();
        match self {
            Wrong::Read(source) => SavedError::File { what: "read the snapshot", path, source },
            Wrong::Form(what) => SavedError::Damaged { path, what },
        }
    }
}
