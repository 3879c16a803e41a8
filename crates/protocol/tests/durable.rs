//! The backup's machine, fed by hand: epochs with disk changes are committed once they are durable.

mod common;

use common::*;
use protocol::backup::{Action, BulkUse, Conn, Event, PhaseName};
use protocol::notice::{LinkLoss, Notice};
use protocol::resync::DiskOffer;
use protocol::wire::{Kind, ToBackup, ToPrimary, YieldReason};
use protocol::{Epoch, Micros, Term};

fn commits(actions: &[Action]) -> Vec<u64> {
    let committed = |action: &Action| match action {
        Action::Commit(epoch, _) => Some(epoch.0),
        _ => None,
    };
    actions.iter().filter_map(committed).collect()
}

fn acks(actions: &[Action]) -> Vec<u64> {
    let acknowledged = |action: &Action| match action {
        Action::Send(C1, ToPrimary::Ack(epoch, _)) => Some(epoch.0),
        _ => None,
    };
    actions.iter().filter_map(acknowledged).collect()
}

fn persists(epoch: u64) -> Action {
    Action::Persist(C1, Epoch(epoch))
}

fn failed(epoch: u64) -> Event {
    Event::PersistFailed(C1, Epoch(epoch), "no space".into())
}

fn told_broken(actions: &[Action]) -> bool {
    actions.iter().any(|action| match action {
        Action::Send(C1, ToPrimary::Broken(why)) => why.contains("durable") && why.contains("no space"),
        _ => false,
    })
}

/// The newest committed epoch goes on when the primary is silent and the arbiter agrees.
fn promoted_from(standby: &mut Standby) -> u64 {
    let claiming = standby.pass(short().timeout);
    let won = standby.decided(&claiming, "beta");
    let epoch = won.iter().find_map(|action| match action {
        Action::Promote(_, epoch, _) => Some(epoch.0),
        _ => None,
    });
    epoch.unwrap_or_else(|| panic!("no promotion in {won:?}"))
}

#[test]
fn an_epoch_with_disk_changes_is_acknowledged_when_they_are_durable() {
    let mut standby = Standby::armed();
    assert_eq!(standby.receives_disk(2), [persists(2)]);
    assert_eq!(standby.machine.standing_by().unwrap().2, Epoch(1));
    let done = standby.persisted(2);
    assert_eq!((commits(&done), acks(&done)), (vec![2], vec![2]));
    let commit = done.iter().position(|action| matches!(action, Action::Commit(..)));
    let ack = done.iter().position(|action| matches!(action, Action::Send(..)));
    assert!(commit < ack, "applied before it is acknowledged");
    assert_eq!(standby.persisted(2), [], "once");
}

#[test]
fn later_epochs_are_staged_meanwhile_and_one_answer_may_do_for_several() {
    let mut standby = Standby::copying();
    let timing = short();
    assert_eq!(timing.max_in_flight, 2);
    assert_eq!(standby.receives_disk(1), [persists(1)]);
    assert_eq!(standby.phase(), PhaseName::Copying, "nothing is committed yet");
    assert_eq!(standby.receives_disk(2), [persists(2)]);
    assert_eq!(standby.bulk(3, 10).0, BulkUse::Stage(Epoch(3)));
    let done = standby.persisted(2);
    assert_eq!((commits(&done), acks(&done)), (vec![1, 2], vec![2]), "the newest stands for both");
    assert_eq!(standby.phase(), PhaseName::Armed);
    assert_eq!(standby.hears(commit(3, 1, 10)).len(), 2);
}

#[test]
fn an_epoch_without_disk_changes_waits_for_those_before_it() {
    let mut standby = Standby::armed();
    standby.receives_disk(2);
    assert_eq!(standby.receives(3), [], "no ack: 2 is not durable");
    let done = standby.persisted(2);
    assert_eq!((commits(&done), acks(&done)), (vec![2, 3], vec![3]));
    let at_once = standby.receives(4);
    assert_eq!((commits(&at_once), acks(&at_once)), (vec![4], vec![4]), "nothing waits any more");
}

