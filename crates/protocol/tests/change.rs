//! A backup that is changed while the VM stays protected, fed by hand.

mod common;

use common::*;
use protocol::backup;
use protocol::notice::{Discard, LinkLoss, Notice};
use protocol::pacing::Taken;
use protocol::primary::{Action, ChangeStage, Command, CommandError, Event, PhaseName};
use protocol::resync::DiskOffer;
use protocol::wire::{EndReason, Refusal, ToBackup, ToPrimary, YieldReason};
use protocol::{Epoch, Micros, Session, Term, Timing};

const S2: Session = Session(2);

fn change() -> Command {
    Command::Change { peer: host("gamma"), timing: short(), machine: vec![1] }
}

/// Protected by beta, epoch 1 acknowledged; gamma is being copied to.
fn copying() -> Owner {
    let mut owner = Owner::protected(short());
    assert_eq!(owner.command(change()).unwrap(), [Action::Connect(S2, host("gamma"))]);
    let hello = owner.feed(Event::Connected(S2));
    assert!(matches!(hello[..], [Action::Send(S2, ToBackup::Hello(_))]), "{hello:?}");
    let accepted = owner.hears_in(S2, ToPrimary::Accept(DiskOffer::NoDisks.into()));
    assert!(accepted.contains(&Action::StartCopy(S2, DiskOffer::NoDisks.into())), "{accepted:?}");
    owner
}

/// Epoch 2 of beta, which is epoch 1 of gamma, is on its way to both.
fn joint() -> Owner {
    let mut owner = copying();
    owner.feed(Event::Copied(S2));
    let asked = owner.pass(short().interval);
    assert!(asked.iter().any(|action| matches!(
        action,
        Action::TakeCheckpoint { session: S1, epoch: Epoch(2), with: Some(S2), spare: None, last: false, .. }
    )));
    let sent = owner.takes(2);
    assert_eq!(sent[..2], [Action::SendCheckpoint(S1, Epoch(2)), Action::SendCheckpoint(S2, Epoch(1))]);
    owner
}

fn gamma_acks(owner: &mut Owner, epoch: u64) -> Vec<Action> {
    let body = answer(owner.now);
    owner.hears_in(S2, ToPrimary::Ack(Epoch(epoch), body))
}

/// Gamma has it, and beta was asked to resign.
fn resigning() -> Owner {
    let mut owner = joint();
    assert_eq!(gamma_acks(&mut owner, 1), [Action::Send(S1, ToBackup::Resign)]);
    owner
}

fn lost(session: Session) -> Event {
    Event::Disconnected(session, LinkLoss::Disconnected("reset".into()))
}

fn releases(actions: &[Action]) -> Vec<u64> {
    let release = |action: &Action| if let Action::Release(epoch) = action { Some(epoch.0) } else { None };
    actions.iter().filter_map(release).collect()
}

