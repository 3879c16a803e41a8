//! The backup's machine, fed by hand.

mod common;

use common::*;
use protocol::backup::{Action, BulkUse, Conn, Event, PhaseName};
use protocol::notice::{LinkLoss, Notice};
use protocol::resync::DiskOffer;
use protocol::wire::{EndReason, Hello, Refusal, ToBackup, ToPrimary, YieldReason};
use protocol::{Epoch, Grant, Instant, Micros, Session, Term, Timing};

fn lost() -> Event {
    Event::Disconnected(C1, LinkLoss::Disconnected("reset".into()))
}

fn promotes(actions: &[Action]) -> Option<(&Grant, Epoch)> {
    actions.iter().find_map(|action| match action {
        Action::Promote(grant, epoch, _) => Some((grant, *epoch)),
        _ => None,
    })
}

#[test]
fn a_standby_takes_its_phases_and_acknowledges_whole_epochs() {
    let mut standby = Standby::empty();
    let prepared = standby.feed(Event::Hello(C1, (Term(1), S1), hello()));
    assert!(prepared.contains(&Action::Prepare(C1, hello())));
    assert_eq!(standby.phase(), PhaseName::Preparing);
    standby.feed(Event::StandbyReady(C1, DiskOffer::NoDisks.into()));
    assert_eq!(standby.bulk(0, 4096).0, BulkUse::ApplyNow, "the first copy");
    let committed = standby.receives(1);
    assert!(committed.contains(&Action::Commit(Epoch(1), vec![3])));
    let acks = |action: &Action| matches!(action, Action::Send(C1, ToPrimary::Ack(Epoch(1), _)));
    assert!(committed.iter().any(acks));
    assert_eq!(standby.phase(), PhaseName::Armed);
    assert_eq!(standby.bulk(0, 4096).0, BulkUse::Ignore, "no copy any more");
}

/// Found by the simulator: the pulse's deadline stood in the past for as long as the standby took to start.
#[test]
fn no_deadline_lies_in_the_past_while_the_standby_starts() {
    let mut standby = Standby::empty();
    standby.feed(Event::Hello(C1, (Term(1), S1), hello()));
    for _ in 0..5 {
        standby.pass(Micros::from_millis(50));
        assert!(standby.machine.deadline() > Some(standby.now));
    }
}

#[test]
fn a_host_that_did_not_read_on_suspects_nobody_for_that_and_somebody_later() {
    let mut standby = Standby::armed();
    for _ in 0..10 {
        standby.machine.not_listening(standby.now);
        standby.pass(Micros(short().timeout.0 / 2));
        assert_eq!(standby.phase(), PhaseName::Armed);
    }
    standby.pass(short().timeout);
    assert_eq!(standby.phase(), PhaseName::Claiming, "it listens and hears nothing");

    let mut standby = Standby::armed();
    standby.feed(Event::Disconnected(C1, LinkLoss::Stream("nonsense".into())));
    standby.pass(Micros(short().timeout.0 / 2));
    standby.machine.not_listening(standby.now);
    standby.pass(short().timeout);
    assert_eq!(standby.phase(), PhaseName::Claiming, "there is nobody left to listen to");
}

#[test]
fn a_hello_is_taken_as_it_was_said_to_be() {
    let armed = Standby::armed();
    let cases = [(1, hello()), (0, hello()), (2, hello()), (2, Hello { primary: host("beta"), ..hello() })];
    for (term, hello) in cases {
        let mut standby = Standby::armed();
        let takes = armed.machine.takes((Term(term), S1), &hello);
        let out = standby.feed(Event::Hello(Conn(2), (Term(term), S1), hello));
        assert_eq!(out.iter().any(|action| matches!(action, Action::Prepare(..))), takes, "{out:?}");
        assert_eq!(takes, term == 2 && !out.contains(&Action::Close(Conn(2))));
    }
}

#[test]
fn an_epoch_that_is_not_whole_is_refused_and_what_is_committed_stays() {
    for wrong in [commit(2, 2, 100), commit(2, 1, 99), commit(3, 1, 100), commit(1, 1, 100)] {
        let mut standby = Standby::armed();
        standby.bulk(2, 100);
        let refused = standby.hears(wrong);
        assert!(!refused.iter().any(|action| matches!(action, Action::Commit(..))));
        assert!(refused.contains(&Action::DropStaged) && refused.contains(&Action::Close(C1)));
        assert!(refused.iter().any(|action| matches!(action, Action::Send(C1, ToPrimary::Broken(_)))));
        assert_eq!(standby.machine.standing_by().unwrap().2, Epoch(1));
        // Its primary is alive and told; should it die, epoch 1 goes on.
        let claiming = standby.pass(short().timeout);
        let won = standby.decided(&claiming, "beta");
        assert_eq!(promotes(&won).unwrap().1, Epoch(1));
    }
}

