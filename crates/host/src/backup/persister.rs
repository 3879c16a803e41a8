//! Owns the thread that makes disk changes durable in this host's journal, and the journal's place free again.
//!
//! Epochs that wait together are made durable together (group commit). The journal begins with the first epoch of a
//! session, when the disks' first copy is on the media: before that the replicas are no disk at all.

use crate::config::HostConfig;
use crate::disks::{self, DiskError, Label, Meter};
use api::types::JournalStatus;
use crossbeam_channel::{Receiver, Sender, unbounded};
use disk::Image;
use disk::journal::{FileStorage, Journal, JournalError, Layout};
use protocol::backup::Conn;
use protocol::journal::Identity;
use protocol::journal::stamp::Content;
use protocol::resync::Base;
use protocol::wire::disk as wire;
use protocol::{Epoch, Session, Term, VmId, VmName};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Size of a VM's journal. It holds what is committed and not on the replicas' media yet.
pub const LIMIT: u64 = 256 << 20;
/// A full journal waits so long for the epochs in it to be applied.
const PATIENCE: Duration = Duration::from_secs(5);

/// What became of an epoch's disk changes.
#[derive(Debug)]
pub enum Persisted {
    /// They, and those of all epochs before, are durable.
    Done(Conn, Epoch),
    /// They cannot be made so.
    Failed(Conn, Epoch, String),
    /// What came of the first copy before a mark is on the media.
    Copied(Conn),
    /// It cannot be brought there.
    NotCopied(Conn, String),
}

/// The session whose disk changes are kept.
#[derive(Debug, Clone)]
pub struct Place {
    /// The VM.
    pub vm: VmName,
    /// Its owner's term.
    pub term: Term,
    /// The session, as the owner numbers it.
    pub session: Session,
    /// The connection that opened it.
    pub conn: Conn,
}

impl Place {
    /// The name of what the session's newest committed epoch leaves here.
    #[must_use]
    pub fn base(&self) -> Base {
        Base { term: self.term, session: self.session }
    }
}

enum Job {
    /// What came of the first copy before a mark is in the images: bring it onto the media.
    Copied,
    /// Unpacked batches of an epoch; for the first epoch with what tells that the first copy is in the images.
    Persist(Epoch, Vec<Vec<u8>>, Option<Receiver<()>>),
    /// The epoch is in the images, not necessarily on the media.
    Applied(Epoch),
}

/// The handle of the thread.
pub struct Persister {
    jobs: Sender<Job>,
    thread: JoinHandle<()>,
}

impl Persister {
    /// Starts the thread for a session, whose journal has at most `limit` bytes ([`LIMIT`]).
    ///
    /// # Errors
    /// If the system gives none.
    pub fn start(
        config: &HostConfig,
        place: Place,
        limit: u64,
        images: Vec<Arc<Image>>,
        meter: Arc<Meter>,
        reports: Sender<Persisted>,
    ) -> std::io::Result<Self> {
        let (jobs, queue) = unbounded();
        let mut worker = Worker {
            config: config.clone(),
            meter,
            waiting: VecDeque::new(),
            directory: disks::journal_directory(config, &place.vm),
            label: Label::of(config, &place.vm),
            place,
            images,
            limit,
            journal: None,
            applied: Epoch(0),
            marked: 0,
            jobs: queue,
            later: VecDeque::new(),
            reports,
            sealed: None,
        };
        let thread = std::thread::Builder::new().name("ud-journal".into()).spawn(move || worker.run())?;
        Ok(Self { jobs, thread })
    }

    /// Makes an epoch's changes durable and reports it. `copied` comes with the first epoch.
    pub fn persist(&self, epoch: Epoch, batches: Vec<Vec<u8>>, copied: Option<Receiver<()>>) {
        let _ = self.jobs.send(Job::Persist(epoch, batches, copied));
    }

    /// Where the applier tells that what came of the first copy is in the images: it is brought onto the media, and reported.
    pub fn copied(&self) -> impl FnOnce() + Send + 'static {
        let jobs = self.jobs.clone();
        move || drop(jobs.send(Job::Copied))
    }

    /// Where the applier tells which epochs are in the images.
    pub fn applied(&self) -> impl Fn(Epoch) + Send + 'static {
        let jobs = self.jobs.clone();
        move |epoch| drop(jobs.send(Job::Applied(epoch)))
    }

    /// Ends the thread, behind what it does now.
    pub fn stop(self) {
        drop(self.jobs);
        let _ = self.thread.join();
    }
}

