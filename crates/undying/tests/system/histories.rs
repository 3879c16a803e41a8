//! The clients' view as a whole: what concurrent clients were told, over several failovers of several kinds, is true of
//! registers that do one thing at a time. `cargo xtask jepsen` does the same for as long as one likes.

use crate::kit::{PATIENCE, Setup, look, on_the_deterministic_machine, possible, wait_for};
use lab::client::{Clients, Registers, RegistersConfig};
use lab::history::{Limits, Outcome, Tally, check};
use lab::nemesis::{Blow, Chance, Nemesis};
use std::time::{Duration, Instant};

/// When and in which order; what clients ask.
const SEED: u64 = 20;
/// New blows are dealt for so long, and every kind at least once.
const BLOWS_FOR: Duration = Duration::from_secs(20);

/// Waits until every client got an answer to something that it asked from now on: one may have been under way.
fn all_answered(registers: &Registers, logs: impl FnOnce() -> String) {
    let counts = || registers.standings().into_iter().map(|client| client.acknowledged).collect::<Vec<_>>();
    let first = counts();
    let twice = || first.iter().zip(counts()).all(|(first, now)| now >= first + 2).then_some(());
    wait_for("answers to every client", twice, logs);
}

#[test]
fn what_clients_were_told_over_many_failovers_is_linearizable() {
    if !possible() {
        return;
    }
    let guest = Setup::new("histories").boot();
    let config = RegistersConfig { patience: PATIENCE, ..RegistersConfig::new(guest.target(), SEED) };
    let registers = Registers::start(guest.cluster.lab.client(), config).expect("clients connect");
    let nemesis = Nemesis { cluster: &guest.cluster, vm: &guest.vm, hosts: ["alpha", "beta"] };
    let other = |host| if host == "alpha" { "beta" } else { "alpha" };
    let (mut chance, mut home, mut failovers, start) = (Chance::new(SEED), "alpha", 0, Instant::now());
    let blows = Blow::that_hit(&Blow::SINGLE, !on_the_deterministic_machine());
    let mut due = blows.clone();
    while !due.is_empty() || start.elapsed() < BLOWS_FOR {
        guest.protect(home, other(home));
        std::thread::sleep(Duration::from_micros(chance.between(300_000, 1_200_000)));
        let blow = due.pop().unwrap_or_else(|| chance.pick(&blows));
        let hit = nemesis.strike(home, blow).unwrap_or_else(|error| {
            panic!("{blow:?} of {home} was not survived: {error}\n{}", look::logs(&guest.cluster))
        });
        all_answered(&registers, || look::logs(&guest.cluster));
        nemesis.heal(hit).expect("the host that was hit is whole again");
        failovers += u32::from(hit.from != hit.to);
        home = hit.to;
    }
    let report = registers.stop().expect("the clients end");
    look::assert_no_panic(&guest.cluster);
    let (tally, verdict) = (Tally::of(&report.history), check(&report.history, Limits::default()));
    println!("{failovers} failovers, {tally:?}");
    assert!(verdict.holds(), "{verdict:#?}");
    assert!(failovers >= 3, "every blow but a cut link makes the VM go on at the other host: {failovers}");
    assert!(tally.reads > 100 && tally.writes > 100 && tally.sets > 10 && tally.refused > 0, "{tally:?}");
    assert_eq!((tally.unknown, report.broken), (0, 0), "{:?}", report.first_trouble);

    // Were the newest answer of all an old one, the check would say so.
    let mut bent = report.history;
    let last = bent.iter_mut().filter(|done| matches!(done.outcome, Outcome::Found(value) if value > 0));
    let last = last.max_by_key(|done| done.called_us).expect("somebody read something");
    let key = last.key;
    last.outcome = Outcome::Found(lab::history::NEVER_WRITTEN);
    let verdict = check(&bent, Limits::default());
    assert_eq!(verdict.violations.iter().map(|found| found.key).collect::<Vec<_>>(), [key]);
}
