use super::*;
use proptest::prelude::*;

const MS: u64 = 1_000;
const FOLLOW: Follow = Follow { max_overhead: 20, max_latency: Micros(50 * MS) };

fn follower() -> Pacer {
    Pacer::new(Pacing::Follow(FOLLOW), Micros(250 * MS), Instant(1_000 * MS))
}

/// Takes the checkpoint that is due, with this pause, of a guest that was so busy; gives its cut.
fn take_of(pacer: &mut Pacer, epoch: u64, pause: u64, busy: Option<Micros>) -> Instant {
    let cut_at = pacer.due();
    let taken = Taken { cut_at, pause: Micros(pause), busy, waited: false, pages: 0 };
    pacer.taken(cut_at + Micros(pause), Epoch(epoch), taken);
    cut_at
}

/// The same where nothing is known of the guest: it counts as busy throughout.
fn take(pacer: &mut Pacer, epoch: u64, pause: u64) -> Instant {
    take_of(pacer, epoch, pause, None)
}

#[test]
fn even_checkpoints_are_an_interval_apart_whatever_waits() {
    let mut pacer = Pacer::new(Pacing::Even, Micros(25 * MS), Instant(500 * MS));
    assert_eq!(take(&mut pacer, 1, 2 * MS), Instant(500 * MS));
    pacer.output(Epoch(2), Instant(503 * MS));
    assert_eq!(take(&mut pacer, 2, 40 * MS), Instant(525 * MS));
    assert_eq!(pacer.due(), Instant(565 * MS), "not before the last one is over");
    assert_eq!(pacer.overdue(), pacer.due());
}

#[test]
fn what_is_known_of_a_guest_goes_over_to_the_session_that_takes_the_place_of_another() {
    let mut pacer = follower();
    for epoch in 1..=7 {
        take(&mut pacer, epoch, 4 * MS);
    }
    let cut_at = take(&mut pacer, 8, 4 * MS);
    pacer.output(Epoch(9), cut_at + Micros(5 * MS));
    let mut next = pacer.handed_on((Pacing::Follow(FOLLOW), Micros(250 * MS)), Epoch(8));
    assert_eq!((next.due(), next.view()), (pacer.due(), pacer.view()));
    // What waits is of the new session's second epoch: its checkpoint closes it, and nothing waits any more.
    let closes = take(&mut next, 2, 4 * MS);
    assert_eq!(closes, pacer.due());
    assert!(next.may_spare(next.due()).is_some());
    let even = pacer.handed_on((Pacing::Even, Micros(25 * MS)), Epoch(8));
    assert_eq!(even.due(), cut_at + Micros(25 * MS));
}

#[test]
fn a_checkpoint_is_spared_unless_somebody_waits_or_the_last_is_long_ago() {
    for pacing in [Pacing::Even, Pacing::Follow(FOLLOW)] {
        let mut pacer = Pacer::new(pacing, Micros(25 * MS), Instant(500 * MS));
        let cut_at = take(&mut pacer, 1, 2 * MS);
        let mut spared = 0;
        while let Some(least) = pacer.may_spare(pacer.due()) {
            let tenth = (spared + 1) * 2_500;
            assert_eq!(least, Micros(tenth.min(25 * MS)), "a tenth of the time, an interval's at most");
            let due = pacer.due();
            pacer.spared(due);
            assert_eq!(pacer.due(), due + Micros(25 * MS), "{pacing:?}: an interval later");
            spared += 1;
        }
        assert_eq!((spared, pacer.due()), (19, cut_at + Micros(500 * MS)), "{pacing:?}");
        let cut_at = take(&mut pacer, 2, 2 * MS);
        assert!(pacer.may_spare(cut_at + Micros(25 * MS)).is_some());
        pacer.output(Epoch(3), cut_at + Micros(5 * MS));
        assert_eq!(pacer.may_spare(cut_at + Micros(25 * MS)), None, "{pacing:?}: somebody waits");
    }
    let mut hasty = Pacer::new(Pacing::Even, Micros(MS), Instant(500 * MS));
    take(&mut hasty, 1, 0);
    assert_eq!(hasty.may_spare(hasty.due()), Some(Micros(500)), "a halted processor takes some time too");
    assert_eq!(
        hasty.may_spare(hasty.due() + Micros(100 * MS)),
        Some(Micros(MS)),
        "no more than an interval's"
    );
}

