//! Owns when a live machine takes snapshots, and writing them: beside it, so that it stands still no longer than it takes
//! to copy what changed.

use super::form::Writing;
use super::thin::{Thinner, beside};
use super::{Blocks, EXTENSION, Head, SavedError, named};
use crate::digest::Digest;
use crate::setup::Setup;
use rv::{Machine, Snapshot};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// So many snapshots wait to be written; then the machine does.
const WAITING: usize = 2;

/// Takes snapshots of a live machine into a directory.
#[derive(Debug)]
pub struct Taker {
    directory: PathBuf,
    every: Option<Duration>,
    asked: Arc<AtomicBool>,
    last: Instant,
    /// Where the machine stood when the last one was taken.
    at: Option<(u64, u64)>,
    number: u64,
    base: Option<String>,
    writer: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<Result<(), SavedError>>>,
}

/// A snapshot to be written.
struct Job {
    path: PathBuf,
    head: Head,
    disks: Vec<Blocks>,
    machine: Snapshot,
}

/// Where a run is.
pub(crate) struct Where<'a> {
    pub setup: &'a Setup,
    pub before: u64,
    pub reboots: u64,
    pub digest: &'a Digest,
    pub entries: Option<u64>,
}

impl Taker {
    /// Takes snapshots into a new directory: one each so often, and one whenever `asked` was set. All are kept, or at least so
    /// many of the last ones.
    ///
    /// # Errors
    /// The directory cannot be made, or is not empty.
    pub fn begin(
        directory: &Path,
        every: Option<Duration>,
        keep: Option<NonZeroUsize>,
        asked: Arc<AtomicBool>,
    ) -> Result<Taker, SavedError> {
        let failed = |source| SavedError::File {
            what: "make a directory for snapshots at",
            path: directory.to_owned(),
            source,
        };
        std::fs::create_dir_all(directory).map_err(failed)?;
        if std::fs::read_dir(directory).map_err(failed)?.next().is_some() {
            let error = io::Error::new(io::ErrorKind::DirectoryNotEmpty, "it is not empty: name a new one");
            return Err(failed(error));
        }
        let (writer, jobs) = sync_channel::<Job>(WAITING);
        let thinner = keep.map(|keep| Thinner::begin(directory, keep)).transpose().map_err(failed)?;
        let thread = std::thread::Builder::new()
            .name("snapshots".to_owned())
            .spawn(move || write_all(&jobs, thinner))
            .map_err(failed)?;
        Ok(Taker {
            directory: directory.to_owned(),
            every,
            asked,
            last: Instant::now(),
            at: None,
            number: 0,
            base: None,
            writer: Some(writer),
            thread: Some(thread),
        })
    }

    /// Whether one is to be taken now.
    pub(crate) fn is_due(&self) -> bool {
        self.asked.load(Ordering::Relaxed) || self.every.is_some_and(|every| self.last.elapsed() >= every)
    }

    /// Takes one of a machine from which everything was taken that left it, and to which nothing is owed. `changes` tells
    /// what the disks hold: all that was written, or only what was written since it was asked last; what they hold now has to be
    /// kept beside the snapshot of this number and directory when it is written over for the first time.
    ///
    /// # Errors
    /// The disks cannot be read, or an earlier snapshot not be written.
    pub(crate) fn take<E: From<SavedError>>(
        &mut self,
        machine: &mut Machine,
        at: &Where<'_>,
        changes: impl FnOnce(bool, &Path, u64) -> Result<Vec<Blocks>, E>,
    ) -> Result<(), E> {
        self.asked.store(false, Ordering::Relaxed);
        self.last = Instant::now();
        let place = (at.before, machine.clock());
        if self.at == Some(place) {
            return Ok(());
        }
        self.at = Some(place);
        // The first one in this directory, and the first after a reboot, is whole.
        let snapshot = if self.base.is_some() { machine.save_changes() } else { machine.save() };
        let whole = snapshot.base().is_none();
        self.number += 1;
        let disks = changes(whole, &self.directory, self.number)?;
        let numbers = |blocks: &Blocks| blocks.keys().copied().collect();
        let head = Head {
            number: self.number,
            setup: at.setup.clone(),
            base: self.base.take().filter(|_| !whole),
            before: at.before,
            reboots: at.reboots,
            outputs: at.digest.value(),
            entries: at.entries,
            disks: disks.iter().map(numbers).collect(),
        };
        let name = named(self.number, EXTENSION);
        let job = Job { path: self.directory.join(&name), head, disks, machine: snapshot };
        self.base = Some(name);
        let sent = self.writer.as_ref().is_some_and(|writer| writer.send(job).is_ok());
        if sent { Ok(()) } else { Ok(self.finish()?) }
    }

    /// Waits until all are written, and what is not kept is removed.
    ///
    /// # Errors
    /// One cannot be written or removed.
    pub(crate) fn finish(&mut self) -> Result<(), SavedError> {
        self.writer = None;
        let written = self.thread.take().map(JoinHandle::join);
        match written {
            Some(Ok(written)) => written,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Ok(()),
        }
    }
}

/// Writes what comes, and has removed what is not kept.
fn write_all(jobs: &Receiver<Job>, mut thinner: Option<Thinner>) -> Result<(), SavedError> {
    for job in jobs {
        job.write()?;
        thinner.as_mut().map_or(Ok(()), Thinner::ring)?;
    }
    thinner.as_mut().map_or(Ok(()), Thinner::finish)
}

impl Job {
    /// Writes the file; it has its name when it is complete.
    fn write(&self) -> Result<(), SavedError> {
        let beside = beside(&self.path);
        let failed =
            |source| SavedError::File { what: "write the snapshot", path: self.path.clone(), source };
        let file = BufWriter::new(File::create(&beside).map_err(failed)?);
        let file = encode(file, &self.head, &self.disks, &self.machine).map_err(failed)?;
        file.into_inner().map_err(|error| failed(error.into()))?;
        std::fs::rename(&beside, &self.path).map_err(failed)
    }
}

pub(super) fn encode<W: Write>(file: W, head: &Head, disks: &[Blocks], machine: &Snapshot) -> io::Result<W> {
    let mut writing = Writing::begin(file, head)?;
    for blocks in disks {
        blocks.values().try_for_each(|block| writing.block(block))?;
        writing.end_disk()?;
    }
    writing.machine(machine)
}
