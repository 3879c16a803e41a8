//! Owns the verdict on a history: each register for itself, since a map of registers is linearizable if and only if
//! each register is (Herlihy and Wing, locality).

use super::search::{Found, search};
use super::{Ask, NEVER_WRITTEN, Operation, Outcome, window};
use serde::Serialize;
use std::collections::BTreeMap;

/// How much a check may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Configurations that are looked at between two events of one register; each is some 100 bytes.
    pub configurations: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { configurations: 1 << 20 }
    }
}

/// How many operations ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Reads answered, writes and compare-and-sets done.
    pub ok: u64,
    /// Compare-and-sets that were refused: what they expected was not there.
    pub refused: u64,
    /// Operations without an answer.
    pub unknown: u64,
    /// Reads among those that are ok.
    pub reads: u64,
    /// Writes among those that are ok.
    pub writes: u64,
    /// Compare-and-sets among those that are ok.
    pub sets: u64,
}

impl Tally {
    /// Counts.
    #[must_use]
    pub fn of(history: &[Operation]) -> Self {
        let mut tally = Self::default();
        for operation in history {
            let kind = match (operation.outcome, operation.ask) {
                (Outcome::Unknown, _) => {
                    tally.unknown += 1;
                    continue;
                }
                (Outcome::Refused(_), _) => {
                    tally.refused += 1;
                    continue;
                }
                (_, Ask::Read) => &mut tally.reads,
                (_, Ask::Write(_)) => &mut tally.writes,
                (_, Ask::CompareAndSet { .. }) => &mut tally.sets,
            };
            *kind += 1;
            tally.ok += 1;
        }
        tally
    }
}

/// A register that did not answer like one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The register.
    pub key: u32,
    /// The operation at whose answer no explanation was left.
    pub at: Operation,
    /// The small part of the history that shows it, in the order of calls: no register, whatever it held before,
    /// answers so.
    pub window: Vec<Operation>,
}

/// What can be said of a history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Registers whose operations are linearizable.
    pub linearizable: u32,
    /// Those whose operations are not.
    pub violations: Vec<Violation>,
    /// Those of which it could not be told within the limits, and why: these did not pass.
    pub undecided: Vec<(u32, String)>,
}

impl Verdict {
    /// Whether every register was shown to be linearizable, and there was one.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.linearizable > 0 && self.violations.is_empty() && self.undecided.is_empty()
    }
}

/// Checks a history, whose operations may come in any order.
#[must_use]
pub fn check(history: &[Operation], limits: Limits) -> Verdict {
    let mut registers: BTreeMap<u32, Vec<Operation>> = BTreeMap::new();
    for operation in history {
        // A read without an answer changes nothing and says nothing.
        if operation.is_known() || operation.ask != Ask::Read {
            registers.entry(operation.key).or_default().push(*operation);
        }
    }
    let mut verdict = Verdict::default();
    for (key, mut operations) in registers {
        operations.sort_by_key(|operation| operation.called_us);
        match search(&operations, &[NEVER_WRITTEN], limits.configurations) {
            Found::Linearization => verdict.linearizable += 1,
            Found::TooMuch(why) => verdict.undecided.push((key, why)),
            Found::Dead(index) => {
                let (at, window) = (operations[index], window::of(&operations, index, limits));
                verdict.violations.push(Violation { key, at, window });
            }
        }
    }
    verdict
}