#[test]
fn a_lone_answer_is_followed_at_once_and_many_share_a_checkpoint() {
    let mut pacer = follower();
    for epoch in 1..30 {
        take(&mut pacer, epoch, 2 * MS);
    }
    let cut_at = take(&mut pacer, 30, 2 * MS);
    assert_eq!(pacer.due(), cut_at + Micros(250 * MS), "nobody waits");
    let said = cut_at + Micros(100 * MS);
    pacer.output(Epoch(31), said);
    assert_eq!(pacer.due(), said);
    pacer.output(Epoch(31), said + Micros(500));
    assert_eq!(pacer.due(), said, "the oldest counts");
    let cut_at = take(&mut pacer, 31, 2 * MS);
    pacer.output(Epoch(32), cut_at + Micros(2 * MS));
    assert_eq!(pacer.due(), cut_at + Micros(10 * MS), "2 ms of 10 are a fifth");
}

#[test]
fn a_guest_that_mostly_waits_is_copied_more_often_but_not_all_the_time() {
    let mut pacer = follower();
    let mut rests = |percent: u64| {
        for epoch in 1..100 {
            let ran = pacer.due().since(pacer.runs_since).0;
            take_of(&mut pacer, epoch, 2 * MS, Some(Micros(ran * percent / 100)));
        }
        pacer.view().rest
    };
    assert_eq!(rests(100), Micros(10 * MS), "a busy guest keeps its share");
    assert_eq!(rests(60), Micros(6 * MS));
    assert_eq!(rests(10), Micros(4 * MS), "half of the time is the host's bound");
    assert_eq!(rests(0), Micros(4 * MS));
    assert_eq!(rests(100), Micros(10 * MS));
}

#[test]
fn a_guest_that_waited_when_it_was_stopped_loses_nothing() {
    let mut pacer = follower();
    let mut take = |epoch: u64, waited: bool| {
        let cut_at = pacer.due();
        let busy = Some(cut_at.since(pacer.runs_since));
        let taken = Taken { cut_at, pause: Micros(2 * MS), busy, waited, pages: 0 };
        pacer.taken(cut_at + Micros(2 * MS), Epoch(epoch), taken);
        pacer.view().rest
    };
    for epoch in 1..20 {
        take(epoch, true);
    }
    assert_eq!(
        take(20, true),
        Micros(4 * MS),
        "it was busy until then; half of the time is the host's bound"
    );
    assert_eq!(take(21, false), Micros(10 * MS), "once it does not wait it is spared");
}

#[test]
fn a_guest_that_becomes_busy_is_spared_behind_its_next_checkpoint() {
    let mut pacer = follower();
    for epoch in 1..20 {
        take_of(&mut pacer, epoch, 2 * MS, Some(Micros(0)));
    }
    take_of(&mut pacer, 20, 2 * MS, Some(Micros(10_000 * MS)));
    assert_eq!(pacer.view().loss, Micros(2 * MS), "no more than the pause");
    assert_eq!(pacer.view().rest, Micros(10 * MS));
}

#[test]
fn a_packet_of_the_closed_epoch_pulls_nothing_and_one_of_the_open_is_kept() {
    let mut pacer = follower();
    let cut_at = pacer.due();
    pacer.output(Epoch(1), cut_at);
    take(&mut pacer, 1, 2 * MS);
    assert!(pacer.due() > cut_at + Micros(20 * MS));
    let next = pacer.due();
    pacer.output(Epoch(2), next);
    pacer.output(Epoch(3), next);
    assert_eq!(take(&mut pacer, 2, 2 * MS), next);
    assert_eq!(pacer.due(), next + Micros(10 * MS), "it came behind the cut");
}

#[test]
fn nobody_waits_longer_than_allowed_however_long_the_pauses_are() {
    let mut pacer = follower();
    let cut_at = take(&mut pacer, 1, 40 * MS);
    let said = cut_at + Micros(41 * MS);
    pacer.output(Epoch(2), said);
    assert_eq!(pacer.due(), said + FOLLOW.max_latency, "not 200 ms behind the cut");
}

