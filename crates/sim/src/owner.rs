//! Owns an owner's engine: it carries out what a primary's machine decides on the model guest.
//!
//! # Fault model
//! A checkpoint may fail before the gate is cut; its dirty pages are given back and the VM stands as it stood. A
//! VM's process may die, a guest may shut down, at any time. [`Action::EndSession`] cancels a checkpoint under way
//! at once: the engine keeps that promise, since a cut that ends after its session would leave the VM paused or
//! the gate holding with nobody to undo it.

mod change;
mod checkpoint;

use self::change::Second;
use self::checkpoint::pages_of;
use crate::event::{Event, HostId, Job, MachineId};
use crate::failure::Class;
use crate::gate::{Gate, Mode};
use crate::guest::{Devices, Guest, Page};
use crate::guest_disk::{DiskPort, Tapped};
use crate::host::{Host, Posted, Role};
use crate::network::ConnId;
use crate::report::Count;
use crate::world::World;
use protocol::notice::{LinkLoss, Notice};
use protocol::primary::{Action, ChangeStage, Command, Event as PrimaryEvent, PhaseName, Primary};
use protocol::repair::Repair as Policy;
use protocol::resync::{MemoryOffer, Offer, Repair};
use protocol::wire::compare::Ask;
use protocol::wire::known::KnownPages;
use protocol::wire::{Inbound, Outbound, Refusal, ToBackup, ToPrimary};
use protocol::{Epoch, HostName, Instant, Session, Term};
use std::collections::BTreeMap;

/// A VM's process and its gate.
#[derive(Debug)]
pub(crate) struct Vm {
    pub(crate) guest: Guest,
    pub(crate) gate: Gate,
    pub(crate) runs: bool,
    pub(crate) stopped_at: u64,
    pub(crate) input: Vec<u64>,
    /// Changes of the disk that no checkpoint has taken yet, from the first copy on.
    pub(crate) tap: Option<Vec<Tapped>>,
    /// It loses so many percent of its time.
    slowed: u8,
    /// A step is on the queue.
    stepping: bool,
}

impl Vm {
    pub(crate) fn new(guest: Guest, mode: Mode) -> Self {
        let gate = Gate::new(mode);
        Self {
            guest,
            gate,
            runs: false,
            stopped_at: 0,
            input: Vec::new(),
            tap: None,
            slowed: 0,
            stepping: false,
        }
    }
}

/// A checkpoint being taken.
#[derive(Debug)]
struct Cut {
    number: u64,
    session: Session,
    epoch: Epoch,
    last: bool,
    /// As the gate numbers it.
    cut: Epoch,
    /// It is the first one of the second session, too.
    with: Option<Session>,
    /// Made at the cut, on the host's clock.
    cut_at: Option<Instant>,
}

/// What a checkpoint gathered.
#[derive(Debug)]
struct Gathered {
    /// Of them those that were not sent yet.
    pages: Vec<(u64, Page)>,
    dirty: usize,
    disk: Vec<Tapped>,
    devices: Devices,
    console: Vec<(u64, u64)>,
    cut_at: Instant,
    last: bool,
}

/// Room for pages that the backup is known to have: fewer than a guest has.
const KNOWN: usize = 10;

#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) id: MachineId,
    pub(crate) machine: Primary,
    /// Who protects the VM again after a loss.
    pub(crate) policy: Policy,
    pub(crate) vm: Option<Vm>,
    link: Option<(Session, Option<ConnId>)>,
    /// The session with the host that shall be the backup.
    pub(crate) second: Option<Second>,
    /// What the session's backup has of disk and memory, and what is asked about it.
    pub(crate) offer: Offer,
    pub(crate) asked: Option<Ask>,
    cut: Option<Cut>,
    cuts: u64,
    gathered: BTreeMap<Epoch, Gathered>,
    /// Frames and bytes of the open epoch that are sent already.
    early: (u64, u64),
    /// The session whose last checkpoint was sent.
    complete: Option<Session>,
    /// What the session's backup was sent: room for some of the guest's pages.
    known: KnownPages,
    purpose_asked: bool,
    /// It gave the VM away and has not heard what became of it.
    yielded: bool,
    /// The VM is being migrated, and its only checkpoint was not sent.
    migrates: bool,
    /// It was.
    departed: bool,
}

