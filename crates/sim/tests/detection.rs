//! How soon death is noticed, and how often it is seen where there is none: fixed time-outs against those that follow the
//! link, in virtual time.

use protocol::{Micros, Timing};
use sim::{Count, Options, Report, Stalls, Trial, run};

/// Of a run, in virtual time.
const MINUTES: u64 = 3;
const MS: fn(u64) -> Micros = Micros::from_millis;

/// A quiet LAN, and the product's own times.
fn quiet() -> Trial {
    Trial {
        timing: Timing::default(),
        delay: (Micros(30), Micros(300)),
        burst: (0, Micros(0)),
        stalls: None,
        owner_dies_at: None,
    }
}

fn fixed(trial: &Trial) -> Trial {
    let timing = Timing { timeout_max: trial.timing.timeout, ..trial.timing };
    Trial { timing, ..trial.clone() }
}

fn minutes(minutes: u64, seed: u64, trial: &Trial) -> Report {
    let options = Options {
        safety_ms: minutes * 60_000,
        faults: false,
        trial: Some(trial.clone()),
        ..Options::default()
    };
    run(seed, &options).unwrap_or_else(|failure| panic!("{failure}"))
}

/// Suspicions of hosts that live, and how long the run was.
fn suspicions(trial: &Trial) -> (u64, f64) {
    let (mut all, mut hours) = (0, 0.0);
    for seed in 1..=3 {
        let report = minutes(MINUTES, seed, trial);
        let counts = [Count::BackupsSilent, Count::Unheard, Count::PromotionsAfterSilence, Count::ClaimsLost];
        all += counts.iter().map(|&count| report.get(count)).sum::<u64>();
        hours += MINUTES as f64 / 60.0;
    }
    (all, hours)
}

/// How much less often living hosts are suspected, with the rates told.
fn compare(what: &str, trial: &Trial) -> (u64, u64) {
    let ((before, hours), (after, _)) = (suspicions(&fixed(trial)), suspicions(trial));
    let rate = |count: u64| count as f64 / hours;
    println!("{what}: {:.0} false suspicions an hour fixed, {:.0} adaptive", rate(before), rate(after));
    (before, after)
}

#[test]
fn a_host_that_loses_its_power_is_suspected_within_the_time_out_of_its_last_word() {
    let mut latencies: Vec<_> = (0..100)
        .map(|seed| {
            let trial = Trial { owner_dies_at: Some(Micros(1_500_000 + seed * 1_237)), ..quiet() };
            let options =
                Options { faults: false, safety_ms: 3_000, trial: Some(trial), ..Options::default() };
            let report = run(seed, &options).unwrap_or_else(|failure| panic!("{failure}"));
            report.detection_us.expect("it was protected, and is suspected")
        })
        .collect();
    latencies.sort_unstable();
    let ms = |at: usize| latencies[at] as f64 / 1e3;
    println!("power loss to suspicion: {:.1} to {:.1} ms, median {:.1}", ms(0), ms(99), ms(50));
    // The last word takes its time on the link, and a timer may be late.
    let late = Micros(300 + 200);
    assert!(latencies[99] <= Timing::default().timeout.0 + late.0, "{latencies:?}");
}

#[test]
fn on_a_quiet_link_nobody_is_suspected_and_the_time_out_stays_short() {
    for trial in [quiet(), fixed(&quiet())] {
        assert_eq!(suspicions(&trial).0, 0);
    }
}

#[test]
fn a_link_with_bursts_is_learnt() {
    // One frame in 200 takes up to 380 ms longer, and all behind it.
    let trial = Trial { burst: (5, MS(380)), ..quiet() };
    let (before, after) = compare("bursts up to 380 ms", &trial);
    assert!(before > 50 && after * 20 < before, "{before} and {after}");
}

#[test]
fn an_agent_that_is_not_scheduled_suspects_nobody_for_that() {
    let trial = Trial { stalls: Some(Stalls { gap: MS(1_000), longest: MS(280) }), ..quiet() };
    let (before, after) = compare("agents that stall for up to 280 ms", &trial);
    assert!(after <= before, "{before} and {after}");
}
