//! Planted bugs are found, each by the checker that is there for it.

use protocol::{Micros, Timing};
use sim::{Class, Options, Planted, Trial, run};
use std::ops::RangeInclusive;

/// The first of the seeds that fails with the bug fails as that.
fn is_found(seeds: RangeInclusive<u64>, planted: Planted, as_class: Class) {
    let options = Options { planted, trace_lines: 0, ..Options::default() };
    let (seed, class) = first_failure(seeds, &options).unwrap_or_else(|| panic!("no seed found {planted:?}"));
    println!("found at seed {seed}");
    assert_eq!(class, as_class);
}

fn first_failure(mut seeds: RangeInclusive<u64>, options: &Options) -> Option<(u64, Class)> {
    seeds.find_map(|seed| run(seed, options).err().map(|failure| (seed, failure.class)))
}

#[test]
fn output_released_an_epoch_early_is_found() {
    is_found(1..=1_000, Planted { release_early: true, ..Planted::default() }, Class::OutputLost);
}

#[test]
fn promotion_without_a_grant_is_found() {
    is_found(1..=1_000, Planted { promote_without_grant: true, ..Planted::default() }, Class::Ownership);
}

#[test]
fn a_partial_epoch_applied_is_found() {
    is_found(1..=1_000, Planted { apply_partial: true, ..Planted::default() }, Class::ImageDiffers);
}

#[test]
fn an_acknowledgement_before_the_disk_is_durable_is_found() {
    is_found(1..=1_000, Planted { ack_before_durable: true, ..Planted::default() }, Class::NotDurable);
}

#[test]
fn a_part_of_an_epochs_disk_changes_applied_is_found() {
    is_found(1..=1_000, Planted { apply_partial_disk: true, ..Planted::default() }, Class::ImageDiffers);
}

#[test]
fn a_change_of_backup_that_does_not_wait_for_the_old_one_is_found() {
    is_found(1..=1_000, Planted { succeed_unresigned: true, ..Planted::default() }, Class::OutputLost);
}

#[test]
fn a_backup_that_resigned_and_stands_by_all_the_same_is_found() {
    is_found(1..=1_000, Planted { resign_and_stay: true, ..Planted::default() }, Class::OutputLost);
}

#[test]
fn own_writes_of_an_old_owner_that_are_not_repaired_are_found() {
    is_found(1..=1_000, Planted { hide_own_writes: true, ..Planted::default() }, Class::ImageDiffers);
}

#[test]
fn a_remnant_taken_for_the_memory_as_it_is_is_found() {
    is_found(1..=1_000, Planted { trust_remnant: true, ..Planted::default() }, Class::ImageDiffers);
}

#[test]
fn marks_forgotten_before_the_owners_disk_has_the_writes_are_found() {
    // It takes a power loss between two flushes of the guest, and the way back as that very backup: about one seed in a
    // thousand comes to it.
    let planted = Planted { forget_unsynced: true, ..Planted::default() };
    is_found(1..=6_000, planted, Class::ImageDiffers);
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
    let (seed, class) = first_failure(1..=1_000, &options).expect("it is found");
    println!("found at seed {seed}");
    assert_eq!(class, Class::OldHostSpoke);
    let options = Options { trial: Some(trial), trace_lines: 0, ..Options::default() };
    assert!(run(seed, &options).is_ok(), "without the bug that seed keeps every promise");
}
