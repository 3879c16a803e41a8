//! What the policy promises, over every order of events that proptest finds.

use super::*;
use alloc::format;
use alloc::string::ToString;
use proptest::prelude::*;

fn host(name: &str) -> HostName {
    HostName::new(name).expect("a name")
}

fn wish(repair: bool, prefer: Option<&str>) -> Wish {
    Wish {
        hosts: ["alpha", "beta", "gamma"].map(host).to_vec(),
        repair,
        prefer: prefer.map(host),
        settle: Micros::from_millis(60_000),
        relapses: 0,
        losses: 0,
        pauses: Pauses::default(),
    }
}

fn at(ms: u64) -> Instant {
    Instant(1_000_000 + ms * 1_000)
}

const ALONE: Situation<'static> =
    Situation { phase: PhaseName::Unprotected, peer: None, changing: false, draining: false };

fn protected_by(peer: &HostName) -> Situation<'_> {
    Situation { phase: PhaseName::Protected, peer: Some(peer), changing: false, draining: false }
}

/// Alpha's policy, on which beta was armed.
fn armed(repair: bool, prefer: Option<&str>) -> Repair {
    let mut policy = Repair::new(host("alpha"));
    policy.ask(wish(repair, prefer), &host("beta"));
    policy.protected(at(0), &host("beta"));
    policy
}

#[test]
fn a_link_that_flaps_moves_the_vm_to_and_fro_ever_more_seldom() {
    let (mut at, mut by, mut losses) = (host("alpha"), host("beta"), 0);
    let mut now = Instant(0);
    for pause in [500, 1_000, 2_000, 4_000] {
        // Each time it is the backup that wins the next term.
        let wish = Wish { losses, ..wish(true, None) };
        (at, by) = (by, at);
        let mut policy = Repair::inherit(now, at.clone(), wish, &by, Arrival::Loss);
        let lost_at = now;
        let tried = loop {
            let situation =
                Situation { phase: PhaseName::Unprotected, peer: None, changing: false, draining: false };
            match policy.next(now, situation) {
                Some(Step::Protect(to)) if to == by => break now,
                Some(Step::Protect(other)) => policy.failed(now, &other, "is not there", false),
                _ => now = now + Micros::from_millis(100),
            }
        };
        assert_eq!(tried, lost_at + Micros::from_millis(pause));
        // What goes to the backup with the next session.
        losses = policy.losses(&by);
        policy.protected(now, &by);
    }
}

#[test]
fn a_request_tries_each_candidate_once_and_then_gives_up() {
    let mut policy = Repair::new(host("alpha"));
    policy.ask(wish(true, None), &host("beta"));
    policy.failed(at(1), &host("beta"), "no room", false);
    assert_eq!(policy.next(at(1), ALONE), Some(Step::Protect(host("gamma"))));
    policy.failed(at(2), &host("gamma"), "another QEMU", false);
    assert_eq!(policy.next(at(2), ALONE), None);
    assert_eq!(policy.will(), Will::Off);
    let why: Vec<_> = policy.candidates().iter().map(|c| c.why.clone()).collect();
    assert_eq!(why, [Some("no room".to_string()), Some("another QEMU".to_string())]);
}

#[test]
fn a_lost_backup_is_replaced_by_the_next_at_once_and_tried_again_later() {
    let mut policy = armed(true, None);
    policy.lost(at(10), &host("beta"), "silent");
    assert_eq!(policy.next(at(10), ALONE), Some(Step::Protect(host("gamma"))));
    policy.failed(at(20), &host("gamma"), "cannot connect", false);
    assert_eq!(policy.next(at(20), ALONE), None, "both have a pause");
    let later = Instant(at(20).0 + Pauses::default().first.0);
    assert_eq!(policy.next(later, ALONE), Some(Step::Protect(host("beta"))), "the better one first");
}

#[test]
fn nothing_is_repaired_that_nobody_wants_repaired() {
    let mut policy = armed(false, None);
    policy.lost(at(10), &host("beta"), "silent");
    assert_eq!(policy.next(at(999_999), ALONE), None);
    let mut policy = armed(true, None);
    assert!(policy.off());
    assert_eq!(policy.next(at(999_999), ALONE), None);
    assert!(!policy.off(), "it was off already");
}