struct Worker {
    config: HostConfig,
    place: Place,
    meter: Arc<Meter>,
    /// Epochs that are not in the images, and the bytes of their changes.
    waiting: VecDeque<(Epoch, u64)>,
    directory: PathBuf,
    label: Label,
    images: Vec<Arc<Image>>,
    /// Bytes of the journal.
    limit: u64,
    journal: Option<Journal<FileStorage>>,
    /// Newest epoch in the images.
    applied: Epoch,
    /// Bytes in use when the place of applied epochs was last made free.
    marked: u64,
    jobs: Receiver<Job>,
    /// Epochs that came while another was written.
    later: VecDeque<Job>,
    reports: Sender<Persisted>,
    /// Newest epoch that is written whole and not reported.
    sealed: Option<Epoch>,
}

impl Worker {
    fn run(&mut self) {
        while let Some(job) = self.later.pop_front().or_else(|| self.jobs.recv().ok()) {
            let (epoch, outcome) = match job {
                Job::Applied(epoch) => {
                    self.note_applied(epoch);
                    continue;
                }
                Job::Copied => {
                    self.sync_copy();
                    continue;
                }
                Job::Persist(epoch, batches, copied) => (epoch, self.persist(epoch, &batches, copied)),
            };
            if let Err(error) = outcome {
                self.report(Persisted::Failed(self.place.conn, epoch, error.to_string()));
                return;
            }
        }
    }

    /// Writes an epoch. Those that wait together are made durable with the last of them.
    fn persist(
        &mut self,
        epoch: Epoch,
        batches: &[Vec<u8>],
        copied: Option<Receiver<()>>,
    ) -> Result<(), DiskError> {
        self.waiting.push_back((epoch, batches.iter().map(|batch| batch.len() as u64).sum()));
        self.write(epoch, batches, copied)?;
        self.sealed = Some(epoch);
        self.tell();
        while let Ok(job) = self.jobs.try_recv() {
            self.note(job);
        }
        if self.later.is_empty() { self.settle() } else { Ok(()) }
    }

    /// Takes note of what was applied at once, of everything else for later.
    fn note(&mut self, job: Job) {
        match job {
            Job::Applied(epoch) => self.note_applied(epoch),
            job => self.later.push_back(job),
        }
    }

    fn note_applied(&mut self, epoch: Epoch) {
        self.applied = self.applied.max(epoch);
        self.waiting.retain(|(waiting, _)| *waiting > epoch);
        self.tell();
    }

    fn report(&self, what: Persisted) {
        let _ = self.reports.send(what);
    }

    fn write(
        &mut self,
        epoch: Epoch,
        batches: &[Vec<u8>],
        copied: Option<Receiver<()>>,
    ) -> Result<(), DiskError> {
        if self.journal.is_none() {
            self.begin(copied)?;
        }
        let sizes: Vec<u64> = self.images.iter().map(|image| image.size()).collect();
        for batch in batches {
            let mut changes = Vec::new();
            wire::read_batch(batch, &sizes, |change| changes.push(change)).map_err(DiskError::Changes)?;
            self.with_room(|journal, term| journal.append(term, epoch, &changes))?;
        }
        self.with_room(|journal, term| journal.seal(term, epoch))
    }

    /// Little is left to do for the first epoch then, for which a migration's guest stands still.
    fn sync_copy(&self) {
        let conn = self.place.conn;
        self.report(match disks::sync(&self.images) {
            Ok(()) => Persisted::Copied(conn),
            Err(error) => Persisted::NotCopied(conn, error.to_string()),
        });
    }

    /// The first copy is on the media, then the journal is there.
    fn begin(&mut self, copied: Option<Receiver<()>>) -> Result<(), DiskError> {
        if let Some(copied) = copied {
            // If the applier is gone the standby is about to be thrown away.
            let _ = copied.recv();
        }
        disks::sync(&self.images)?;
        let failed = |source| DiskError::Place { path: self.directory.clone(), source };
        let storage = Arc::new(FileStorage::new(&self.directory).map_err(failed)?);
        let identity = Identity { vm: VmId::of(&self.place.vm), session: self.place.session };
        let journal =
            Journal::create(storage, Layout::within(self.limit)?, identity, self.place.term, Epoch(0))?;
        self.marked = journal.used();
        self.journal = Some(journal);
        Ok(())
    }

