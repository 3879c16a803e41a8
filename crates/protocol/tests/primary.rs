//! The primary's machine, fed by hand.

mod common;

use common::*;
use protocol::asking::ClaimAnswer;
use protocol::notice::{LinkLoss, Notice};
use protocol::pacing::{Follow, Pacing, Taken};
use protocol::primary::{Action, Command, CommandError, Event, PhaseName};
use protocol::resync::DiskOffer;
use protocol::wire::{EndReason, Refusal, ToBackup, ToPrimary, YieldReason};
use protocol::{Epoch, Instant, Micros, Session, Term, Timing};

fn lost() -> Event {
    Event::Disconnected(S1, LinkLoss::Disconnected("reset".into()))
}

fn fails() -> Event {
    Event::CheckpointFailed { session: S1, why: "no".into() }
}

#[test]
fn protection_takes_its_phases_and_releases_on_acknowledgement() {
    let mut owner = Owner::unprotected();
    let mut phases = vec![owner.phase()];
    assert_eq!(owner.protect(short()), [Action::Connect(S1, host("beta"))]);
    phases.push(owner.phase());
    assert!(matches!(owner.feed(Event::Connected(S1))[..], [Action::Send(S1, ToBackup::Hello(_))]));
    let copy = owner.hears_in(S1, ToPrimary::Accept(DiskOffer::NoDisks.into()));
    assert!(copy.contains(&Action::StartCopy(S1, DiskOffer::NoDisks.into())));
    assert!(
        copy.contains(&Action::Send(S1, ToBackup::Heartbeat(beat(owner.now)))),
        "beats as soon as it is accepted"
    );
    phases.push(owner.phase());
    assert!(asks_for_checkpoint(&owner.feed(Event::Copied(S1)), 1, false));
    assert!(owner.takes(1).contains(&Action::SendCheckpoint(S1, Epoch(1))));
    phases.push(owner.phase());
    assert_eq!(owner.hears_ack(1), [Action::Acknowledged(S1, Epoch(1)), Action::Release(Epoch(1))]);
    use PhaseName::{Copying, Opening, Protected, Unprotected};
    assert_eq!(phases, [Unprotected, Opening, Copying, Protected]);
    owner.epoch(2, short().interval);
    assert_eq!(owner.machine.progress(), Some((Epoch(2), Epoch(2), 0)));
}

/// Whether the checkpoint that is asked for may be spared.
fn may_spare(actions: &[Action]) -> Option<bool> {
    actions.iter().find_map(|action| match action {
        Action::TakeCheckpoint { spare, .. } => Some(spare.is_some()),
        _ => None,
    })
}

#[test]
fn a_guest_that_does_nothing_is_spared_its_checkpoint_but_not_the_first_nor_the_last() {
    let (mut owner, interval) = (Owner::protected(short()), short().interval);
    assert_eq!(may_spare(&owner.pass(interval)), Some(true));
    assert_eq!(owner.feed(Event::CheckpointSpared(S1, Epoch(1))), [], "that is closed");
    assert_eq!(may_spare(&owner.pass(interval)), None, "one runs");
    owner.feed(Event::CheckpointSpared(S1, Epoch(2)));
    assert_eq!(may_spare(&owner.pass(Micros(interval.0 - 1))), None, "an interval lies between");
    let again = owner.pass(Micros(1));
    assert!(asks_for_checkpoint(&again, 2, false), "the same epoch goes on: {again:?}");
    owner.takes(2);
    owner.hears_ack(2);
    assert_eq!(owner.machine.progress(), Some((Epoch(2), Epoch(2), 0)));
    owner.feed(Event::OutputWaits(Epoch(3), owner.now));
    assert_eq!(may_spare(&owner.pass(interval)), Some(false), "somebody waits");
    owner.takes(3);
    owner.hears_ack(3);
    owner.command(Command::Failover).unwrap();
    let last = owner.pass(interval);
    assert!(asks_for_checkpoint(&last, 4, true) && may_spare(&last) == Some(false), "{last:?}");
    let mut first = Owner::unprotected();
    first.protect(short());
    first.feed(Event::Connected(S1));
    first.hears_in(S1, ToPrimary::Accept(DiskOffer::NoDisks.into()));
    assert_eq!(may_spare(&first.feed(Event::Copied(S1))), Some(false), "the backup has nothing yet");
}

