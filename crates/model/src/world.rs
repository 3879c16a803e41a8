//! Owns a state of the model: the hosts, the connections between them, the arbiter, what the judge knows, and what is
//! left of the bounds. The machines in it are `protocol`'s own.

use crate::arbiter::{Arbiter, Question};
use crate::bounds::{Begin, Bounds, Clocks, Left, UNIT, timing};
use crate::judge::{Judge, Snapshot};
use crate::network::Connection;
use crate::owner::{Owner, Vm};
use crate::standby::Standby;
use crate::steps::Step;
use protocol::asking::Claimant;
use protocol::primary::{ChangeStage, Command, PhaseName, Primary};
use protocol::wire::{Kind, ToBackup};
use protocol::{Epoch, Grant, HostName, Instant, Session, Term, TermRecord, VmName};
use std::sync::Arc;

/// One of the hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HostId {
    /// Runs the VM in the beginning.
    Alpha,
    /// Its backup.
    Beta,
    /// What shall be the backup in Beta's place; idle in all behaviours but those.
    Gamma,
}

impl HostId {
    pub(crate) const ALL: [Self; 3] = [Self::Alpha, Self::Beta, Self::Gamma];

    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// Where its VM is protected, or brought, if somebody asks for that.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Alpha => Self::Beta,
            Self::Beta | Self::Gamma => Self::Alpha,
        }
    }

    /// The one that is neither.
    pub(crate) fn third(self, other: Self) -> Self {
        let rest = Self::ALL.into_iter().find(|&host| host != self && host != other);
        rest.expect("there are three")
    }

    pub(crate) fn name(self) -> HostName {
        let name = HostName::new(["alpha", "beta", "gamma"][self.index()]);
        name.expect("these are names")
    }

    pub(crate) fn named(name: &HostName) -> Self {
        let found = Self::ALL.into_iter().find(|host| host.name() == *name);
        found.expect("nobody else is known")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    Idle,
    Owner(Box<Owner>),
    Standby(Box<Standby>),
}

/// A host and its agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Host {
    pub(crate) boot: u8,
    pub(crate) clock: Instant,
    pub(crate) role: Role,
    pub(crate) question: Option<Question>,
    /// What the label of the disks says, which outlives a crash: who may overwrite them.
    pub(crate) least: (Term, Session),
}

/// What a host reads on a connection that it accepted.
#[derive(Debug)]
pub(crate) enum Incoming {
    Message(ToBackup),
    Bulk(Kind, Epoch, Snapshot),
    Ended,
}

/// A state of the model.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    /// Shared with the states before and after, where they are the same.
    pub(crate) hosts: [Arc<Host>; 3],
    pub(crate) conns: Vec<Connection>,
    pub(crate) arbiter: Arbiter,
    pub(crate) judge: Judge,
    pub(crate) left: Left,
    pub(crate) clocks: Clocks,
    #[cfg(feature = "planted")]
    pub(crate) planted: protocol::Planted,
}

impl World {
    /// The states in which behaviours begin.
    pub(crate) fn beginnings(bounds: &Bounds) -> Vec<Self> {
        match bounds.begin {
            // Later: beta is armed, epoch 1 is acknowledged, nothing is under way.
            Begin::Protection => {
                let asked = Self::about_to(bounds, protect(HostId::Beta));
                let protected = asked.clone().gone_on(bounds, |_| false);
                vec![asked, protected]
            }
            // Later: the last checkpoint is under way, and nothing of it has arrived; or it was acknowledged, and Yield is under way.
            Begin::Migration => {
                let asked = Self::about_to(bounds, migrate(HostId::Beta, false));
                let departed = asked.clone().gone_on(bounds, |world| world.judge.departed);
                let yielded = departed.clone().gone_on(bounds, |world| match &world.hosts[0].role {
                    Role::Owner(owner) => owner.machine.phase() == PhaseName::Yielded,
                    _ => false,
                });
                vec![asked, departed, yielded]
            }
            // Later: gamma has a first copy; or the checkpoint of both is under way, and nothing of it has arrived.
            Begin::Change => {
                let protected = Self::about_to(bounds, protect(HostId::Beta)).gone_on(bounds, |_| false);
                let asked = protected.and_then(|world| {
                    let taken = world.command(HostId::Alpha, change(HostId::Gamma));
                    assert!(taken, "the backup of a protected VM can be changed");
                });
                let copied = asked.clone().gone_on(bounds, |_| false);
                let later = |world: &mut Self| {
                    world.run_clocks((bounds.clocks == Clocks::Own).then_some(HostId::Alpha), UNIT);
                    world.tick(HostId::Alpha);
                };
                let joint = copied.clone().and_then(later).gone_on(bounds, Self::is_joint);
                vec![asked, copied, joint]
            }
        }
    }

