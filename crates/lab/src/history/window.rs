//! Owns making a violation small enough to be read by a person.
//!
//! What is left is still a proof. It begins at a moment at which nothing was under way, with a register that may hold
//! anything (or with the whole history, where only that shows it); what was called after the answer that cannot be explained is left out, and so are reads and refusals
//! without which it cannot be explained either. Operations that change the register are never left out of the window:
//! without them an innocent read looks guilty.

use super::search::{Found, search};
use super::{Ask, Limits, NEVER_WRITTEN, Operation, Outcome};
use std::collections::BTreeSet;

/// In a window larger than this no single operations are left out: each try is a search.
const SINGLES: usize = 2_000;

/// The window of a register's operations, in the order of calls, of which those up to the return of the one at `dead`
/// have no linearization.
pub(super) fn of(operations: &[Operation], dead: usize, limits: Limits) -> Vec<Operation> {
    let end_us = operations[dead].returned_us;
    let so_far: Vec<Operation> =
        operations.iter().filter(|operation| operation.called_us <= end_us).copied().collect();
    // Later beginnings have fewer operations, and so more explanations: the last one without any is looked for.
    let beginnings = beginnings(&so_far);
    let count = beginnings.partition_point(|&begin| {
        let window = from(&so_far, begin);
        is_dead(&window, &anything(&window), limits)
    });
    let (mut window, initial) = match count.checked_sub(1) {
        Some(last) => (from(&so_far, beginnings[last]), None),
        // Only what it held in the very beginning makes it impossible.
        None => (so_far.clone(), Some(vec![NEVER_WRITTEN])),
    };
    leave_out_singles(&mut window, initial.as_deref(), limits);
    window.retain(|operation| matters(operation, &so_far));
    window
}

/// The moments at which no operation was under way, apart from those of unknown outcome.
fn beginnings(operations: &[Operation]) -> Vec<u64> {
    let mut quiet_since = 0;
    let mut beginnings = Vec::new();
    for operation in operations.iter().filter(|operation| operation.is_known()) {
        if operation.called_us > quiet_since {
            beginnings.push(operation.called_us);
        }
        quiet_since = quiet_since.max(operation.returned_us);
    }
    beginnings
}

/// What was called since then, and whatever may still happen.
fn from(operations: &[Operation], begin_us: u64) -> Vec<Operation> {
    let kept = |operation: &&Operation| operation.called_us >= begin_us || !operation.is_known();
    operations.iter().filter(kept).copied().collect()
}

fn is_dead(operations: &[Operation], initial: &[u64], limits: Limits) -> bool {
    matches!(search(operations, initial, limits.configurations), Found::Dead(_))
}

/// Everything that a register may have held before, as far as these operations could tell.
fn anything(operations: &[Operation]) -> Vec<u64> {
    let seen: BTreeSet<u64> = operations.iter().filter_map(saw).collect();
    // Or something that nobody here has seen.
    let unseen = (NEVER_WRITTEN..).find(|value| !seen.contains(value));
    seen.into_iter().chain(unseen).collect()
}

fn saw(operation: &Operation) -> Option<u64> {
    match (operation.ask, operation.outcome) {
        (_, Outcome::Found(value) | Outcome::Refused(value)) => Some(value),
        (Ask::CompareAndSet { expected, .. }, Outcome::Done | Outcome::Unknown) => Some(expected),
        _ => None,
    }
}

fn wrote(operation: &Operation) -> Option<u64> {
    match (operation.ask, operation.outcome) {
        (Ask::Write(value) | Ask::CompareAndSet { new: value, .. }, Outcome::Done | Outcome::Unknown) => {
            Some(value)
        }
        _ => None,
    }
}

/// Leaves out reads and refusals without which it is still impossible, for a register that began as one of `initial`, or
/// as anything.
fn leave_out_singles(window: &mut Vec<Operation>, initial: Option<&[u64]>, limits: Limits) {
    if window.len() > SINGLES {
        return;
    }
    let mut at = window.len();
    while at > 0 {
        at -= 1;
        let changes = matches!(window[at].outcome, Outcome::Done | Outcome::Unknown);
        if changes {
            continue;
        }
        let left_out = window.remove(at);
        let begins_as = initial.map_or_else(|| anything(window), <[u64]>::to_vec);
        if !is_dead(window, &begins_as, limits) {
            window.insert(at, left_out);
        }
    }
}

/// Unknown operations matter only if somebody saw what they wrote; unknown reads never do.
fn matters(operation: &Operation, all: &[Operation]) -> bool {
    operation.is_known()
        || wrote(operation).is_some_and(|value| all.iter().any(|other| saw(other) == Some(value)))
}