/// Checkpoints follow the output, at most 100 ms apart.
fn follows() -> Timing {
    let follow = Follow { max_overhead: 20, max_latency: Micros::from_millis(20) };
    Timing { interval: Micros::from_millis(100), pacing: Pacing::Follow(follow), ..short() }
}

#[test]
fn output_that_waits_pulls_the_next_checkpoint_forward() {
    let mut owner = Owner::protected(follows());
    assert!(!asks_for_checkpoint(&owner.pass(Micros::from_millis(5)), 2, false), "nobody waits");
    owner.feed(Event::OutputWaits(Epoch(1), owner.now));
    assert!(!asks_for_checkpoint(&owner.pass(Micros::from_millis(2)), 2, false), "that is closed already");
    assert!(asks_for_checkpoint(&owner.feed(Event::OutputWaits(Epoch(2), owner.now)), 2, false));
    // Behind the cut, before the owner hears that it was made.
    owner.feed(Event::OutputWaits(Epoch(3), owner.now));
    assert!(asks_for_checkpoint(&owner.takes(2), 3, false));
}

#[test]
fn a_slow_backup_slows_a_vm_that_is_followed_only_after_a_while() {
    let timing = follows();
    let mut owner = Owner::protected(timing);
    for epoch in [2, 3] {
        assert!(asks_for_checkpoint(&owner.feed(Event::OutputWaits(Epoch(epoch), owner.now)), epoch, false));
        owner.takes(epoch);
    }
    owner.feed(Event::OutputWaits(Epoch(4), owner.now));
    assert!(!owner.pass(Micros::from_millis(10)).contains(&Action::Pause));
    assert!(owner.pass(Micros::from_millis(30)).contains(&Action::Pause));
}

#[test]
fn a_planned_failover_does_not_wait_for_the_next_checkpoint() {
    let mut owner = Owner::protected(follows());
    let last = owner.command(Command::Failover).unwrap();
    assert!(asks_for_checkpoint(&last, 2, true), "{last:?}");
}

#[test]
fn a_backup_that_is_too_slow_slows_the_vm_and_an_acknowledgement_frees_it() {
    let timing = short();
    let mut owner = Owner::protected(timing);
    for epoch in [2, 3] {
        assert!(asks_for_checkpoint(&owner.pass(timing.interval), epoch, false));
        owner.takes(epoch);
    }
    let throttled = owner.pass(timing.interval);
    assert!(throttled.contains(&Action::Pause) && owner.machine.throttled().1, "{throttled:?}");
    assert!(!owner.pass(Micros(1_000)).contains(&Action::Pause), "once");
    assert!(asks_for_checkpoint(&owner.hears_ack(2), 4, false));
    // The checkpoint lets the VM go on by itself.
    assert_eq!(resumes(&owner.takes(4)), 0);
    assert!(!owner.machine.throttled().1 && owner.machine.throttled().0 > Micros(0));
}

#[test]
fn a_planned_failover_releases_everything_and_yields() {
    let timing = short();
    let mut owner = Owner::protected(timing);
    owner.command(Command::Failover).unwrap();
    assert!(asks_for_checkpoint(&owner.pass(timing.interval), 2, true));
    owner.takes(2);
    let done = owner.hears_ack(2);
    let at = |wanted: &Action| done.iter().position(|action| action == wanted).unwrap();
    let (release, hold) = (at(&Action::Release(Epoch(2))), at(&Action::HoldOutput));
    let yielded = at(&Action::Send(S1, ToBackup::Yield(Epoch(2), YieldReason::Planned)));
    assert!(release < hold && hold < yielded, "{done:?}");
    assert_eq!(owner.phase(), PhaseName::Yielded);
    let fenced = owner.feed(lost());
    let fenced = owner.decided(&fenced, "beta");
    assert!(fenced.contains(&Action::Fence));
    assert_eq!(owner.phase(), PhaseName::Fenced);
}

