//! Owns the histogram of times: fixed memory, values kept to about 3 %.

use serde::{Deserialize, Serialize};

/// Each power of two is divided into so many buckets.
const STEPS: u64 = 32;
const STEP_BITS: u32 = STEPS.trailing_zeros();
const BUCKETS: usize = (64 - STEP_BITS as usize + 1) * STEPS as usize;

/// Counts of values in log-linear buckets.
#[derive(Clone)]
pub struct Histogram {
    counts: Box<[u64]>,
    count: u64,
    min: u64,
    max: u64,
}

/// What a histogram says, in the unit of its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Smallest value, exact.
    pub min: u64,
    /// Half of the values are at most this.
    pub median: u64,
    /// 99 % of the values are at most this.
    pub p99: u64,
    /// Largest value, exact.
    pub max: u64,
    /// How many values.
    pub count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS].into_boxed_slice(), count: 0, min: u64::MAX, max: 0 }
    }
}

/// The bucket of `value`: linear below `STEPS`, then `STEPS` buckets per power of two.
fn bucket_of(value: u64) -> usize {
    if value < STEPS {
        return usize::try_from(value).expect("below STEPS");
    }
    let shift = 63 - value.leading_zeros() - STEP_BITS;
    let index = u64::from(shift + 1) * STEPS + ((value >> shift) - STEPS);
    usize::try_from(index).expect("below BUCKETS")
}

/// The largest value in bucket `index`.
fn top_of(index: usize) -> u64 {
    let index = index as u64;
    if index < STEPS {
        return index;
    }
    let shift = index / STEPS - 1;
    let low = (STEPS + index % STEPS) << shift;
    low + ((1 << shift) - 1)
}

impl Histogram {
    /// Counts one value.
    pub fn record(&mut self, value: u64) {
        self.counts[bucket_of(value)] += 1;
        self.count += 1;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// The value that `percent` of all values do not exceed.
    fn quantile(&self, percent: u64) -> u64 {
        let wanted = (self.count * percent).div_ceil(100);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return top_of(index).clamp(self.min, self.max);
            }
        }
        0
    }

    /// Minimum, median, 99th percentile, maximum and count; all zero when nothing was recorded.
    #[must_use]
    pub fn summary(&self) -> Summary {
        if self.count == 0 {
            return Summary::default();
        }
        let (median, p99) = (self.quantile(50), self.quantile(99));
        Summary { min: self.min, median, p99, max: self.max, count: self.count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_histogram_says_zero() {
        assert_eq!(Histogram::default().summary(), Summary::default());
    }

    #[test]
    fn the_whole_range_has_a_bucket() {
        let mut h = Histogram::default();
        for value in [0, 1, 31, 32, 33, u64::MAX / 2, u64::MAX] {
            h.record(value);
            assert!(top_of(bucket_of(value)) >= value);
        }
        assert_eq!((h.summary().min, h.summary().max, h.summary().count), (0, u64::MAX, 7));
    }

    proptest! {
        #[test]
        fn quantiles_are_within_four_percent_of_the_sorted_list(
            mut values in prop::collection::vec(0u64..5_000_000, 1..400),
        ) {
            let mut h = Histogram::default();
            for &value in &values {
                h.record(value);
            }
            values.sort_unstable();
            let exact = |percent: usize| values[(values.len() * percent).div_ceil(100) - 1];
            let summary = h.summary();
            for (got, want) in [(summary.median, exact(50)), (summary.p99, exact(99))] {
                prop_assert!(got >= want && got <= want + want / 25, "{} for {}", got, want);
            }
            prop_assert_eq!((summary.min, summary.max), (values[0], values[values.len() - 1]));
        }
    }
}