#[test]
fn a_promoted_vm_knows_its_candidates_and_leaves_the_dead_host_for_later() {
    let mut policy = Repair::inherit(at(0), host("beta"), wish(true, None), &host("alpha"), Arrival::Loss);
    assert_eq!(policy.next(at(0), ALONE), Some(Step::Protect(host("gamma"))));
    policy.failed(at(1), &host("gamma"), "no room", false);
    assert_eq!(policy.next(at(600), ALONE), Some(Step::Protect(host("alpha"))));
}

#[test]
fn behind_a_planned_failover_the_old_host_comes_first_once_it_let_go_unless_it_refuses() {
    let alpha = host("alpha");
    let mut policy = Repair::inherit(at(0), host("beta"), wish(true, None), &alpha, Arrival::Planned);
    // It takes longer and longer: the pauses grow with that, so that few tries are in vain.
    for (from, due, refused) in [(0, 50, 52), (52, 104, 110), (110, 220, 224)] {
        assert_eq!((policy.due(at(from)), policy.next(at(due - 1), ALONE)), (Some(at(due)), None));
        assert_eq!(policy.next(at(due), ALONE), Some(Step::Protect(alpha.clone())));
        policy.failed(at(refused), &alpha, "busy", true);
    }
    assert_eq!(policy.losses(&alpha), 0);
    policy.failed(at(225), &alpha, "no room", false);
    assert_eq!(policy.next(at(225), ALONE), Some(Step::Protect(host("gamma"))), "its turn is over");
    assert_eq!((policy.due(at(225)), policy.losses(&alpha)), (None, 1));
}

#[test]
fn pauses_grow_with_each_loss_and_a_steady_backup_is_forgiven() {
    let mut policy = Repair::new(host("alpha"));
    policy.ask(wish(true, None), &host("beta"));
    let mut now = at(0);
    let mut last = Micros(0);
    for _ in 0..12 {
        policy.protected(now, &host("beta"));
        policy.lost(now, &host("beta"), "flaps");
        let pause = policy.candidates()[0].not_before.since(now);
        assert!(pause > last || pause == Pauses::default().longest);
        (last, now) = (pause, now + pause);
    }
    assert_eq!(last, Pauses::default().longest);
    policy.protected(now, &host("beta"));
    now = now + Pauses::default().steady;
    policy.lost(now, &host("beta"), "silent");
    assert_eq!(policy.candidates()[0].not_before.since(now), Pauses::default().first);
}

#[test]
fn a_vm_returns_to_the_preferred_host_once_that_has_settled() {
    let mut policy =
        Repair::inherit(at(0), host("beta"), wish(true, Some("alpha")), &host("alpha"), Arrival::Loss);
    let alpha = host("alpha");
    policy.protected(at(1_000), &alpha);
    assert_eq!(policy.next(at(60_999), protected_by(&alpha)), None);
    assert_eq!(policy.next(at(61_000), protected_by(&alpha)), Some(Step::Move));
    assert_eq!(policy.next(at(61_001), protected_by(&alpha)), None, "one try at a time");
    let gamma = host("gamma");
    policy.protected(at(70_000), &gamma);
    let change = Some(Step::Change(alpha));
    assert_eq!(policy.next(at(999_000), protected_by(&gamma)), change, "only to the preferred one");
}

#[test]
fn a_preferred_host_that_died_again_is_waited_for_longer() {
    let wish = Wish { relapses: 2, ..wish(true, Some("alpha")) };
    let alpha = host("alpha");
    let mut policy = Repair::inherit(at(0), host("beta"), wish, &alpha, Arrival::Loss);
    policy.protected(at(0), &alpha);
    assert_eq!(policy.next(at(239_999), protected_by(&alpha)), None);
    assert_eq!(policy.next(at(240_000), protected_by(&alpha)), Some(Step::Move));
}

#[test]
fn a_preferred_host_takes_the_place_of_another_backup_and_then_gets_the_vm() {
    let (alpha, gamma) = (host("alpha"), host("gamma"));
    let mut policy = Repair::inherit(at(0), host("beta"), wish(true, Some("alpha")), &alpha, Arrival::Loss);
    policy.protected(at(1), &gamma);
    assert_eq!(policy.next(at(59_000), protected_by(&gamma)), None, "it died a moment ago");
    assert_eq!(policy.next(at(60_000), protected_by(&gamma)), Some(Step::Change(alpha.clone())));
    policy.failed(at(60_001), &alpha, "away", false);
    assert_eq!(policy.next(at(70_000), protected_by(&gamma)), None);
    assert_eq!(policy.next(at(120_001), protected_by(&gamma)), Some(Step::Change(alpha.clone())));
    policy.protected(at(121_000), &alpha);
    assert_eq!(policy.next(at(180_999), protected_by(&alpha)), None);
    assert_eq!(policy.next(at(181_000), protected_by(&alpha)), Some(Step::Move), "settled there");
}