#[test]
fn a_failover_while_throttled_waits_for_room_and_then_takes_the_last_checkpoint() {
    let timing = short();
    let mut owner = Owner::protected(timing);
    for epoch in [2, 3] {
        owner.pass(timing.interval);
        owner.takes(epoch);
    }
    assert!(owner.pass(timing.interval).contains(&Action::Pause));
    let asked = owner.command(Command::Failover).unwrap();
    assert_eq!(asked, [], "paused is not handed over");
    assert!(asks_for_checkpoint(&owner.hears_ack(2), 4, true));
    owner.takes(4);
    owner.hears_ack(3);
    assert_eq!(owner.phase(), PhaseName::HandingOver, "epoch 4 is not acknowledged");
    assert!(owner.hears_ack(4).contains(&Action::Send(S1, ToBackup::Yield(Epoch(4), YieldReason::Planned))));
}

#[test]
fn a_failover_during_a_checkpoint_lets_it_end_and_takes_another_as_the_last() {
    let timing = short();
    let mut owner = Owner::protected(timing);
    assert!(asks_for_checkpoint(&owner.pass(timing.interval), 2, false));
    owner.command(Command::Failover).unwrap();
    assert!(!owner.takes(2).iter().any(|action| matches!(action, Action::Send(_, ToBackup::Yield(..)))));
    owner.hears_ack(2);
    assert_eq!(owner.phase(), PhaseName::HandingOver);
    assert!(asks_for_checkpoint(&owner.pass(timing.interval), 3, true));
}

#[test]
fn a_failover_whose_last_checkpoint_fails_is_called_off_and_the_vm_runs() {
    let timing = short();
    let mut owner = Owner::protected(timing);
    owner.command(Command::Failover).unwrap();
    owner.pass(timing.interval);
    let failed = owner.feed(fails());
    assert_eq!(resumes(&failed), 1);
    assert!(failed.iter().any(|action| matches!(action, Action::Notice(Notice::HandoverFailed { .. }))));
    assert_eq!(owner.phase(), PhaseName::Protected);
    assert!(asks_for_checkpoint(&owner.pass(timing.interval), 2, false), "the same epoch, not the last");
}

#[test]
fn a_failover_whose_link_is_lost_goes_on_here_after_the_grant_and_resumes_once() {
    let timing = short();
    let mut owner = Owner::protected(timing);
    owner.command(Command::Failover).unwrap();
    owner.pass(timing.interval);
    owner.takes(2);
    let claiming = owner.feed(lost());
    assert_eq!(owner.phase(), PhaseName::Claiming);
    assert!(claiming.contains(&Action::HoldOutput) && resumes(&claiming) == 0, "paused until it is decided");
    let won = owner.decided(&claiming, "alpha");
    assert_eq!(resumes(&won), 1);
    assert!(won.contains(&Action::OpenOutput));
    assert_eq!((owner.phase(), owner.machine.term()), (PhaseName::Unprotected, Term(2)));
}

#[test]
fn a_yield_lost_on_the_way_is_decided_by_the_arbiter() {
    let timing = short();
    for winner in ["alpha", "beta"] {
        let mut owner = Owner::yielded(timing);
        // Nothing is heard any more: the VM stands still no longer than that takes to be a loss.
        let claiming = owner.pass(timing.primary_timeout(timing.timeout));
        let decided = owner.decided(&claiming, winner);
        assert_eq!(resumes(&decided), usize::from(winner == "alpha"));
        let phase = if winner == "alpha" { PhaseName::Unprotected } else { PhaseName::Fenced };
        assert_eq!(owner.phase(), phase);
    }
}

