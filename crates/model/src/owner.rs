//! Owns an owner's engine: it carries out at once what a primary's machine decides, but for checkpoints, which are
//! steps of their own.
//!
//! # Fault model
//! A checkpoint may fail and leave the VM stopped. The VM's process may die.

use crate::gate::{Gate, Mode};
use crate::judge::Snapshot;
use crate::network::{Connection, Item};
use crate::world::{HostId, Role, World};
use protocol::notice::{LinkLoss, Notice};
use protocol::pacing::Taken;
use protocol::primary::{Action, Command, Event, Primary};
use protocol::wire::{Commit, Kind, ToBackup, ToPrimary};
use protocol::{Epoch, Instant, Micros, Session};
use std::collections::VecDeque;

/// Body bytes of an epoch's bulk frames.
pub(crate) const BULK_BYTES: usize = 1;

/// A VM's process and its gate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Vm {
    life: u8,
    step: u8,
    pub(crate) runs: bool,
    pub(crate) gate: Gate,
}

impl Vm {
    /// A VM that runs unprotected, after so many steps.
    pub(crate) fn new(life: u8, step: u8) -> Self {
        Self { life, step, runs: true, gate: Gate::open_one() }
    }
}

/// A checkpoint that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Cut {
    session: Session,
    epoch: Epoch,
    /// As the gate numbers it.
    cut: Epoch,
    last: bool,
    /// It is the first one of the second session, too.
    with: Option<Session>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Owner {
    pub(crate) machine: Primary,
    pub(crate) vm: Option<Vm>,
    link: Option<(Session, usize)>,
    /// The session with the host that shall be the backup.
    second: Option<(Session, usize)>,
    cut: Option<Cut>,
    gathered: Option<(Epoch, Snapshot, Instant, bool)>,
    /// The same for the second session.
    joint: Option<(Epoch, Snapshot, Instant, bool)>,
}

impl Owner {
    pub(crate) fn new(machine: Primary, vm: Vm) -> Self {
        Self { machine, vm: Some(vm), link: None, second: None, cut: None, gathered: None, joint: None }
    }

    pub(crate) fn takes_checkpoint(&self) -> bool {
        self.cut.is_some() && self.vm.is_some()
    }
}

impl World {
    fn owner(&mut self, host: HostId) -> Option<&mut Owner> {
        match &mut self.host(host).role {
            Role::Owner(owner) => Some(owner),
            _ => None,
        }
    }

    fn vm(&mut self, host: HostId) -> Option<&mut Vm> {
        self.owner(host)?.vm.as_mut()
    }

    /// False if the machine refuses the command.
    pub(crate) fn command(&mut self, host: HostId, command: Command) -> bool {
        let now = self.hosts[host.index()].clock;
        let mut out = Vec::new();
        let Some(owner) = self.owner(host) else { return false };
        if owner.machine.command(now, command, &mut out).is_err() {
            return false;
        }
        self.carry_out(host, out, VecDeque::new());
        true
    }

    pub(crate) fn primary_hears(&mut self, host: HostId, session: Session, message: Option<ToPrimary>) {
        let lost = || Event::Disconnected(session, LinkLoss::Disconnected("reset".into()));
        self.drive_primary(host, message.map_or_else(lost, |message| Event::Message(session, message)));
    }

    /// Hands an event to the host's primary, and then what its actions led to at once.
    pub(crate) fn drive_primary(&mut self, host: HostId, event: Event) {
        self.carry_out(host, Vec::new(), VecDeque::from([event]));
    }

    fn carry_out(&mut self, host: HostId, mut actions: Vec<Action>, mut events: VecDeque<Event>) {
        loop {
            for action in actions.drain(..) {
                events.extend(self.primary_action(host, action));
            }
            let now = self.hosts[host.index()].clock;
            let (Some(event), Some(owner)) = (events.pop_front(), self.owner(host)) else { return };
            owner.machine.handle(now, event, &mut actions);
        }
    }

    fn primary_action(&mut self, host: HostId, action: Action) -> Option<Event> {
        match action {
            Action::Connect(session, peer) => return Some(self.connect(host, session, HostId::named(&peer))),
            Action::Send(session, message) => self.send_to_backup(host, session, Item::ToBackup(message)),
            Action::StartCopy(session, _) => {
                self.send_to_backup(
                    host,
                    session,
                    Item::Bulk(Kind::Disk, Epoch(0), Snapshot { life: 0, step: 0 }),
                );
                return Some(Event::Copied(session));
            }
            Action::TakeCheckpoint { session, epoch, cut, last, with, .. } => {
                if let Some(owner) = self.owner(host) {
                    owner.cut = Some(Cut { session, epoch, cut, last, with });
                }
            }
            Action::Succeed(_) => {
                if let Some(owner) = self.owner(host) {
                    core::mem::swap(&mut owner.link, &mut owner.second);
                }
            }
            Action::SendCheckpoint(session, epoch) => self.send_checkpoint(host, session, epoch),
            Action::EndSession(session) => self.end_session(host, session),
            Action::Release(epoch) => {
                let released = self.vm(host).map(|vm| vm.gate.release(epoch));
                self.leave(host, released, Mode::Holding);
            }
            Action::HoldOutput => self.vm(host).into_iter().for_each(|vm| vm.gate.hold()),
            Action::OpenOutput => {
                let passed = self.vm(host).map(|vm| vm.gate.open());
                self.leave(host, passed, Mode::Open);
            }
            Action::Pause => self.vm(host).into_iter().for_each(|vm| vm.runs = false),
            Action::Resume(permit) => {
                self.check_owner(host, permit.term());
                self.vm(host).into_iter().for_each(|vm| vm.runs = true);
            }
            Action::Claim(claim) => self.ask(host, claim),
            Action::Fence => {
                self.check_fence(host);
                self.vm(host).into_iter().for_each(|vm| vm.gate.fence());
                self.end_owner(host);
            }
            Action::Shutdown => self.end_owner(host),
            Action::Notice(Notice::Unprotected { term }) => self.label(host, (term.next(), Session(0))),
            // Which bytes of a disk are sent, and how fast the guest runs, is nothing that the ownership depends on.
            Action::Compared(..)
            | Action::Reached(_)
            | Action::Acknowledged(..)
            | Action::Slow(..)
            | Action::Notice(_) => {}
        }
        None
    }