#[test]
fn the_backup_protects_until_its_successor_has_all_and_it_resigned() {
    let mut owner = copying();
    assert_eq!(owner.machine.successor(), Some((&host("gamma"), ChangeStage::Copying)));
    // Beta goes on meanwhile.
    let asked = owner.pass(short().interval);
    assert!(asks_for_checkpoint(&asked, 2, false), "{asked:?}");
    owner.takes(2);
    owner.feed(Event::Copied(S2));
    // All that was said before the joint checkpoint leaves first.
    let waiting = owner.pass(short().interval);
    assert!(!waiting.iter().any(|action| matches!(action, Action::TakeCheckpoint { .. })), "{waiting:?}");
    let settled = owner.hears_ack(2);
    assert_eq!(releases(&settled), [2]);
    assert!(asks_for_checkpoint(&settled, 3, false), "{settled:?}");
    owner.takes(3);
    // Nothing leaves behind the cut, whoever acknowledges it, and no checkpoint is taken.
    assert_eq!(releases(&owner.hears_ack(3)), []);
    owner.feed(Event::OutputWaits(Epoch(4), owner.now));
    let idle = owner.pass(Micros(4 * short().interval.0));
    assert!(!idle.iter().any(|action| matches!(action, Action::TakeCheckpoint { .. })), "{idle:?}");
    assert_eq!(releases(&gamma_acks(&mut owner, 1)), [], "beta may still go on with the VM");
    let changed = owner.hears_in(S1, ToPrimary::Resigned);
    let order = [Action::Succeed(S2), Action::EndSession(S1), Action::Acknowledged(S2, Epoch(1))];
    assert_eq!(changed[..3], order);
    // The gate's numbers go on: it held epoch 3 for both.
    assert_eq!(releases(&changed), [3]);
    let next = changed.iter().find_map(|action| match action {
        Action::TakeCheckpoint { session, epoch, cut, .. } => Some((*session, *epoch, *cut)),
        _ => None,
    });
    assert_eq!(next, Some((S2, Epoch(2), Epoch(4))), "output waits: {changed:?}");
    assert_eq!((owner.phase(), owner.machine.peer()), (PhaseName::Protected, Some(&host("gamma"))));
    assert_eq!(owner.machine.term(), Term(1), "the arbiter was not asked");
    assert_eq!(owner.machine.successor(), None);
    assert_eq!(owner.feed(lost(S1)), [], "beta closes its connection");
}

#[test]
fn a_successor_that_fails_before_its_checkpoint_costs_nothing() {
    let refuse = ToPrimary::Refuse(Refusal::Busy { term: Term(1) });
    let fails: [fn(&mut Owner) -> Vec<Action>; 4] = [
        |owner| owner.feed(lost(S2)),
        |owner| owner.hears_in(S2, ToPrimary::Broken("no".into())),
        |owner| owner.hears_in(S2, ToPrimary::Hashes(protocol::wire::compare::Hashes { sums: vec![] })),
        |owner| {
            owner.hears_in(S2, ToPrimary::Accept(DiskOffer::NoDisks.into()));
            Vec::new()
        },
    ];
    for (number, fail) in fails.into_iter().enumerate() {
        let mut owner = copying();
        owner.feed(Event::Copied(S2));
        let told = fail(&mut owner);
        assert!(
            number == 3
                || told.iter().any(|action| matches!(action, Action::Notice(Notice::ChangeFailed { .. }))),
            "{told:?}"
        );
        assert_eq!((owner.machine.successor(), owner.machine.peer()), (None, Some(&host("beta"))));
        owner.epoch(2, short().interval);
    }
    let mut opening = Owner::protected(short());
    opening.command(change()).unwrap();
    opening.feed(Event::Connected(S2));
    let refused = opening.hears_in(S2, refuse);
    assert!(refused.contains(&Action::EndSession(S2)), "{refused:?}");
    // While its checkpoint is being taken, too.
    let mut cutting = copying();
    cutting.feed(Event::Copied(S2));
    cutting.pass(short().interval);
    cutting.feed(lost(S2));
    assert_eq!(cutting.takes(2)[0], Action::SendCheckpoint(S1, Epoch(2)));
    assert_eq!(releases(&cutting.hears_ack(2)), [2]);
}

#[test]
fn a_pulse_is_no_acknowledgement() {
    let mut owner = joint();
    let body = answer(owner.now);
    assert_eq!(owner.hears_in(S2, ToPrimary::Pulse(body)), [], "gamma may not have the checkpoint yet");
    assert_eq!(gamma_acks(&mut owner, 1), [Action::Send(S1, ToBackup::Resign)]);
}

/// Gamma is the backup, by these times.
fn changed(timing: Timing) -> Owner {
    let mut owner = Owner::protected(short());
    owner.command(Command::Change { peer: host("gamma"), timing, machine: vec![1] }).unwrap();
    let hello = owner.feed(Event::Connected(S2));
    assert!(matches!(&hello[..], [Action::Send(S2, ToBackup::Hello(hello))] if hello.timing == timing));
    owner.hears_in(S2, ToPrimary::Accept(DiskOffer::NoDisks.into()));
    owner.feed(Event::Copied(S2));
    owner.pass(short().interval);
    owner.takes(2);
    gamma_acks(&mut owner, 1);
    owner.hears_in(S1, ToPrimary::Resigned);
    owner
}