#[test]
fn a_declined_promotion_brings_the_vm_back_in_the_term_after() {
    let timing = short();
    let mut owner = Owner::yielded(timing);
    let wrong = owner.hears_in(S1, ToPrimary::Declined(Term(7)));
    assert!(!wrong.iter().any(|action| matches!(action, Action::Claim(_))), "only of the next term");
    let claiming = owner.hears_in(S1, ToPrimary::Declined(Term(2)));
    assert_eq!(claim_in(&claiming).term, Term(3));
    let won = owner.decided(&claiming, "alpha");
    assert_eq!((resumes(&won), owner.machine.term()), (1, Term(3)));
}

#[test]
fn a_refusal_before_the_first_checkpoint_needs_no_arbiter() {
    let mut owner = Owner::unprotected();
    owner.protect(short());
    owner.feed(Event::Connected(S1));
    let refused = owner.hears_in(S1, ToPrimary::Refuse(Refusal::Busy { term: Term(1) }));
    assert!(!refused.iter().any(|action| matches!(action, Action::Claim(_))));
    assert!(refused.contains(&Action::OpenOutput));
    assert_eq!(owner.phase(), PhaseName::Unprotected);
}

#[test]
fn a_checkpoint_of_a_given_up_copy_changes_nothing() {
    let mut owner = Owner::copying(short());
    owner.feed(Event::Copied(S1));
    owner.feed(lost());
    assert_eq!(owner.takes(1), []);
    assert_eq!(owner.phase(), PhaseName::Unprotected);
}

#[test]
fn a_late_checkpoint_of_an_owner_that_claims_is_not_sent() {
    let timing = short();
    let mut owner = Owner::protected(timing);
    owner.pass(timing.interval);
    let claiming = owner.feed(lost());
    assert_eq!(owner.takes(2), [], "its session is over");
    let fenced = owner.decided(&claiming, "beta");
    assert!(fenced.contains(&Action::Fence));
    assert_eq!(owner.takes(2), []);
}

#[test]
fn unprotect_keeps_protecting_until_the_arbiter_has_spoken() {
    let timing = short();
    let mut owner = Owner::protected(timing);
    let leaving = owner.command(Command::Unprotect).unwrap();
    let claim = claim_in(&leaving);
    for _ in 0..3 {
        owner.feed(Event::Claimed(claim.clone(), silence()));
        // The backup lives, the arbiter does not.
        for _ in 0..8 {
            owner.pass(timing.claim_retry.min(timing.heartbeat));
            let echo = owner.now;
            owner.hears_in(S1, ToPrimary::Pulse(answer(echo)));
        }
        assert_eq!(owner.phase(), PhaseName::Protected);
    }
    assert_eq!(owner.command(Command::Failover), Err(CommandError::Undecided("leaving its protection")));
    let won = owner.feed(Event::Claimed(claim.clone(), given_to("alpha", &claim)));
    assert!(won.contains(&Action::Send(S1, ToBackup::End(EndReason::Unprotected))));
    assert!(won.contains(&Action::OpenOutput));
    assert_eq!((owner.phase(), owner.machine.term()), (PhaseName::Unprotected, Term(2)));
}

#[test]
fn an_unprotect_decided_after_the_link_was_lost_asks_no_second_question() {
    let mut owner = Owner::protected(short());
    let leaving = owner.command(Command::Unprotect).unwrap();
    let claiming = owner.feed(lost());
    assert!(claiming.contains(&Action::HoldOutput));
    assert!(!claiming.iter().any(|action| matches!(action, Action::Claim(_))), "the question is on its way");
    let won = owner.decided(&leaving, "alpha");
    assert!(won.contains(&Action::OpenOutput));
    assert_eq!(owner.phase(), PhaseName::Unprotected);
}

