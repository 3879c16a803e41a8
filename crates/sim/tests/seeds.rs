//! The protocol keeps its promises, a seed is a run, and the faults reach what they are meant for.

use sim::{Count, Options, Summary, run};

fn run_many(seeds: std::ops::Range<u64>, options: &Options) -> Summary {
    let mut summary = Summary::default();
    for seed in seeds {
        match run(seed, options) {
            Ok(report) => summary.add(&report),
            Err(failure) => panic!("{failure}"),
        }
    }
    summary
}

#[test]
fn three_hundred_seeds_keep_every_promise() {
    let summary = run_many(1..301, &Options::default());
    // Rare ones need more seeds than a test has time for.
    let rare = [Count::Stalled, Count::FrozenOwnersWithAcks];
    let never: Vec<_> = summary.never().into_iter().filter(|count| !rare.contains(count)).collect();
    assert!(never.is_empty(), "never happened: {never:?}\n{summary}");
}

#[test]
fn the_same_seed_is_the_same_run() {
    let options = Options { safety_ms: 1_500, ..Options::default() };
    for seed in 400..410 {
        let (first, second) = (run(seed, &options).unwrap(), run(seed, &options).unwrap());
        assert_eq!(first, second);
        assert_ne!(first.trace_hash, run(seed + 1_000, &options).unwrap().trace_hash);
    }
}

#[test]
fn without_faults_nothing_is_lost_and_every_planned_failover_arrives() {
    let summary = run_many(500..520, &Options { faults: false, ..Options::default() });
    // Claims may be lost: the reset that answers a backup's pulse may overtake the End of an owner whose last
    // checkpoint is long, and the backup then asks in vain.
    for count in [Count::VmsLost, Count::PromotionsAfterSilence, Count::PromotionsFailed] {
        assert_eq!(summary.get(count), (0, 0), "{count:?}");
    }
    assert!(summary.get(Count::PlannedFailovers).1 > 20, "{summary}");
}
