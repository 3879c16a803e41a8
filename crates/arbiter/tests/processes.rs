//! Claimants in many processes: they race, die in the middle, and have clocks that jump by years.

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;
use support::claimants::{Claimant, Told, VM};
use support::etcd::{Etcd, possible};
use support::place::{Directory, Place, Witness};
use support::{claimants, until, vm};

const PROCESSES: u64 = 8;
/// With [`PROCESSES`] about a hundred claims at once.
const THREADS: usize = 13;

/// Not a test: what the other processes run.
#[test]
fn claimants() {
    claimants::body();
}

fn start(place: &dyn Place) -> Vec<Claimant> {
    (0..PROCESSES).map(|number| Claimant::start(&place.address(), number, &[])).collect()
}

/// One term, all processes: how many claims won, and that all were told the same.
fn race(term: u64, claimants: &mut [Claimant]) -> Told {
    claimants.iter_mut().for_each(|claimant| claimant.order(term, THREADS));
    let told: Vec<Told> = claimants.iter_mut().flat_map(|claimant| claimant.told().0).collect();
    assert_eq!(told.len(), claimants.len() * THREADS, "all lived");
    assert!(told.iter().all(|one| (one.term, one.winner) == (term, told[0].winner)), "all are told the same");
    let winners: Vec<_> = told.iter().filter(|one| one.winner == one.mine).collect();
    assert_eq!(winners.len(), 1, "term {term} has one winner");
    *winners[0]
}

fn one_of_many(place: &dyn Place, terms: u64) {
    let mut claimants = start(place);
    for term in 1..=terms {
        race(term, &mut claimants);
    }
}

#[test]
fn one_of_many_processes_and_threads_wins_each_term() {
    one_of_many(&Directory::new(), 10);
    one_of_many(&Witness::new(), 10);
    if possible() {
        one_of_many(&Etcd::start(), 5);
    }
}

/// Half of the claimants are killed while they claim. Whoever of the others won, or had won and died, there is one
/// winner, the living are told who, and the next term can be had.
fn killed_in_the_middle(place: &dyn Place, rounds: u64) {
    let arbiter = place.client();
    let (mut term, mut decided_by_the_dead) = (0, 0);
    for round in 1..=rounds {
        let mut claimants = start(place);
        // All are up before the clock of the kills starts.
        term += 1;
        race(term, &mut claimants);
        term += 1;
        claimants.iter_mut().for_each(|claimant| claimant.order(term, THREADS));
        let (doomed, living) = claimants.split_at_mut(PROCESSES as usize / 2);
        for (at, claimant) in doomed.iter_mut().enumerate() {
            // Spread over the time that a claim takes.
            std::thread::sleep(Duration::from_micros(400 * (round * 7 + at as u64) % 3000));
            claimant.kill();
        }
        let dead: Vec<Told> = doomed.iter_mut().flat_map(|claimant| claimant.told().0).collect();
        let told: Vec<Told> = living.iter_mut().flat_map(|claimant| claimant.told().0).collect();
        assert_eq!(told.len(), living.len() * THREADS);
        let record = arbiter.current(&vm(VM)).unwrap().expect("somebody won").record;
        assert_eq!(record.claim.term.0, term);
        for one in dead.iter().chain(&told) {
            assert_eq!((one.term, one.winner), (term, record.claim.nonce), "round {round}");
        }
        decided_by_the_dead += u64::from(record.claim.nonce >> 32 < PROCESSES / 2);
        // Only now are they gone for good: none of them can have written later.
        drop(claimants);
        assert_eq!(arbiter.current(&vm(VM)).unwrap().unwrap().record, record);
    }
    println!(
        "{}: {decided_by_the_dead} of {rounds} terms went to a process that was killed",
        arbiter.describe()
    );
}

#[test]
fn a_claimant_killed_in_the_middle_has_won_or_not_and_nobody_else_wins_beside_it() {
    killed_in_the_middle(&Directory::new(), 12);
    killed_in_the_middle(&Witness::new(), 12);
    if possible() {
        killed_in_the_middle(&Etcd::start(), 6);
    }
}

const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// Claimants whose clocks are years apart and jump between the terms: nothing but the order of the claims counts.
fn clocks_jump(place: &dyn Place) {
    let directory = tempfile::tempdir().unwrap();
    let file = |number: u64| directory.path().join(format!("clock-{number}"));
    let set = |number: u64, years: i64| std::fs::write(file(number), format!("{:+}d", years * 366)).unwrap();
    let mut claimants: Vec<_> = (0..PROCESSES)
        .map(|number| {
            set(number, 0);
            let environment = [
                ("LD_PRELOAD", PathBuf::from(FAKETIME)),
                ("FAKETIME_TIMESTAMP_FILE", file(number)),
                ("FAKETIME_NO_CACHE", "1".into()),
                // The monotonic clock does not jump: that is its promise.
                ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
                ("DONT_FAKE_MONOTONIC", "1".into()),
            ];
            Claimant::start(&place.address(), number, &environment)
        })
        .collect();
    let mut term = 0;
    for jump in [0, 20, -20, 15] {
        for number in 0..PROCESSES {
            set(number, if number % 2 == 0 { jump } else { -jump });
        }
        term += 1;
        claimants.iter_mut().for_each(|claimant| claimant.order(term, THREADS));
        let told: Vec<_> = claimants.iter_mut().map(Claimant::told).collect();
        let years: Vec<u64> = told.iter().map(|(_, year)| year.expect("it lives")).collect();
        let apart = years.iter().max().unwrap() - years.iter().min().unwrap();
        assert!(apart.abs_diff(2 * jump.unsigned_abs()) <= 2, "the clocks are not set: {years:?}");
        let told: Vec<Told> = told.into_iter().flat_map(|(told, _)| told).collect();
        assert_eq!(told.iter().filter(|one| one.winner == one.mine).count(), 1, "term {term}");
        assert!(told.iter().all(|one| one.winner == told[0].winner), "term {term}");
    }
}

#[test]
fn clocks_that_jump_by_decades_change_nothing() {
    if !Path::new(FAKETIME).exists() {
        eprintln!("SKIPPED: this test needs the Debian package libfaketime");
        return;
    }
    clocks_jump(&Directory::new());
    clocks_jump(&Witness::new());
    if possible() {
        clocks_jump(&Etcd::start());
    }
}

/// The arbiter dies and comes back again and again while a hundred claims are on their way.
#[test]
fn an_arbiter_that_dies_during_the_race_still_has_one_winner() {
    let mut places: Vec<Box<dyn Place>> = vec![Box::new(Directory::new()), Box::new(Witness::new())];
    if possible() {
        places.push(Box::new(Etcd::start()));
    }
    for mut place in places {
        let mut claimants = start(&*place);
        race(1, &mut claimants);
        claimants.iter_mut().for_each(|claimant| claimant.order(2, THREADS));
        place.lose();
        std::thread::sleep(Duration::from_millis(50));
        place.find();
        let told: Vec<Told> = claimants.iter_mut().flat_map(|claimant| claimant.told().0).collect();
        assert_eq!(told.len(), claimants.len() * THREADS);
        let arbiter = place.client();
        until("the arbiter answers", || arbiter.identity().is_ok());
        let winner = arbiter.current(&vm(VM)).unwrap().unwrap().record.claim.nonce;
        assert!(told.iter().all(|one| one.winner == winner), "all are told the same");
    }
}