#[test]
fn a_backup_that_leaves_is_left_only_for_another() {
    let (beta, gamma) = (host("beta"), host("gamma"));
    let mut policy = armed(true, None);
    assert!(policy.leaves(at(5), &beta));
    assert!(!policy.leaves(at(6), &beta), "no news");
    assert_eq!(policy.next(at(6), protected_by(&beta)), Some(Step::Change(gamma.clone())));
    policy.leaves(at(5_005), &beta);
    assert_eq!(policy.next(at(5_005), protected_by(&beta)), None, "not again at once");
    let changing = Situation { changing: true, ..protected_by(&beta) };
    policy.leaves(at(5_500), &beta);
    assert_eq!(
        policy.clone().next(at(5_500), protected_by(&beta)),
        Some(Step::Change(gamma.clone())),
        "again"
    );
    assert_eq!(policy.next(at(5_500), changing), None, "one at a time");
    let mut alone = armed(true, None);
    alone.failed(at(1), &gamma, "no room", false);
    alone.leaves(at(3_000), &beta);
    assert_eq!(alone.next(at(3_000), protected_by(&beta)), None, "nobody else would take it");
    alone.leaves(at(70_000), &beta);
    assert_eq!(alone.next(at(80_000), protected_by(&beta)), None, "it does not leave any more");
    alone.leaves(at(81_000), &beta);
    assert_eq!(alone.next(at(81_000), protected_by(&beta)), Some(Step::Change(gamma)), "that was long ago");
}

#[test]
fn a_drained_host_hands_its_vms_over() {
    let beta = host("beta");
    let drained = Situation { draining: true, ..protected_by(&beta) };
    assert_eq!(armed(false, None).next(at(1), drained), Some(Step::Move), "whoever wants repair or not");
    let mut policy = armed(true, None);
    policy.leaves(at(1), &beta);
    assert_eq!(
        policy.next(at(1), drained),
        Some(Step::Change(host("gamma"))),
        "not to a host that is drained too"
    );
}

/// What may happen to a policy, with the candidate it happens to.
#[derive(Debug, Clone, Copy)]
enum Happens {
    Fails(bool),
    Lost,
    Leaves,
    Time(u64),
}

fn happens() -> impl Strategy<Value = (Happens, usize)> {
    let what = prop_oneof![
        any::<bool>().prop_map(Happens::Fails),
        Just(Happens::Lost),
        Just(Happens::Leaves),
        (0..100_000_u64).prop_map(Happens::Time),
    ];
    (what, 0..3_usize)
}

fn arrivals() -> impl Strategy<Value = Arrival> {
    prop_oneof![Just(Arrival::Loss), Just(Arrival::Planned), Just(Arrival::Moved)]
}

proptest! {
    /// Whatever happened: once faults stop, an unprotected VM that wants repair gets a candidate within the longest
    /// pause, and a host is never tried again before its pause is over.
    #[test]
    fn once_faults_stop_somebody_is_tried(all in prop::collection::vec(happens(), 0..60), arrival in arrivals()) {
        let hosts = ["alpha", "beta", "gamma"].map(host);
        let mut policy = Repair::inherit(at(0), host("beta"), wish(true, None), &host("alpha"), arrival);
        let mut now = at(0);
        for (what, whom) in all {
            match what {
                Happens::Fails(busy) => policy.failed(now, &hosts[whom], "refused", busy),
                Happens::Lost => policy.lost(now, &hosts[whom], "silent"),
                Happens::Leaves => drop(policy.leaves(now, &hosts[whom])),
                Happens::Time(ms) => now = now + Micros::from_millis(ms),
            }
            let before = policy.clone();
            if let Some(Step::Protect(tried)) = policy.next(now, ALONE) {
                let candidate = before.candidates().iter().find(|c| c.host == tried).expect("a candidate");
                prop_assert!(candidate.not_before <= now, "{}", format!("{candidate:?} at {now:?}"));
                prop_assert!(tried != host("beta"), "never itself");
            }
        }
        let end = now + Pauses::default().longest;
        prop_assert!(matches!(policy.next(end, ALONE), Some(Step::Protect(_))));
    }
}