#[test]
fn checkpoints_are_as_often_as_the_new_session_wants_them() {
    let mut owner = changed(Timing { interval: Micros(2 * short().interval.0), ..short() });
    assert!(!asks_for_checkpoint(&owner.pass(short().interval), 2, false), "beta had them so often");
    assert!(asks_for_checkpoint(&owner.pass(short().interval), 2, false));
}

#[test]
fn a_new_backup_may_be_as_slow_as_its_times_say() {
    let mut owner = changed(Timing { stall: Micros(3 * short().stall.0), ..short() });
    for _ in 0..2 * short().stall.0 / short().heartbeat.0 {
        for action in owner.pass(short().heartbeat) {
            if let Action::TakeCheckpoint { session, epoch, .. } = action {
                let taken =
                    Taken { cut_at: owner.now, pause: Micros(0), busy: None, waited: false, pages: 0 };
                owner.feed(Event::CheckpointTaken { session, epoch, taken });
            }
        }
        let body = answer(owner.now);
        owner.hears_in(S2, ToPrimary::Pulse(body));
    }
    assert_eq!(owner.phase(), PhaseName::Protected, "by beta's times it would be lost");
}

#[test]
fn a_joint_checkpoint_that_fails_is_tried_again() {
    let mut owner = copying();
    owner.feed(Event::Copied(S2));
    owner.pass(short().interval);
    owner.feed(Event::CheckpointFailed { session: S1, why: "no".into() });
    let asked = owner.pass(short().interval);
    assert!(asked.iter().any(|action| matches!(action, Action::TakeCheckpoint { with: Some(S2), .. })));
}

#[test]
fn whoever_is_lost_behind_the_joint_checkpoint_leaves_it_to_the_arbiter() {
    for (session, peer) in [(S1, "beta"), (S2, "gamma")] {
        for mut owner in [joint(), resigning()] {
            let told = owner.feed(lost(session));
            assert_eq!(claim_in(&told).term, Term(2));
            assert!(
                told.contains(&Action::EndSession(S1)) && told.contains(&Action::EndSession(S2)),
                "{told:?}"
            );
            let lost = |action: &Action| matches!(action, Action::Notice(Notice::BackupLost { peer: of, .. }) if *of == host(peer));
            assert!(told.iter().any(lost), "{told:?}");
            let ends = |action: &Action| matches!(action, Action::Send(_, ToBackup::End(_)));
            assert!(!told.iter().any(ends), "the other one may be the last that has the VM: {told:?}");
            let decided = owner.decided(&told, "alpha");
            assert!(decided.contains(&Action::OpenOutput) && owner.phase() == PhaseName::Unprotected);
        }
    }
}

#[test]
fn a_lost_backup_ends_a_copy_to_its_successor() {
    let mut owner = copying();
    let told = owner.feed(lost(S1));
    assert!(told.contains(&Action::Send(S2, ToBackup::End(EndReason::Unprotected))), "{told:?}");
    assert!(told.contains(&Action::EndSession(S2)));
    owner.decided(&told, "gamma");
    assert_eq!(owner.phase(), PhaseName::Fenced);
}

#[test]
fn a_successor_that_falls_silent_is_found_out() {
    let mut owner = copying();
    let (timeout, beat) = (short().timeout, short().heartbeat);
    for _ in 0..2 * timeout.0 / beat.0 {
        owner.pass(beat);
        let body = answer(owner.now);
        owner.hears_in(S1, ToPrimary::Pulse(body));
    }
    assert_eq!((owner.machine.successor(), owner.phase()), (None, PhaseName::Protected));
}

