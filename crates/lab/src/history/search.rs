//! Owns the search for a linearization of one register's operations: Wing and Gong's, memoised as by Lowe, in his
//! "just-in-time" order (Testing for linearizability, 2017).
//!
//! Calls and returns are gone through in the order of time. A *configuration* is one way in which everything so far
//! can have happened: what the register holds, and which of the operations under way have happened already. At the
//! return of an operation it must have happened, so each configuration in which it has not is continued with every
//! sequence of operations under way that ends in it. Where no configuration is left, the history up to there has no
//! linearization, and every shorter part of it has one.
//!
//! Operations of unknown outcome are under way for ever and need not happen. Of two configurations that differ only
//! in those, the one that used fewer can do whatever the other can, so the other is forgotten; and one whose value
//! nobody ever saw is left out from the beginning. Both keep the number of configurations small.

use super::{Ask, Operation, Outcome};
use std::collections::{HashMap, HashSet, VecDeque};

/// Known operations that can be under way at a time: the bits of a mask.
const SLOTS: usize = 128;

/// What an operation does to a register, if it happened as it was answered.
#[derive(Clone, Copy, Debug)]
enum Effect {
    Read(u64),
    Write(u64),
    Set {
        from: u64,
        to: u64,
    },
    Refused {
        expected: u64,
        held: u64,
    },
    /// The answer does not fit the question: no register says so.
    Absurd,
}

impl Effect {
    fn of(operation: &Operation) -> Self {
        match (operation.ask, operation.outcome) {
            (Ask::Read, Outcome::Found(value)) => Self::Read(value),
            (Ask::Write(value), Outcome::Done | Outcome::Unknown) => Self::Write(value),
            (Ask::CompareAndSet { expected, new }, Outcome::Done | Outcome::Unknown) => {
                Self::Set { from: expected, to: new }
            }
            (Ask::CompareAndSet { expected, .. }, Outcome::Refused(held)) => Self::Refused { expected, held },
            _ => Self::Absurd,
        }
    }

    /// What the register holds afterwards; none if it cannot have happened in this state.
    fn after(self, state: u64) -> Option<u64> {
        match self {
            Self::Read(value) => (value == state).then_some(state),
            Self::Write(value) => Some(value),
            Self::Set { from, to } => (from == state).then_some(to),
            Self::Refused { expected, held } => (held == state && expected != state).then_some(state),
            Self::Absurd => None,
        }
    }

    /// The value that whoever was answered so has seen.
    fn seen(self) -> Option<u64> {
        match self {
            Self::Read(value) | Self::Refused { held: value, .. } | Self::Set { from: value, .. } => {
                Some(value)
            }
            Self::Write(_) | Self::Absurd => None,
        }
    }

    /// The value that it leaves.
    fn written(self) -> Option<u64> {
        match self {
            Self::Write(value) | Self::Set { to: value, .. } => Some(value),
            _ => None,
        }
    }
}

/// What the search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is a linearization.
    Linearization,
    /// There is none of the operations called up to the return of this one (an index of the slice).
    Dead(usize),
    /// It cannot be told within the limit.
    TooMuch(String),
}

/// What operations have happened besides what has returned: known ones by slot, unknown ones by index.
#[derive(Clone, Debug)]
struct Config {
    state: u64,
    happened: u128,
    used: Vec<u32>,
}

/// Configurations, without those that another one makes needless.
#[derive(Default)]
struct Configs {
    by_state: HashMap<(u64, u128), Vec<Vec<u32>>>,
    count: usize,
}

impl Configs {
    /// Adds one; whether it was not needless.
    fn add(&mut self, config: Config) -> bool {
        let rivals = self.by_state.entry((config.state, config.happened)).or_default();
        if rivals.iter().any(|rival| is_subset(rival, &config.used)) {
            return false;
        }
        let before = rivals.len();
        rivals.retain(|rival| !is_subset(&config.used, rival));
        rivals.push(config.used);
        self.count = self.count + rivals.len() - before;
        true
    }

    fn into_each(self) -> impl Iterator<Item = Config> {
        self.by_state.into_iter().flat_map(|((state, happened), useds)| {
            useds.into_iter().map(move |used| Config { state, happened, used })
        })
    }
}

/// Both ascend.
fn is_subset(few: &[u32], many: &[u32]) -> bool {
    few.iter().all(|one| many.binary_search(one).is_ok())
}

