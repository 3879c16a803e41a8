//! Owns the thread that stops the guest, takes checkpoints and lets it go on.
//!
//! Every order that stops or resumes the guest, or opens its way out, goes through this one thread, in order: none
//! of them meets a checkpoint that is half taken. While the guest stands still the machine saves its devices and this
//! thread reads the gate empty, scans for dirty pages and copies them. A checkpoint larger than the buffers is
//! streamed while the guest stands still: the bound on memory wins over the pause. Before a large one pages are copied
//! ahead (`ahead`).

mod beside;
mod gather;

use gather::{Failure, Sends, gather};

use super::ahead::{Ahead, Policy};
use super::brake::Brake;
use super::busy::Busy;
use super::copy::{Copy, Outcome};
use super::hot::Hot;
use super::orders::{Begin, Done, Job, Staged};
use super::pace::Pace;
use super::precopy::CHUNK;
use super::second::Second;
use super::settling::Settling;
use crate::computer::{ClockKeeper, Computer, MachineError, PageTracker, StateSaver, Then};
use crate::disks::{self, KeptChange, Tap};
use crate::link::Outbox;
use crate::loops::Haste;
use crate::machine::Machine;
use crate::staging::Pool;
use api::types::EpochRecord;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use disk::Image;
use net::{Gate, GuestWorks};
use os::range::Range;
use protocol::migration::Migration;
use protocol::resync::Base;
use protocol::{Epoch, Micros, RunPermit, Session};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Pages of a buffer: 16 MiB. Most checkpoints fit one.
const BUFFER_PAGES: usize = 4_096;
/// Up to so many pages a checkpoint sends them while the guest stands still.
const SMALL: usize = 512;
/// Buffers of a session.
const BUFFERS: usize = 4;

/// So long the lock of a shared disk that comes back may be held by somebody: the guest stands still, and nobody else may let it go on.
const LOCK_LINGERS: Duration = Duration::from_secs(5);

/// The handle of the thread.
#[derive(Debug)]
pub struct Checkpointer {
    jobs: Sender<Job>,
    bytes: Arc<AtomicU64>,
    busy: Arc<Mutex<Busy>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    /// Starts the thread for a machine.
    pub fn start(machine: &Machine, done: Sender<Done>) -> Self {
        let (jobs, queue) = unbounded();
        let bytes = Arc::new(AtomicU64::new(0));
        let busy = Arc::new(Mutex::new(Busy::default()));
        let mut worker = Worker {
            computer: Arc::clone(&machine.computer),
            gate: machine.gate.clone(),
            tap: Arc::clone(machine.disks.tap()),
            busy: Arc::clone(&busy),
            images: machine.disks.images(),
            shared: machine.disks.handed_over(),
            saver: None,
            brake: Brake::new(&machine.computer, machine.disks.tap(), &machine.disks.images()),
            active: None,
            second: None,
            jobs: queue,
            later: VecDeque::new(),
            done,
            bytes: Arc::clone(&bytes),
            addresses: (u64::MAX, Vec::new()),
        };
        let thread = std::thread::Builder::new().name("ud-checkpoint".into()).spawn(move || {
            crate::loops::prefer_this_thread();
            worker.run();
        });
        if let Err(error) = &thread {
            tracing::error!(%error, "no thread for checkpoints: this VM cannot be protected");
        }
        Self { jobs, bytes, busy, thread: thread.ok() }
    }

    /// Gives an order.
    pub fn send(&self, job: Job) {
        let _ = self.jobs.send(job);
    }

    /// Whether the guest ran for less than that since the last checkpoint. Asked here, so that the thread of an idle guest's
    /// checkpoints sleeps on.
    pub fn guest_ran_less(&self, least: Micros) -> bool {
        lock(&self.busy).ran_less(least)
    }

    /// What says whether the guest is at work, as far as that is known.
    pub fn guest_works(&self) -> GuestWorks {
        let busy = Arc::clone(&self.busy);
        Box::new(move || lock(&busy).works())
    }

