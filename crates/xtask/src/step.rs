//! Owns how a row of steps is run and shown: each named and timed, the first failure ends the row.

use anyhow::{Context, Result};
use std::time::{Duration, Instant};

/// A named piece of work.
pub struct Step {
    /// What it makes sure of.
    pub name: &'static str,
    /// The work.
    pub work: fn() -> Result<()>,
}

/// Runs steps in order; says how long each took, and stops at the first that fails.
pub fn run_all(steps: &[Step]) -> Result<()> {
    let mut took = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        println!("\n=== [{}/{}] {}", at + 1, steps.len(), step.name);
        let start = Instant::now();
        let result = (step.work)();
        took.push((step.name, start.elapsed()));
        result.with_context(|| {
            format!("FAILED at step {}/{}, {}", at + 1, steps.len(), timed(step.name, start.elapsed()))
        })?;
    }
    println!("\n=== all {} steps passed", steps.len());
    for (name, took) in took {
        println!("  {}", timed(name, took));
    }
    Ok(())
}

fn timed(name: &str, took: Duration) -> String {
    format!("{name} ({:.1} s)", took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    static RAN: AtomicU32 = AtomicU32::new(0);

    #[test]
    fn the_first_failure_ends_the_row_and_is_named() {
        let count = || {
            RAN.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        let steps = [
            Step { name: "one", work: count },
            Step { name: "two", work: || anyhow::bail!("it broke") },
            Step { name: "three", work: count },
        ];
        let error = format!("{:#}", run_all(&steps).unwrap_err());
        assert!(error.contains("step 2/3, two") && error.contains("it broke"), "{error}");
        assert_eq!(RAN.load(Ordering::Relaxed), 1);
    }
}
