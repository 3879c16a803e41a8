//! Owns how the guest's clock goes with real time.
//!
//! The guest's clock counts instructions; a guest at work runs as fast as it can, and its clock may fall behind real
//! time or get ahead. A guest that waits is what real time is for: a wait takes as long as the guest meant, but half
//! as long while its clock is behind, and up to twice as long while it is ahead. No wait is shorter than half of what
//! was meant, so nobody outside is given up too early by much.

use std::time::{Duration, Instant};

/// Nanoseconds in a unit of the guest's clock.
const UNIT: u64 = 10;

/// Real time and the guest's clock, tied together.
#[derive(Debug)]
pub struct Pace {
    began: Instant,
    /// The guest's clock then.
    clock: u64,
}

/// A wait of the guest in real time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    from: u64,
    /// How far the guest's clock goes; none if no timer is set.
    span: Option<u64>,
    /// How long it takes.
    pub lasts: Option<Duration>,
}

impl Pace {
    /// From now on, with the guest's clock at `clock`.
    pub fn begin(clock: u64, now: Instant) -> Pace {
        Pace { began: now, clock }
    }

    /// The machine stood still for so long: its clock does not have to make up for that.
    pub fn stood_still(&mut self, lasted: Duration) {
        self.began += lasted;
    }

    /// How long a guest waits now whose next timer is due at `due`.
    pub fn wait(&self, clock: u64, due: Option<u64>, now: Instant) -> Wait {
        let real = units(now.saturating_duration_since(self.began)).saturating_add(self.clock);
        let span = due.map(|due| due.saturating_sub(clock));
        let lasts = span.map(|span| {
            let meant = if real >= clock {
                span - (real - clock).min(span / 2)
            } else {
                span.saturating_add((clock - real).min(span))
            };
            Duration::from_nanos(meant.saturating_mul(UNIT))
        });
        Wait { from: clock, span, lasts }
    }
}

impl Wait {
    /// Where the guest's clock is after so much of the wait.
    pub fn clock_after(&self, elapsed: Duration) -> u64 {
        let passed = match (self.span, self.lasts) {
            (Some(span), Some(lasts)) if elapsed < lasts => {
                (u128::from(span) * elapsed.as_nanos() / lasts.as_nanos()) as u64
            }
            (Some(span), _) => span,
            (None, _) => units(elapsed),
        };
        self.from.saturating_add(passed)
    }
}

fn units(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX) / UNIT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_what_was_meant_and_pull_the_clocks_together() {
        let begin = Instant::now();
        let pace = Pace::begin(1000, begin);
        let at = |micros| begin + Duration::from_micros(micros);
        let lasts = |clock, due, now| pace.wait(clock, Some(due), at(now)).lasts.map(|l| l.as_micros());
        // In step: 100 units are a microsecond.
        assert_eq!(lasts(1000 + 500, 1000 + 1500, 5), Some(10));
        assert_eq!(lasts(1000, 2000, 3), Some(7), "3 µs behind");
        assert_eq!(lasts(1000, 2000, 1000), Some(5), "far behind");
        assert_eq!(lasts(1000 + 300, 2300, 0), Some(13), "3 µs ahead");
        assert_eq!(lasts(100_000, 101_000, 0), Some(20), "far ahead");
        let wait = pace.wait(1000, Some(2000), at(1000));
        assert_eq!(wait.clock_after(Duration::from_nanos(2500)), 1500);
        assert_eq!(wait.clock_after(Duration::from_secs(1)), 2000);
        assert_eq!(pace.wait(7, None, begin).clock_after(Duration::from_micros(1)), 107);
    }

    #[test]
    fn what_it_stood_still_is_not_made_up_for() {
        let begin = Instant::now();
        let mut pace = Pace::begin(1000, begin);
        pace.stood_still(Duration::from_millis(7));
        let wait = pace.wait(1000, Some(2000), begin + Duration::from_millis(7));
        assert_eq!(wait.lasts, Some(Duration::from_micros(10)));
    }
}
