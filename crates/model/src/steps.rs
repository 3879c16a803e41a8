//! Owns what may happen next: every choice of the world, one step each.
//!
//! A host that is frozen needs no step of its own: its steps are not taken while the world and its clock go on.

use crate::bounds::{Begin, Bounds, Clocks, UNIT, timing};
use crate::world::{HostId, Role, World, change, migrate, protect};
use protocol::primary::{Command, Event, PhaseName};
use std::fmt;

/// What operators and guests ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Protect the VM on the other host.
    Protect,
    /// End protection, or call a migration off.
    Unprotect,
    /// Hand the VM over.
    Failover,
    /// The same, because it shall run there.
    Move,
    /// Bring a VM that nobody protects to the other host.
    Migrate,
    /// Protect it on the third host in the backup's place.
    Change,
    /// Let the backup be.
    KeepBackup,
    /// The same, with the VM stopped before anything is copied.
    StopAndMigrate,
    /// End the VM.
    Stop,
    /// The guest shuts itself down.
    GuestShutdown,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The host loses its power, with all that runs on it, and is started again.
    Crash(HostId),
    /// The VM's process, or the standby's, dies there.
    ProcessDies(HostId),
    /// The checkpoint that was asked for fails.
    CheckpointFails(HostId),
    /// The journal cannot make an epoch durable.
    JournalFails(HostId),
    /// The devices cannot be loaded.
    PromotionFails(HostId),
    /// The host hears nothing of its question to the arbiter, whether that arrived or not.
    ArbiterSilent(HostId),
    /// The connection of this number is reset.
    Reset(usize),
}

/// One step of a behaviour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The host reads the next frame, or the end, of the connection of this number.
    Deliver(usize, HostId),
    /// The guest at this host runs a step and says something.
    Run(HostId),
    /// The checkpoint that was asked for is taken.
    Checkpoint(HostId),
    /// The journal made an epoch durable.
    Persisted(HostId),
    /// The VM is let run at its backup.
    Promote(HostId),
    /// The host's question arrives at the arbiter, which decides.
    Decide(HostId),
    /// The arbiter's answer arrives.
    Answer(HostId),
    /// A question arrives that nobody waits for any more.
    DecideStray(usize),
    /// The host's clock (or both) runs on by [`UNIT`].
    Wait(Option<HostId>),
    /// The host's clock (or both) runs on by the whole time-out while nothing is done there.
    Sleep(Option<HostId>),
    /// The host finds that a deadline has passed.
    Tick(HostId),
    /// Somebody asks the owner.
    Ask(HostId, Ask),
    /// Something goes wrong.
    Fault(Fault),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wait(None) => f.write_str("Wait"),
            Self::Sleep(None) => f.write_str("Sleep"),
            Self::Wait(Some(host)) => write!(f, "Wait({host:?})"),
            Self::Sleep(Some(host)) => write!(f, "Sleep({host:?})"),
            Self::Fault(fault) => write!(f, "fault {fault:?}"),
            step => write!(f, "{step:?}"),
        }
    }
}

impl World {
    /// Every step that may come next.
    pub(crate) fn steps(&self, bounds: &Bounds, steps: &mut Vec<Step>) {
        for host in HostId::ALL {
            self.steps_of_host(bounds, host, steps);
            self.network_steps(host, steps);
        }
        if self.left.faults > 0 {
            let reset = |&conn: &usize| self.conns[conn].can_be_reset();
            steps.extend((0..self.conns.len()).filter(reset).map(|conn| Step::Fault(Fault::Reset(conn))));
        }
        steps.extend((0..self.arbiter.strays()).map(Step::DecideStray));
        let whose: &[_] = match bounds.clocks {
            Clocks::Own => &HostId::ALL.map(Some),
            Clocks::Shared => &[None],
        };
        let busy = |host: &HostId| !matches!(self.hosts[host.index()].role, Role::Idle);
        for &host in whose.iter().filter(|whose| whose.is_none_or(|host| busy(&host))) {
            if self.left.waits > 0 {
                steps.push(Step::Wait(host));
            }
            if self.left.sleeps > 0 {
                steps.push(Step::Sleep(host));
            }
        }
    }

    fn network_steps(&self, to: HostId, steps: &mut Vec<Step>) {
        for (number, conn) in self.conns.iter().enumerate() {
            if conn.delivers(to) {
                steps.push(Step::Deliver(number, to));
            }
        }
    }

    fn steps_of_host(&self, bounds: &Bounds, id: HostId, steps: &mut Vec<Step>) {
        let (host, may_fail) = (&self.hosts[id.index()], self.left.faults > 0);
        let mut faults = Vec::new();
        match &host.role {
            Role::Idle => return,
            Role::Owner(owner) => {
                if self.left.steps > 0 && owner.vm.as_ref().is_some_and(|vm| vm.runs) {
                    steps.push(Step::Run(id));
                }
                if owner.takes_checkpoint() {
                    steps.push(Step::Checkpoint(id));
                    faults.push(Fault::CheckpointFails(id));
                }
                if owner.vm.is_some() {
                    faults.push(Fault::ProcessDies(id));
                }
                if self.left.commands > 0 {
                    let phase = owner.machine.phase();
                    let moves = match bounds.begin {
                        Begin::Protection => &[],
                        Begin::Migration => moves(phase),
                        Begin::Change => changes(owner.machine.successor().is_some(), phase),
                    };
                    steps.extend(asks(phase).iter().chain(moves).map(|&ask| Step::Ask(id, ask)));
                }
            }
            Role::Standby(standby) => {
                if standby.persists() {
                    steps.push(Step::Persisted(id));
                    faults.push(Fault::JournalFails(id));
                }
                if standby.promotes(host.clock) {
                    steps.push(Step::Promote(id));
                }
                if standby.is_promoting() {
                    faults.push(Fault::PromotionFails(id));
                }
                if standby.is_alive() {
                    faults.push(Fault::ProcessDies(id));
                }
            }
        }
        if let Some(question) = &host.question {
            steps.push(if question.is_decided() { Step::Answer(id) } else { Step::Decide(id) });
            faults.push(Fault::ArbiterSilent(id));
        }
        if self.deadline(id).is_some_and(|deadline| deadline <= host.clock) {
            steps.push(Step::Tick(id));
        }
        faults.push(Fault::Crash(id));
        steps.extend(faults.into_iter().filter(|_| may_fail).map(Step::Fault));
    }

