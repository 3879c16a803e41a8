//! Owns a VM's loop at its primary: selects an event, hands it to the protocol, carries out the actions.

mod ahead;
mod beside;
mod brake;
mod busy;
mod checkpointer;
mod copied;
mod copy;
mod hot;
mod migrate;
mod orders;
mod pace;
mod precopy;
mod remnant;
mod repair;
mod resync;
mod second;
mod session;
mod settling;

pub use checkpointer::Checkpointer;

use crate::context::Context;
use crate::disks::{self, Label, Proofs};
use crate::incident::Incident;
use crate::loops::{Channel, LinkNotes, name_of, now, waited_for};
use crate::machine::Machine;
use crate::measure::Measurements;
use crate::plan::{Inheritance, Plan};
use crate::vm::{Ended, Snapshot, VmHandle};
use api::migration::{MigrateRequest, RoundsEnd};
use api::types::{ApiError, ErrorCode, ProtectRequest};
use beside::Beside;
use crossbeam_channel::{Receiver, Sender, unbounded};
use orders::{Begin, Done, Job, Staged};
use protocol::asking::{ClaimAnswer, Claimant};
use protocol::journal::stamp::Content;
use protocol::notice::{LinkLoss, Notice};
use protocol::pacing::{Pacing, Taken};
use protocol::primary::{Action, Command, CommandError, Event, PhaseName, Primary};
use protocol::repair::Repair;
use protocol::resync::{Base, Offer};
use protocol::{Claim, Epoch, Grant, Micros, Session, Timing};
use session::{Incoming, SessionLink};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often a loop for which nothing is due looks around.
const LOOK: Duration = Duration::from_millis(200);

/// What operators ask of a running loop; answered when it was taken, not when it is done.
#[derive(Debug)]
pub enum Request {
    /// Protect the VM.
    Protect(ProtectRequest, Sender<Result<(), ApiError>>),
    /// End protection.
    Unprotect(Sender<Result<(), ApiError>>),
    /// End the VM.
    Stop(Sender<Result<(), ApiError>>),
    /// Hand it to its backup.
    Failover(Sender<Result<(), ApiError>>),
    /// Bring it to another host.
    Migrate(MigrateRequest, Sender<Result<(), ApiError>>),
    /// Let it stay.
    CancelMigration(Sender<Result<(), ApiError>>),
}

/// What a session with a host begins with.
struct Approach {
    timing: Timing,
    /// The VM's description.
    machine: Vec<u8>,
    /// For as long as the host looks for the shared disks.
    proofs: Proofs,
}

/// The loop of one VM at its primary.
pub struct Engine {
    context: Arc<Context>,
    handle: Arc<VmHandle>,
    machine: Machine,
    protocol: Primary,
    checkpointer: Checkpointer,
    done: Receiver<Done>,
    link: Option<SessionLink>,
    incoming: Channel<(Session, Incoming)>,
    claims: Channel<(Claim, ClaimAnswer)>,
    measurements: Arc<Mutex<Measurements>>,
    staged: Option<Staged>,
    /// The session with the host that shall be the backup in the present one's place.
    beside: Option<Beside>,
    /// A checkpoint that was left out, and was not told of yet.
    spared: Option<(Session, Epoch)>,
    /// Most bytes a second of a first copy.
    copy_rate: Option<u64>,
    copied: Option<copied::Copied>,
    /// What the other host finds the shared disks by.
    proofs: Proofs,
    /// The VM is being brought to another host.
    migration: Option<migrate::Migrating>,
    /// The policy of the copy that begins.
    policy: Option<Box<protocol::migration::Migration>>,
    /// What the operator asked, here or at an earlier owner.
    plan: Option<Plan>,
    repair: Repair,
    /// What happens to the VM, as far as it takes time.
    incident: Incident,
    /// The arbiter answers: the VM may move.
    moves: Channel<()>,
    actions: Vec<Action>,
    link_notes: LinkNotes,
    ended: Option<Ended>,
}

#[cfg(not(feature = "release-early"))]
fn protocol_machine(claimant: Claimant, grant: Grant) -> Primary {
    Primary::new(claimant, grant)
}