impl Owner {
    pub(crate) fn new(id: MachineId, machine: Primary, policy: Policy, vm: Vm) -> Self {
        Self {
            id,
            machine,
            policy,
            vm: Some(vm),
            link: None,
            second: None,
            offer: Offer::default(),
            asked: None,
            cut: None,
            cuts: 0,
            gathered: BTreeMap::new(),
            early: (0, 0),
            complete: None,
            known: KnownPages::new(KNOWN),
            purpose_asked: false,
            yielded: false,
            migrates: false,
            departed: false,
        }
    }

    pub(crate) fn takes_checkpoint(&self) -> bool {
        self.cut.is_some()
    }

    pub(crate) fn in_session(&self, session: Session) -> bool {
        self.link.as_ref().is_some_and(|&(current, _)| current == session)
    }

    fn in_either(&self, session: Session) -> bool {
        self.in_session(session) || self.second.as_ref().is_some_and(|second| second.session == session)
    }
}

impl World {
    pub(crate) fn owner(&mut self, host: HostId) -> Option<&mut Owner> {
        match &mut self.hosts[host.0].role {
            Role::Owner(owner) => Some(owner),
            _ => None,
        }
    }

    pub(crate) fn owner_vm(&mut self, host: HostId) -> Option<&mut Vm> {
        self.owner(host)?.vm.as_mut()
    }

    pub(crate) fn command_primary(&mut self, host: HostId, command: Command) {
        let now = self.clock(host);
        let mut out = Vec::new();
        let Some(owner) = self.owner(host) else { return };
        if command == Command::Unprotect {
            owner.policy.off();
        }
        let (throttled, cutting) = (owner.machine.throttled().1, owner.takes_checkpoint());
        let leaves = matches!(command, Command::Unprotect | Command::Stop);
        let fails_over = command == Command::Failover;
        let cancels = command == Command::KeepBackup;
        if let Command::Protect { peer, .. } | Command::Migrate { peer, .. } = &command
            && let Some(gaps) = self.hosts[host.0].links.of(peer)
            && let Some(owner) = self.owner(host)
        {
            owner.machine.recall(peer, gaps);
        }
        let Some(owner) = self.owner(host) else { return };
        let result = owner.machine.command(now, command.clone(), &mut out);
        if result.is_ok() {
            let cancelled = core::mem::take(&mut owner.migrates) && command == Command::Unprotect;
            owner.migrates = matches!(command, Command::Migrate { .. });
            self.report.add(Count::ChangesCancelled, u64::from(cancels));
            self.report.add(Count::MigrationsCancelled, u64::from(cancelled));
        }
        let Some(owner) = self.owner(host) else { return };
        if result.is_ok() {
            owner.purpose_asked |= leaves;
            self.report.add(Count::FailoversWhileThrottled, u64::from(fails_over && throttled));
            self.report.add(Count::FailoversDuringCheckpoint, u64::from(fails_over && cutting));
        }
        self.trace.line(self.now, || format!("{host:?} command {:?} {result:?}", Brief(&command)));
        self.carry_out(host, out);
    }

    /// Hands an event to the host's primary, if it (still) has that machine.
    pub(crate) fn drive_primary(&mut self, host: HostId, machine: Option<MachineId>, event: PrimaryEvent) {
        let now = self.clock(host);
        let Some(owner) = self.owner(host) else { return };
        if machine.is_some_and(|machine| machine != owner.id) {
            return;
        }
        let stale = event.session().is_some_and(|session| !owner.in_either(session));
        let declined = matches!(event, PrimaryEvent::Message(_, ToPrimary::Declined(_)));
        let line = (self.trace.on() && !matches!(event, PrimaryEvent::Tick)).then(|| format!("{event:?}"));
        let Some(owner) = self.owner(host) else { return };
        let mut out = Vec::new();
        let before = owner.machine.phase();
        let joint = owner.machine.successor().is_some_and(|(_, stage)| stage == ChangeStage::Joint);
        owner.machine.wake(now);
        owner.machine.handle(now, event, &mut out);
        let after = owner.machine.phase();
        self.report.add(Count::StaleEvents, u64::from(stale));
        self.report.add(Count::ChangesLost, u64::from(joint && after == PhaseName::Claiming));
        self.report.add(Count::Declined, u64::from(declined && after == PhaseName::Claiming));
        if let Some(line) = line {
            self.trace.line(self.now, || format!("{host:?} primary <- {line:.150}"));
        }
        if before != after {
            self.note_link(host);
            self.trace.fold(after as u64);
            self.trace.line(self.now, || format!("{host:?} primary {before:?} -> {after:?}"));
            self.count_transition(host, before, after);
        }
        self.carry_out(host, out);
        self.check_deadline(host);
    }