#[test]
fn a_stop_decided_after_the_link_was_lost_ends_the_vm() {
    let mut owner = Owner::protected(short());
    let leaving = owner.command(Command::Stop).unwrap();
    owner.feed(lost());
    let won = owner.decided(&leaving, "alpha");
    assert!(won.contains(&Action::Shutdown) && resumes(&won) == 0);
    assert_eq!(owner.phase(), PhaseName::Ended);
}

#[test]
fn a_dead_vm_is_handed_over_at_once_and_never_taken_back() {
    let mut owner = Owner::protected(short());
    let died = owner.feed(Event::VmDied("signal 9".into()));
    assert!(died.contains(&Action::Send(S1, ToBackup::Yield(Epoch(1), YieldReason::VmDied))));
    let lost = owner.feed(lost());
    assert!(!lost.iter().any(|action| matches!(action, Action::Claim(_))), "the backup asks first: {lost:?}");
    let claiming = owner.pass(Micros(short().timeout.0 * 8));
    let won = owner.decided(&claiming, "alpha");
    assert!(won.contains(&Action::Shutdown) && resumes(&won) == 0, "{won:?}");
    assert_eq!(owner.phase(), PhaseName::Ended);
}

#[test]
fn a_guest_that_shuts_down_is_stopped_whatever_was_under_way() {
    let timing = short();
    let mut owner = Owner::protected(timing);
    let leaving = owner.command(Command::Unprotect).unwrap();
    assert_eq!(owner.feed(Event::GuestShutdown), []);
    assert!(owner.decided(&leaving, "alpha").contains(&Action::Shutdown), "unprotect became stop");

    let mut owner = Owner::protected(timing);
    owner.command(Command::Failover).unwrap();
    owner.pass(timing.interval);
    owner.feed(Event::GuestShutdown);
    assert_eq!(owner.phase(), PhaseName::HandingOver);
    // The failover is called off: now the shutdown counts.
    let stopping = owner.feed(fails());
    assert!(owner.decided(&stopping, "alpha").contains(&Action::Shutdown));

    let mut owner = Owner::unprotected();
    assert!(owner.feed(Event::GuestShutdown).contains(&Action::Shutdown));
}

#[test]
fn a_frozen_owner_releases_nothing_on_a_stale_acknowledgement() {
    let timing = short();
    let mut owner = Owner::protected(timing);
    owner.pass(timing.interval);
    owner.takes(2);
    let echo = owner.now;
    // Frozen: no tick, no message, longer than the lease and the time-out.
    owner.now = owner.now + Micros(timing.timeout.0 * 3);
    let woke = owner.hears_in(S1, ToPrimary::Ack(Epoch(2), answer(echo)));
    assert!(!woke.iter().any(|action| matches!(action, Action::Release(_) | Action::OpenOutput)), "{woke:?}");
    // A fresh echo proves that the backup still stands by: it may leave now.
    let echo = owner.now;
    let fresh = owner.hears_in(S1, ToPrimary::Pulse(answer(echo)));
    assert_eq!(fresh.iter().filter(|action| matches!(action, Action::Release(_))).count(), 1);
}

#[test]
fn silence_of_three_quarters_of_the_time_out_makes_the_owner_ask_first() {
    let timing = short();
    let mut owner = Owner::protected(timing);
    let before = owner.pass(Micros(timing.primary_timeout(timing.timeout).0 - 1));
    assert!(!before.iter().any(|action| matches!(action, Action::Claim(_))));
    // Its checkpoints go on until then; none is acknowledged.
    assert_eq!(claim_in(&owner.pass(Micros(1))).term, Term(2));
}

