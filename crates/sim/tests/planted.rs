//! Planted bugs are found, each by the checker that is there for it.

use protocol::{Micros, Timing};
use sim::{Class, Options, Planted, Trial, run};

/// The first seed that fails with the bug, and the class of the failure.
fn first_failure(planted: Planted) -> (u64, Class) {
    first_failure_of(1..=1_000, planted)
}

fn first_failure_of(mut seeds: std::ops::RangeInclusive<u64>, planted: Planted) -> (u64, Class) {
    let options = Options { planted, trace_lines: 0, ..Options::default() };
    let failed = |seed| run(seed, &options).err().map(|failure| (seed, failure.class));
    let found = seeds.find_map(failed);
    found.unwrap_or_else(|| panic!("no seed found {planted:?}"))
}

#[test]
fn output_released_an_epoch_early_is_found() {
    let (seed, class) = first_failure(Planted { release_early: true, ..Planted::default() });
    println!("found at seed {seed}");
    assert_eq!(class, Class::OutputLost);
}

#[test]
fn promotion_without_a_grant_is_found() {
    let (seed, class) = first_failure(Planted { promote_without_grant: true, ..Planted::default() });
    println!("found at seed {seed}");
    assert_eq!(class, Class::Ownership);
}

#[test]
fn a_partial_epoch_applied_is_found() {
    let (seed, class) = first_failure(Planted { apply_partial: true, ..Planted::default() });
    println!("found at seed {seed}");
    assert_eq!(class, Class::ImageDiffers);
}

#[test]
fn an_acknowledgement_before_the_disk_is_durable_is_found() {
    let (seed, class) = first_failure(Planted { ack_before_durable: true, ..Planted::default() });
    println!("found at seed {seed}");
    assert_eq!(class, Class::NotDurable);
}

#[test]
fn a_part_of_an_epochs_disk_changes_applied_is_found() {
    let (seed, class) = first_failure(Planted { apply_partial_disk: true, ..Planted::default() });
    println!("found at seed {seed}");
    assert_eq!(class, Class::ImageDiffers);
}

#[test]
fn a_change_of_backup_that_does_not_wait_for_the_old_one_is_found() {
    let (seed, class) = first_failure(Planted { succeed_unresigned: true, ..Planted::default() });
    println!("found at seed {seed}");
    assert_eq!(class, Class::OutputLost);
}

#[test]
fn a_backup_that_resigned_and_stands_by_all_the_same_is_found() {
    let (seed, class) = first_failure(Planted { resign_and_stay: true, ..Planted::default() });
    println!("found at seed {seed}");
    assert_eq!(class, Class::OutputLost);
}

#[test]
fn own_writes_of_an_old_owner_that_are_not_repaired_are_found() {
    let (seed, class) = first_failure(Planted { hide_own_writes: true, ..Planted::default() });
    println!("found at seed {seed}");
    assert_eq!(class, Class::ImageDiffers);
}

#[test]
fn marks_forgotten_before_the_owners_disk_has_the_writes_are_found() {
    // It takes a power loss between two flushes of the guest, and the way back as that very backup: about one seed in a
    // thousand comes to it.
    let planted = Planted { forget_unsynced: true, ..Planted::default() };
    let (seed, class) = first_failure_of(1..=6_000, planted);
    println!("found at seed {seed}");
    assert_eq!(class, Class::ImageDiffers);
}

#[test]
fn a_lease_from_a_time_out_that_nobody_promised_is_found() {
    // A link so late that time-outs grow at once, and every fault besides.
    let ms = Micros::from_millis;
    let timing = Timing { heartbeat: ms(10), timeout: ms(60), timeout_max: ms(300), ..Timing::default() };
    let trial = Trial {
        timing,
        delay: (Micros(50), Micros(500)),
        burst: (50, ms(100)),
        stalls: None,
        owner_dies_at: None,
    };
    let planted = Planted { lease_from_learnt: true, ..Planted::default() };
    let options = Options { planted, trial: Some(trial.clone()), trace_lines: 0, ..Options::default() };
    let failed = |seed| run(seed, &options).err().map(|failure| (seed, failure.class));
    let (seed, class) = (1..=1_000).find_map(failed).expect("it is found");
    println!("found at seed {seed}");
    assert_eq!(class, Class::OldHostSpoke);
    let options = Options { trial: Some(trial), trace_lines: 0, ..Options::default() };
    assert!(run(seed, &options).is_ok(), "without the bug that seed keeps every promise");
}