    fn is_joint(&self) -> bool {
        match &self.hosts[0].role {
            Role::Owner(owner) => {
                owner.machine.successor().is_some_and(|(_, stage)| stage == ChangeStage::Joint)
            }
            _ => false,
        }
    }

    fn and_then(mut self, what: impl FnOnce(&mut Self)) -> Self {
        what(&mut self);
        self
    }

    /// Alpha owns the VM in term 1 and was just asked this.
    fn about_to(bounds: &Bounds, command: Command) -> Self {
        // Far from zero, so that no echo of a clock is one that was never read.
        let clock = Instant(1_000_000);
        let idle =
            Arc::new(Host { boot: 1, clock, role: Role::Idle, question: None, least: (Term(0), Session(0)) });
        let mut world = Self {
            hosts: [idle.clone(), idle.clone(), idle],
            conns: Vec::new(),
            arbiter: Arbiter::default(),
            judge: Judge::new(),
            left: Left::all(bounds),
            clocks: bounds.clocks,
            #[cfg(feature = "planted")]
            planted: bounds.planted,
        };
        let claim = world.claimant(HostId::Alpha).claim(Term(1));
        world.arbiter.claim(&claim);
        let grant = Grant::from_record(&claim, &TermRecord { claim: claim.clone() });
        world.become_owner(HostId::Alpha, grant.expect("it is the claim's own"), Vm::new(0, 0));
        let taken = world.command(HostId::Alpha, command);
        assert!(taken, "an unprotected VM can be protected, and migrated");
        world
    }

    /// The same a little later: what was begun has gone on, until that or as far as it does.
    fn gone_on(mut self, bounds: &Bounds, until: impl Fn(&Self) -> bool) -> Self {
        while !until(&self) {
            let mut steps = Vec::new();
            self.steps(bounds, &mut steps);
            match steps.into_iter().find(goes_on) {
                Some(step) => self.take(step),
                None => break,
            };
        }
        self
    }

    pub(crate) fn host(&mut self, id: HostId) -> &mut Host {
        Arc::make_mut(&mut self.hosts[id.index()])
    }

    pub(crate) fn claimant(&self, id: HostId) -> Claimant {
        let vm = VmName::new("vm").expect("this is a name");
        let seed = u64::from(self.hosts[id.index()].boot) * 4 + id.index() as u64;
        Claimant::new(vm, id.name(), seed)
    }

    /// From now on the host owns the VM.
    pub(crate) fn become_owner(&mut self, host: HostId, grant: Grant, vm: Vm) {
        let term = grant.term();
        self.check_owner(host, term);
        self.label(host, (term.next(), Session(0)));
        #[allow(unused_mut, reason = "only with the feature `planted`")]
        let mut machine = Primary::new(self.claimant(host), grant);
        #[cfg(feature = "planted")]
        machine.plant(self.planted);
        self.host(host).role = Role::Owner(Box::new(Owner::new(machine, vm)));
    }

    /// The label of the host's disks says from now on that only owners of this term or a later one may overwrite them.
    pub(crate) fn label(&mut self, host: HostId, least: (Term, Session)) {
        let host = self.host(host);
        host.least = host.least.max(least);
    }

    /// The host neither runs the VM nor stands by for it any more.
    pub(crate) fn become_idle(&mut self, host: HostId) {
        self.abandon_question(host);
        self.host(host).role = Role::Idle;
    }

    /// The host loses its power and is started again: nobody is told.
    pub(crate) fn crash(&mut self, host: HostId) {
        self.become_idle(host);
        self.host(host).boot += 1;
        self.conns.iter_mut().for_each(|conn| conn.vanish(host));
    }

    pub(crate) fn deadline(&self, host: HostId) -> Option<Instant> {
        match &self.hosts[host.index()].role {
            Role::Owner(owner) => owner.machine.deadline(),
            Role::Standby(standby) => standby.machine.deadline(),
            Role::Idle => None,
        }
    }

    pub(crate) fn tick(&mut self, host: HostId) {
        match self.host(host).role {
            Role::Owner(_) => self.drive_primary(host, protocol::primary::Event::Tick),
            Role::Standby(_) => self.drive_backup(host, protocol::backup::Event::Tick),
            Role::Idle => {}
        }
    }
}

/// A step that does no more than what was begun.
fn goes_on(step: &Step) -> bool {
    matches!(step, Step::Deliver(..) | Step::Checkpoint(_) | Step::Persisted(_))
}

pub(crate) fn protect(peer: HostId) -> Command {
    Command::Protect { peer: peer.name(), timing: timing(), machine: Vec::new() }
}

pub(crate) fn migrate(peer: HostId, stop_first: bool) -> Command {
    Command::Migrate { peer: peer.name(), timing: timing(), machine: Vec::new(), stop_first }
}

pub(crate) fn change(peer: HostId) -> Command {
    Command::Change { peer: peer.name(), timing: timing(), machine: Vec::new() }
}