    /// The host hears what was learnt of the link, in whichever role.
    pub(crate) fn note_link(&mut self, id: HostId) {
        let now = self.clock(id);
        let Host { role, links, .. } = self.host(id);
        let learnt = match role {
            Role::Owner(owner) => owner.machine.learnt(),
            Role::Standby(standby) => standby.machine.learnt(),
            Role::Idle => None,
        };
        learnt.into_iter().for_each(|(peer, gaps)| links.note(now, peer, gaps));
    }

    fn count_transition(&mut self, host: HostId, before: PhaseName, after: PhaseName) {
        let Some(owner) = self.owner(host) else { return };
        let (purpose, yielded) = (core::mem::take(&mut owner.purpose_asked), owner.yielded);
        let departed = owner.departed;
        let paused = owner.vm.as_ref().is_some_and(|vm| !vm.runs);
        use PhaseName::{Claiming, Ended, Protected, Unprotected, Yielded};
        match (before, after) {
            (Claiming, Unprotected | Ended) if purpose => self.report.add(Count::LeftAfterLoss, 1),
            (Protected, Unprotected | Ended) if purpose => self.report.add(Count::LeftOnPurpose, 1),
            (Claiming, Unprotected) => self.report.add(Count::WentOnUnprotected, 1),
            _ => {}
        }
        if let Some(owner) = self.owner(host) {
            owner.yielded = after == Yielded || (owner.yielded && after == Claiming);
            owner.departed &= after != Unprotected;
        }
        self.report.add(Count::HandoversTakenBack, u64::from(yielded && after == Unprotected));
        self.report.add(Count::DeparturesTakenBack, u64::from(departed && after == Unprotected));
        if after == Claiming {
            self.report.add(Count::ClaimedWhilePaused, u64::from(paused));
            if let Some(owner) = self.owner(host) {
                owner.purpose_asked = purpose;
            }
        }
    }

    pub(crate) fn carry_out(&mut self, host: HostId, actions: Vec<Action>) {
        let mut ended = false;
        for action in actions {
            if !matches!(action, Action::Send(_, ToBackup::Heartbeat(_))) {
                self.trace.line(self.now, || format!("{host:?} primary -> {:.150}", format!("{action:?}")));
            }
            ended |= matches!(action, Action::Fence | Action::Shutdown);
            self.primary_action(host, action);
        }
        if ended {
            self.end_owner(host);
        }
    }

    fn primary_action(&mut self, host: HostId, action: Action) {
        match action {
            Action::Connect(session, peer) => self.connect(host, session, peer),
            Action::Send(session, message) => self.send_to_backup(host, session, &message),
            Action::StartCopy(session, offer) => {
                if self.copy_second(host, session, &offer) {
                    return;
                }
                self.begin_session(host, session);
                if let Some(owner) = self.owner(host) {
                    let id = owner.id;
                    (owner.offer, owner.asked) = (offer, None);
                    if let Some(vm) = &mut owner.vm {
                        vm.guest.give_back_dirty(u64::MAX);
                    }
                    self.job(host, 100, Job::Copy(id, session, 0));
                }
            }
            Action::Compared(session, hashes) => self.compared(host, session, &hashes),
            Action::Reached(session) => self.copied(host, session),
            Action::Acknowledged(session, epoch) => self.note_acknowledged(host, session, epoch),
            Action::TakeCheckpoint { session, epoch, cut, last, with, spare } => {
                if spare.is_none() || !self.spares(host, session, epoch) {
                    self.begin_cut(host, session, (epoch, cut), (last, with));
                }
            }
            Action::SendCheckpoint(session, epoch) => self.send_checkpoint(host, session, epoch),
            Action::EndSession(session) => self.end_session(host, session),
            Action::Succeed(session) => self.succeed(host, session),
            Action::Release(epoch) => {
                let released = self.owner_vm(host).map(|vm| vm.gate.release(epoch));
                self.emit(host, released.unwrap_or_default(), Mode::Holding);
            }
            Action::HoldOutput => {
                if let Some(vm) = self.owner_vm(host) {
                    vm.gate.hold();
                }
            }
            Action::OpenOutput => {
                self.stamp_term(host);
                let passed = self.owner_vm(host).map(|vm| vm.gate.open());
                self.emit(host, passed.unwrap_or_default(), Mode::Open);
            }
            Action::Slow(session, percent) => {
                assert!(percent <= self.plan.timing.max_slowdown, "slowed by {percent} %");
                let owner = self.owner(host).filter(|owner| owner.in_session(session));
                if let Some(vm) = owner.and_then(|owner| owner.vm.as_mut()) {
                    vm.slowed = percent;
                }
            }
            Action::Pause => self.pause(host),
            Action::Resume(permit) => {
                self.check_owner(host, permit.term(), "resumed the VM");
                self.resume(host);
            }
            Action::Claim(claim) => self.ask_arbiter(host, claim),
            Action::Fence => {
                self.check_fence(host);
                if let Some(vm) = self.owner_vm(host) {
                    vm.gate.fence();
                }
            }
            Action::Shutdown => self.on_purpose = self.owner_vm(host).is_some(),
            Action::Notice(notice) => {
                self.learn(host, &notice);
                self.note_primary(&notice);
            }
        }
    }

