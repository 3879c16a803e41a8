//! Every behaviour within small bounds keeps the promises; what must come about does. Deeper: `cargo xtask model`.

mod common;

use common::changing;
use model::{Begin, Bounds, Clocks, Outcome, check};

fn keeps_its_promises(bounds: Bounds) -> Outcome {
    let outcome = check(bounds, 1);
    assert!(outcome.is_safe(), "{:#?}", outcome.promises);
    assert_eq!(outcome.never(), [""; 0], "what never comes about was not checked");
    println!("{} states, depth {}, complete: {}", outcome.states, outcome.depth, outcome.complete);
    outcome
}

#[test]
fn all_that_the_bounds_allow_without_faults_and_requests() {
    let bounds = Bounds { depth: 60, faults: 0, commands: 0, steps: 1, ..Bounds::default() };
    assert!(keeps_its_promises(bounds).complete);
}

#[test]
fn eight_steps_with_a_fault_and_a_request() {
    keeps_its_promises(Bounds { depth: 8, faults: 1, commands: 1, ..Bounds::default() });
}

#[test]
fn all_that_the_bounds_allow_of_a_migration_without_faults_and_requests() {
    let begin = Begin::Migration;
    let bounds = Bounds { depth: 60, faults: 0, commands: 0, steps: 1, begin, ..Bounds::default() };
    assert!(keeps_its_promises(bounds).complete);
}

#[test]
fn a_migration_with_a_fault_that_may_be_called_off() {
    let begin = Begin::Migration;
    keeps_its_promises(Bounds { depth: 8, faults: 1, commands: 1, steps: 1, begin, ..Bounds::default() });
}

#[test]
fn a_backup_that_is_changed_without_faults() {
    assert!(keeps_its_promises(changing(60, 0, 0)).complete);
}

#[test]
fn a_backup_that_is_changed_with_a_fault_or_called_off() {
    keeps_its_promises(changing(8, 1, 1));
}

#[test]
fn an_old_owner_is_silent_where_clocks_run_alike() {
    let bounds = Bounds { depth: 11, faults: 1, commands: 0, clocks: Clocks::Shared, ..Bounds::default() };
    keeps_its_promises(bounds);
}