#[test]
fn data_of_an_epoch_that_is_not_open_is_refused() {
    for epoch in [1, 3] {
        let mut standby = Standby::armed();
        let (used, refused) = standby.bulk(epoch, 10);
        assert_eq!(used, BulkUse::Ignore);
        assert!(refused.contains(&Action::DropStaged));
    }
}

#[test]
fn behind_the_last_epoch_the_standby_stands_where_it_ended_and_takes_nothing_more() {
    let stands = |actions: &[Action]| actions.contains(&Action::Stand);
    let mut standby = Standby::armed();
    assert!(!stands(&standby.receives(2)), "others may follow");
    standby.bulk(3, 100);
    let told = standby.hears(last_commit(3, 1, 100));
    let acknowledges = |action: &Action| matches!(action, Action::Send(C1, ToPrimary::Ack(Epoch(3), _)));
    let (ack, stand) = (told.iter().position(acknowledges), told.iter().position(|a| *a == Action::Stand));
    assert!(ack.is_some() && ack < stand, "nobody waits for it: {told:?}");
    let (used, refused) = standby.bulk(4, 10);
    assert_eq!(used, BulkUse::Ignore);
    assert!(refused.iter().any(|action| matches!(action, Action::Send(C1, ToPrimary::Broken(_)))));
    let claiming = standby.pass(short().timeout);
    assert_eq!(promotes(&standby.decided(&claiming, "beta")).unwrap().1, Epoch(3));

    // A migration's only epoch, with disk changes: they must be durable first.
    let mut standby = Standby::copying();
    standby.bulk_of(protocol::wire::Kind::Disk, 1, 100);
    assert!(!stands(&standby.hears(last_commit(1, 1, 100))));
    assert!(stands(&standby.persisted(1)));
}

#[test]
fn before_the_first_whole_epoch_nothing_entitles_it() {
    for event in [lost(), Event::Tick] {
        let mut standby = Standby::copying();
        standby.bulk(1, 100);
        if matches!(event, Event::Tick) {
            standby.now = standby.now + short().timeout;
        }
        let gone = standby.feed(event);
        assert!(gone.contains(&Action::Discard), "{gone:?}");
        assert_eq!(standby.phase(), PhaseName::Done);
    }
}

#[test]
fn it_asks_after_silence_and_promotes_only_with_the_record() {
    let mut standby = Standby::armed();
    assert!(promotes(&standby.pass(Micros(short().timeout.0 - 1))).is_none());
    assert_eq!(standby.phase(), PhaseName::Armed);
    let claiming = standby.pass(Micros(1));
    let claim = backup_claim(&claiming);
    assert_eq!(claim.term, Term(2));
    assert!(promotes(&standby.feed(Event::Claimed(claim.clone(), silence()))).is_none());
    assert_eq!(backup_claim(&standby.pass(short().claim_retry)), claim, "the same question");
    let won = standby.feed(Event::Claimed(claim.clone(), given_to("beta", &claim)));
    let (grant, epoch) = promotes(&won).unwrap();
    assert_eq!((grant.term(), epoch), (Term(2), Epoch(1)));
    assert_eq!(standby.machine.known_term(), Term(2));
    standby.feed(Event::Promoted);
    assert_eq!(standby.phase(), PhaseName::Done);
}

#[test]
fn who_loses_the_claim_throws_the_standby_away() {
    let mut standby = Standby::armed();
    let claiming = standby.pass(short().timeout);
    let discarded = standby.decided(&claiming, "alpha");
    assert!(promotes(&discarded).is_none() && discarded.contains(&Action::Discard));
    assert_eq!(standby.phase(), PhaseName::Done);
}

#[test]
fn the_end_of_a_connection_counts_after_its_grace() {
    let mut standby = Standby::armed();
    standby.bulk(2, 100);
    let ended = standby.feed(lost());
    assert_eq!(ended, [Action::DropStaged]);
    assert_eq!(standby.pass(Micros(short().disconnect_grace.0 - 1)), []);
    backup_claim(&standby.pass(Micros(1)));
}

#[test]
fn a_yield_is_taken_at_the_named_epoch_only() {
    let mut standby = Standby::armed();
    let claiming = standby.hears(ToBackup::Yield(Epoch(1), YieldReason::Planned));
    assert_eq!(promotes(&standby.decided(&claiming, "beta")).unwrap().1, Epoch(1));

    let mut standby = Standby::armed();
    let refused = standby.hears(ToBackup::Yield(Epoch(2), YieldReason::Planned));
    assert!(refused.iter().any(|action| matches!(action, Action::Send(C1, ToPrimary::Broken(_)))));

    let mut standby = Standby::armed();
    standby.receives(2);
    let claiming = standby.hears(ToBackup::Yield(Epoch(1), YieldReason::VmDied));
    assert_eq!(promotes(&standby.decided(&claiming, "beta")).unwrap().1, Epoch(2), "the newest whole one");
}

