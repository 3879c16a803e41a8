//! Owns the properties, and a run of the checker over everything within the bounds.

use crate::bounds::{Begin, Bounds, Clocks};
use crate::judge::Broken;
use crate::steps::Step;
use crate::world::{HostId, Role, World};
use protocol::Term;
use protocol::primary::PhaseName;
use serde::Serialize;
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// A property, and what became of it.
#[derive(Debug, Clone, Serialize)]
pub struct Promise {
    /// What it says.
    pub name: &'static str,
    /// Whether it must hold always; if not, it must come about at least once.
    pub always: bool,
    /// Whether it did.
    pub holds: bool,
    /// A way to a state that breaks it, or in which it came about, with every step. Hardly longer than it must be, since
    /// the search is by breadth; a smaller bound on the depth finds the shortest.
    pub steps: Vec<String>,
}

/// What a run found.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Different states that were examined: every promise was looked at in them, and every step taken from them.
    pub states: usize,
    /// How often a step led to a state, known or new.
    pub generated: usize,
    /// Steps to the farthest of the states that were examined.
    pub depth: usize,
    /// Whether the bounds of what may happen were used up before the bound on the depth was reached: a greater depth would
    /// find no more.
    pub complete: bool,
    /// How long it took.
    pub seconds: f64,
    /// Every property.
    pub promises: Vec<Promise>,
}

impl Outcome {
    /// Whether all that must hold always did.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        self.promises.iter().all(|promise| promise.holds || !promise.always)
    }

    /// What never came about: what follows from it was not checked.
    #[must_use]
    pub fn never(&self) -> Vec<&'static str> {
        self.promises
            .iter()
            .filter(|promise| !promise.holds && !promise.always)
            .map(|promise| promise.name)
            .collect()
    }
}

struct Ownership {
    bounds: Bounds,
    examined: AtomicUsize,
}

impl Model for Ownership {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        World::beginnings(&self.bounds)
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        self.examined.fetch_add(1, Ordering::Relaxed);
        world.steps(&self.bounds, steps);
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        next.take(step).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut promises = vec![
            Property::always("never are two VMs heard at once", |_, world: &World| {
                world.open_gates().len() < 2
            }),
            Property::always("only who owns the newest term is heard unprotected", |_, world: &World| {
                world.only_the_owner_is_heard()
            }),
            Property::always("never do two lives go on from one", |_, world: &World| {
                world.judge.keeps(Broken::TwoLives)
            }),
            Property::always("nothing that left a host is lost", |_, world: &World| {
                world.judge.keeps(Broken::ReleasedAndLost)
            }),
            Property::always("what is promoted is the newest committed checkpoint", |_, world: &World| {
                world.judge.keeps(Broken::NotWhole)
            }),
            Property::always("no copy is ended that owes its VM a life", |_, world: &World| {
                world.judge.keeps(Broken::ThrownAway)
            }),
            Property::always("no term is won before a checkpoint was sent", |_, world: &World| {
                world.judge.departed || world.arbiter.newest() == Term(1)
            }),
            Property::sometimes("a promoted VM is heard", |_, world: &World| world.judge.failed_over),
            Property::sometimes("an owner goes on without its backup", |_, world: &World| went_on(world)),
            Property::sometimes("an old owner is fenced", |_, world: &World| world.judge.fenced),
        ];
        if self.bounds.begin == Begin::Migration {
            promises.push(Property::sometimes(
                "a migration ends, and the VM was never away",
                |_, world: &World| stayed(world),
            ));
        }
        if self.bounds.begin == Begin::Change {
            promises.push(Property::sometimes(
                "a backup is changed, and no term was needed",
                |_, world: &World| changed(world),
            ));
        }
        if self.bounds.clocks == Clocks::Shared {
            promises.push(Property::always(
                "an old owner is silent after its successor spoke",
                |_, world: &World| world.judge.keeps(Broken::OldOwnerHeard),
            ));
        }
        promises
    }
}

/// Alpha won the term after the first and is heard in it.
fn went_on(world: &World) -> bool {
    match &world.hosts[HostId::Alpha.index()].role {
        Role::Owner(owner) => {
            owner.vm.is_some()
                && owner.machine.phase() == PhaseName::Unprotected
                && owner.machine.term() > Term(1)
        }
        _ => false,
    }
}

/// Gamma protects the VM in Alpha's first term.
fn changed(world: &World) -> bool {
    match &world.hosts[HostId::Alpha.index()].role {
        Role::Owner(owner) => {
            owner.machine.phase() == PhaseName::Protected
                && owner.machine.term() == Term(1)
                && owner.machine.peer().is_some_and(|peer| HostId::named(peer) == HostId::Gamma)
        }
        _ => false,
    }
}

/// Alpha is heard unprotected in its first term, after it began to bring the VM elsewhere.
fn stayed(world: &World) -> bool {
    match &world.hosts[HostId::Alpha.index()].role {
        Role::Owner(owner) => {
            owner.vm.as_ref().is_some_and(|vm| vm.runs)
                && owner.machine.phase() == PhaseName::Unprotected
                && owner.machine.term() == Term(1)
        }
        _ => false,
    }
}

/// Takes every behaviour within the bounds, on so many threads. Stops early only if a promise is broken.
///
/// On several threads the search is not strictly by breadth. A state that is reached by a long way first is not looked at
/// again when a shorter one comes, so that at the bound on the depth some behaviours are left out. Where the outcome is complete, nothing is left out.
///
/// # Panics
/// If a machine does: its assertions are promises, too.
#[must_use]
pub fn check(bounds: Bounds, threads: usize) -> Outcome {
    let began = Instant::now();
    // The checker counts the states of a way, not its steps, and leaves the last one unexamined.
    let checker = Ownership { bounds, examined: AtomicUsize::new(0) }
        .checker()
        .threads(threads)
        .target_max_depth(bounds.depth + 2)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let (states, farthest) = (checker.model().examined.load(Ordering::Relaxed), checker.max_depth() - 1);
    let promise = |property: Property<Ownership>| {
        let always = property.expectation == stateright::Expectation::Always;
        let way = checker.discovery(property.name);
        let holds = way.is_some() != always;
        let steps = way.map(|way| way.into_actions().iter().map(ToString::to_string).collect());
        Promise { name: property.name, always, holds, steps: steps.unwrap_or_default() }
    };
    let promises: Vec<Promise> = checker.model().properties().into_iter().map(promise).collect();
    let stopped = promises.iter().any(|promise| promise.always && !promise.holds);
    Outcome {
        states,
        generated: checker.state_count(),
        depth: farthest.min(bounds.depth),
        complete: !stopped && farthest <= bounds.depth,
        seconds: began.elapsed().as_secs_f64(),
        promises,
    }
}
