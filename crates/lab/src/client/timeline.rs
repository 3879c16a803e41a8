//! Owns what clients saw over time: samples, buckets of samples, and gaps without any.

use serde::{Deserialize, Serialize};

use api::summary::Summary;

/// One reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When it arrived, on `os::clock`.
    pub at_us: u64,
    /// How long after its request was handed to the system.
    pub latency_us: u64,
}

/// The replies of a stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    /// Its beginning, in milliseconds after the beginning of the timeline.
    pub at_ms: f64,
    /// How many replies arrived in it.
    pub operations: u64,
    /// Their latency in milliseconds; nothing if there were none.
    pub latency_ms: Option<Summary>,
}

/// A time without replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// When it began (the last reply before it), on `os::clock`.
    pub started_us: u64,
    /// How long it lasted.
    pub duration_us: u64,
}

/// Sorts samples into buckets of `width_us`, from `from_us` up to `to_us`; those outside are left out.
pub fn buckets(samples: &[Sample], from_us: u64, to_us: u64, width_us: u64) -> Vec<Bucket> {
    assert!(width_us > 0, "a bucket has a width");
    let count = to_us.saturating_sub(from_us).div_ceil(width_us);
    let mut sorted: Vec<Vec<u64>> = vec![Vec::new(); usize::try_from(count).expect("a timeline fits memory")];
    for sample in samples.iter().filter(|sample| (from_us..to_us).contains(&sample.at_us)) {
        sorted[((sample.at_us - from_us) / width_us) as usize].push(sample.latency_us);
    }
    let bucket = |(index, latencies): (usize, Vec<u64>)| Bucket {
        at_ms: index as f64 * width_us as f64 / 1000.0,
        operations: latencies.len() as u64,
        latency_ms: Summary::of_us_in_ms(latencies),
    };
    sorted.into_iter().enumerate().map(bucket).collect()
}

/// The longest time without a reply that touches `from_us..to_us`.
///
/// `arrivals` ascend. The time before the first arrival and after the last one does not count: nobody was waiting.
pub fn longest_gap(arrivals: impl IntoIterator<Item = u64>, from_us: u64, to_us: u64) -> Option<Gap> {
    let mut longest: Option<Gap> = None;
    let mut last = None;
    for at in arrivals {
        if let Some(before) = last.replace(at)
            && at > from_us
            && before < to_us
            && longest.is_none_or(|gap| at - before > gap.duration_us)
        {
            longest = Some(Gap { started_us: before, duration_us: at - before });
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_fall_into_the_bucket_of_their_arrival() {
        let sample = |at_us, latency_us| Sample { at_us, latency_us };
        let samples =
            [sample(999, 5), sample(1000, 100), sample(1099, 300), sample(1200, 7), sample(1300, 9)];
        let buckets = buckets(&samples, 1000, 1300, 100);
        assert_eq!(buckets.iter().map(|bucket| bucket.operations).collect::<Vec<_>>(), [2, 0, 1]);
        assert_eq!(buckets[0].latency_ms.expect("replies").max, 0.3);
        assert_eq!(buckets[1].latency_ms, None);
        assert_eq!(buckets[2].at_ms, 0.2);
    }

    #[test]
    fn the_longest_gap_is_the_one_that_touches_the_window() {
        let arrivals = [0, 500, 510, 700, 710, 2000];
        assert_eq!(longest_gap(arrivals, 505, 705), Some(Gap { started_us: 510, duration_us: 190 }));
        assert_eq!(longest_gap(arrivals, 0, 10_000), Some(Gap { started_us: 710, duration_us: 1290 }));
        assert_eq!(longest_gap([5], 0, 10), None);
    }
}
