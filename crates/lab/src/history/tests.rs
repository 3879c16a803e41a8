//! The checker against a naive one on small histories, and against bugs planted in large ones.

use super::*;
use proptest::prelude::*;

fn operation(process: u32, ask: Ask, (called_us, returned_us): (u64, u64), outcome: Outcome) -> Operation {
    Operation { process, key: 0, ask, called_us, returned_us, outcome }
}

fn write(value: u64, times: (u64, u64)) -> Operation {
    operation(1, Ask::Write(value), times, Outcome::Done)
}

fn read(value: u64, times: (u64, u64)) -> Operation {
    operation(2, Ask::Read, times, Outcome::Found(value))
}

fn set(expected: u64, new: u64, times: (u64, u64), outcome: Outcome) -> Operation {
    operation(3, Ask::CompareAndSet { expected, new }, times, outcome)
}

fn holds(history: &[Operation]) -> bool {
    check(history, Limits::default()).holds()
}

/// The one violation of a history.
fn violation(history: &[Operation]) -> Violation {
    let mut verdict = check(history, Limits::default());
    assert_eq!((verdict.violations.len(), verdict.undecided.len()), (1, 0), "{verdict:?}");
    verdict.violations.remove(0)
}

/// All orders of all subsets, from the definition of linearizability alone.
fn naive(left: &[Operation], state: u64) -> bool {
    if left.iter().all(|operation| !operation.is_known()) {
        return true;
    }
    left.iter().enumerate().any(|(index, next)| {
        let first = left
            .iter()
            .all(|other| other == next || !other.is_known() || other.returned_us >= next.called_us);
        let after = match (next.ask, next.outcome) {
            (Ask::Read, Outcome::Found(value)) => (value == state).then_some(state),
            (Ask::Read, _) => Some(state),
            (Ask::Write(value), _) => Some(value),
            (Ask::CompareAndSet { expected, .. }, Outcome::Refused(held)) => {
                (held == state && expected != state).then_some(state)
            }
            (Ask::CompareAndSet { expected, new }, _) => (expected == state).then_some(new),
        };
        let mut rest = left.to_vec();
        rest.remove(index);
        first && after.is_some_and(|state| naive(&rest, state))
    })
}

fn any_operation() -> impl Strategy<Value = Operation> {
    let value = 0..4_u64;
    let read = prop_oneof![4 => value.clone().prop_map(Outcome::Found), 1 => Just(Outcome::Unknown)];
    let wrote = prop_oneof![3 => Just(Outcome::Done), 1 => Just(Outcome::Unknown)];
    let set = prop_oneof![
        3 => Just(Outcome::Done), 1 => Just(Outcome::Unknown), 1 => value.clone().prop_map(Outcome::Refused)
    ];
    let what = prop_oneof![
        read.prop_map(|outcome| (Ask::Read, outcome)),
        (value.clone(), wrote).prop_map(|(value, outcome)| (Ask::Write(value), outcome)),
        (value.clone(), value, set)
            .prop_map(|(expected, new, outcome)| (Ask::CompareAndSet { expected, new }, outcome)),
    ];
    (what, 0..20_u64, 0..8_u64, 0..u32::MAX).prop_map(|((ask, outcome), called, took, process)| {
        operation(process, ask, (called, called + took), outcome)
    })
}