/// The machine with a bug, to show that a test of the whole system finds it.
#[cfg(feature = "release-early")]
fn protocol_machine(claimant: Claimant, grant: Grant) -> Primary {
    tracing::error!("THIS BUILD HAS A PLANTED BUG: output is released one epoch early");
    let mut machine = Primary::new(claimant, grant);
    machine.plant(protocol::Planted { release_early: true, ..protocol::Planted::default() });
    machine
}

impl Engine {
    /// Takes over a machine that runs, or is about to, under this grant; with what an earlier owner hands on.
    #[must_use]
    pub fn new(
        context: Arc<Context>,
        handle: Arc<VmHandle>,
        machine: Machine,
        claimant: Claimant,
        grant: Grant,
        inherited: Option<Inheritance>,
    ) -> Self {
        let here = &context.config.name;
        let (plan, repair) = match inherited {
            Some(inherited) => {
                let (plan, repair) = inherited.take(now(), here);
                (Some(plan), repair)
            }
            None => (None, Repair::new(here.clone())),
        };
        let (done_tx, done) = unbounded();
        let checkpointer = Checkpointer::start(&machine, done_tx);
        Self {
            context,
            handle,
            protocol: protocol_machine(claimant, grant),
            checkpointer,
            machine,
            done,
            link: None,
            incoming: unbounded(),
            claims: unbounded(),
            measurements: Arc::default(),
            staged: None,
            beside: None,
            spared: None,
            copy_rate: None,
            copied: None,
            proofs: Proofs::default(),
            migration: None,
            policy: None,
            plan,
            repair,
            incident: Incident::alone(now()),
            moves: unbounded(),
            actions: Vec::new(),
            link_notes: LinkNotes::default(),
            ended: None,
        }
    }

    /// Runs until the VM ends here.
    pub fn run(mut self, requests: &Receiver<Request>) -> Ended {
        crate::loops::prefer_this_thread();
        loop {
            self.publish();
            let wait = self.until_deadline();
            let (incoming, claims, done) =
                (self.incoming.1.clone(), self.claims.1.clone(), self.done.clone());
            let (events, moves) = (self.machine.events.clone(), self.moves.1.clone());
            let gate = self.machine.gate_events.clone();
            crossbeam_channel::select! {
                recv(incoming) -> message => if let Ok((session, message)) = message { self.on_incoming(session, message) },
                recv(done) -> done => if let Ok(done) = done { self.on_done(done) },
                recv(claims) -> answer => if let Ok((claim, answer)) = answer { self.feed(Event::Claimed(claim, answer)) },
                recv(moves) -> _ => self.move_to_backup(),
                recv(gate) -> event => if let Ok(event) = event { self.on_gate_event(event) },
                recv(events) -> event => self.on_machine_event(event.ok()),
                recv(requests) -> request => match request {
                    Ok(request) => self.on_request(request),
                    // The agent ends: the VM ends with it, without a word to the arbiter.
                    Err(_) => return self.finish(Ended::Agent),
                },
                default(wait) => self.feed(Event::Tick),
            }
            // Whatever keeps coming must not keep the heartbeats back.
            if self.protocol.deadline().is_some_and(|at| now() >= at) {
                self.feed(Event::Tick);
            }
            if let Some((session, epoch)) = self.spared.take() {
                self.feed(Event::CheckpointSpared(session, epoch));
            }
            self.mend();
            if let Some((host, gaps)) = self.link_notes.news(self.protocol.learnt(), self.ended.is_some()) {
                self.context.note_link(host, gaps);
            }
            if let Some(ended) = self.ended.take() {
                return self.finish(ended);
            }
        }
    }

    fn finish(mut self, ended: Ended) -> Ended {
        let beside = self.beside.take().and_then(|beside| beside.link);
        self.link.take().into_iter().chain(beside).for_each(SessionLink::close);
        self.checkpointer.quit();
        let (images, tap) = (self.machine.disks.images(), Arc::clone(self.machine.disks.tap()));
        let shared = self.machine.disks.handed_over();
        if ended == Ended::Fenced {
            self.context.keep_remnant(self.handle.name(), self.machine.computer.memory().cloned());
        }
        self.machine.end();
        // Not when the agent ends: it dies now.
        if let Some(marker) = tap.marker().filter(|_| ended != Ended::Agent) {
            marker.close();
        }
        if let Ended::Stopped(_) = ended {
            let synced = disks::sync(&images);
            let content = if synced.is_ok() { Content::Stopped } else { Content::Running };
            if let Err(error) = synced.and(disks::sync(&shared)) {
                tracing::error!(vm = %self.handle.name(), %error, "the disks may lack the last writes");
            }
            if !images.is_empty() {
                label_disks(&self.context, &self.handle, content, self.protocol.term());
            }
        }
        ended
    }