#[test]
fn a_vm_that_dies_goes_to_who_surely_stands_by() {
    let yields = |told: &[Action]| {
        told.iter().find_map(|action| match action {
            Action::Send(session, ToBackup::Yield(epoch, YieldReason::VmDied)) => Some((*session, *epoch)),
            _ => None,
        })
    };
    for mut owner in [copying(), joint()] {
        let told = owner.feed(Event::VmDied("killed".into()));
        assert_eq!(yields(&told), Some((S1, Epoch(1))));
        assert!(told.contains(&Action::EndSession(S2)), "{told:?}");
    }
    let told = resigning().feed(Event::VmDied("killed".into()));
    assert_eq!(yields(&told), Some((S2, Epoch(1))), "beta may be gone");
    assert!(told.contains(&Action::Succeed(S2)) && told.contains(&Action::EndSession(S1)), "{told:?}");
}

#[test]
fn what_an_operator_asks_meanwhile() {
    let mut owner = Owner::unprotected();
    assert_eq!(owner.command(change()), Err(CommandError::NotProtected));
    let mut owner = Owner::protected(short());
    let same = Command::Change { peer: host("beta"), timing: short(), machine: vec![] };
    assert_eq!(owner.command(same), Err(CommandError::AlreadyProtected));
    assert_eq!(owner.command(Command::KeepBackup), Err(CommandError::NotChanging));
    let mut owner = copying();
    assert_eq!(owner.command(change()), Err(CommandError::Changing));
    let kept = owner.command(Command::KeepBackup).unwrap();
    assert!(kept.contains(&Action::EndSession(S2)) && owner.machine.successor().is_none(), "{kept:?}");
    for leave in [Command::Unprotect, Command::Stop, Command::Failover] {
        let mut owner = copying();
        let told = owner.command(leave).unwrap();
        assert!(told.contains(&Action::EndSession(S2)) && owner.machine.successor().is_none(), "{told:?}");
    }
    let mut owner = joint();
    assert_eq!(owner.command(Command::KeepBackup), Err(CommandError::Changing));
    assert_eq!(owner.command(Command::Failover), Err(CommandError::Changing));
    // The next term ends what either is entitled to.
    let asked = owner.command(Command::Unprotect).unwrap();
    gamma_acks(&mut owner, 1);
    owner.hears_in(S1, ToPrimary::Resigned);
    assert_eq!(owner.machine.peer(), Some(&host("gamma")));
    let won = owner.decided(&asked, "alpha");
    assert!(won.contains(&Action::Send(S2, ToBackup::End(EndReason::Unprotected))), "{won:?}");
}

#[test]
fn a_resignation_that_nobody_asked_for_ends_the_session() {
    let mut owner = joint();
    let told = owner.hears_in(S1, ToPrimary::Resigned);
    assert_eq!(claim_in(&told).term, Term(2));
}

#[test]
fn a_backup_that_resigns_never_claims() {
    for mut standby in [Standby::copying(), Standby::armed()] {
        let told = standby.hears(ToBackup::Resign);
        assert_eq!(told[0], backup::Action::Send(C1, ToPrimary::Resigned));
        assert!(told.contains(&backup::Action::Notice(Notice::StandbyDiscarded { why: Discard::Resigned })));
        assert_eq!(standby.phase(), backup::PhaseName::Done);
        assert_eq!(standby.pass(Micros::from_millis(10_000)), []);
    }
}

#[test]
fn a_backup_that_has_asked_does_not_resign() {
    let mut standby = Standby::armed();
    let asked = standby.pass(Micros::from_millis(1_000));
    assert!(asked.iter().any(|action| matches!(action, backup::Action::Claim(_))), "{asked:?}");
    let told = standby.hears(ToBackup::Resign);
    assert!(!told.contains(&backup::Action::Send(C1, ToPrimary::Resigned)), "{told:?}");
    assert_eq!(standby.phase(), backup::PhaseName::Claiming);
}
