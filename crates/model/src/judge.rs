//! Owns what is held against the promises. The judge sees what no host can: every life of the VM and everything that
//! left a host. It uses nothing that the machines say of themselves.
//!
//! A *life* is one execution of the VM. A promotion begins a new one from a checkpoint of an older one. That two run is
//! allowed: an old owner runs on, unheard, until it learns that it is one. What is forbidden is that two are heard.

use crate::bounds::Clocks;
use crate::gate::Mode;
use crate::world::{HostId, Role, World};
use protocol::{Session, Term};

/// What a checkpoint holds: the guest after so many steps of that life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Snapshot {
    pub(crate) life: u8,
    pub(crate) step: u8,
}

/// A promise that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Broken {
    /// A VM was let run, or output pass, by who does not own the newest term.
    NotOwner = 1,
    /// Two lives go on from one.
    TwoLives = 2,
    /// Output left that the life which goes on does not know.
    ReleasedAndLost = 4,
    /// What was promoted is not the newest committed checkpoint.
    NotWhole = 8,
    /// A copy that could go on was ended without a newer owner.
    ThrownAway = 16,
    /// An old owner was heard after its successor (clocks that run alike only).
    OldOwnerHeard = 32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Life {
    /// Newest step of which output left.
    released: u8,
    /// From which of its steps another life goes on.
    successor: Option<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Judge {
    lives: Vec<Life>,
    broken: u8,
    /// An owner was told that it is none any more.
    pub(crate) fenced: bool,
    /// A promoted VM was heard.
    pub(crate) failed_over: bool,
    /// A checkpoint was sent: from then on another host may be entitled.
    pub(crate) departed: bool,
    /// The newest session whose backup had a whole checkpoint.
    armed: (Term, Session),
}

impl Judge {
    pub(crate) fn new() -> Self {
        let (lives, armed) = (vec![Life::default()], (Term(0), Session(0)));
        Self { lives, broken: 0, fenced: false, failed_over: false, departed: false, armed }
    }

    pub(crate) fn keeps(&self, promise: Broken) -> bool {
        self.broken & promise as u8 == 0
    }

    /// A backup has its first whole checkpoint.
    pub(crate) fn arms(&mut self, of: (Term, Session)) {
        self.armed = self.armed.max(of);
    }

    /// Whether a later session of the same term had all that this one has.
    pub(crate) fn is_relieved(&self, of: (Term, Session)) -> bool {
        self.armed.0 == of.0 && self.armed > of
    }

    pub(crate) fn breaks(&mut self, promise: Broken) {
        self.broken |= promise as u8;
    }
}

impl World {
    /// Output leaves a host.
    pub(crate) fn emit(&mut self, host: HostId, life: u8, step: u8, mode: Mode) {
        if mode == Mode::Open && !self.owns_newest(host) {
            self.judge.breaks(Broken::NotOwner);
        }
        self.judge.failed_over |= life > 0;
        let shared = self.clocks == Clocks::Shared;
        let of = &mut self.judge.lives[usize::from(life)];
        of.released = of.released.max(step);
        let Some(goes_on_from) = of.successor else { return };
        if step > goes_on_from {
            self.judge.breaks(Broken::ReleasedAndLost);
        }
        if shared {
            self.judge.breaks(Broken::OldOwnerHeard);
        }
    }

    /// A VM goes on from a checkpoint; returns its life.
    pub(crate) fn new_life(&mut self, from: Snapshot) -> u8 {
        let parent = &mut self.judge.lives[usize::from(from.life)];
        let (lost, second) = (parent.released > from.step, parent.successor.is_some());
        parent.successor = Some(from.step);
        if lost {
            self.judge.breaks(Broken::ReleasedAndLost);
        }
        if second {
            self.judge.breaks(Broken::TwoLives);
        }
        self.judge.lives.push(Life { released: from.step, successor: None });
        u8::try_from(self.judge.lives.len() - 1).unwrap_or(u8::MAX)
    }

    /// A host lets its VM run in this term.
    pub(crate) fn check_owner(&mut self, host: HostId, term: Term) {
        if self.arbiter.newest() < term || (self.arbiter.newest() == term && !self.owns_newest(host)) {
            self.judge.breaks(Broken::NotOwner);
        }
    }

    /// An owner ends its VM for another owner's sake.
    pub(crate) fn check_fence(&mut self, host: HostId) {
        self.judge.fenced = true;
        if self.owns_newest(host) {
            self.judge.breaks(Broken::ThrownAway);
        }
    }

    pub(crate) fn owns_newest(&self, host: HostId) -> bool {
        self.arbiter.owner() == Some(&host.name())
    }

    /// Hosts whose VM can be heard by the world at once.
    pub(crate) fn open_gates(&self) -> Vec<(HostId, Term)> {
        let open = |host: HostId| match &self.hosts[host.index()].role {
            Role::Owner(owner) => {
                let heard = owner.vm.as_ref().is_some_and(|vm| vm.gate.mode == Mode::Open);
                heard.then(|| (host, owner.machine.term()))
            }
            _ => None,
        };
        HostId::ALL.into_iter().filter_map(open).collect()
    }

    /// Whoever lets output pass owns the newest term.
    pub(crate) fn only_the_owner_is_heard(&self) -> bool {
        let newest = self.arbiter.newest();
        self.judge.keeps(Broken::NotOwner)
            && self.open_gates().into_iter().all(|(host, term)| term == newest && self.owns_newest(host))
    }
}
