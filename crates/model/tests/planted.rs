//! Planted bugs are found, each by the promise that it breaks, with the steps that show it.

mod common;

use common::changing;
use model::{Begin, Bounds, Planted, check};

/// The promise that the bug breaks, and how.
fn broken_by(planted: Planted) -> (&'static str, Vec<String>) {
    broken_in(Bounds { depth: 16, faults: 0, commands: 0, planted, ..Bounds::default() })
}

fn broken_in(bounds: Bounds) -> (&'static str, Vec<String>) {
    let planted = bounds.planted;
    let outcome = check(bounds, 1);
    let mut broken = outcome.promises.into_iter().filter(|promise| promise.always && !promise.holds);
    let promise = broken.next().unwrap_or_else(|| panic!("{planted:?} was not found"));
    println!("{}:\n  {}", promise.name, promise.steps.join("\n  "));
    (promise.name, promise.steps)
}

#[test]
fn output_released_an_epoch_early_is_found() {
    let (promise, steps) = broken_by(Planted { release_early: true, ..Planted::default() });
    assert_eq!(promise, "nothing that left a host is lost");
    assert_eq!(steps.last().map(String::as_str), Some("Promote(Beta)"));
}

#[test]
fn promotion_without_a_grant_is_found() {
    let (promise, steps) = broken_by(Planted { promote_without_grant: true, ..Planted::default() });
    assert_eq!(promise, "only who owns the newest term is heard unprotected");
    assert!(!steps.iter().any(|step| step == "Decide(Beta)"), "{steps:?}");
}

#[test]
fn a_partial_epoch_applied_is_found() {
    let (promise, _) = broken_by(Planted { apply_partial: true, ..Planted::default() });
    assert_eq!(promise, "what is promoted is the newest committed checkpoint");
}

/// Where a backup is changed.
fn broken_change(planted: Planted) -> (&'static str, Vec<String>) {
    broken_in(Bounds { planted, ..changing(16, 0, 0) })
}

#[test]
fn a_change_of_backup_that_does_not_wait_for_the_old_one_is_found() {
    let (promise, steps) = broken_change(Planted { succeed_unresigned: true, ..Planted::default() });
    assert_eq!(promise, "nothing that left a host is lost");
    assert!(steps.iter().any(|step| step == "Decide(Beta)"), "{steps:?}");
}

#[test]
fn a_backup_that_resigned_and_stands_by_all_the_same_is_found() {
    let (promise, steps) = broken_change(Planted { resign_and_stay: true, ..Planted::default() });
    assert_eq!(promise, "nothing that left a host is lost");
    assert!(steps.iter().any(|step| step == "Decide(Beta)"), "{steps:?}");
}

#[test]
fn an_owner_that_stays_after_the_last_checkpoint_of_a_migration_left_is_found() {
    let planted = Planted { stay_after_departure: true, ..Planted::default() };
    let begin = Begin::Migration;
    let bounds = Bounds { depth: 16, faults: 0, commands: 0, begin, planted, ..Bounds::default() };
    let (promise, steps) = broken_in(bounds);
    assert_eq!(promise, "only who owns the newest term is heard unprotected");
    assert!(steps.iter().any(|step| step == "Decide(Beta)"), "{steps:?}");
}
