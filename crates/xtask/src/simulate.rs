//! Owns `cargo xtask sim`: many seeds of the simulator on all processors, and what they covered.

use anyhow::{Result, bail};
use clap::Args;
use sim::{Failure, Options, Summary};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(5);

/// What to simulate
#[derive(Debug, Args)]
pub struct SimArgs {
    /// How many seeds to run
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0, value_name = "S")]
    start: u64,
    /// Run this seed only
    #[arg(long, value_name = "S", conflicts_with_all = ["seeds", "start"])]
    seed: Option<u64>,
}

/// Runs the seeds asked for. The exit code tells the class of the first failure.
pub fn run(args: &SimArgs) -> Result<ExitCode> {
    let (start, seeds) = args.seed.map_or((args.start, args.seeds), |seed| (seed, 1));
    let began = Instant::now();
    let (summary, failure) = run_seeds(start, seeds);
    let seconds = began.elapsed().as_secs_f64();
    print!("{summary}");
    println!("{:.1} s, {:.0} seeds a second", seconds, summary.seeds as f64 / seconds);
    if let Some(failure) = failure {
        println!("\nFAILED:\n{failure}\nagain: cargo xtask sim --seed {}", failure.seed);
        return Ok(ExitCode::from(failure.class.exit_code()));
    }
    if seeds > 1 && !summary.never().is_empty() {
        println!("never happened: {:?}", summary.never());
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs the first `seeds` seeds. What never happened was not tested, and that is a failure too.
pub fn smoke(seeds: u64) -> Result<()> {
    let (summary, failure) = run_seeds(0, seeds);
    if let Some(failure) = failure {
        bail!("{failure}\nagain: cargo xtask sim --seed {}", failure.seed);
    }
    let never = summary.never();
    if !never.is_empty() {
        bail!("{seeds} seeds passed but never saw {never:?}: the mix of faults is wrong");
    }
    println!("{seeds} seeds passed, {} virtual seconds", summary.virtual_us / 1_000_000);
    Ok(())
}

/// Runs seeds on all processors until one fails. Of several failures the one with the lowest seed is kept.
fn run_seeds(start: u64, seeds: u64) -> (Summary, Option<Box<Failure>>) {
    let next = AtomicU64::new(start);
    let shared = Mutex::new((Summary::default(), None::<Box<Failure>>));
    let shown = Mutex::new(Instant::now());
    let work = || {
        let mut mine = Summary::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed - start >= seeds || shared.lock().expect("no panic under the lock").1.is_some() {
                break;
            }
            match sim::run(seed, &Options::default()) {
                Ok(report) => mine.add(&report),
                Err(failure) => {
                    let first = &mut shared.lock().expect("no panic under the lock").1;
                    if first.as_ref().is_none_or(|first| failure.seed < first.seed) {
                        *first = Some(failure);
                    }
                }
            }
            show(&shown, seed - start, seeds);
        }
        shared.lock().expect("no panic under the lock").0.merge(&mine);
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    shared.into_inner().expect("no panic under the lock")
}

fn show(shown: &Mutex<Instant>, done: u64, seeds: u64) {
    let mut shown = shown.lock().expect("no panic under the lock");
    if shown.elapsed() >= PROGRESS {
        eprintln!("{done} of {seeds} seeds");
        *shown = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_is_run_once() {
        let (summary, failure) = run_seeds(1_000, 5);
        assert!(failure.is_none(), "{failure:?}");
        assert_eq!(summary.seeds, 5);
    }
}