#[test]
fn a_relocated_vm_leaves_its_backup_migrates_and_is_protected_again_once_there() {
    for (repair, alone) in [(true, false), (false, false), (true, true), (false, true)] {
        let (mut policy, gamma) = (armed(repair, None), host("gamma"));
        policy.relocate(gamma.clone(), alone);
        let first = policy.next(at(1), protected_by(&host("beta")));
        assert_eq!(first, Some(if alone { Step::Release } else { Step::Change(gamma.clone()) }));
        let then = if alone { ALONE } else { protected_by(&gamma) };
        policy.protected(at(2), &gamma);
        assert_eq!(policy.next(at(3), then), Some(Step::Migrate(gamma)));
        assert_eq!(policy.goal(), None);
        let arrived = wish(repair, None);
        let mut there = Repair::inherit(at(3), host("gamma"), arrived, &host("alpha"), Arrival::Moved);
        assert_eq!(there.next(at(60), ALONE), Some(Step::Protect(host("alpha"))), "the old host first");
        there.protected(at(61), &host("alpha"));
        assert_eq!(there.will(), if repair { Will::On } else { Will::Off });
    }
}

#[test]
fn a_relocation_that_fails_or_is_called_off_ends_protected_where_it_was() {
    for called_off in [true, false] {
        let mut policy = armed(false, None);
        assert_eq!(policy.will(), Will::Off);
        policy.relocate(host("gamma"), true);
        assert_eq!(policy.next(at(1), protected_by(&host("beta"))), Some(Step::Release));
        if called_off {
            policy.stay();
        } else {
            assert_eq!(policy.next(at(2), ALONE), Some(Step::Migrate(host("gamma"))));
            policy.failed(at(3), &host("gamma"), "no room", false);
        }
        assert_eq!(policy.next(at(4), ALONE), Some(Step::Protect(host("beta"))));
        policy.protected(at(5), &host("beta"));
        assert_eq!(policy.will(), Will::Off, "nothing by itself from here on, as before");
        assert_eq!(policy.next(at(6_000), protected_by(&host("beta"))), None);
    }
}

#[test]
fn a_destination_that_cannot_be_the_backup_ends_a_relocation_and_nothing_else() {
    let mut policy = armed(false, None);
    policy.relocate(host("gamma"), false);
    assert_eq!(policy.next(at(1), protected_by(&host("beta"))), Some(Step::Change(host("gamma"))));
    policy.failed(at(2), &host("gamma"), "no room", false);
    assert_eq!((policy.goal(), policy.will()), (None, Will::Off));
    assert_eq!(policy.next(at(60_000), protected_by(&host("beta"))), None);
}

#[test]
fn a_relocation_whose_backup_is_lost_migrates_alone_a_moment_later() {
    let (beta, gamma) = (host("beta"), host("gamma"));
    let mut policy = armed(true, None);
    policy.relocate(gamma.clone(), false);
    assert_eq!(policy.next(at(1), protected_by(&beta)), Some(Step::Change(gamma.clone())));
    policy.lost(at(2), &beta, "silent");
    assert_eq!(policy.next(at(3), ALONE), None, "gamma throws away what it had");
    assert_eq!(policy.next(at(502), ALONE), Some(Step::Migrate(gamma)));
}

#[test]
fn another_backup_that_an_operator_asks_for_is_no_loss() {
    for repair in [true, false] {
        let mut policy = armed(!repair, None);
        policy.ask_change(wish(repair, None));
        assert_eq!(policy.will(), if repair { Will::On } else { Will::Off });
        policy.failed(at(1), &host("gamma"), "no room", false);
        assert_eq!(policy.next(at(60_000), protected_by(&host("beta"))), None);
    }
}

#[test]
fn an_unprotect_ends_a_relocation_too() {
    let mut policy = armed(true, None);
    policy.relocate(host("gamma"), false);
    assert!(policy.off());
    assert_eq!(policy.next(at(1), protected_by(&host("beta"))), None);
    assert_eq!(policy.next(at(2), ALONE), None);
}