/// A history that real registers made: each operation happens at one instant between its call and its return, and
/// some answers are lost on the way back, or the operations on the way there.
fn real_history(choices: &[(u8, u8, u8)]) -> Vec<Operation> {
    const CLIENTS: u64 = 5;
    let (mut state, mut history) = (NEVER_WRITTEN, Vec::new());
    let mut free_at = [0_u64; CLIENTS as usize];
    for (number, &(what, width, fate)) in choices.iter().enumerate() {
        let number = number as u64;
        let client = (number % CLIENTS) as usize;
        let happens = 100 * (number + 1);
        let called = free_at[client].max(happens.saturating_sub(u64::from(width))) + 1;
        let returned = happens + u64::from(width) / 2 + 1;
        free_at[client] = returned;
        let ask = match what % 3 {
            0 => Ask::Read,
            1 => Ask::Write(number + 1),
            _ => Ask::CompareAndSet { expected: if what > 128 { state } else { 1 }, new: number + 1 },
        };
        let lost = fate < 20;
        let outcome = match ask {
            _ if lost && fate < 10 => Outcome::Unknown,
            Ask::Read => Outcome::Found(state),
            Ask::Write(value) => {
                state = value;
                Outcome::Done
            }
            Ask::CompareAndSet { expected, new } if expected == state => {
                state = new;
                Outcome::Done
            }
            Ask::CompareAndSet { .. } => Outcome::Refused(state),
        };
        let outcome = if lost { Outcome::Unknown } else { outcome };
        history.push(operation(number as u32, ask, (called, returned), outcome));
    }
    history
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn it_says_what_the_definition_says(history in prop::collection::vec(any_operation(), 1..7)) {
        let verdict = check(&history, Limits::default());
        prop_assert!(verdict.undecided.is_empty());
        prop_assert_eq!(verdict.violations.is_empty(), naive(&history, NEVER_WRITTEN));
        for violation in verdict.violations {
            // What is shown is a proof by itself: whatever the register held before, or from the beginning.
            let impossible = (0..5).all(|state| !naive(&violation.window, state));
            prop_assert!(impossible || !naive(&violation.window, NEVER_WRITTEN));
            prop_assert!(violation.window.len() <= history.len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn what_real_registers_answer_passes_and_one_changed_answer_does_not(
        choices in prop::collection::vec(any::<(u8, u8, u8)>(), 100..400),
        place in any::<prop::sample::Index>(),
    ) {
        let mut history = real_history(&choices);
        prop_assert!(holds(&history));
        let reads: Vec<usize> = (0..history.len())
            .filter(|&at| matches!(history[at].outcome, Outcome::Found(_)))
            .collect();
        if !reads.is_empty() {
            // A value that nobody ever wrote.
            history[*place.get(&reads)].outcome = Outcome::Found(1_000_000);
            let found = violation(&history);
            prop_assert!(found.window.len() <= history.len());
        }
    }
}

#[test]
fn a_stale_read_is_found_and_the_window_is_small() {
    let mut history: Vec<_> = (1..1_000).map(|n| write(n, (10 * n, 10 * n + 5))).collect();
    history.push(read(999, (10_001, 10_002)));
    assert!(holds(&history));
    history.push(read(998, (10_003, 10_004)));
    history.extend((1_001..1_100).map(|n| write(n, (10 * n + 1, 10 * n + 5))));
    let found = violation(&history);
    assert_eq!(found.at, read(998, (10_003, 10_004)));
    assert_eq!(found.window, [read(999, (10_001, 10_002)), read(998, (10_003, 10_004))]);
}

#[test]
fn a_lost_write_is_found_and_one_of_unknown_outcome_may_be_lost_or_come_late() {
    let before = [write(1, (0, 1)), read(1, (2, 3))];
    let lost = [&before[..], &[write(2, (4, 5)), read(1, (6, 7))]].concat();
    assert_eq!(violation(&lost).window, [write(2, (4, 5)), read(1, (6, 7))]);
    let unanswered = operation(1, Ask::Write(2), (4, 5), Outcome::Unknown);
    let later = |values: &[u64]| {
        let reads = values.iter().zip(6_u64..).map(|(&value, at)| read(value, (10 * at, 10 * at + 1)));
        before.iter().copied().chain([unanswered]).chain(reads).collect::<Vec<_>>()
    };
    assert!(holds(&later(&[1, 1, 1])), "never");
    assert!(holds(&later(&[1, 1, 2, 2])), "late");
    assert!(!holds(&later(&[1, 2, 1])), "not twice, and not undone");
}

#[test]
fn a_compare_and_set_is_done_once() {
    let first = [write(1, (0, 1)), set(1, 2, (2, 9), Outcome::Done)];
    assert!(holds(&first));
    let second = set(1, 3, (3, 8), Outcome::Done);
    assert!(!holds(&[&first[..], &[second]].concat()), "both cannot have found 1");
    assert!(holds(&[&first[..], &[set(1, 3, (3, 8), Outcome::Refused(2))]].concat()));
    assert!(
        !holds(&[&first[..], &[set(1, 3, (3, 8), Outcome::Refused(1))]].concat()),
        "it was 1 and refused"
    );
    assert!(!holds(&[&first[..], &[set(1, 3, (3, 8), Outcome::Refused(5))]].concat()), "nobody wrote 5");
}

#[test]
fn keys_are_registers_of_their_own() {
    let on = |key, operation: Operation| Operation { key, ..operation };
    let history = [on(0, write(1, (0, 1))), on(1, read(NEVER_WRITTEN, (2, 3))), on(2, read(5, (2, 3)))];
    let verdict = check(&history, Limits::default());
    assert_eq!((verdict.linearizable, verdict.violations.len(), verdict.violations[0].key), (2, 1, 2));
    assert!(!verdict.holds());
}

#[test]
fn what_is_too_much_is_no_pass() {
    let together: Vec<_> = (1..=9).map(|n| write(n, (n, 100))).collect();
    let history = [&together[..], &[read(3, (200, 201))]].concat();
    assert!(holds(&history));
    let verdict = check(&history, Limits { configurations: 50 });
    assert!(!verdict.holds() && verdict.violations.is_empty() && verdict.undecided[0].1.contains("50"));
    let crowd: Vec<_> = (1..=200).map(|n| write(n, (n, 1_000))).collect();
    assert_eq!(check(&crowd, Limits::default()).undecided.len(), 1);
}

#[test]
fn many_unknown_outcomes_stay_cheap() {
    // A thousand writes without an answer, a few of which show up much later.
    let unknown = (1..=1_000).map(|n| operation(n as u32, Ask::Write(n), (n, n + 1), Outcome::Unknown));
    let seen = (0..40).map(|n| read(7 * n + 1, (10_000 + 10 * n, 10_005 + 10 * n)));
    let history: Vec<_> = unknown.chain(seen).collect();
    assert!(check(&history, Limits { configurations: 10_000 }).holds());
    let again = read(1, (20_000, 20_001));
    assert!(!holds(&[&history[..], &[again]].concat()), "each happens once");
}

#[test]
fn nothing_checked_is_nothing_shown() {
    assert!(!holds(&[]));
    assert_eq!(Tally::of(&[write(1, (0, 1)), read(1, (2, 3))]).ok, 2);
}
