//! Marks, at both machines: set and answered during the first copy, one at a time, and no later.

mod common;

use common::*;
use protocol::Session;
use protocol::backup::{self, Conn, PhaseName};
use protocol::primary::{Action, Event, PhaseName as Phase};
use protocol::wire::compare::{Ask, Seed, Store};
use protocol::wire::{ToBackup, ToPrimary};

fn broken(actions: &[backup::Action]) -> Option<&str> {
    actions.iter().find_map(|action| match action {
        backup::Action::Send(C1, ToPrimary::Broken(why)) => Some(why.as_str()),
        _ => None,
    })
}

#[test]
fn word_of_a_mark_reaches_the_copy_that_set_it_and_nobody_else() {
    let mut owner = Owner::copying(short());
    assert_eq!(owner.hears_in(Session(9), ToPrimary::Reached), [], "of another session");
    let told = owner.hears_in(S1, ToPrimary::Reached);
    assert!(told.contains(&Action::Reached(S1)), "{told:?}");
    owner.feed(Event::Copied(S1));
    owner.hears_in(S1, ToPrimary::Reached);
    assert_eq!(owner.phase(), Phase::Unprotected, "the copy is over");
}

#[test]
fn a_mark_is_answered_when_it_is_reached_and_once() {
    let mut standby = Standby::copying();
    assert_eq!(standby.hears(ToBackup::Mark), [backup::Action::Reach(C1)]);
    assert_eq!(standby.feed(backup::Event::Reached(Conn(9))), [], "of another connection");
    let answered = standby.feed(backup::Event::Reached(C1));
    assert_eq!(answered, [backup::Action::Send(C1, ToPrimary::Reached)]);
    assert_eq!(standby.feed(backup::Event::Reached(C1)), [], "nobody waits for it");
    assert_eq!(standby.hears(ToBackup::Mark), [backup::Action::Reach(C1)], "the next one");
}

#[test]
fn marks_beyond_the_bound_or_behind_the_first_copy_end_the_session() {
    let mut standby = Standby::copying();
    standby.hears(ToBackup::Mark);
    let told = standby.hears(ToBackup::Mark);
    assert!(broken(&told).is_some_and(|why| why.contains("second mark")), "{told:?}");
    assert_eq!(standby.phase(), PhaseName::Done);

    let mut armed = Standby::armed();
    let told = armed.hears(ToBackup::Mark);
    assert!(broken(&told).is_some_and(|why| why.contains("no first copy")), "{told:?}");
}

#[test]
fn a_copy_that_cannot_be_made_durable_ends_the_session_and_says_why() {
    let mut standby = Standby::copying();
    standby.hears(ToBackup::Mark);
    let told = standby.feed(backup::Event::ReachFailed(C1, "no space left".into()));
    assert!(broken(&told).is_some_and(|why| why.contains("no space left")), "{told:?}");
    assert_eq!(standby.phase(), PhaseName::Done);
}

#[test]
fn whoever_asks_while_the_arbiter_is_asked_is_neither_answered_nor_refused() {
    let mut standby = Standby::armed();
    standby.pass(short().timeout);
    assert_eq!(standby.phase(), PhaseName::Claiming);
    assert_eq!(standby.hears(ToBackup::Mark), []);
    assert_eq!(standby.hears(ToBackup::Ask(Ask { of: Store::Disks, seed: Seed(1), runs: Vec::new() })), []);
    assert_eq!(standby.phase(), PhaseName::Claiming, "only the arbiter's record decides");
}