#[test]
fn answers_out_of_order_commit_nothing_out_of_order() {
    let mut standby = Standby::armed();
    standby.receives_disk(2);
    standby.receives_disk(3);
    assert_eq!(standby.persisted(1), [], "an old one");
    assert_eq!(commits(&standby.persisted(2)), [2]);
    assert_eq!(commits(&standby.persisted(3)), [3]);
    assert_eq!(standby.persisted(2), []);
}

#[test]
fn a_first_copy_of_disks_must_be_durable_before_the_first_epoch() {
    let mut standby = Standby::copying_with(DiskOffer::Blank.into());
    assert_eq!(standby.bulk_of(Kind::Disk, 0, 4000).0, BulkUse::ApplyNow);
    assert_eq!(standby.receives(1), [persists(1)], "though it changes no disk itself");
    let (used, refused) = standby.bulk_of(Kind::Disk, 0, 4000);
    assert_eq!(used, BulkUse::Ignore, "the copy is over");
    assert!(refused.contains(&Action::Discard), "{refused:?}");

    let mut standby = Standby::copying_with(DiskOffer::Copies { bases: vec![], marked: vec![] }.into());
    assert_eq!(standby.receives(1), [persists(1)], "though nothing of the disks differed");
    assert_eq!(acks(&standby.persisted(1)), [1]);
    assert_eq!(acks(&standby.receives(2)), [2]);
}

#[test]
fn more_than_may_be_in_flight_is_refused() {
    let mut standby = Standby::armed();
    standby.receives_disk(2);
    standby.receives_disk(3);
    let refused = standby.receives_disk(4);
    assert!(refused.contains(&Action::DropStaged) && refused.contains(&Action::Close(C1)), "{refused:?}");
    assert_eq!(promoted_from(&mut standby), 1);
}

#[test]
fn a_journal_that_fails_ends_protection_and_what_is_committed_stays() {
    let mut standby = Standby::armed();
    standby.receives_disk(2);
    standby.receives(3);
    let given_up = standby.feed(failed(2));
    assert!(told_broken(&given_up), "{given_up:?}");
    assert!(given_up.contains(&Action::DropStaged) && given_up.contains(&Action::Close(C1)));
    let notice = |action: &Action| matches!(action, Action::Notice(Notice::PersistFailed { .. }));
    assert!(given_up.iter().any(notice));
    assert_eq!(commits(&given_up), Vec::<u64>::new());
    assert_eq!(standby.phase(), PhaseName::Armed);
    assert_eq!(standby.persisted(3), [], "too late");
    assert_eq!(promoted_from(&mut standby), 1, "its primary is told; should it die, epoch 1 goes on");
}

#[test]
fn a_journal_that_fails_before_the_first_epoch_ends_the_standby() {
    let mut standby = Standby::copying();
    standby.receives_disk(1);
    let given_up = standby.feed(failed(1));
    assert!(told_broken(&given_up) && given_up.contains(&Action::Discard), "{given_up:?}");
    assert_eq!(standby.phase(), PhaseName::Done);
}

#[test]
fn a_failure_of_what_nobody_waits_for_is_none() {
    let mut standby = Standby::armed();
    standby.receives_disk(2);
    standby.persisted(2);
    assert_eq!(standby.feed(failed(2)), []);
    assert_eq!(standby.feed(failed(3)), []);
    assert_eq!(acks(&standby.receives(3)), [3]);
}

#[test]
fn a_promotion_goes_on_from_the_committed_epoch_and_late_answers_change_nothing() {
    let mut standby = Standby::armed();
    standby.receives_disk(2);
    let claiming = standby.pass(short().timeout);
    assert!(claiming.contains(&Action::DropStaged));
    assert_eq!(standby.persisted(2), [], "while it claims");
    let won = standby.decided(&claiming, "beta");
    assert!(won.iter().any(|action| matches!(action, Action::Promote(_, Epoch(1), _))), "{won:?}");
    assert_eq!(standby.persisted(2), [], "while it promotes");
    assert_eq!(standby.feed(failed(2)), []);
    assert_eq!(standby.machine.standing_by().unwrap().2, Epoch(1));
}

