//! Owns a VM's loop at its backup: receives, stages, commits, and takes over when the protocol says so.
//!
//! The loop never waits for memory to be applied: an applier thread does that behind it, so that heartbeats go on
//! while a large epoch is written into the image. What is not applied yet is bounded by not reading on.

mod applier;
mod comparer;
mod input;
mod persister;
mod promote;
mod staged;
mod story;

use crate::context::Context;
use crate::disks::{self, Label};
use crate::incident::Incident;
use crate::link::{Frame, Outbox};
use crate::loops::{Channel, Haste, LinkNotes, name_of, now};
use crate::machine::{Machine, MachineError, MachineEvent, StandbyMachine};
use crate::plan::Inheritance;
use crate::primary::{Engine, Request};
use crate::room::{self, Reservation};
use crate::vm::{Ended, Facts, Snapshot, VmHandle};
use api::types::{FollowOutput, Role};
use applier::Applier;
use comparer::{Compared, Comparer};
use crossbeam_channel::{Receiver, never, unbounded};
use input::InputLog;
pub use persister::LIMIT as JOURNAL_LIMIT;
use persister::{Persisted, Persister, Place};
use promote::{Bringing, Standing};
use protocol::asking::{ClaimAnswer, Claimant};
use protocol::backup::{Action, Backup, BulkUse, Conn, Event, PhaseName};
use protocol::notice::{Discard, LinkLoss, Notice};
use protocol::resync::{Base, MemoryOffer};
use protocol::wire::compare::{Ask, Store};
use protocol::wire::device::DeviceStates;
use protocol::wire::{Hello, Kind, Refusal, ToBackup, ToPrimary, disk, pages};
use protocol::{Claim, Epoch, Grant, Session, Term};
use staged::Staged;
use std::sync::Arc;
use std::time::{Duration, Instant};
use story::Story;

/// Bytes received and not yet applied; past it nothing more is read.
const MAX_BACKLOG: u64 = 64 << 20;
/// The same of a first copy, which may be a migration's: what is not applied when the VM stands still adds to its downtime.
const COPY_BACKLOG: u64 = 8 << 20;
/// Memory that a standby reserves beside its guest's: the backlog, what its connection reads ahead, recent input (16 MiB),
/// and as much as usual checkpoints need until they are whole. For larger ones more is asked for when they come.
pub const BUFFERS: u64 = MAX_BACKLOG + crate::listener::MAX_AHEAD + (48 << 20);
/// How often to look whether the applier has caught up.
const BACKLOG_PAUSE: Duration = Duration::from_millis(1);
/// How often a primary is told that this host is being drained.
const SAY_LEAVING: Duration = Duration::from_secs(2);

/// What comes to a backup's loop from outside.
pub enum BackupInput {
    /// A primary opened a session.
    Opened {
        /// The connection.
        conn: Conn,
        /// The primary's term.
        term: Term,
        /// Its session.
        session: Session,
        /// Its first message.
        hello: Hello,
        /// The way back.
        outbox: Outbox,
        /// Its frames; an error is the last.
        frames: Receiver<Result<Frame, LinkLoss>>,
    },
}

impl BackupInput {
    /// The loop ended before it was looked at: whoever opened the session shall come again.
    pub fn turn_away(self) {
        let Self::Opened { term, outbox, .. } = self;
        outbox.to_primary(&ToPrimary::Refuse(Refusal::Busy { term }));
    }
}

struct Connection {
    conn: Conn,
    session: Session,
    outbox: Outbox,
    frames: Receiver<Result<Frame, LinkLoss>>,
    devices: DeviceStates,
}

struct Standby {
    machine: StandbyMachine,
    applier: Applier,
    /// None for a VM without disks.
    persister: Option<(Persister, Base)>,
    /// None if there is nothing to compare: neither disks nor a remnant.
    comparer: Option<Comparer>,
    /// The disks' first copy was ordered to be waited for.
    copied: bool,
}

impl Standby {
    /// None of its disks waits for the term: neither a label that names it, nor a shared one.
    fn needs_no_term(&self) -> bool {
        self.persister.is_none() && self.machine.disks().handed_over().is_empty()
    }
}