#[test]
fn a_backup_that_lives_and_never_acknowledges_is_given_up_at_the_very_deadline() {
    let timing = short();
    let mut owner = Owner::protected(timing);
    owner.pass(timing.interval);
    owner.takes(2);
    let cut_at = owner.now;
    let mut seen = Vec::new();
    while owner.phase() == PhaseName::Protected && owner.now < cut_at + timing.stall + timing.heartbeat {
        seen.extend(owner.pass(timing.heartbeat));
        let echo = owner.now;
        seen.extend(owner.hears_in(S1, ToPrimary::Pulse(answer(echo))));
    }
    let stalled = |action: &Action| {
        matches!(action, Action::Notice(Notice::BackupLost { why: LinkLoss::Stalled(_), .. }))
    };
    assert!(seen.iter().any(stalled), "{seen:?}");
}

/// Found by the simulator: on a link slower than the lease everything was acknowledged and nothing ever left.
#[test]
fn a_backup_whose_every_echo_is_stale_is_given_up_too() {
    let timing = short();
    let mut owner = Owner::protected(timing);
    owner.pass(timing.interval);
    owner.takes(2);
    let cut_at = owner.now;
    let stale = |now: Instant| Instant(now.0 - timing.lease().0);
    owner.now = owner.now + timing.lease();
    let mut seen = owner.hears_in(S1, ToPrimary::Ack(Epoch(2), answer(stale(owner.now))));
    while owner.phase() == PhaseName::Protected && owner.now <= cut_at + timing.stall {
        seen.extend(owner.pass(timing.heartbeat));
        seen.extend(owner.hears_in(S1, ToPrimary::Pulse(answer(stale(owner.now)))));
    }
    assert!(!seen.iter().any(|action| matches!(action, Action::Release(_))));
    assert_eq!(owner.phase(), PhaseName::Claiming);
}

#[test]
fn an_acknowledgement_of_what_was_not_sent_ends_the_session() {
    let mut owner = Owner::protected(short());
    let lost = owner.hears_ack(5);
    assert!(!lost.iter().any(|action| matches!(action, Action::Release(_))));
    assert_eq!(owner.phase(), PhaseName::Claiming);
}

/// Found by the simulator: session numbers began anew in each term, and a late acknowledgement of the first term's
/// session 1 released output of the second term's session 1.
#[test]
fn what_an_old_session_still_posts_is_not_taken_for_the_new_one_even_in_another_term() {
    let timing = short();
    let mut owner = Owner::protected(timing);
    owner.epoch(2, timing.interval);
    let claiming = owner.feed(lost());
    owner.decided(&claiming, "alpha");
    let connect = owner.protect(timing);
    let [Action::Connect(session, _)] = connect[..] else { panic!("{connect:?}") };
    assert_ne!(session, S1);
    owner.feed(Event::Connected(session));
    owner.hears_in(session, ToPrimary::Accept(DiskOffer::NoDisks.into()));
    owner.feed(Event::Copied(session));
    let cut_at = owner.now;
    let taken = Taken { cut_at, pause: Micros(0), busy: None, waited: false, pages: 0 };
    owner.feed(Event::CheckpointTaken { session, epoch: Epoch(1), taken });
    let late = owner.hears_ack(1);
    assert_eq!(late, [], "an acknowledgement of the old session");
    assert_eq!(owner.feed(lost()), [], "its end");
}

#[test]
fn three_checkpoints_that_fail_in_a_row_end_protection() {
    let timing = short();
    let mut owner = Owner::protected(timing);
    for _ in 0..3 {
        assert!(asks_for_checkpoint(&owner.pass(timing.interval), 2, false));
        owner.feed(fails());
    }
    assert_eq!(owner.phase(), PhaseName::Claiming);
}

#[test]
fn an_answer_to_another_question_and_a_record_of_an_older_term_decide_nothing() {
    let timing = short();
    let mut owner = Owner::protected(timing);
    let claiming = owner.feed(lost());
    let claim = claim_in(&claiming);
    let other = claimant("alpha").claim(Term(9));
    assert_eq!(owner.feed(Event::Claimed(other.clone(), given_to("alpha", &other))), []);
    let old = protocol::TermRecord { claim: claimant("alpha").claim(Term(1)) };
    owner.feed(Event::Claimed(claim.clone(), ClaimAnswer::Record(old)));
    assert_eq!(owner.phase(), PhaseName::Claiming);
    // It asks again, with the same claim.
    assert_eq!(claim_in(&owner.pass(timing.claim_retry)), claim);
}