#[test]
fn a_promotion_that_fails_is_told_and_never_tried_again_in_that_term() {
    let mut standby = Standby::armed();
    let claiming = standby.hears(ToBackup::Yield(Epoch(1), YieldReason::Planned));
    standby.decided(&claiming, "beta");
    let failed = standby.feed(Event::PromotionFailed("no".into()));
    assert!(failed.contains(&Action::Send(C1, ToPrimary::Declined(Term(2)))));
    assert!(failed.contains(&Action::Discard));
    assert_eq!(standby.phase(), PhaseName::Done);
}

#[test]
fn hellos_that_cannot_be_right_are_refused() {
    let refused = |standby: &mut Standby, term: u64, hello: Hello| {
        let out = standby.feed(Event::Hello(Conn(2), (Term(term), S1), hello));
        assert!(out.contains(&Action::Close(Conn(2))), "{out:?}");
        let answer = out.into_iter().find_map(|action| match action {
            Action::Send(Conn(2), answer) => Some(answer),
            _ => None,
        });
        answer.unwrap()
    };
    let machine = |answer: &ToPrimary| matches!(answer, ToPrimary::Refuse(Refusal::Machine { .. }));
    let mut empty = Standby::empty();
    assert!(machine(&refused(&mut empty, 1, Hello { primary: host("beta"), ..hello() })));
    let other = protocol::VmName::new("other").unwrap();
    assert!(machine(&refused(&mut empty, 1, Hello { vm: other, ..hello() })));
    let timing = Timing { heartbeat: Micros(0), ..short() };
    assert!(machine(&refused(&mut empty, 1, Hello { timing, ..hello() })));
    assert_eq!(empty.phase(), PhaseName::Empty);

    let mut armed = Standby::armed();
    let busy = ToPrimary::Refuse(Refusal::Busy { term: Term(1) });
    assert_eq!(refused(&mut armed, 1, hello()), busy);
    assert_eq!(refused(&mut armed, 0, hello()), ToPrimary::Fenced(Term(1)), "a stale term");
    armed.feed(Event::Disconnected(C1, LinkLoss::Disconnected("reset".into())));
    armed.pass(short().timeout);
    assert_eq!(armed.phase(), PhaseName::Claiming);
    assert_eq!(refused(&mut armed, 2, hello()), busy, "until it is decided");
    assert_eq!(armed.phase(), PhaseName::Claiming);
}

#[test]
fn in_one_term_no_other_host_replaces_the_standby() {
    let busy = ToPrimary::Refuse(Refusal::Busy { term: Term(1) });
    for mut standby in [Standby::empty(), Standby::copying()] {
        standby.feed(Event::Hello(C1, (Term(1), S1), hello()));
        let gamma = Hello { primary: host("gamma"), ..hello() };
        let answer = standby.feed(Event::Hello(Conn(2), (Term(1), S1), gamma));
        assert_eq!(answer, [Action::Send(Conn(2), busy.clone()), Action::Close(Conn(2))]);
        assert_eq!(standby.machine.standing_by().unwrap().0, &host("alpha"));
        // The same host may begin again: its first attempt may be half open.
        let again = standby.feed(Event::Hello(Conn(3), (Term(1), S1), hello()));
        assert!(again.contains(&Action::Prepare(Conn(3), hello())));
    }
}

#[test]
fn a_late_hello_of_an_older_term_does_not_overwrite_a_newer_copy() {
    // The host begins to listen, and its label says that a copy of term 6 is whole.
    let mut standby = Standby::with_copy((Term(7), Session(0)));
    let why = Refusal::NewerCopy { host: host("beta"), least: Term(7) };
    for term in [5, 6] {
        assert!(!standby.machine.takes((Term(term), S1), &hello()));
        let refused = standby.feed(Event::Hello(C1, (Term(term), S1), hello()));
        let told = Notice::StandbyRefused { primary: host("alpha"), term: Term(term), why: why.clone() };
        let answer = Action::Send(C1, ToPrimary::Refuse(why.clone()));
        assert_eq!(refused, [Action::Notice(told), answer, Action::Close(C1)]);
    }
    let taken = standby.feed(Event::Hello(Conn(2), (Term(7), S1), hello()));
    assert!(taken.contains(&Action::Prepare(Conn(2), hello())), "{taken:?}");
    // What it began to overwrite is of that term; once it is whole it is the next one's to overwrite.
    let mut standby = Standby::copying();
    standby.feed(lost());
    assert!(
        standby.machine.takes((Term(1), S1), &hello()) && !standby.machine.takes((Term(0), S1), &hello())
    );
    let mut standby = Standby::armed();
    standby.feed(Event::Message(C1, ToBackup::End(EndReason::Stopped)));
    assert_eq!(standby.phase(), PhaseName::Done);
    assert!(
        standby.machine.takes((Term(2), S1), &hello()) && !standby.machine.takes((Term(1), S1), &hello())
    );
}