    /// Memory of its buffers.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Ends the thread and waits for it.
    pub fn quit(&mut self) {
        self.send(Job::Quit);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(busy: &Mutex<Busy>) -> MutexGuard<'_, Busy> {
    busy.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Active {
    /// Its name.
    base: Base,
    tracker: Box<dyn PageTracker>,
    pool: Pool,
    outbox: Outbox,
    dirty: Vec<Range>,
    pages: Vec<(u8, u64)>,
    hot: Hot,
    ahead: Ahead,
    policy: Policy,
    /// For so long its brake had stopped the guest in all, at the last checkpoint.
    slowed: Duration,
    /// What was written to the disks in the epoch that is being taken.
    changes: Vec<KeptChange>,
    /// None where clocks cannot be corrected.
    clock: Option<ClockKeeper>,
    settling: Settling,
}

/// What the thread does while nobody asks for anything.
enum Chore {
    Brake,
    Settle,
}

struct Worker {
    computer: Arc<dyn Computer>,
    gate: Gate,
    tap: Arc<Tap>,
    busy: Arc<Mutex<Busy>>,
    images: Vec<Arc<Image>>,
    /// Another host's once the last checkpoint was taken.
    shared: Vec<Arc<Image>>,
    saver: Option<Box<dyn StateSaver>>,
    brake: Brake,
    active: Option<Active>,
    second: Option<Second>,
    jobs: Receiver<Job>,
    later: VecDeque<Job>,
    done: Sender<Done>,
    bytes: Arc<AtomicU64>,
    /// The addresses as last serialised, and their version.
    addresses: (u64, Vec<u8>),
}

/// A checkpoint that was asked for.
#[derive(Clone, Copy)]
struct Wanted {
    epoch: Epoch,
    /// The gate's number of it.
    cut: Epoch,
    last: bool,
    with: Option<Session>,
}

impl Worker {
    fn run(&mut self) {
        while let Some(job) = self.next() {
            match job {
                Job::Copy { begin, migration } => self.copy(*begin, migration),
                Job::CopyBeside(begin) => self.copy_beside(*begin),
                // A copy that asked is the second session's, or over.
                Job::Hashes(session, _) | Job::Reached(session) => {
                    if let Some(second) = self.second.as_ref().filter(|second| second.base.session == session)
                    {
                        second.send(job);
                    }
                }
                Job::Checkpoint { session, epoch, cut, last, with } => {
                    self.checkpoint(session, Wanted { epoch, cut, last, with });
                }
                Job::Succeed(session) => self.succeed(session),
                Job::EndSession(session) => self.end_session(session),
                Job::Slow(session, percent) => self.slow(session, percent),
                Job::Pause => {
                    self.brake.is_held();
                    self.carried_out(self.computer.stop());
                }
                Job::Resume(permit) => self.resume(&permit),
                Job::OpenOutput => self.open_output(),
                Job::Quit => return,
            }
        }
    }

    fn next(&mut self) -> Option<Job> {
        if let Some(job) = self.later.pop_front() {
            return Some(job);
        }
        while let Some((due, chore)) = self.chore() {
            match self.jobs.recv_deadline(due) {
                Err(RecvTimeoutError::Timeout) => match chore {
                    Chore::Brake => self.look_after_brake(),
                    Chore::Settle => self.settle(),
                },
                job => return job.ok(),
            }
        }
        self.jobs.recv().ok()
    }

    /// What is to be done between orders, and when. A guest that is slowed has no use for shorter scans.
    fn chore(&self) -> Option<(std::time::Instant, Chore)> {
        let settle = || self.active.as_ref().map(|active| (active.settling.due(), Chore::Settle));
        self.brake.due().map(|due| (due, Chore::Brake)).or_else(settle)
    }

    fn settle(&mut self) {
        if let Some(active) = &mut self.active {
            active.settling.work(&mut *active.tracker);
        }
    }

    fn slow(&mut self, session: Session, percent: u8) {
        if self.active.as_ref().is_some_and(|active| active.base.session == session) {
            self.brake.set(percent);
        }
    }

    fn look_after_brake(&mut self) {
        if let Err(why) = self.brake.tick() {
            self.brake.set(0);
            self.say(Done::VmLost(why));
        }
    }

    fn say(&self, done: Done) {
        let _ = self.done.send(done);
    }

    /// Orders that the machine does not carry out mean that it is lost.
    fn carried_out(&self, result: Result<(), MachineError>) {
        if let Err(error) = result {
            self.say(Done::VmLost(error.to_string()));
        }
    }

    fn resume(&mut self, permit: &RunPermit) {
        tracing::debug!(term = %permit.term(), "the guest goes on");
        self.take_back();
        self.brake.is_let_go();
        self.carried_out(self.computer.go_on());
    }

    /// The term is this host's, so nobody else has its disks. Without one of them the guest meets errors, as with a medium that fails.
    fn take_back(&self) {
        if let Err(error) = disks::take(&self.shared, LOCK_LINGERS) {
            self.say(Done::Warning(format!(
                "the guest goes on without a shared disk, which it cannot write: {error}"
            )));
        }
    }

    fn open_output(&self) {
        if let Err(error) = self.gate.open() {
            tracing::debug!(%error, "output does not pass");
        }
    }

    fn end_session(&mut self, session: Session) {
        if let Some(second) = self.second.take_if(|second| second.base.session == session) {
            second.send(Job::EndSession(session));
            self.tap.end_second();
            self.bytes.fetch_sub(second.pool.bytes(), Ordering::Relaxed);
        }
        if self.active.as_ref().is_some_and(|active| active.base.session == session) {
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.active = None;
        self.brake.set(0);
        if let Err(why) = self.brake.let_go() {
            self.say(Done::VmLost(why));
        }
        if let Some(marker) = self.tap.marker() {
            marker.map().end_session();
            // What was acknowledged until now need not be compared.
            marker.clean();
        }
        self.tap.end();
        self.bytes.store(0, Ordering::Relaxed);
    }

    fn copy(&mut self, Begin { base, outbox, offer, rate }: Begin, migration: Option<Box<Migration>>) {
        let session = base.session;
        // A migration's only checkpoint is streamed: buffers of one round's pieces suffice, and are there sooner.
        let pages = if migration.is_some() { CHUNK } else { BUFFER_PAGES };
        let mut active = match self.begin(base, outbox, pages) {
            Ok(active) => active,
            Err(why) => return self.say(Done::Failed { session, why, resumable: false }),
        };
        let mut haste = Haste::default();
        haste.suit(Epoch(0));
        let mut copy = Copy {
            session,
            beside: false,
            ram: self.computer.ram(),
            tracker: &mut *active.tracker,
            images: &self.images,
            tap: &self.tap,
            offer: &offer,
            pace: Pace::new(rate),
            wire: 0,
            hashes: VecDeque::new(),
            reached: false,
            pool: &active.pool,
            outbox: &active.outbox,
            done: &self.done,
            jobs: &self.jobs,
            later: &mut self.later,
        };
        let outcome = match migration {
            Some(policy) => copy.migrate(*policy, Brake::new(&self.computer, &self.tap, &self.images)),
            None => copy.run(),
        };
        haste.suit(Epoch(1));
        match outcome {
            Outcome::Copied => {
                self.active = Some(active);
                self.say(Done::Copied(session));
            }
            Outcome::Ended => self.forget(),
            Outcome::GivenUp(why) => {
                self.forget();
                self.say(Done::GivenUp(session, why));
            }
            Outcome::Failed(why) => {
                self.forget();
                self.say(Done::Failed { session, why, resumable: false });
            }
        }
    }

    fn begin(&mut self, base: Base, outbox: Outbox, buffer_pages: usize) -> Result<Active, String> {
        self.active = None;
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let tracker = self.computer.track().map_err(|error| text(&error))?;
        let pool = Pool::new(BUFFERS, buffer_pages).map_err(|error| text(&error))?;
        if self.saver.is_none() {
            self.saver = Some(self.computer.saver().map_err(|error| text(&error))?);
        }
        let clock = self.computer.clock().map_err(|error| text(&error))?;
        self.bytes.store(pool.bytes(), Ordering::Relaxed);
        if let Some(marker) = self.tap.marker()
            && let Err(error) = marker.map().begin_session(base)
        {
            tracing::warn!(%error, "without a difference map the disks will be compared whole next time");
        }
        self.tap.begin();
        let (dirty, pages, changes) = (Vec::new(), Vec::new(), Vec::new());
        let (ahead, policy) = (Ahead::default(), Policy::default());
        let hot = Hot::new(tracker.costs_writes());
        *lock(&self.busy) = Busy::of(&*self.computer);
        let slowed = self.brake.total();
        let settling = Settling::begin();
        Ok(Active {
            base,
            tracker,
            pool,
            outbox,
            dirty,
            pages,
            hot,
            ahead,
            policy,
            slowed,
            changes,
            clock,
            settling,
        })
    }

    fn checkpoint(&mut self, session: Session, wanted: Wanted) {
        let Wanted { epoch, last, with, .. } = wanted;
        let Some(mut active) = self.active.take_if(|active| active.base.session == session) else { return };
        let slowed = self.brake.total();
        let mut saver = self.saver.take();
        let taken = self.go_ahead(&mut active).and_then(|()| match &mut saver {
            Some(saver) => self.take(&mut active, &mut **saver, wanted),
            None => Err(Failure { why: "the session did not begin".into(), resumable: true }),
        });
        self.saver = saver;
        if taken.is_err() {
            active.tracker.give_back(&std::mem::take(&mut active.dirty));
            active.tracker.give_back(&std::mem::take(&mut active.ahead).addresses);
            self.tap.stop_ends();
            if let Err(error) = self.tap.make_good(&self.images) {
                tracing::warn!(%error, "a flush could not be made good");
            }
            self.tap.give_back(std::mem::take(&mut active.changes));
            self.second.iter_mut().for_each(|second| second.give_back(&self.tap));
            // The epoch was perhaps cut: what waits belongs to the open epoch again.
            if let Err(error) = self.gate.hold() {
                tracing::debug!(%error, "the gate is closed");
            }
            // The guest ran before, under the same term. The session may be over: then nobody else lets it go on.
            if !last && let Err(error) = self.go_on_unless_slowed() {
                tracing::debug!(%error, "the machine does not go on");
            }
        }
        let base = active.base;
        let slowed_us = u64::try_from((slowed - active.slowed).as_micros()).unwrap_or(0);
        active.slowed = slowed;
        let paused_us = slowed_us + taken.as_ref().map_or(0, |staged| staged.record.pause_us);
        let kept = active.clock.as_mut().filter(|_| !last).map_or(Ok(()), |clock| clock.keep(paused_us));
        self.active = Some(active);
        if let Err(error) = kept {
            tracing::warn!(%error, "the guest's clock is not corrected");
        }
        if epoch == Epoch(1) && taken.is_ok() {
            self.propose(base);
        }
        if let Some(second) =
            self.second.as_ref().filter(|second| taken.is_ok() && with == Some(second.base.session))
        {
            self.propose(second.base);
        }
        match taken {
            Ok(staged) => self.say(Done::Checkpoint(session, Box::new(staged))),
            Err(Failure { why, resumable }) => self.say(Done::Failed { session, why, resumable }),
        }
    }

    /// The first epoch is about to be sent: from then on the backup may have its state.
    fn propose(&self, base: Base) {
        if let Some(marker) = self.tap.marker()
            && let Err(error) = marker.map().propose(base)
        {
            tracing::warn!(%error, "the disks may have to be compared whole next time");
        }
    }

    /// Copies pages of a large checkpoint while the guest still runs.
    fn go_ahead(&self, active: &mut Active) -> Result<(), Failure> {
        active.ahead = Ahead::default();
        active.dirty.clear();
        if !active.policy.tries() {
            return Ok(());
        }
        let fail = |why: String| Failure { why, resumable: true };
        active
            .tracker
            .scan(active.hot.pages(), &mut active.dirty)
            .map_err(|error| fail(error.to_string()))?;
        let left = active.ahead.copy(self.computer.ram(), &active.pool, &active.dirty).map_err(fail)?;
        active.tracker.give_back(&left);
        active.dirty.clear();
        Ok(())
    }

    fn take(
        &mut self,
        active: &mut Active,
        saver: &mut dyn StateSaver,
        Wanted { epoch, cut: number, last, with }: Wanted,
    ) -> Result<Staged, Failure> {
        let fail = |why: &dyn std::fmt::Display| Failure { why: why.to_string(), resumable: true };
        let began_us = os::clock::realtime_us();
        let then = if last || !self.brake.lets_run() { Then::Stay } else { Then::GoOn };
        if last {
            // Nobody but an order lets the guest go on from here.
            self.brake.is_held();
        }
        let waited = lock(&self.busy).waits();
        self.tap.stop_begins();
        let mut pending = saver.begin(then).map_err(|error| fail(&error))?;
        pending.wait_stopped().map_err(|error| fail(&error))?;
        let (cut_at, at_us) = (crate::loops::now(), os::clock::realtime_us());
        if epoch == Epoch(1) {
            self.gate.hold().map_err(|error| fail(&error))?;
        }
        let cut = self.gate.cut(number).map_err(|error| fail(&error))?;
        active.changes = self.tap.take();
        self.tap.meter().cut(epoch);
        if let Some(marker) = self.tap.marker() {
            marker.map().cut(epoch);
        }
        active.tracker.scan(active.hot.pages(), &mut active.dirty).map_err(|error| fail(&error))?;
        active.hot.join(&mut active.dirty);
        active.pages.clear();
        self.computer.ram().number(&active.dirty, &mut active.pages);
        let (ahead, again) = active.ahead.take(&active.dirty);
        // The only checkpoint of a migration has one try: nothing that is ready waits for the rest.
        let sends = match active.pages.len() {
            _ if last && epoch == Epoch(1) => Sends::Pieces,
            ..=SMALL if ahead.is_empty() => Sends::Parts,
            _ => Sends::Later,
        };
        let ram = self.computer.ram();
        let to = (&active.pool, &active.outbox);
        let parts = gather(ram, &active.pages, to, ahead, (epoch, sends))?;
        let joint = self.owe(active, with);
        // The guest's processors surely stand still.
        let busy = lock(&self.busy).since_last();
        if then == Then::GoOn {
            // Its disks are flushed; the next flush is the guest's.
            self.tap.stop_ends();
        }
        let device = pending.take().map_err(|error| fail(&error))?;
        self.tap.stop_ends();
        let pause_us = if last { 0 } else { self.end_pause(then, began_us).map_err(|error| fail(&error))? };
        // A flush that the guest asked for may be among those that were answered at once, and the epoch's output may
        // tell of it.
        let lasting = |error: disk::ImageError| Failure { why: error.to_string(), resumable: false };
        self.tap.make_good(&self.images).map_err(lasting)?;
        if last {
            // Before anything of it is sent: who has it may claim the VM.
            disks::release(&self.shared).map_err(lasting)?;
        }
        let ahead = active.ahead.addresses.len() as u64;
        let ahead_pages = ahead - again;
        let dirty_pages = active.pages.len() as u64 + ahead_pages;
        active.policy.learn(dirty_pages, ahead, again);
        active.hot.learn();
        let record = EpochRecord {
            term: 0,
            epoch: epoch.0,
            at_us,
            pause_us,
            dirty_pages,
            ahead_pages,
            wire_bytes: 0,
            ack_us: 0,
        };
        let gate = self.addresses(cut.addresses_version);
        let changes = std::mem::take(&mut active.changes);
        let mut staged = Staged {
            epoch,
            last,
            cut_at,
            record,
            busy,
            waited,
            parts,
            changes,
            device,
            cut,
            gate,
            with: None,
        };
        staged.with = joint.map(|joint| (joint.session, Box::new(self.stage_joint(joint, &staged))));
        Ok(staged)
    }

    /// Lets the guest go on if it does not yet, and says for how long it stood still for this checkpoint, which began at `began_us`: by
    /// the machine's own time of both. It may have stood still before for other reasons.
    fn end_pause(&mut self, then: Then, began_us: u64) -> Result<u64, MachineError> {
        if self.brake.stands() {
            // It would have done so all the same, and does until its brake lets it go.
            return Ok(os::clock::realtime_us().saturating_sub(began_us));
        }
        if then == Then::Stay {
            self.go_on_unless_slowed()?;
        }
        let last = self.computer.last_pause();
        Ok(last.map_or(0, |(stop, resume)| resume.saturating_sub(stop.max(began_us))))
    }

    /// Ends a checkpoint's stop. A guest that its brake stopped before stands still until that lets it go.
    fn go_on_unless_slowed(&mut self) -> Result<(), MachineError> {
        if self.brake.stands() {
            return Ok(());
        }
        self.brake.is_let_go();
        self.computer.go_on()
    }

    fn addresses(&mut self, version: u64) -> Vec<u8> {
        if self.addresses.0 != version {
            let (addresses, version) = self.gate.addresses();
            self.addresses = (version, serde_json::to_vec(&addresses).unwrap_or_default());
        }
        self.addresses.1.clone()
    }
}