struct Loop<'a> {
    context: &'a Arc<Context>,
    handle: &'a Arc<VmHandle>,
    protocol: Backup,
    /// The session's connection.
    current: Option<Connection>,
    /// A connection whose Hello is being considered.
    candidate: Option<Connection>,
    standby: Option<Standby>,
    /// The standby, once it can only go on or be thrown away.
    standing: Option<Bringing>,
    staged: Staged,
    /// What the standby takes of this host, or the VM that it became.
    reserved: Option<Reservation>,
    /// The same for the standby that is about to be prepared.
    admitted: Option<Reservation>,
    /// What the primary's guest was given lately.
    input: InputLog,
    claims: Channel<(Claim, ClaimAnswer)>,
    persisted: Channel<Persisted>,
    compared: Channel<Compared>,
    actions: Vec<Action>,
    haste: Haste,
    promoted: Option<(Machine, Grant, Option<Inheritance>)>,
    /// What the next owner must know of how it came about.
    story: Story,
    /// What happens to the VM, as far as it takes time.
    incident: Incident,
    /// The primary was last told that this host leaves.
    told_leaving: Option<Instant>,
    link_notes: LinkNotes,
    over: bool,
}

/// Runs the loop of a VM whose life here begins as a standby; it goes on as the primary's loop after a promotion.
pub fn run(
    context: &Arc<Context>,
    handle: &Arc<VmHandle>,
    inputs: &Receiver<BackupInput>,
    requests: &Receiver<Request>,
) -> Ended {
    crate::loops::prefer_this_thread();
    let claimant = Claimant::new(handle.name().clone(), context.config.name.clone(), crate::loops::random());
    let mut this = Loop {
        context,
        handle,
        protocol: Backup::new(claimant.clone(), least(context, handle)),
        current: None,
        candidate: None,
        standby: None,
        standing: None,
        staged: Staged::default(),
        reserved: None,
        admitted: None,
        input: InputLog::default(),
        claims: unbounded(),
        persisted: unbounded(),
        compared: unbounded(),
        actions: Vec::new(),
        haste: Haste::default(),
        promoted: None,
        story: Story::default(),
        incident: Incident::default(),
        told_leaving: None,
        link_notes: LinkNotes::default(),
        over: false,
    };
    let promoted = this.serve(inputs);
    // To the end of the VM at this host.
    let _reserved = this.reserved.take();
    drop(this);
    let Some((machine, grant, inherited)) = promoted else { return Ended::Discarded };
    Engine::new(Arc::clone(context), Arc::clone(handle), machine, claimant, grant, inherited).run(requests)
}

/// What the label of this VM's disks here says of who may overwrite them. A label that cannot be read stops whoever would
/// prepare a standby over it; here it decides nothing.
fn least(context: &Context, handle: &VmHandle) -> (Term, Session) {
    let stamp = Label::of(&context.config, handle.name()).read().ok().flatten();
    stamp.map_or((Term(0), Session(0)), |stamp| stamp.least())
}