    fn leave(&mut self, host: HostId, steps: Option<Vec<u8>>, mode: Mode) {
        let Some(life) = self.vm(host).map(|vm| vm.life) else { return };
        for step in steps.into_iter().flatten() {
            self.emit(host, life, step, mode);
        }
    }

    fn end_owner(&mut self, host: HostId) {
        for (_, conn) in self.links(host) {
            self.conns[conn].close(host);
        }
        self.become_idle(host);
    }

    fn connect(&mut self, host: HostId, session: Session, peer: HostId) -> Event {
        let conn = self.conns.len();
        if let Some(owner) = self.owner(host) {
            let link = if owner.link.is_some() { &mut owner.second } else { &mut owner.link };
            *link = Some((session, conn));
            let term = owner.machine.term();
            self.conns.push(Connection::new((host, peer), term, session));
        }
        Event::Connected(session)
    }

    /// Its sessions and their connections.
    fn links(&mut self, host: HostId) -> impl Iterator<Item = (Session, usize)> + use<> {
        let links = self.owner(host).map(|owner| [owner.link, owner.second]);
        links.into_iter().flatten().flatten()
    }

    fn send_to_backup(&mut self, host: HostId, session: Session, item: Item) {
        if let Some((_, conn)) = self.links(host).find(|&(of, _)| of == session) {
            self.conns[conn].send(host, item);
        }
    }

    fn end_session(&mut self, host: HostId, session: Session) {
        let Some(owner) = self.owner(host) else { return };
        if let Some((_, conn)) = owner.second.take_if(|&mut (second, _)| second == session) {
            owner.joint = None;
            return self.conns[conn].close(host);
        }
        let Some((_, conn)) = owner.link.take_if(|&mut (current, _)| current == session) else { return };
        (owner.cut, owner.gathered) = (None, None);
        self.conns[conn].close(host);
    }

    fn send_checkpoint(&mut self, host: HostId, session: Session, epoch: Epoch) {
        let Some(owner) = self.owner(host) else { return };
        let second = owner.second.is_some_and(|(second, _)| second == session);
        let gathered = if second { &mut owner.joint } else { &mut owner.gathered };
        let Some((gathered, snapshot, sent_at, last)) = gathered.take() else { return };
        self.judge.departed = true;
        assert_eq!(gathered, epoch, "a checkpoint is sent as soon as it is taken");
        // Every other epoch changes the disk.
        let kind = if epoch.0.is_multiple_of(2) { Kind::Disk } else { Kind::Pages };
        self.send_to_backup(host, session, Item::Bulk(kind, epoch, snapshot));
        let commit = Commit { frames: 1, bytes: BULK_BYTES as u64, sent_at, last, gate: Vec::new() };
        self.send_to_backup(host, session, Item::ToBackup(ToBackup::Commit(epoch, commit)));
    }

    /// The checkpoint that was asked for is taken.
    pub(crate) fn take_checkpoint(&mut self, host: HostId) {
        let cut_at = self.hosts[host.index()].clock;
        let Some(Owner { vm: Some(vm), cut, gathered, second, joint, .. }) = self.owner(host) else { return };
        let Some(Cut { session, epoch, cut, last, with }) = cut.take() else { return };
        let snapshot = Snapshot { life: vm.life, step: vm.step };
        *gathered = Some((epoch, snapshot, cut_at, last));
        *joint = second.filter(|&(of, _)| with == Some(of)).map(|_| (Epoch(1), snapshot, cut_at, false));
        vm.gate.cut(cut);
        vm.runs = !last;
        let taken = Taken { cut_at, pause: Micros(0), busy: None, waited: false, pages: 0 };
        self.drive_primary(host, Event::CheckpointTaken { session, epoch, taken });
    }

    pub(crate) fn fail_checkpoint(&mut self, host: HostId) {
        let Some(Owner { vm: Some(vm), cut, .. }) = self.owner(host) else { return };
        let Some(Cut { session, .. }) = cut.take() else { return };
        vm.runs = false;
        self.drive_primary(host, Event::CheckpointFailed { session, why: "QEMU said no".into() });
    }

    /// The guest runs a step and says something.
    pub(crate) fn run_guest(&mut self, host: HostId) {
        let Some(vm) = self.vm(host) else { return };
        vm.step += 1;
        let (life, passes) = (vm.life, vm.gate.push(vm.step));
        if let Some(step) = passes {
            self.emit(host, life, step, Mode::Open);
        }
    }

    /// The VM's process dies.
    pub(crate) fn kill_vm(&mut self, host: HostId) {
        if let Some(owner) = self.owner(host) {
            (owner.vm, owner.cut) = (None, None);
            self.drive_primary(host, Event::VmDied("killed".into()));
        }
    }
}