/// Looks for a linearization of operations on one register, which began as one of `initial`; `limit` bounds how many
/// configurations may be looked at between two events.
pub(super) fn search(operations: &[Operation], initial: &[u64], limit: usize) -> Found {
    let effects: Vec<Effect> = operations.iter().map(Effect::of).collect();
    let events = events(operations, &effects);
    let mut under_way = UnderWay::default();
    let mut configs = Configs::default();
    for &state in initial {
        configs.add(Config { state, happened: 0, used: Vec::new() });
    }
    for event in events {
        match event {
            Moment::Call(index) if !operations[index].is_known() => under_way.unknown.push(index),
            Moment::Call(index) => {
                if !under_way.begin(index) {
                    return Found::TooMuch(format!("more than {SLOTS} operations are under way at a time"));
                }
            }
            Moment::Return(index) => {
                let slot = under_way.slot_of(index);
                let Some(next) = under_way.pass(configs, slot, &effects, limit) else {
                    return Found::TooMuch(format!("there are more than {limit} ways to look at"));
                };
                if next.count == 0 {
                    return Found::Dead(index);
                }
                configs = next;
                under_way.known[slot] = None;
            }
        }
    }
    Found::Linearization
}

#[derive(Clone, Copy)]
enum Moment {
    Call(usize),
    Return(usize),
}

/// Calls and returns in the order of time; at the same time, calls first.
fn events(operations: &[Operation], effects: &[Effect]) -> Vec<Moment> {
    let seen: HashSet<u64> = effects.iter().filter_map(|effect| effect.seen()).collect();
    let matters = |index: usize| {
        operations[index].is_known() || effects[index].written().is_some_and(|value| seen.contains(&value))
    };
    let mut events = Vec::new();
    for (index, operation) in operations.iter().enumerate().filter(|&(index, _)| matters(index)) {
        events.push(((operation.called_us, 0), Moment::Call(index)));
        if operation.is_known() {
            events.push(((operation.returned_us, 1), Moment::Return(index)));
        }
    }
    events.sort_by_key(|&(at, _)| at);
    events.into_iter().map(|(_, event)| event).collect()
}

/// Operations called and not returned, by their indices.
#[derive(Default)]
struct UnderWay {
    known: Vec<Option<usize>>,
    unknown: Vec<usize>,
}

impl UnderWay {
    /// Gives an operation a slot; whether there was one.
    fn begin(&mut self, index: usize) -> bool {
        if let Some(free) = self.known.iter_mut().find(|slot| slot.is_none()) {
            *free = Some(index);
        } else if self.known.len() < SLOTS {
            self.known.push(Some(index));
        } else {
            return false;
        }
        true
    }

    fn slot_of(&self, index: usize) -> usize {
        self.known.iter().position(|&slot| slot == Some(index)).expect("an operation returns after its call")
    }

    /// Lets the operation in `slot` return: what is left of the configurations, or none if there are too many.
    fn pass(&self, configs: Configs, slot: usize, effects: &[Effect], limit: usize) -> Option<Configs> {
        let bit = 1 << slot;
        let mut passed = Configs::default();
        let mut looked_at = Configs::default();
        // Those that used fewer first, so that the others turn out to be needless.
        let mut open: VecDeque<Config> = configs.into_each().collect();
        while let Some(config) = open.pop_front() {
            if config.happened & bit != 0 {
                passed.add(Config { happened: config.happened & !bit, ..config });
            } else if looked_at.add(config.clone()) {
                open.extend(self.steps(&config, effects));
            }
            if looked_at.count + passed.count + open.len() > limit {
                return None;
            }
        }
        Some(passed)
    }

    /// Every configuration that is one operation further.
    fn steps<'a>(&'a self, config: &'a Config, effects: &'a [Effect]) -> impl Iterator<Item = Config> + 'a {
        let waiting = |&(slot, _): &(usize, usize)| config.happened & (1 << slot) == 0;
        let known = self.known.iter().enumerate().filter_map(|(slot, index)| Some((slot, (*index)?)));
        let known = known.filter(waiting).filter_map(|(slot, index)| {
            let state = effects[index].after(config.state)?;
            Some(Config { state, happened: config.happened | (1 << slot), used: config.used.clone() })
        });
        let unknown = self.unknown.iter().filter_map(|&index| {
            let number =
                u32::try_from(index).expect("a history of less than four thousand million operations");
            let at = config.used.binary_search(&number).err()?;
            let state = effects[index].after(config.state).filter(|&state| state != config.state)?;
            let mut used = config.used.clone();
            used.insert(at, number);
            Some(Config { state, happened: config.happened, used })
        });
        known.chain(unknown)
    }
}