    /// The policy hears how its steps went.
    fn learn(&mut self, host: HostId, notice: &Notice) {
        let now = self.clock(host);
        let Some(owner) = self.owner(host) else { return };
        match notice {
            Notice::Protected { peer, .. } => owner.policy.protected(now, peer),
            Notice::ProtectFailed { peer, why } | Notice::ChangeFailed { peer, why } => {
                let busy = matches!(why, LinkLoss::Refused(Refusal::Busy { .. }));
                owner.policy.failed(now, peer, "refused", busy);
            }
            Notice::MigrationFailed { peer, .. } => {
                owner.migrates = false;
                owner.policy.failed(now, peer, "not there", false);
            }
            Notice::Departing { .. } => (owner.migrates, owner.departed) = (false, true),
            Notice::BackupLost { peer, .. } => owner.policy.lost(now, peer, "lost"),
            _ => {}
        }
    }

    fn note_primary(&mut self, notice: &Notice) {
        let count = match notice {
            Notice::Protected { .. } => Count::Protections,
            Notice::ProtectFailed { .. } => Count::ProtectFailed,
            Notice::Migrating { .. } => Count::MigrationsBegun,
            Notice::MigrationFailed { .. } => Count::MigrationsFailed,
            Notice::Departing { .. } => Count::Departures,
            Notice::CheckpointFailed { .. } => Count::CheckpointsFailed,
            Notice::BackupLost { why: LinkLoss::Stalled(_), .. } => Count::Stalled,
            Notice::BackupLost { why: LinkLoss::Silent(_), .. } => Count::BackupsSilent,
            Notice::BackupLost { why: LinkLoss::Unheard(_), .. } => Count::Unheard,
            Notice::ArbiterUnreachable { .. } => Count::ArbiterSilent,
            Notice::Fenced { .. } => Count::Fences,
            Notice::Throttled { .. } => Count::Throttled,
            Notice::Slowed { .. } => Count::Slowed,
            Notice::HandoverFailed { .. } => Count::HandoversFailed,
            _ => return,
        };
        self.report.add(count, 1);
    }

    fn end_owner(&mut self, host: HostId) {
        let first = self.owner(host).and_then(|owner| owner.link?.1);
        let second = self.owner(host).and_then(|owner| owner.second.as_ref()?.conn);
        for conn in first.into_iter().chain(second) {
            self.close_socket(host, conn, "the VM ended here");
        }
        let Host { role, remnant, .. } = self.host(host);
        if let Role::Owner(owner) = core::mem::replace(role, Role::Idle) {
            *remnant = owner.vm.map(|vm| vm.guest.pages);
        }
    }

    fn connect(&mut self, host: HostId, session: Session, peer: HostName) {
        if let Some(owner) = self.owner(host) {
            if owner.link.is_some() {
                owner.second = Some(Second::new(session));
            } else {
                owner.link = Some((session, None));
                owner.gathered.clear();
                owner.known = KnownPages::new(KNOWN);
                owner.early = (0, 0);
            }
            let id = owner.id;
            let after = 2 * self.rng.between(self.plan.delay.0, self.plan.delay.1);
            self.job(host, after, Job::Connect(id, session, peer));
        }
    }

