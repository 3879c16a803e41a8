//! Whom the machines suspect, when, and what a promise does not depend on.

mod common;

use common::*;
use protocol::backup::{self, Event as BackupEvent};
use protocol::detector::Listening;
use protocol::notice::{LinkLoss, Notice};
use protocol::primary::{Action, Event, PhaseName};
use protocol::resync::DiskOffer;
use protocol::wire::{AckBody, Beat, ToBackup, ToPrimary, YieldReason};
use protocol::{Instant, Micros, Session, Term, Timing};

const MS: fn(u64) -> Micros = Micros::from_millis;

fn pulse(echo: Instant, silence: Micros, timeout: Micros) -> ToPrimary {
    ToPrimary::Pulse(AckBody { echo, silence, timeout })
}

fn unheard(actions: &[Action]) -> bool {
    let lost = |action: &Action| {
        matches!(action, Action::Notice(Notice::BackupLost { why: LinkLoss::Unheard(_), .. }))
    };
    actions.iter().any(lost)
}

/// The next heartbeats of a primary.
fn wish(actions: &[Action]) -> Option<Micros> {
    actions.iter().rev().find_map(|action| match action {
        Action::Send(_, ToBackup::Heartbeat(beat)) => Some(beat.wish),
        _ => None,
    })
}

/// Beats reach the standby after so many milliseconds each.
fn beats(standby: &mut Standby, gaps: &[u64]) {
    for &gap in gaps {
        standby.pass(MS(gap));
        let at = standby.now;
        standby.hears(ToBackup::Heartbeat(beat(at)));
    }
}

fn listening(standby: &Standby) -> Listening {
    standby.machine.listening().unwrap()
}

#[test]
fn an_owner_that_is_not_heard_asks_before_its_backup_does_and_says_why() {
    let timing = short();
    let mut owner = Owner::protected(timing);
    let echo = owner.now;
    for heard_nothing_for in [100, 150, 224] {
        owner.pass(MS(75));
        let out = owner.hears_in(S1, pulse(echo, MS(heard_nothing_for), timing.timeout));
        assert!(!unheard(&out), "{heard_nothing_for} ms");
    }
    owner.pass(MS(1));
    let out = owner.hears_in(S1, pulse(echo, MS(225), timing.timeout));
    assert!(unheard(&out), "{out:?}");
    assert_eq!(claim_in(&out).term, Term(2));
}

#[test]
fn an_owner_that_slept_is_not_surprised_that_it_was_not_heard() {
    let timing = short();
    let mut owner = Owner::protected(timing);
    let echo = owner.now;
    owner.now = owner.now + MS(500);
    owner.machine.wake(owner.now);
    let out = owner.hears_in(S1, pulse(echo, MS(400), timing.timeout));
    assert!(!unheard(&out), "it beat for nobody");
    assert_eq!(owner.phase(), PhaseName::Protected);
    // Now it beats, and is heard as little.
    owner.pass(MS(200));
    assert_eq!(owner.phase(), PhaseName::Protected);
    owner.hears_in(S1, pulse(echo, MS(600), timing.timeout));
    owner.pass(MS(25));
    assert!(unheard(&owner.hears_in(S1, pulse(echo, MS(625), timing.timeout))));
}

#[test]
fn a_loop_that_slept_reads_first_and_suspects_nobody_for_its_own_silence() {
    for anything_waits in [true, false] {
        let mut standby = Standby::armed();
        standby.now = standby.now + MS(10_000);
        standby.machine.wake(standby.now);
        standby.feed(BackupEvent::Tick);
        assert_eq!(standby.phase(), backup::PhaseName::Armed);
        if anything_waits {
            standby.hears(ToBackup::Heartbeat(beat(Instant(3))));
        }
        standby.pass(MS(269));
        assert_eq!(standby.phase(), backup::PhaseName::Armed);
        standby.pass(MS(31));
        assert_eq!(standby.phase(), backup::PhaseName::Claiming, "awake, and nothing comes");
    }
}

#[test]
fn a_late_link_is_given_more_time_at_once_and_within_bounds() {
    let mut standby = Standby::armed();
    beats(&mut standby, &[30; 50]);
    assert_eq!(listening(&standby).timeout, MS(300));
    beats(&mut standby, &[200]);
    assert_eq!(listening(&standby).timeout, MS(430));
    assert_eq!(listening(&standby).learnt.unwrap().peak, MS(200));
    standby.pass(MS(429));
    assert_eq!(standby.phase(), backup::PhaseName::Armed, "another one twice as long is none too long");
    beats(&mut standby, &[0, 400, 800, 1_400]);
    assert_eq!(listening(&standby).timeout, short().timeout_max);
    standby.pass(short().timeout_max);
    assert_eq!(standby.phase(), backup::PhaseName::Claiming);
}

#[test]
fn a_fixed_time_out_learns_nothing() {
    let timing = Timing { timeout_max: short().timeout, ..short() };
    let mut owner = Owner::protected(timing);
    let out = owner.pass(MS(200));
    assert_eq!(wish(&out), Some(timing.timeout));
    owner.hears_in(S1, pulse(owner.now, MS(0), MS(5_000)));
    assert_eq!(owner.machine.listening().unwrap(), Listening { timeout: MS(225), learnt: None });
}

