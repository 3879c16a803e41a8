//! Runs many seeds on two threads: `seeds FIRST COUNT [BUG]`. Prints the coverage, or the first failures.

use sim::{Options, Summary, run};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, or: u64| arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(or);
    let (first, count) = (number(0, 1), number(1, 1_000));
    #[allow(unused_mut, reason = "only with the feature `planted`")]
    let mut options = Options::default();
    #[cfg(feature = "planted")]
    match arguments.get(2).map(String::as_str) {
        Some("release_early") => options.planted.release_early = true,
        Some("promote_without_grant") => options.planted.promote_without_grant = true,
        Some("apply_partial") => options.planted.apply_partial = true,
        Some("ack_before_durable") => options.planted.ack_before_durable = true,
        Some("apply_partial_disk") => options.planted.apply_partial_disk = true,
        Some("hide_own_writes") => options.planted.hide_own_writes = true,
        Some("forget_unsynced") => options.planted.forget_unsynced = true,
        Some("trust_remnant") => options.planted.trust_remnant = true,
        Some("lease_from_learnt") => options.planted.lease_from_learnt = true,
        _ => {}
    }
    let (next, failures) = (AtomicU64::new(first), AtomicU64::new(0));
    let total = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut summary = Summary::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count || failures.load(Ordering::Relaxed) >= 10 {
                        break;
                    }
                    match run(seed, &options) {
                        Ok(report) => {
                            if count <= 3 {
                                println!("{report}");
                            }
                            summary.add(&report);
                        }
                        Err(failure) if failures.fetch_add(1, Ordering::Relaxed) < 2 => {
                            println!("{failure}\n")
                        }
                        Err(failure) => {
                            println!("{}", failure.to_string().lines().last().unwrap_or_default())
                        }
                    }
                }
                total.lock().unwrap_or_else(|error| panic!("{error}")).merge(&summary);
            });
        }
    });
    let total = total.into_inner().unwrap_or_else(|error| panic!("{error}"));
    print!("{total}");
    println!("never: {:?}", total.never());
}
