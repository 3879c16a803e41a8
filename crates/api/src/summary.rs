//! Owns the few numbers that every measurement is reduced to: minimum, median, 99th percentile, maximum, count.
//!
//! Percentiles are of the nearest rank: always a value that was really measured, never an interpolation.

use serde::{Deserialize, Serialize};

/// Minimum, median, 99th percentile, maximum and number of a set of samples, in the unit of the samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The smallest sample.
    pub min: f64,
    /// The middle sample.
    pub median: f64,
    /// 99 of 100 samples are not larger.
    pub p99: f64,
    /// The largest sample.
    pub max: f64,
    /// How many samples there were.
    pub count: u64,
}

impl Summary {
    /// Summarises samples; `None` if there are none. Samples that are not numbers are left out.
    pub fn of(samples: impl IntoIterator<Item = f64>) -> Option<Summary> {
        let mut sorted: Vec<f64> = samples.into_iter().filter(|sample| !sample.is_nan()).collect();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        Some(Summary {
            min,
            median: nearest_rank(&sorted, 50.0),
            p99: nearest_rank(&sorted, 99.0),
            max,
            count: sorted.len() as u64,
        })
    }

    /// Summarises microseconds as milliseconds.
    pub fn of_us_in_ms(samples: impl IntoIterator<Item = u64>) -> Option<Summary> {
        Summary::of(samples.into_iter().map(|us| us as f64 / 1000.0))
    }
}

/// The sample that `percent` of all samples do not exceed; `sorted` must be ascending and not empty.
fn nearest_rank(sorted: &[f64], percent: f64) -> f64 {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_samples() {
        let summary = Summary::of((1..=200).rev().map(f64::from)).expect("samples");
        assert_eq!((summary.min, summary.median, summary.p99, summary.max), (1.0, 100.0, 198.0, 200.0));
        assert_eq!(summary.count, 200);
    }

    #[test]
    fn one_sample_is_every_rank_and_none_is_no_summary() {
        let summary = Summary::of_us_in_ms([1500]).expect("a sample");
        assert_eq!((summary.min, summary.median, summary.p99, summary.max), (1.5, 1.5, 1.5, 1.5));
        assert_eq!(Summary::of([f64::NAN]), None);
    }
}