    pub(crate) fn connected(&mut self, host: HostId, id: MachineId, session: Session, peer: &HostName) {
        let Some(owner) = self.owner(host).filter(|owner| owner.id == id && owner.in_either(session)) else {
            return;
        };
        let term = owner.machine.term();
        let to = self.host_named(peer).filter(|to| self.hosts[to.0].up);
        let Some(to) = to.filter(|&to| !self.net.is_cut(host, to) && !self.net.is_cut(to, host)) else {
            let why = LinkLoss::Connect("no route".into());
            return self.post(host, Posted::ToPrimary(id, PrimaryEvent::Disconnected(session, why)));
        };
        let conn = self.net.connect(host, to);
        if let Some(second) = self.second(host, session) {
            second.conn = Some(conn);
        } else if let Some(owner) = self.owner(host) {
            owner.link = Some((session, Some(conn)));
        }
        let vm = self.vm_id;
        let (inbound, outbound) = (Inbound::new(vm, term, session), Outbound::new(vm, term, session));
        self.open_socket(host, conn, Some((id, session, inbound, outbound)));
        self.open_socket(to, conn, None);
        self.post(host, Posted::ToPrimary(id, PrimaryEvent::Connected(session)));
    }

    pub(crate) fn session_conn(&mut self, host: HostId, session: Session) -> Option<ConnId> {
        match self.second(host, session) {
            Some(second) => second.conn,
            None => self.owner(host)?.link.filter(|link| link.0 == session)?.1,
        }
    }

    pub(crate) fn send_to_backup(&mut self, host: HostId, session: Session, message: &ToBackup) {
        if let Some(conn) = self.session_conn(host, session) {
            let (kind, epoch, body) = message.encode();
            self.send_frame(host, conn, kind, epoch, &body);
        }
    }

    fn end_session(&mut self, host: HostId, session: Session) {
        if let Some(conn) = self.session_conn(host, session) {
            self.close_socket(host, conn, "the session ended");
        }
        let Host { role: Role::Owner(owner), storage, .. } = self.host(host) else { return };
        owner.second.take_if(|second| second.session == session);
        if !owner.in_session(session) {
            return;
        }
        if let Some(map) = &mut storage.map {
            map.end_session();
        }
        owner.link = None;
        owner.gathered.clear();
        if let Some(vm) = &mut owner.vm {
            (vm.tap, vm.slowed) = (None, 0);
        }
        if let Some(cut) = owner.cut.take()
            && cut.cut_at.is_some()
            && !cut.last
        {
            self.resume(host);
        }
    }

    /// A round of the first copy: what is dirty now.
    pub(crate) fn copy_round(&mut self, host: HostId, id: MachineId, session: Session, round: u32) {
        if self.second(host, session).is_some() {
            return self.second_round(host, id, session, round);
        }
        let Some(conn) = self.session_conn(host, session) else { return };
        let Host { role: Role::Owner(owner), storage, .. } = self.host(host) else { return };
        let Some(vm) = owner.vm.as_mut().filter(|_| owner.id == id) else { return };
        let dirty = vm.guest.take_dirty();
        if core::mem::take(&mut owner.offer.memory) == MemoryOffer::Remnant {
            return self.ask_memory(host, session);
        }
        let pages = pages_of(&vm.guest, dirty);
        let tapped = vm.tap.replace(Vec::new()).unwrap_or_default();
        let repair = storage.map.as_ref().map(|map| owner.offer.disks.repair(map)).filter(|_| round == 0);
        self.send_pages(host, conn, (Epoch(0), round == 0), &pages);
        self.count_repair(repair.as_ref());
        if let Some(Repair::Compare(runs) | Repair::CompareAll(runs)) = &repair
            && !runs.is_empty()
        {
            return self.ask(host, session, runs.clone());
        }
        let Host { role: Role::Owner(_), storage, .. } = self.host(host) else { return };
        let disk = match repair {
            Some(Repair::SendAll) => crate::guest_disk::whole(&storage.disk),
            _ => tapped,
        };
        self.send_disk(host, conn, Epoch(0), &disk);
        let after = self.rng.between(1_000, 8_000);
        if round < 2 {
            self.job(host, after, Job::Copy(id, session, round + 1));
        } else if self.owner(host).is_some_and(|owner| owner.migrates) {
            self.send_to_backup(host, session, &ToBackup::Mark);
        } else {
            self.copied(host, session);
        }
    }

    /// What is dirty now is left to the first checkpoint.
    fn copied(&mut self, host: HostId, session: Session) {
        if let Some(id) = self.owner(host).filter(|owner| owner.in_either(session)).map(|owner| owner.id) {
            self.post(host, Posted::ToPrimary(id, PrimaryEvent::Copied(session)));
        }
    }

    /// A term that was won is written down beside the disk before anything leaves in it: should both hosts die, this
    /// disk must be known to be newer than one that an old backup kept.
    fn stamp_term(&mut self, host: HostId) {
        let Host { role: Role::Owner(owner), storage, .. } = self.host(host) else { return };
        if let Some(stamp) = &mut storage.stamp {
            stamp.term = owner.machine.term();
        }
    }