#[test]
fn long_pauses_shorten_epochs_within_the_share() {
    let mut pacer = follower();
    for epoch in 1..40 {
        take(&mut pacer, epoch, MS);
    }
    assert_eq!(pacer.view().stretch, Micros(250 * MS));
    take(&mut pacer, 40, 20 * MS);
    let view = pacer.view();
    assert_eq!((view.rest, view.stretch), (Micros(100 * MS), Micros(100 * MS)), "the share still counts");
}

#[test]
fn pauses_that_are_always_long_do_not_shorten_epochs() {
    let mut pacer = follower();
    for epoch in 1..40 {
        take(&mut pacer, epoch, 6 * MS);
    }
    assert_eq!(pacer.view().stretch, Micros(250 * MS), "a large memory, not many dirty pages");
    take(&mut pacer, 40, 20 * MS);
    assert!(pacer.view().stretch < Micros(101 * MS));
}

#[test]
fn a_vm_whose_backup_is_slow_runs_on_for_a_while() {
    let pacer = follower();
    assert_eq!(pacer.overdue(), pacer.due() + FOLLOW.max_latency);
}

proptest! {
    /// Whatever happens: never before the last checkpoint is over, never later than the interval or the share,
    /// and never more than the latency behind output.
    #[test]
    fn due_times_stay_within_their_bounds(
        steps in prop::collection::vec((0u64..300 * MS, 0u64..60 * MS, any::<bool>(), prop::option::of(0u64..300 * MS)), 1..60),
    ) {
        let mut pacer = follower();
        let mut epoch = 0;
        for (wait, pause, says, busy) in steps {
            epoch += 1;
            let cut_at = take_of(&mut pacer, epoch, pause, busy.map(Micros));
            let after = cut_at + Micros(pause);
            let rest = pacer.view().rest.max(Micros(pause));
            prop_assert!(pacer.due() >= after);
            prop_assert!(pacer.due() <= cut_at + Micros(250 * MS).max(rest));
            if says {
                let said = after + Micros(wait.min(pacer.due().since(after).0));
                pacer.output(Epoch(epoch + 1), said);
                prop_assert!(pacer.due() <= said + FOLLOW.max_latency);
                prop_assert!(pacer.due() >= after);
            }
        }
    }

    /// Output always waits, and may wait for ever: pauses take from the guest no more than their share of what it would
    /// have done, and no more than half of the time, beyond the newest.
    #[test]
    fn pauses_keep_to_their_shares(
        max_overhead in 1u8..=90,
        steps in prop::collection::vec((0u64..=100, 0u64..20 * MS), 1..200),
    ) {
        let follow = Follow { max_overhead, max_latency: Micros(u64::MAX >> 1) };
        let mut pacer = Pacer::new(Pacing::Follow(follow), Micros(250 * MS), Instant(1_000 * MS));
        let (mut lost, mut paused, mut newest, began) = (0, 0, (0, 0), pacer.due());
        let mut end = began;
        for (epoch, (percent, pause)) in (1..).zip(steps) {
            pacer.output(Epoch(epoch), end);
            let ran = pacer.due().since(pacer.runs_since).0;
            (lost, paused) = (lost + newest.0, paused + newest.1);
            // The first epoch is measured from the session's beginning, which lies behind its cut.
            let loss = (pause * (ran * percent / 100)).checked_div(ran).unwrap_or(pause);
            newest = (loss, pause);
            let cut_at = take_of(&mut pacer, epoch, pause, Some(Micros(ran * percent / 100)));
            end = cut_at + Micros(pause);
            let time = cut_at.since(began).0;
            // Each rest is rounded down to a microsecond.
            let rounding = 2 * epoch;
            prop_assert!(lost * 100 <= (time + rounding) * u64::from(max_overhead), "lost {} of {}", lost, time);
            let most = u64::from(max_overhead.max(MOST_OF_TIME));
            prop_assert!(paused * 100 <= (time + rounding) * most, "paused {} of {}", paused, time);
        }
    }
}