    fn until_deadline(&self) -> Duration {
        let now = now();
        let unprotected = self.protocol.phase() == PhaseName::Unprotected;
        let due = self.repair.due(now).filter(|_| unprotected);
        let at = self.protocol.deadline().into_iter().chain(due).min();
        at.map_or(LOOK, |at| Duration::from_micros(at.since(now).0))
    }

    fn feed(&mut self, event: Event) {
        let mut actions = std::mem::take(&mut self.actions);
        let (now, term) = (now(), self.protocol.term());
        // This loop may not have run for a while.
        self.protocol.wake(now);
        self.protocol.handle(now, event, &mut actions);
        // A term that was won here: before anything is written in it, the disks say that they belong to it.
        if self.protocol.term() != term && self.machine.disks.are_copied() {
            label_disks(&self.context, &self.handle, Content::Running, self.protocol.term());
        }
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
            Action::Connect(session, peer) => self.connect(session, &peer),
            Action::Send(session, message) => {
                if let Some(link) = self.link_of(session) {
                    link.outbox.to_backup(&message);
                }
            }
            Action::StartCopy(session, offer) => self.start_copy(session, offer),
            Action::Compared(session, hashes) => self.checkpointer.send(Job::Hashes(session, hashes)),
            Action::Reached(session) => self.checkpointer.send(Job::Reached(session)),
            Action::Acknowledged(session, epoch) => self.acknowledged(session, epoch),
            Action::TakeCheckpoint { session, epoch, spare: Some(least), .. }
                if self.guest_did_less(least) =>
            {
                self.spared = Some((session, epoch));
            }
            Action::TakeCheckpoint { session, epoch, cut, last, with, .. } => {
                self.checkpointer.send(Job::Checkpoint { session, epoch, cut, last, with });
            }
            Action::SendCheckpoint(session, epoch) => self.send_checkpoint(session, epoch),
            Action::EndSession(session) => self.end_session(session),
            Action::Succeed(session) => self.succeed(session),
            Action::Release(epoch) => self.gate("release output", |gate| gate.release(epoch)),
            Action::HoldOutput => self.gate("hold output", net::Gate::hold),
            // Behind a checkpoint that is being taken: it must find the gate as it began.
            Action::OpenOutput => self.checkpointer.send(Job::OpenOutput),
            Action::Slow(session, percent) => self.checkpointer.send(Job::Slow(session, percent)),
            Action::Pause => self.checkpointer.send(Job::Pause),
            Action::Resume(permit) => self.checkpointer.send(Job::Resume(permit)),
            Action::Claim(claim) => self.claim(claim),
            Action::Fence => {
                // Order matters: silence first, then the end of the process.
                self.machine.gate.discard();
                self.ended = Some(Ended::Fenced);
            }
            Action::Shutdown => self.ended = Some(Ended::Stopped(self.protocol.term())),
            Action::Notice(notice) => {
                self.learn(&notice);
                self.tell(&notice);
                self.learn_of_migration(&notice);
            }
        }
    }

    /// Whether the guest ran for less than that since the last checkpoint, and nothing of it waits for one.
    fn guest_did_less(&self, least: Micros) -> bool {
        let Machine { gate, disks, .. } = &self.machine;
        gate.queued() == (0, 0) && disks.tap().bytes() == 0 && self.checkpointer.guest_ran_less(least)
    }

    /// Tells the operator. Why protection could not begin stays in the VM's status until it begins.
    fn tell(&mut self, notice: &Notice) {
        let name = self.handle.name();
        match notice {
            Notice::ProtectFailed { .. } => {
                self.handle.set_not_protected(Some(crate::words::of(name, notice, None)));
            }
            Notice::Copying { .. } | Notice::Migrating { .. } => self.handle.set_not_protected(None),
            _ => {}
        }
        self.context.notice(name, notice, &mut self.incident);
    }

    fn start_copy(&mut self, session: Session, offer: Offer) {
        let base = Base { term: self.protocol.term(), session };
        let Some(link) = self.link_of(session) else { return };
        let outbox = link.outbox.clone();
        // The other host has opened what it was shown.
        self.proofs = Proofs::default();
        let copied = Some(copied::Copied::begin(Arc::clone(outbox.copy_wire())));
        let begin = Box::new(Begin { base, outbox, offer, rate: self.copy_rate });
        match self.beside.as_mut().filter(|beside| beside.session == session) {
            Some(beside) => {
                beside.copied = copied;
                self.checkpointer.send(Job::CopyBeside(begin));
            }
            None => {
                self.copied = copied;
                self.checkpointer.send(Job::Copy { begin, migration: self.policy.take() });
            }
        }
    }

    /// The backup has an epoch: what it wrote to the disks is no difference any more.
    fn acknowledged(&mut self, session: Session, epoch: Epoch) {
        if self.link_of(session).is_none() {
            return;
        }
        let tap = self.machine.disks.tap();
        tap.meter().acknowledged(epoch);
        if let Some(marker) = tap.marker()
            && marker.map().acknowledged(epoch)
        {
            marker.clean();
        }
        let (name, events) = (self.handle.name(), &self.context.events);
        let Some((copied, peer)) = self.copied.take().zip(self.protocol.peer()) else { return };
        if let Some(report) = copied.memory(peer) {
            events.log(name, &report, report.words(name));
        }
        if let Some(report) = copied.report(peer, tap.meter()) {
            events.log(name, &report, report.words(name));
        }
    }

    fn gate(&self, what: &str, act: impl FnOnce(&net::Gate) -> Result<(), net::GateError>) {
        if let Err(error) = act(&self.machine.gate) {
            tracing::warn!(vm = %self.handle.name(), %error, "cannot {what}");
        }
    }

    fn link_of(&self, session: Session) -> Option<&SessionLink> {
        let beside = self.beside.as_ref().and_then(|beside| beside.link.as_ref());
        self.link.iter().chain(beside).find(|link| link.session == session)
    }

    fn connect(&mut self, session: Session, peer: &protocol::HostName) {
        if self.protocol.successor().is_some() {
            self.beside = Some(Beside::new(session));
        } else {
            lock(&self.measurements).restart();
        }
        let Some(addresses) = self.context.config.peers.get(peer).map(|peer| peer.addresses.clone()) else {
            let why =
                LinkLoss::Connect(format!("{peer} is not among the peers in this host's configuration"));
            return self.incoming.0.send((session, Incoming::Gone(why))).unwrap_or(());
        };
        let call = session::Call {
            peer: peer.clone(),
            addresses: addresses.to_vec(),
            identity: (self.handle.id(), self.protocol.term(), session),
            handle: Arc::clone(&self.handle),
            incoming: self.incoming.0.clone(),
            measurements: Arc::clone(&self.measurements),
        };
        call.start(&self.context);
    }

    fn on_incoming(&mut self, session: Session, message: Incoming) {
        match message {
            Incoming::Connected(link) if self.is_beside(session) => {
                if let Some(beside) = &mut self.beside {
                    beside.link = Some(link);
                }
                self.feed(Event::Connected(session));
            }
            // A session that was given up while it connected is closed by dropping its link.
            Incoming::Connected(_) if self.protocol.phase() != PhaseName::Opening => {}
            Incoming::Connected(link) => {
                self.share_input(&link.outbox, 0);
                self.link = Some(link);
                self.feed(Event::Connected(session));
            }
            Incoming::Message(message) => {
                let present = !self.is_beside(session);
                if let protocol::wire::ToPrimary::Ack(epoch, _) = message
                    && present
                {
                    lock(&self.measurements).acknowledged(epoch.0, os::clock::realtime_us());
                }
                if message == protocol::wire::ToPrimary::Leaving && present && self.link_of(session).is_some()
                {
                    self.backup_leaves();
                }
                self.feed(Event::Message(session, message));
            }
            Incoming::Gone(why) => self.feed(Event::Disconnected(session, why)),
        }
    }

    fn end_session(&mut self, session: Session) {
        if self.is_beside(session) {
            return self.end_beside();
        }
        if let Some(link) = self.link.take_if(|link| link.session == session) {
            link.close();
        }
        self.machine.gate.observe_input(None);
        self.staged = None;
        self.proofs = Proofs::default();
        self.handle.set_copy(None);
        self.checkpointer.send(Job::EndSession(session));
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::CopyProgress(progress) => self.handle.set_copy(Some(progress)),
            Done::Round(told) => self.on_round(*told),
            Done::GivenUp(session, why) => self.feed(Event::Disconnected(session, LinkLoss::GivenUp(why))),
            Done::Copied(session) => {
                self.handle.set_copy(None);
                self.feed(Event::Copied(session));
            }
            Done::Checkpoint(session, staged) => {
                let epoch = staged.epoch;
                let pause = protocol::Micros(staged.record.pause_us);
                let taken = Taken {
                    cut_at: staged.cut_at,
                    pause,
                    busy: staged.busy,
                    waited: staged.waited,
                    pages: staged.record.dirty_pages,
                };
                let mut record = staged.record;
                self.stopped_for_migration(record.at_us);
                record.term = self.protocol.term().0;
                lock(&self.measurements).cut(record);
                self.stage(*staged);
                self.feed(Event::CheckpointTaken { session, epoch, taken });
            }
            Done::Failed { session, why, resumable } => {
                let event = if resumable {
                    Event::CheckpointFailed { session, why }
                } else {
                    Event::Disconnected(session, LinkLoss::Checkpoint(why))
                };
                self.feed(event);
            }
            Done::VmLost(why) => self.feed(Event::VmDied(why)),
            Done::Warning(text) => self.handle.warn(text),
        }
    }

    fn send_checkpoint(&mut self, session: Session, epoch: protocol::Epoch) {
        if self.is_beside(session) {
            return self.send_joint();
        }
        let Some(staged) = self.staged.take_if(|staged| staged.epoch == epoch) else { return };
        if let Some(link) = self.link_of(session) {
            staged.send(&link.outbox);
        }
    }

    fn claim(&self, claim: Claim) {
        let reply = self.claims.0.clone();
        crate::claims::ask(&self.context.arbiter, claim, move |claim, answer| {
            let _ = reply.send((claim, answer));
        });
    }

    fn on_machine_event(&mut self, event: Option<crate::machine::MachineEvent>) {
        use crate::machine::MachineEvent;
        match event {
            Some(MachineEvent::GuestShutdown) => self.feed(Event::GuestShutdown),
            Some(MachineEvent::Died(why)) => self.feed(Event::VmDied(why)),
            Some(MachineEvent::Warning(text)) => self.handle.warn(text),
            None => self.feed(Event::VmDied("its control connection is gone".into())),
        }
    }

    fn on_gate_event(&mut self, event: net::GateEvent) {
        match event {
            net::GateEvent::PortClosed { port, side, reason } => {
                self.handle.warn(format!("the gate's port {port} is closed on its {side:?} side: {reason}"))
            }
            net::GateEvent::OutputWaits { epoch, since_us } => {
                self.feed(Event::OutputWaits(epoch, protocol::Instant(since_us)));
            }
        }
    }

    /// Begins to bring up a backup, the VM's first or another, at no more than so many bytes a second.
    fn begin_protection(
        &mut self,
        (plan, to): (&Plan, &protocol::HostName),
        rate: Option<u64>,
        command: fn(protocol::HostName, Timing, Vec<u8>) -> Command,
    ) -> Result<(), ApiError> {
        if let Some(why) = self.machine.disks.unprotectable() {
            let message = format!("VM {} cannot be protected: {why}", self.handle.name());
            return Err(ApiError::new(ErrorCode::Refused, message));
        }
        let Approach { timing, machine, proofs } = self.approach(to, Some(plan), Some(&plan.request))?;
        let request = &plan.request;
        let configured = self.context.config.copy_rate.map(|rate| rate.0);
        self.copy_rate = rate.or(request.copy_rate).or(configured).filter(|&rate| rate > 0);
        self.open(command(to.clone(), timing, machine), proofs)?;
        if let Pacing::Follow(follow) = timing.pacing {
            let longest = Duration::from_micros(follow.max_latency.0);
            self.machine.gate.linger(longest, self.checkpointer.guest_works());
        }
        self.handle.set_copy_rate(self.copy_rate);
        self.handle.set_interval(timing.interval, request.follow);
        Ok(())
    }

    /// Begins to protect the VM on a host.
    fn protect(&mut self, plan: &Plan, to: &protocol::HostName) -> Result<(), ApiError> {
        let command = |peer, timing, machine| Command::Protect { peer, timing, machine };
        self.begin_protection((plan, to), None, command)
    }

    /// Whether a host may be given this VM.
    fn check_peer(&self, to: &protocol::HostName) -> Result<(), ApiError> {
        let Some(peer) = self.context.config.peers.get(to) else {
            let known: Vec<_> = self.context.config.peers.keys().map(|peer| peer.as_str()).collect();
            let message = format!("{to} is not among this host's peers ({})", known.join(", "));
            return Err(ApiError::new(ErrorCode::Invalid, message));
        };
        if peer.is_given(self.handle.name()) {
            return Ok(());
        }
        Err(ApiError::new(ErrorCode::Refused, crate::peers::not_given(self.handle.name(), to)))
    }

    /// What a session with a host begins with: its times, by the request if there is one, and the VM's description with
    /// the plan for the next owner.
    fn approach(
        &mut self,
        to: &protocol::HostName,
        plan: Option<&Plan>,
        request: Option<&ProtectRequest>,
    ) -> Result<Approach, ApiError> {
        self.check_peer(to)?;
        let refused = |message: String| ApiError::new(ErrorCode::Refused, message);
        waited_for("whether its memory can be tracked", || self.machine.check_protectable())
            .map_err(|error| refused(error.to_string()))?;
        let identity = waited_for("the arbiter's identity", || self.context.arbiter.identity())
            .map_err(|error| refused(error.to_string()))?;
        let plan = plan.map(|plan| plan.clone().after_losses(self.repair.losses(to)));
        let (machine, proofs) =
            waited_for("the machine's description", || self.machine.describe(&identity, plan.as_ref()))
                .map_err(|error| refused(error.to_string()))?;
        let interval =
            request.map_or(Timing::default().interval, |request| protocol::Micros(request.interval_us));
        let mut timing =
            self.context.config.timing(interval, request.and_then(|request| request.max_in_flight));
        let follow = request.and_then(|request| request.follow);
        timing.max_slowdown = request.and_then(|request| request.max_slowdown).unwrap_or(timing.max_slowdown);
        timing.pacing = follow.map_or(Pacing::Even, |follow| Pacing::Follow(follow.into()));
        if let Some(gaps) = self.context.known_link(to) {
            self.protocol.recall(to, gaps);
        }
        match timing.check() {
            Ok(()) => Ok(Approach { timing, machine, proofs }),
            Err(error) => Err(ApiError::new(ErrorCode::Invalid, error.to_string())),
        }
    }

    /// Begins a session with the host that was approached.
    fn open(&mut self, command: Command, proofs: Proofs) -> Result<(), ApiError> {
        self.command(command).map_err(|error| self.refused(&error))?;
        self.proofs = proofs;
        Ok(())
    }

    fn command(&mut self, command: Command) -> Result<(), CommandError> {
        let mut actions = std::mem::take(&mut self.actions);
        let result = self.protocol.command(now(), command, &mut actions);
        self.carry_out(actions);
        result
    }

    fn publish(&self) {
        if let Some(trouble) = self.machine.disks.tap().marker().and_then(|marker| marker.new_trouble()) {
            self.handle.warn(trouble);
        }
        let (epoch, acked, in_flight) = self.protocol.progress().unwrap_or_default();
        let (throttled_total, throttled) = self.protocol.throttled();
        self.handle.publish(Snapshot {
            phase: name_of(&self.protocol.phase()),
            term: self.protocol.term(),
            peer: self.protocol.peer().cloned(),
            successor: self.protocol.successor().map(|(host, _)| host.clone()),
            epoch,
            acked,
            in_flight,
            throttled,
            throttled_total,
            slowed: self.protocol.slowed(),
            pacing: self.protocol.pacing().unwrap_or_default(),
            agent_bytes: self.checkpointer.bytes(),
            listening: self.protocol.listening(),
        });
        self.handle.attach_measurements(&self.measurements, &self.machine.gate);
    }
}

/// Says whose the disks are. A label that cannot be written does not stop a healthy guest: it counts when all hosts are
/// dead, and then an operator must decide.
fn label_disks(context: &Context, handle: &VmHandle, content: Content, term: protocol::Term) {
    let label = Label::of(&context.config, handle.name());
    if let Err(error) = label.write(content, term, Session(0), Epoch(0)) {
        handle.warn(error.to_string());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