#[test]
fn the_end_of_the_connection_drops_what_is_not_durable() {
    let mut standby = Standby::armed();
    standby.receives_disk(2);
    let ended = standby.feed(Event::Disconnected(C1, LinkLoss::Disconnected("reset".into())));
    assert_eq!(ended, [Action::DropStaged]);
    assert_eq!(standby.persisted(2), []);
    standby.pass(Micros(short().disconnect_grace.0 - 1));
    assert_eq!(promoted_from(&mut standby), 1);
}

#[test]
fn a_planned_handover_names_a_durable_epoch() {
    let mut standby = Standby::armed();
    standby.receives_disk(2);
    let refused = standby.hears(ToBackup::Yield(Epoch(2), YieldReason::Planned));
    assert!(refused.iter().any(|action| matches!(action, Action::Send(C1, ToPrimary::Broken(_)))));

    let mut standby = Standby::armed();
    standby.receives_disk(2);
    standby.persisted(2);
    let claiming = standby.hears(ToBackup::Yield(Epoch(2), YieldReason::Planned));
    assert_eq!(backup_claim(&claiming).term, Term(2));

    let mut standby = Standby::armed();
    standby.receives_disk(2);
    let claiming = standby.hears(ToBackup::Yield(Epoch(1), YieldReason::VmDied));
    let won = standby.decided(&claiming, "beta");
    assert!(won.iter().any(|action| matches!(action, Action::Promote(_, Epoch(1), _))), "{won:?}");
}

#[test]
fn an_answer_of_another_session_is_none() {
    let mut standby = Standby::copying();
    standby.receives_disk(1);
    standby.feed(Event::Hello(Conn(2), (Term(1), S1), hello()));
    standby.feed(Event::StandbyReady(Conn(2), DiskOffer::NoDisks.into()));
    assert_eq!(standby.phase(), PhaseName::Copying);
    let mut out = Vec::new();
    let (now, kind) = (standby.now, Kind::Disk);
    assert_eq!(standby.machine.bulk(now, Conn(2), kind, Epoch(1), 50, &mut out), BulkUse::Stage(Epoch(1)));
    let received = standby.feed(Event::Message(Conn(2), commit(1, 1, 50)));
    assert_eq!(received, [Action::Persist(Conn(2), Epoch(1))]);
    assert_eq!(standby.persisted(1), [], "of the session before");
    assert_eq!(standby.feed(failed(1)), []);
    let done = standby.feed(Event::Persisted(Conn(2), Epoch(1)));
    assert_eq!(commits(&done), [1]);
}

/// Found by the simulator: the backup was not armed yet and let the Yield pass, then both waited for ever.
#[test]
fn a_vm_that_dies_while_the_first_epoch_persists_goes_on_from_it() {
    let mut standby = Standby::copying();
    standby.receives_disk(1);
    let died = ToBackup::Yield(Epoch(0), YieldReason::VmDied);
    assert_eq!(standby.hears(died.clone()), []);
    let claiming = standby.persisted(1);
    assert_eq!((commits(&claiming), standby.phase()), (vec![1], PhaseName::Claiming));
    let won = standby.decided(&claiming, "beta");
    assert!(won.iter().any(|action| matches!(action, Action::Promote(_, Epoch(1), _))), "{won:?}");

    let mut standby = Standby::copying();
    standby.receives_disk(1);
    standby.hears(died.clone());
    assert!(told_broken(&standby.feed(failed(1))), "the primary must know that nobody takes over");

    let mut standby = Standby::copying();
    let refused = standby.hears(died);
    assert!(refused.contains(&Action::Discard), "nothing came that it could mean: {refused:?}");
}