#[test]
fn an_owner_of_a_higher_term_may_replace_the_standby() {
    let mut standby = Standby::armed();
    let replaced = standby.feed(Event::Hello(Conn(2), (Term(2), S1), hello()));
    assert!(replaced.contains(&Action::Discard) && replaced.contains(&Action::Prepare(Conn(2), hello())));
    assert_eq!(standby.phase(), PhaseName::Preparing);
    assert_eq!(standby.hears(commit(2, 0, 0)), [], "the old connection is over");
}

#[test]
fn the_end_of_protection_is_obeyed_unless_the_arbiter_is_asked_already() {
    let mut standby = Standby::armed();
    assert!(standby.hears(ToBackup::End(EndReason::Unprotected)).contains(&Action::Discard));
    let mut standby = Standby::armed();
    standby.pass(short().timeout);
    standby.hears(ToBackup::End(EndReason::Unprotected));
    assert_eq!(standby.phase(), PhaseName::Claiming, "only the arbiter's record decides");
}

#[test]
fn the_newest_clock_reading_is_echoed() {
    let mut standby = Standby::armed();
    standby.hears(ToBackup::Heartbeat(beat(Instant(77))));
    standby.hears(ToBackup::Heartbeat(beat(Instant(70))));
    let pulses = standby.pass(short().heartbeat);
    let echo = pulses.iter().find_map(|action| match action {
        Action::Send(C1, ToPrimary::Pulse(body)) => Some(body.echo),
        _ => None,
    });
    assert_eq!(echo, Some(Instant(77)));
}

#[test]
fn a_pulse_goes_with_a_heartbeat_if_it_would_be_due_soon_after() {
    let pulses = |actions: &[Action]| {
        actions.iter().any(|action| matches!(action, Action::Send(C1, ToPrimary::Pulse(_))))
    };
    let (mut standby, heartbeat) = (Standby::armed(), short().heartbeat);
    standby.pass(heartbeat);
    standby.pass(Micros(heartbeat.0 / 2 - 1));
    assert!(!pulses(&standby.hears(ToBackup::Heartbeat(beat(Instant(1))))), "it sent one not long ago");
    standby.pass(Micros(1));
    assert!(pulses(&standby.hears(ToBackup::Heartbeat(beat(Instant(2))))));
    assert!(!pulses(&standby.pass(heartbeat)), "the next heartbeat may be a little late");
    assert!(pulses(&standby.pass(Micros(heartbeat.0 / 4))), "without one they go on");
    assert!(pulses(&standby.pass(heartbeat)));
}

/// Found by the simulator: an owner that woke up while its backup was promoting got a fresh echo, so a lease, and
/// spoke after the promoted VM.
#[test]
fn a_backup_that_has_claimed_promises_nothing_any_more() {
    let mut standby = Standby::armed();
    standby.hears(ToBackup::Heartbeat(beat(Instant(77))));
    let claiming = standby.pass(short().timeout);
    assert_eq!(standby.phase(), PhaseName::Claiming);
    let echoes = |standby: &mut Standby| {
        let mut heard = standby.hears(ToBackup::Heartbeat(beat(Instant(900_000))));
        heard.extend(standby.pass(short().heartbeat));
        let echo = |action: &Action| match action {
            Action::Send(C1, ToPrimary::Pulse(body)) => Some(body.echo),
            _ => None,
        };
        heard.iter().filter_map(echo).collect::<Vec<_>>()
    };
    assert_eq!(echoes(&mut standby), [Instant(77)], "it still says that it lives");
    standby.decided(&claiming, "beta");
    assert_eq!(standby.phase(), PhaseName::Promoting);
    assert_eq!(echoes(&mut standby), [Instant(77)]);
}

#[test]
fn a_standby_that_dies_says_so_and_is_gone() {
    let mut standby = Standby::armed();
    let died = standby.feed(Event::StandbyDied("signal 9".into()));
    assert!(died.iter().any(|action| matches!(action, Action::Send(C1, ToPrimary::Broken(_)))));
    assert!(died.iter().any(|action| matches!(action, Action::Notice(Notice::StandbyDiscarded { .. }))));
    assert_eq!(standby.phase(), PhaseName::Done);
}