impl Loop<'_> {
    /// Serves until the standby is promoted, or thrown away.
    fn serve(&mut self, inputs: &Receiver<BackupInput>) -> Option<(Machine, Grant, Option<Inheritance>)> {
        loop {
            self.publish();
            let (nothing, no_events) = (never(), never());
            let backlog = self.backlog() > self.most_backlog();
            let frames = match &self.current {
                Some(current) if !backlog => current.frames.clone(),
                _ => nothing,
            };
            if backlog {
                self.protocol.not_listening(now());
            }
            let wait = self.until_deadline(backlog);
            let (claims, persisted) = (self.claims.1.clone(), self.persisted.1.clone());
            let compared = self.compared.1.clone();
            let machine = self.standby.as_ref().map_or(no_events, |s| s.machine.events());
            crossbeam_channel::select! {
                recv(frames) -> frame => self.on_frame(frame.unwrap_or_else(|_| Err(LinkLoss::Disconnected("closed".into())))),
                recv(inputs) -> input => match input {
                    Ok(input) => self.on_input(input),
                    Err(_) => return None,
                },
                recv(claims) -> answer => if let Ok((claim, answer)) = answer { self.feed(Event::Claimed(claim, answer)) },
                recv(persisted) -> done => if let Ok(done) = done { self.on_persisted(done) },
                recv(compared) -> done => if let Ok(done) = done { self.on_compared(done) },
                recv(machine) -> event => self.on_machine_event(event.ok()),
                default(wait) => self.feed(Event::Tick),
            }
            // A stream of data without a gap must not keep the heartbeats back.
            if self.protocol.deadline().is_some_and(|at| now() >= at) {
                self.feed(Event::Tick);
            }
            if let Some(error) = self.standby.as_ref().and_then(|s| s.applier.error()) {
                self.feed(Event::StandbyDied(error));
            }
            self.say_leaving();
            let ends = self.promoted.is_some() || self.over;
            if let Some((host, gaps)) = self.link_notes.news(self.protocol.learnt(), ends) {
                self.context.note_link(host, gaps);
            }
            if self.promoted.is_some() || self.over {
                return self.promoted.take();
            }
        }
    }

    /// While this host is being drained its primary is told, again and again: it may have nowhere to go yet.
    fn say_leaving(&mut self) {
        let due = self.told_leaving.is_none_or(|told| told.elapsed() >= SAY_LEAVING);
        let Some(current) = self.current.as_ref().filter(|_| due && self.context.drain.on()) else { return };
        // Before it was accepted a primary expects nothing else.
        if self.standby.is_some() {
            current.outbox.to_primary(&ToPrimary::Leaving);
            self.told_leaving = Some(Instant::now());
        }
    }

    fn most_backlog(&self) -> u64 {
        if self.protocol.phase() == PhaseName::Copying { COPY_BACKLOG } else { MAX_BACKLOG }
    }

    fn backlog(&self) -> u64 {
        self.standby.as_ref().map_or(0, |standby| standby.applier.backlog())
    }

    fn until_deadline(&self, backlog: bool) -> Duration {
        let now = now();
        let at = self.protocol.deadline();
        let wait = at.map_or(Duration::from_millis(200), |at| Duration::from_micros(at.since(now).0));
        if backlog { wait.min(BACKLOG_PAUSE) } else { wait }
    }

    fn on_input(&mut self, input: BackupInput) {
        let BackupInput::Opened { conn, term, session, hello, outbox, frames } = input;
        if let Some(gaps) = self.context.known_link(&hello.primary) {
            self.protocol.recall(&hello.primary, gaps);
        }
        self.candidate = Some(Connection { conn, session, outbox, frames, devices: DeviceStates::default() });
        match self.admit((term, session), &hello) {
            Ok(admitted) => {
                self.admitted = admitted;
                self.feed(Event::Hello(conn, (term, session), hello));
            }
            Err(why) => self.turn_away(conn, term, hello, why),
        }
        // Not taken: dropping it closes it behind the refusal.
        if self.candidate.take().is_some() && self.current.is_none() && !self.has_standby() {
            self.over = true;
        }
    }

    /// Reserves what the standby takes that a Hello asks for, before anything is done for it. What the protocol will not
    /// take needs no room.
    fn admit(&self, of: (Term, Session), hello: &Hello) -> Result<Option<Reservation>, Refusal> {
        if !self.protocol.takes(of, hello) {
            return Ok(None);
        }
        let (memory, images) = crate::machine::asked_for(&hello.machine)
            .map_err(|error| Refusal::Machine { why: error.to_string() })?;
        let name = self.handle.name();
        let needs = room::needs(&self.context.config, name, memory, &images);
        self.context.room.reserve(name, needs).map(Some)
    }

    /// There is no room for this primary's standby: it is told, and whatever is here for the VM stays as it is.
    fn turn_away(&mut self, conn: Conn, term: Term, hello: Hello, why: Refusal) {
        if let Some(outbox) = self.outbox(conn) {
            outbox.to_primary(&ToPrimary::Refuse(why.clone()));
        }
        self.close(conn);
        let notice = Notice::StandbyRefused { primary: hello.primary, term, why };
        self.context.notice(self.handle.name(), &notice, &mut self.incident);
        self.over = self.current.is_none() && !self.has_standby();
    }

    fn on_frame(&mut self, frame: Result<Frame, LinkLoss>) {
        let Some(conn) = self.current.as_ref().map(|current| current.conn) else { return };
        let frame = match frame {
            Ok(frame) => frame,
            Err(why) => return self.lose(conn, why),
        };
        match frame.header.kind {
            Kind::Pages | Kind::Device | Kind::Console | Kind::Disk => self.on_bulk(conn, frame),
            Kind::Input => {
                let now = self.wake();
                if self.protocol.heard(now, conn) {
                    self.input.push(frame.header.epoch, frame.body);
                }
            }
            kind => match ToBackup::decode(kind, frame.header.epoch, &frame.body) {
                Ok(message) => self.on_message(conn, message),
                Err(error) => self.lose(conn, LinkLoss::Stream(error.to_string())),
            },
        }
    }

    fn on_message(&mut self, conn: Conn, message: ToBackup) {
        if let (ToBackup::Ask(ask), Some(standby)) = (&message, &self.standby)
            && let Err(error) = ask.check(&match ask.of {
                Store::Disks => standby.machine.disks().sizes(),
                Store::Memory => standby.machine.ram().sizes(),
            })
        {
            return self.lose(conn, LinkLoss::Stream(error.to_string()));
        }
        self.feed(Event::Message(conn, message));
    }

    fn on_bulk(&mut self, conn: Conn, mut frame: Frame) {
        let now = self.wake();
        let Some(standby) = &self.standby else { return };
        self.haste.suit(frame.header.epoch);
        let len = frame.body.len();
        let valid = match frame.header.kind {
            Kind::Pages => pages::read_batch(&frame.body, standby.machine.page_counts(), |_, _, _| ())
                .map(drop)
                .map_err(|error| error.to_string()),
            Kind::Device => {
                let Some(current) = self.current.as_mut() else { return };
                let piece = current.devices.unpack(frame.header.epoch, &frame.body);
                piece.map(|piece| frame.body = piece).map_err(|error| error.to_string())
            }
            Kind::Disk => unpack_changes(&mut frame, &standby.machine.disks().sizes()),
            _ => Ok(()),
        };
        if let Err(why) = valid {
            return self.lose(conn, LinkLoss::Stream(why));
        }
        let mut actions = std::mem::take(&mut self.actions);
        let (kind, epoch) = (frame.header.kind, frame.header.epoch);
        let usage = self.protocol.bulk(now, conn, kind, epoch, len, &mut actions);
        match usage {
            BulkUse::ApplyNow => standby.applier.copy(frame),
            BulkUse::Stage(_) => self.staged.push(frame),
            BulkUse::Ignore => {}
        }
        self.carry_out(actions);
        let held = self.staged.bytes() + self.backlog();
        if let Some(Err(why)) = self.reserved.as_mut().map(|reserved| reserved.hold(held)) {
            self.lose(conn, LinkLoss::Stream(why));
        }
    }

    /// The connection is over; if its bytes made no sense the protocol tells the primary before it is closed.
    fn lose(&mut self, conn: Conn, why: LinkLoss) {
        self.feed(Event::Disconnected(conn, why));
        self.current.take_if(|current| current.conn == conn);
    }

    fn on_machine_event(&mut self, event: Option<MachineEvent>) {
        match event {
            Some(MachineEvent::Warning(text)) => self.handle.warn(text),
            // A standby says nothing: its guest does not run.
            Some(MachineEvent::GuestShutdown) => {}
            Some(MachineEvent::Died(why)) => self.feed(Event::StandbyDied(why)),
            None => self.feed(Event::StandbyDied("its control connection is gone".into())),
        }
    }

    /// The time, of which the protocol hears first: this loop may not have run for a while.
    fn wake(&mut self) -> protocol::Instant {
        let now = now();
        self.protocol.wake(now);
        now
    }

    fn feed(&mut self, event: Event) {
        let (now, mut actions) = (self.wake(), std::mem::take(&mut self.actions));
        self.protocol.handle(now, event, &mut actions);
        self.carry_out(actions);
    }

    fn carry_out(&mut self, mut actions: Vec<Action>) {
        for action in actions.drain(..) {
            self.act(action);
        }
        self.actions = actions;
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Prepare(conn, hello) => self.prepare(conn, &hello),
            Action::Send(conn, message) => {
                if let Some(outbox) = self.outbox(conn) {
                    outbox.to_primary(&message);
                }
            }
            Action::Close(conn) => self.close(conn),
            Action::Compare(conn, ask) => self.compare(conn, ask),
            Action::Reach(conn) => self.reach(conn),
            Action::Persist(conn, epoch) => self.persist(conn, epoch),
            Action::Commit(epoch, gate) => self.commit(epoch, gate),
            Action::Stand => self.stand(),
            Action::DropStaged => self.staged.clear(),
            Action::Claim(claim) => {
                let reply = self.claims.0.clone();
                crate::claims::ask(&self.context.arbiter, claim, move |claim, answer| {
                    let _ = reply.send((claim, answer));
                });
                self.stand();
            }
            Action::Promote(grant, epoch, not_before) => self.promote(grant, epoch, not_before),
            Action::Discard => self.discard(),
            Action::Notice(notice) => {
                if let Notice::StandbyDiscarded { why: Discard::Ended(_) | Discard::Operator } = &notice {
                    // Nobody will come back.
                    self.context.room.forget_remnant(self.handle.name());
                }
                self.story.learn(now(), &notice);
                self.context.notice(self.handle.name(), &notice, &mut self.incident);
            }
        }
    }

    fn outbox(&self, conn: Conn) -> Option<&Outbox> {
        let all = [&self.current, &self.candidate];
        all.into_iter().flatten().find(|c| c.conn == conn).map(|c| &c.outbox)
    }

    fn close(&mut self, conn: Conn) {
        for place in [&mut self.current, &mut self.candidate] {
            if let Some(connection) = place.take_if(|c| c.conn == conn) {
                connection.outbox.close();
            }
        }
    }

    fn prepare(&mut self, conn: Conn, hello: &Hello) {
        self.current = self.candidate.take_if(|c| c.conn == conn);
        self.reserved = self.admitted.take();
        self.over = false;
        self.handle.set_interval(hello.timing.interval, FollowOutput::of(hello.timing.pacing));
        let term = self.protocol.known_term();
        let session = self.current.as_ref().map_or(Session(0), |current| current.session);
        let place = Place { vm: self.handle.name().clone(), term, session, conn };
        match self.launch(place, hello) {
            Ok(standby) => {
                self.handle.set_facts(standby.machine.facts());
                self.handle.attach_disks(standby.machine.disks());
                let offer = standby.machine.offer().clone();
                self.standby = Some(standby);
                self.follow(Event::StandbyReady(conn, offer));
            }
            Err(error) => self.follow(Event::StandbyFailed(conn, error.to_string())),
        }
    }

    fn launch(&self, place: Place, hello: &Hello) -> Result<Standby, MachineError> {
        let session = (place.term, place.session);
        let machine = StandbyMachine::launch(self.context, self.handle.name(), session, &hello.machine)?;
        let images = machine.disks().images();
        let (mut persister, mut comparer) = (None, None);
        let failed = |error: std::io::Error| MachineError::Apply(error.to_string());
        if !images.is_empty() || machine.offer().memory == MemoryOffer::Remnant {
            let (ram, answers) = (machine.ram().clone(), self.compared.0.clone());
            comparer = Some(Comparer::start(images.clone(), ram, answers).map_err(failed)?);
        }
        if !images.is_empty() {
            let (base, meter) = (place.base(), Arc::clone(machine.disks().tap().meter()));
            let reports = self.persisted.0.clone();
            let started =
                Persister::start(&self.context.config, place, persister::LIMIT, images, meter, reports);
            persister = Some((started.map_err(failed)?, base));
        }
        let applier = Applier::start(&machine, persister.as_ref().map(|(persister, _)| persister));
        Ok(Standby { machine, applier, persister, comparer, copied: false })
    }

    fn compare(&self, conn: Conn, ask: Ask) {
        if let Some(comparer) = self.standby.as_ref().and_then(|standby| standby.comparer.as_ref()) {
            comparer.compare(conn, ask);
        }
    }

    fn on_compared(&mut self, (conn, outcome): Compared) {
        self.feed(match outcome {
            Ok(hashes) => Event::Compared(conn, hashes),
            Err(why) => Event::CompareFailed(conn, why),
        });
    }

    /// Tells when what came of the first copy is in the image, and on the media of the disks.
    fn reach(&self, conn: Conn) {
        let Some(standby) = &self.standby else { return };
        let reports = self.persisted.0.clone();
        match &standby.persister {
            Some((persister, _)) => standby.applier.when_reached(persister.copied()),
            None => standby.applier.when_reached(move || drop(reports.send(Persisted::Copied(conn)))),
        }
    }

    /// Makes the disk changes of an epoch durable. They stay staged until it is committed.
    fn persist(&mut self, conn: Conn, epoch: Epoch) {
        let changes = self.staged.disk_changes(epoch);
        let Some(standby) = &mut self.standby else { return };
        let Some((persister, _)) = &standby.persister else {
            // Changes of disks that the VM does not have were refused when they came.
            return self.follow(Event::PersistFailed(conn, epoch, "the VM has no disks".into()));
        };
        let copied = (!std::mem::replace(&mut standby.copied, true)).then(|| standby.applier.reached());
        persister.persist(epoch, changes, copied);
    }

    fn on_persisted(&mut self, persisted: Persisted) {
        match persisted {
            Persisted::Done(conn, epoch) => self.feed(Event::Persisted(conn, epoch)),
            Persisted::Failed(conn, epoch, why) => self.feed(Event::PersistFailed(conn, epoch, why)),
            Persisted::Copied(conn) => self.feed(Event::Reached(conn)),
            Persisted::NotCopied(conn, why) => self.feed(Event::ReachFailed(conn, why)),
        }
    }

    /// Feeds an event that an action brought about, while actions are being carried out.
    fn follow(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.protocol.handle(now(), event, &mut actions);
        for action in actions {
            self.act(action);
        }
    }

    fn commit(&mut self, epoch: Epoch, gate: Vec<u8>) {
        let frames = self.staged.take(epoch);
        self.input.committed(epoch);
        if let Some(standby) = &self.standby {
            standby.applier.commit(epoch, frames, gate);
        }
    }

    fn discard(&mut self) {
        self.staged.clear();
        self.input = InputLog::default();
        let memory = self.standby.as_ref().map(|standby| standby.machine.memory());
        let memory = memory.or(self.standing.as_ref().map(Bringing::memory)).flatten();
        self.context.keep_remnant(self.handle.name(), memory);
        self.standing = None;
        if let Some(standby) = self.standby.take() {
            standby.applier.stop();
            if let Some((persister, _)) = standby.persister {
                persister.stop();
            }
            drop(standby.comparer);
            standby.machine.end();
        }
        self.reserved = None;
        self.over = self.candidate.is_none();
    }

    fn publish(&self) {
        let (peer, term, epoch) = match self.protocol.standing_by() {
            Some((peer, term, epoch)) => (Some(peer.clone()), term, epoch),
            None => (None, self.protocol.known_term(), Epoch(0)),
        };
        self.handle.publish(Snapshot {
            phase: name_of(&self.protocol.phase()),
            term,
            peer,
            epoch,
            acked: epoch,
            agent_bytes: self.staged.bytes() + self.backlog(),
            listening: self.protocol.listening(),
            ..Snapshot::default()
        });
    }
}

