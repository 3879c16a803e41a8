//! Owns how fast a first copy may go.

use std::time::{Duration, Instant};

/// A bound on bytes a second, or none.
#[derive(Debug)]
pub struct Pace {
    rate: Option<u64>,
    /// Nothing more before this.
    next: Instant,
}

impl Pace {
    /// At most so many bytes a second.
    #[must_use]
    pub fn new(rate: Option<u64>) -> Self {
        Self { rate: rate.filter(|&rate| rate > 0), next: Instant::now() }
    }

    /// From now on at most so many.
    pub fn limit(&mut self, rate: Option<u64>) {
        *self = Self::new(rate);
    }

    /// Whether there is a bound.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.rate.is_some()
    }

    /// So many bytes were sent. Time that was not used before is not made up for.
    pub fn sent(&mut self, bytes: u64) {
        self.sent_at(bytes, Instant::now());
    }

    fn sent_at(&mut self, bytes: u64, now: Instant) {
        if let Some(rate) = self.rate {
            self.next = self.next.max(now) + Duration::from_secs_f64(bytes as f64 / rate as f64);
        }
    }

    /// How long to wait before more is sent; none if not at all.
    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        self.rate?;
        let wait = self.next.saturating_duration_since(Instant::now());
        (!wait.is_zero()).then_some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_bytes_takes_a_second_and_idle_time_is_not_made_up_for() {
        let start = Instant::now();
        let mut pace = Pace { rate: Some(1000), next: start };
        pace.sent_at(500, start);
        pace.sent_at(500, start);
        assert_eq!(pace.next, start + Duration::from_secs(1));
        pace.sent_at(1000, start + Duration::from_secs(9));
        assert_eq!(pace.next, start + Duration::from_secs(10));
        assert!(pace.wait().is_some());
        assert_eq!(Pace::new(None).wait(), None);
        assert_eq!(Pace::new(Some(0)).wait(), None, "0 is no limit, not a standstill");
    }
}