    /// Takes a step. False if it was refused.
    pub(crate) fn take(&mut self, step: Step) -> bool {
        match step {
            Step::Deliver(conn, to) => self.deliver(conn, to),
            Step::Run(host) => {
                self.left.steps -= 1;
                self.run_guest(host);
            }
            Step::Checkpoint(host) => self.take_checkpoint(host),
            Step::Persisted(host) => self.persisted(host, false),
            Step::Promote(host) => self.promote(host, false),
            Step::Decide(host) => self.question_arrives(host),
            Step::Answer(host) => self.answer_arrives(host),
            Step::DecideStray(index) => self.arbiter.take_stray(index),
            Step::Wait(whose) => {
                self.left.waits -= 1;
                self.run_clocks(whose, UNIT);
                // Who has a clock of his own may look at it in time; who does not is what `Sleep` is for.
                whose.into_iter().for_each(|host| self.tick(host));
            }
            Step::Sleep(whose) => {
                self.left.sleeps -= 1;
                self.run_clocks(whose, timing().timeout);
            }
            Step::Tick(host) => self.tick(host),
            Step::Ask(host, ask) => {
                self.left.commands -= 1;
                return self.asked(host, ask);
            }
            Step::Fault(fault) => {
                self.left.faults -= 1;
                self.suffer(fault);
            }
        }
        true
    }

    pub(crate) fn run_clocks(&mut self, whose: Option<HostId>, by: protocol::Micros) {
        for host in HostId::ALL.into_iter().filter(|&host| whose.is_none_or(|whose| whose == host)) {
            let host = self.host(host);
            host.clock = host.clock + by;
        }
    }

    fn asked(&mut self, host: HostId, ask: Ask) -> bool {
        let command = match ask {
            Ask::Protect => protect(host.other()),
            Ask::Unprotect => Command::Unprotect,
            Ask::Failover => Command::Failover,
            Ask::Move => Command::Move,
            Ask::Change => {
                let Some(backup) = self.backup_of(host) else { return false };
                change(host.third(backup))
            }
            Ask::KeepBackup => Command::KeepBackup,
            Ask::Migrate => migrate(host.other(), false),
            Ask::StopAndMigrate => migrate(host.other(), true),
            Ask::Stop => Command::Stop,
            Ask::GuestShutdown => {
                self.drive_primary(host, Event::GuestShutdown);
                return true;
            }
        };
        self.command(host, command)
    }

    fn backup_of(&self, host: HostId) -> Option<HostId> {
        match &self.hosts[host.index()].role {
            Role::Owner(owner) => owner.machine.peer().map(HostId::named),
            _ => None,
        }
    }

    fn suffer(&mut self, fault: Fault) {
        match fault {
            Fault::Crash(host) => self.crash(host),
            Fault::ProcessDies(host) => match self.host(host).role {
                Role::Owner(_) => self.kill_vm(host),
                _ => self.kill_standby(host),
            },
            Fault::CheckpointFails(host) => self.fail_checkpoint(host),
            Fault::JournalFails(host) => self.persisted(host, true),
            Fault::PromotionFails(host) => self.promote(host, true),
            Fault::ArbiterSilent(host) => self.arbiter_is_silent(host),
            Fault::Reset(conn) => self.conns[conn].reset(),
        }
    }
}

/// What an owner may be asked in this phase and does not refuse.
fn asks(phase: PhaseName) -> &'static [Ask] {
    match phase {
        PhaseName::Unprotected => &[Ask::Protect, Ask::Stop, Ask::GuestShutdown],
        PhaseName::Protected => &[Ask::Unprotect, Ask::Failover, Ask::Stop, Ask::GuestShutdown],
        PhaseName::Opening | PhaseName::Copying => &[Ask::Unprotect, Ask::Stop, Ask::GuestShutdown],
        _ => &[Ask::GuestShutdown],
    }
}

/// What besides, if the VM shall run elsewhere.
fn moves(phase: PhaseName) -> &'static [Ask] {
    match phase {
        PhaseName::Unprotected => &[Ask::Migrate, Ask::StopAndMigrate],
        PhaseName::Protected => &[Ask::Move],
        _ => &[],
    }
}

/// What besides, if the backup shall be another.
fn changes(changing: bool, phase: PhaseName) -> &'static [Ask] {
    match phase {
        PhaseName::Protected if changing => &[Ask::KeepBackup],
        PhaseName::Protected => &[Ask::Change],
        _ => &[],
    }
}