impl Loop<'_> {
    fn has_standby(&self) -> bool {
        self.standby.is_some() || self.standing.is_some()
    }

    /// Begins to bring the standby to where its newest committed epoch ended, if it waits for no term.
    fn stand(&mut self) {
        if let Some(standby) = self.standby.take_if(|standby| standby.needs_no_term()) {
            self.standing = Some(Bringing::begin(standby.machine, standby.applier));
        }
    }

    /// The standby where its newest committed epoch ended.
    fn brought(&mut self, grant: &Grant) -> Option<Result<Standing, MachineError>> {
        let Some(Standby { machine, applier, persister, .. }) = self.standby.take() else {
            return self.standing.take().map(Bringing::end);
        };
        let disks = promote::Disks { config: &self.context.config, persister };
        Some(Standing::bring(machine, applier, |machine| disks.take_over(machine, grant)))
    }

    fn promote(&mut self, grant: Grant, epoch: Epoch, not_before: protocol::Instant) {
        let (start, name) = (Instant::now(), self.handle.name().clone());
        let shared = self.standby.as_ref().map(|standby| standby.machine.disks().handed_over());
        let Some(standing) = self.brought(&grant) else { return };
        let plan = standing.as_ref().ok().and_then(|standing| standing.plan());
        let inherited = self.story.inheritance(now(), plan);
        let input = std::mem::take(&mut self.input);
        match standing.and_then(|standing| standing.promote(start, input, &grant, (epoch, not_before))) {
            Ok((machine, split)) => {
                let noticed_us = self.incident.lasts(now()).map(|lasts| lasts.0);
                let split = promote::Split { noticed_us, ..split };
                self.context.events.log(&name, &split, split.words(&name));
                self.handle.set_role(Role::Primary);
                if let Some(reserved) = &mut self.reserved {
                    reserved.took_over();
                }
                self.handle.set_facts(Facts { ..machine.facts() });
                self.follow(Event::Promoted);
                self.promoted = Some((machine, grant, inherited));
            }
            Err(error) => {
                // Before the old owner hears that it may go on.
                if let Err(error) = disks::release(&shared.unwrap_or_default()) {
                    tracing::error!(vm = %name, %error, "a shared disk may lack what was written here");
                }
                self.follow(Event::PromotionFailed(error.to_string()));
            }
        }
    }
}

/// Leaves a frame's disk changes unpacked in it; all of them are inside the disks.
fn unpack_changes(frame: &mut Frame, sizes: &[u64]) -> Result<(), String> {
    let records = disk::unpack(&frame.body).map_err(|error| error.to_string())?;
    disk::read_batch(&records, sizes, |_| ()).map_err(|error| error.to_string())?;
    frame.body = records;
    Ok(())
}