    /// Writes; if the journal is full, after its applied epochs were made free, or later ones were applied.
    fn with_room(
        &mut self,
        mut write: impl FnMut(&mut Journal<FileStorage>, Term) -> Result<(), JournalError>,
    ) -> Result<(), DiskError> {
        let term = self.place.term;
        let until = std::time::Instant::now() + PATIENCE;
        loop {
            let Some(journal) = &mut self.journal else { return Ok(()) };
            match write(journal, term) {
                Err(JournalError::Full { .. }) if std::time::Instant::now() < until => {}
                done => return Ok(done?),
            }
            // Nothing can be applied that is not durable and reported.
            self.settle()?;
            self.free()?;
            if let Ok(job) = self.jobs.recv_timeout(Duration::from_millis(10)) {
                self.note(job);
            }
        }
    }

    /// Makes what is written whole durable, and reports it.
    fn settle(&mut self) -> Result<(), DiskError> {
        let (Some(newest), Some(journal)) = (self.sealed.take(), &mut self.journal) else { return Ok(()) };
        let first = journal.durable() == Epoch(0);
        journal.sync()?;
        let used = journal.used();
        if first {
            // Only now are the replicas, with the journal, a disk.
            self.label.write(Content::Epoch, self.place.term, self.place.session, newest)?;
            self.ready_map();
        }
        self.report(Persisted::Done(self.place.conn, newest));
        if used > self.marked + self.limit / 4 { self.free() } else { Ok(()) }
    }

    /// The map that a promotion will need, made while there is time. Without it the promotion makes it.
    fn ready_map(&self) {
        let sizes: Vec<u64> = self.images.iter().map(|image| image.size()).collect();
        let Place { vm, .. } = &self.place;
        if let Err(error) = disks::differences_from(&self.config, vm, &sizes, self.place.base()) {
            tracing::warn!(vm = %vm, %error, "no difference map is ready for a promotion");
        }
    }

    /// Says how full the journal is.
    fn tell(&self) {
        let (used_bytes, size_bytes) = (self.journal.as_ref().map_or(0, Journal::used), self.limit);
        let unapplied_bytes = self.waiting.iter().map(|(_, bytes)| bytes).sum();
        self.meter.journal(JournalStatus { unapplied_bytes, used_bytes, size_bytes });
    }

    /// Makes the place of applied epochs free.
    fn free(&mut self) -> Result<(), DiskError> {
        disks::sync(&self.images)?;
        if let Some(journal) = &mut self.journal {
            let applied = self.applied.min(journal.durable());
            journal.mark_applied(applied)?;
            self.marked = journal.used();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{Change, What};

    const SIZE: u64 = 1 << 20;

    /// A batch that fills most of a journal of 128 KiB.
    fn large(byte: u8) -> Vec<Vec<u8>> {
        let mut batch = wire::DiskBatch::new();
        for at in 0..5 {
            assert!(batch.push(Change { disk: 0, offset: at << 13, what: What::Data(&[byte; 8192]) }));
        }
        vec![wire::unpack(&batch.finish()).unwrap()]
    }

    fn persister(folder: &std::path::Path) -> (Persister, Receiver<Persisted>) {
        let text = format!(
            "name = 'beta'\nlisten = '127.0.0.1:1'\nstate_dir = {folder:?}\napi_socket = '/s'\n[arbiter]\ndirectory = '/a'"
        );
        let config: HostConfig = toml::from_str(&text).unwrap();
        let place =
            Place { vm: VmName::new("web").unwrap(), term: Term(1), session: Session(1), conn: Conn(1) };
        let (reports, reported) = unbounded();
        let images = vec![Arc::new(Image::create(&folder.join("web.img"), SIZE).unwrap())];
        let limit = (128 << 10) + 8192;
        (Persister::start(&config, place, limit, images, Arc::default(), reports).unwrap(), reported)
    }

    #[test]
    fn an_order_that_comes_while_the_journal_is_full_is_carried_out_and_every_epoch_reported() {
        let folder = tempfile::tempdir().unwrap();
        let (persister, reported) = persister(folder.path());
        let applied = persister.applied();
        for epoch in 1..=8 {
            persister.persist(Epoch(epoch), large(epoch as u8), None);
        }
        let mut newest = Epoch(0);
        while newest < Epoch(8) {
            match reported.recv_timeout(PATIENCE * 4).expect("a report") {
                Persisted::Done(_, epoch) => {
                    assert!(epoch > newest, "in order");
                    newest = epoch;
                    applied(epoch);
                }
                other => panic!("{other:?}"),
            }
        }
        drop(applied);
        persister.stop();
    }
}