#[test]
fn an_owner_tells_its_backup_how_late_it_is_and_goes_by_what_the_backup_says() {
    let timing = short();
    let mut owner = Owner::protected(timing);
    owner.pass(MS(200));
    owner.hears_in(S1, pulse(owner.now, MS(0), timing.timeout));
    // 2 · 200 + 30, and a third more: the owner's own time-out is three quarters of the backup's.
    let wished = wish(&owner.pass(timing.heartbeat)).unwrap();
    assert!((MS(570)..MS(575)).contains(&wished), "{wished:?}");
    let mut standby = Standby::armed();
    standby.hears(ToBackup::Heartbeat(Beat { at: Instant(99), wish: wished }));
    assert_eq!(listening(&standby).timeout, wished);
    standby.bulk(2, 10);
    assert_eq!(listening(&standby).timeout, wished, "until it wishes something else");
    beats(&mut standby, &[1]);
    assert_eq!(listening(&standby).timeout, timing.timeout);
    owner.hears_in(S1, pulse(owner.now, MS(0), wished));
    assert_eq!(owner.machine.listening().unwrap().timeout, timing.primary_timeout(wished));
    owner.hears_in(S1, pulse(owner.now, MS(0), Micros(u64::MAX)));
    assert_eq!(owner.machine.listening().unwrap().timeout, MS(1_125), "no peer talks it out of its bounds");
}

#[test]
fn what_was_learnt_of_a_link_is_known_in_the_next_session_with_that_backup_only() {
    for (peer, known) in [("beta", true), ("gamma", false)] {
        let timing = short();
        let mut owner = Owner::protected(timing);
        owner.pass(MS(200));
        owner.hears_in(S1, pulse(owner.now, MS(0), timing.timeout));
        let claiming = owner.feed(Event::Disconnected(S1, LinkLoss::Disconnected("reset".into())));
        owner.decided(&claiming, "alpha");
        owner.pass(MS(60_000));
        owner
            .command(protocol::primary::Command::Protect { peer: host(peer), timing, machine: vec![1] })
            .unwrap();
        let second = Session(2);
        owner.feed(Event::Connected(second));
        owner.hears_in(second, ToPrimary::Accept(DiskOffer::NoDisks.into()));
        let learnt = owner.machine.listening().unwrap().learnt.unwrap();
        assert_eq!(learnt.peak >= MS(199), known, "{learnt:?}");
        assert!(learnt.peak < MS(1_000), "the time between the sessions was no silence");
    }
}

#[test]
fn a_link_is_known_to_the_next_session_on_it_whoever_listened_before() {
    // A backup learns, and takes over.
    let mut standby = Standby::armed();
    beats(&mut standby, &[30, 200, 30]);
    let claiming = standby.pass(short().timeout_max);
    standby.decided(&claiming, "beta");
    standby.feed(BackupEvent::Promoted);
    let (peer, gaps) = standby.machine.learnt().map(|(peer, gaps)| (peer.clone(), gaps.clone())).unwrap();
    assert!(peer == host("alpha") && gaps.needs() >= MS(400), "{gaps:?}");
    // The owner that it becomes, and another VM's standby at this host, begin with it.
    let mut owner = Owner::unprotected();
    owner.machine.recall(&host("beta"), gaps.clone());
    owner
        .command(protocol::primary::Command::Protect {
            peer: host("beta"),
            timing: short(),
            machine: vec![1],
        })
        .unwrap();
    owner.feed(Event::Connected(S1));
    owner.hears_in(S1, ToPrimary::Accept(DiskOffer::NoDisks.into()));
    assert_eq!(owner.machine.learnt().map(|(_, gaps)| gaps.needs()), Some(gaps.needs()));
    for (from, patient) in [("alpha", true), ("gamma", false)] {
        let mut other = Standby::empty();
        other.machine.recall(&host(from), gaps.clone());
        other.feed(BackupEvent::Hello(C1, (Term(1), S1), hello()));
        other.feed(BackupEvent::StandbyReady(C1, DiskOffer::NoDisks.into()));
        assert_eq!(listening(&other).timeout >= MS(400), patient, "known of {from}");
    }
}

/// Whatever was learnt, and however the connection ended: the promoted VM is silent for as long as the old owner may hold
/// a lease from the newest echo.
#[test]
fn a_promoted_vm_speaks_when_the_lease_that_was_last_given_is_over() {
    let timing = short();
    let not_before = |actions: &[backup::Action]| {
        actions.iter().find_map(|action| match action {
            backup::Action::Promote(_, _, at) => Some(*at),
            _ => None,
        })
    };
    let mut standby = Standby::armed();
    beats(&mut standby, &[250, 20]);
    let heard = standby.now;
    standby.pass(MS(10));
    // Not a newer reading: it gives no longer lease.
    standby.hears(ToBackup::Heartbeat(beat(Instant(50))));
    let lost = standby.feed(BackupEvent::Disconnected(C1, LinkLoss::Disconnected("reset".into())));
    assert!(not_before(&lost).is_none());
    let claiming = standby.pass(timing.disconnect_grace);
    let won = standby.decided(&claiming, "beta");
    assert_eq!(not_before(&won), Some(heard + timing.timeout));
    assert!(timing.lease() < timing.timeout);

    // Silence has used it up.
    let mut standby = Standby::armed();
    let claiming = standby.pass(timing.timeout);
    let won = standby.decided(&claiming, "beta");
    assert!(not_before(&won).unwrap() <= standby.now);

    // The owner's own word that it says nothing more.
    let mut standby = Standby::armed();
    beats(&mut standby, &[20]);
    let claiming = standby.hears(ToBackup::Yield(protocol::Epoch(1), YieldReason::VmDied));
    let won = standby.decided(&claiming, "beta");
    assert!(not_before(&won).unwrap() <= standby.now);
}