    fn pause(&mut self, host: HostId) {
        let now = self.now;
        if let Some(vm) = self.owner_vm(host)
            && vm.runs
        {
            (vm.runs, vm.stopped_at) = (false, now);
        }
    }

    pub(crate) fn resume(&mut self, host: HostId) {
        if let Some(vm) = self.owner_vm(host) {
            vm.runs = true;
        }
        self.resume_steps(host);
    }

    pub(crate) fn resume_steps(&mut self, host: HostId) {
        let step = self.rng.between(1, self.plan.step);
        let now = self.now;
        let frozen = self.hosts[host.0].guest_frozen;
        let Some(owner) = self.owner(host) else { return };
        let id = owner.id;
        if let Some(vm) = &mut owner.vm
            && vm.runs
            && !vm.stepping
            && !frozen
        {
            vm.stepping = true;
            let at = now + step * 100 / u64::from(100 - vm.slowed);
            self.queue.put(at, Event::Step(host, id));
        }
    }

    /// The guest runs a step.
    pub(crate) fn step(&mut self, host: HostId, id: MachineId) {
        let now = self.now;
        let (agent_frozen, frozen) = (self.hosts[host.0].frozen, self.hosts[host.0].guest_frozen);
        let every = self.plan.disk_every;
        let Host { role: Role::Owner(owner), storage, .. } = self.host(host) else { return };
        let Some(vm) = owner.vm.as_mut().filter(|_| owner.id == id) else { return };
        vm.stepping = false;
        if frozen || !vm.runs {
            return;
        }
        let mut said = Vec::new();
        let mut port =
            DiskPort { disk: &mut storage.disk, map: storage.map.as_mut(), tap: &mut vm.tap, every };
        vm.guest.step(now, &mut vm.input, &mut port, &mut said);
        let waits: Vec<_> = said.into_iter().filter_map(|output| vm.gate.push(now, output)).collect();
        let stored = vm.guest.stored();
        self.checks.note_stored(host, stored);
        if !agent_frozen {
            self.flush_open_gate(host);
        }
        let since = self.clock(host);
        for epoch in waits {
            self.post(host, Posted::ToPrimary(id, PrimaryEvent::OutputWaits(epoch, since)));
        }
        self.resume_steps(host);
    }

    /// Output passes an open gate at once, if the agent is awake.
    pub(crate) fn flush_open_gate(&mut self, host: HostId) {
        if let Some(vm) = self.owner_vm(host)
            && vm.gate.mode == Mode::Open
        {
            let passed = vm.gate.take_all();
            self.emit(host, passed, Mode::Open);
        }
    }

    /// The VM's process dies.
    pub(crate) fn kill_vm(&mut self, host: HostId) {
        if let Some(owner) = self.owner(host)
            && owner.vm.take().is_some()
        {
            let id = owner.id;
            owner.cut = None;
            self.post(host, Posted::ToPrimary(id, PrimaryEvent::VmDied("killed".into())));
        }
    }

    /// The guest shuts down.
    pub(crate) fn shut_down_guest(&mut self, host: HostId) {
        if let Some(owner) = self.owner(host)
            && let Some(vm) = &mut owner.vm
            && !vm.guest.devices.shut_down
        {
            vm.guest.devices.shut_down = true;
            let id = owner.id;
            self.report.add(Count::GuestShutdowns, 1);
            self.post(host, Posted::ToPrimary(id, PrimaryEvent::GuestShutdown));
        }
    }

    /// Only who the arbiter's record of the term names may let the VM run.
    pub(crate) fn check_owner(&mut self, host: HostId, term: Term, what: &str) {
        let owner = self.arbiter.owner(term).cloned();
        if owner.as_ref() != Some(&self.hosts[host.0].name) {
            self.fail(
                Class::Ownership,
                format!("{host:?} {what} in term {term}, which belongs to {owner:?}"),
            );
        }
    }
}

/// Commands without the opaque parts.
struct Brief<'a>(&'a Command);

impl std::fmt::Debug for Brief<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Command::Protect { peer, .. } => write!(f, "Protect on {peer}"),
            Command::Change { peer, .. } => write!(f, "Change to {peer}"),
            Command::Migrate { peer, stop_first, .. } => write!(f, "Migrate to {peer}, {stop_first}"),
            other => write!(f, "{other:?}"),
        }
    }
}