#[test]
fn commands_that_make_no_sense_are_refused_and_change_nothing() {
    let mut owner = Owner::unprotected();
    assert_eq!(owner.command(Command::Unprotect), Err(CommandError::NotProtected));
    assert_eq!(owner.command(Command::Failover), Err(CommandError::NotProtected));
    let timing = Timing { max_in_flight: 0, ..short() };
    let protect = |timing| Command::Protect { peer: host("beta"), timing, machine: vec![] };
    assert_eq!(owner.command(protect(timing)), Err(CommandError::Timing));
    assert_eq!(owner.phase(), PhaseName::Unprotected);
    let mut owner = Owner::protected(short());
    assert_eq!(owner.command(protect(short())), Err(CommandError::AlreadyProtected));
}

#[test]
fn a_backup_that_never_answers_hello_is_given_up() {
    let mut owner = Owner::unprotected();
    owner.protect(short());
    owner.feed(Event::Connected(S1));
    let given_up = owner.pass(Micros::from_millis(20_000));
    assert!(given_up.contains(&Action::EndSession(S1)));
    assert_eq!(owner.phase(), PhaseName::Unprotected);
    assert_eq!(owner.protect(short()), [Action::Connect(Session(2), host("beta"))]);
}

/// Found by the simulator: the death was forgotten, and an owner that took the VM back ran nothing.
#[test]
fn a_vm_that_dies_after_it_was_handed_over_is_not_taken_back() {
    let timing = short();
    let mut owner = Owner::yielded(timing);
    let died = owner.feed(Event::VmDied("signal 9".into()));
    assert!(matches!(died[..], [Action::Notice(Notice::VmDied { .. })]), "{died:?}");
    assert_eq!(owner.phase(), PhaseName::Yielded, "it goes on elsewhere");
    assert_eq!(owner.hears_in(S1, ToPrimary::Declined(Term(2))), []);
    owner.feed(lost());
    let claiming = owner.pass(timing.timeout);
    let won = owner.decided(&claiming, "alpha");
    assert!(won.contains(&Action::Shutdown) && resumes(&won) == 0, "{won:?}");
    assert_eq!(owner.phase(), PhaseName::Ended);
}

/// On the way to beta, everything copied and the only checkpoint asked for.
fn migrating(stop_first: bool) -> Owner {
    let mut owner = Owner::unprotected();
    let command = Command::Migrate { peer: host("beta"), timing: short(), machine: vec![1], stop_first };
    assert_eq!(owner.command(command).unwrap(), [Action::Connect(S1, host("beta"))]);
    owner.feed(Event::Connected(S1));
    let copy = owner.hears_in(S1, ToPrimary::Accept(DiskOffer::NoDisks.into()));
    let at = |wanted: &Action| copy.iter().position(|action| action == wanted);
    let started = at(&Action::StartCopy(S1, DiskOffer::NoDisks.into())).expect("it copies");
    assert_eq!(at(&Action::Pause).is_some_and(|paused| paused < started), stop_first, "{copy:?}");
    assert!(!copy.contains(&Action::HoldOutput), "the guest speaks on");
    assert!(asks_for_checkpoint(&owner.feed(Event::Copied(S1)), 1, true));
    owner
}

#[test]
fn a_migration_hands_over_with_its_first_checkpoint() {
    let mut owner = migrating(false);
    let sent = owner.takes(1);
    assert!(sent.contains(&Action::SendCheckpoint(S1, Epoch(1))));
    assert!(sent.contains(&Action::Notice(Notice::Departing { peer: host("beta") })));
    assert_eq!((owner.phase(), resumes(&sent)), (PhaseName::HandingOver, 0));
    assert!(!asks_for_checkpoint(&owner.pass(Micros::from_millis(100)), 2, true), "one is all");
    let done = owner.hears_ack(1);
    let at = |wanted: &Action| done.iter().position(|action| action == wanted).unwrap();
    let yielded = at(&Action::Send(S1, ToBackup::Yield(Epoch(1), YieldReason::Moved)));
    assert!(at(&Action::Release(Epoch(1))) < yielded, "{done:?}");
    let fenced = owner.feed(lost());
    assert!(owner.decided(&fenced, "beta").contains(&Action::Fence));
}

#[test]
fn a_migration_that_ends_before_its_checkpoint_is_sent_changes_nothing() {
    for stop_first in [false, true] {
        // The destination dies, the operator cancels, the copy gives up, QEMU does not save its devices.
        let given_up = Event::Disconnected(S1, LinkLoss::GivenUp("too fast".into()));
        for end in [Some(lost()), None, Some(given_up), Some(fails())] {
            let mut owner = migrating(stop_first);
            let told = end.is_some();
            let out = match end {
                Some(event) => owner.feed(event),
                None => owner.command(Command::Unprotect).unwrap(),
            };
            assert_eq!(owner.phase(), PhaseName::Unprotected);
            assert_eq!(resumes(&out), 1, "a checkpoint that leaves it paused is under way: {out:?}");
            assert!(!out.iter().any(|action| matches!(action, Action::Claim(_))), "nobody was entitled");
            assert!(out.contains(&Action::OpenOutput) && out.contains(&Action::EndSession(S1)));
            let failed = out.iter().any(|a| matches!(a, Action::Notice(Notice::MigrationFailed { .. })));
            assert_eq!(failed, told, "{out:?}");
            assert!(!asks_for_checkpoint(&owner.takes(1), 1, true), "what was cut too late is of nobody");
            assert_eq!(owner.phase(), PhaseName::Unprotected);
        }
    }
}

#[test]
fn behind_its_checkpoint_a_migration_is_decided_by_the_arbiter() {
    for (winner, phase) in [("alpha", PhaseName::Unprotected), ("beta", PhaseName::Fenced)] {
        for acknowledged in [false, true] {
            let mut owner = migrating(false);
            owner.takes(1);
            if acknowledged {
                owner.hears_ack(1);
            }
            let cancel = owner.command(Command::Unprotect);
            assert!(matches!(cancel, Err(CommandError::Undecided(_))), "too late");
            let claims = owner.feed(lost());
            assert_eq!(resumes(&claims), 0, "not before it is decided");
            let decided = owner.decided(&claims, winner);
            assert_eq!(owner.phase(), phase);
            assert_eq!(resumes(&decided), usize::from(winner == "alpha"));
        }
    }
}

#[test]
fn a_move_is_a_planned_failover_that_says_so() {
    let mut owner = Owner::protected(follows());
    let last = owner.command(Command::Move).unwrap();
    assert!(asks_for_checkpoint(&last, 2, true), "{last:?}");
    owner.takes(2);
    assert!(owner.hears_ack(2).contains(&Action::Send(S1, ToBackup::Yield(Epoch(2), YieldReason::Moved))));
    let again = Command::Migrate { peer: host("gamma"), timing: short(), machine: vec![], stop_first: false };
    assert!(matches!(owner.command(again), Err(CommandError::Undecided(_))));
}

#[test]
fn a_vm_that_is_protected_is_not_migrated_over_its_backup_and_the_other_way_round() {
    let migrate =
        || Command::Migrate { peer: host("gamma"), timing: short(), machine: vec![], stop_first: false };
    assert_eq!(Owner::protected(short()).command(migrate()), Err(CommandError::AlreadyProtected));
    let mut owner = migrating(false);
    assert_eq!(owner.command(migrate()), Err(CommandError::Migrating));
    let protect = Command::Protect { peer: host("gamma"), timing: short(), machine: vec![] };
    assert_eq!(owner.command(protect), Err(CommandError::Migrating));
}
