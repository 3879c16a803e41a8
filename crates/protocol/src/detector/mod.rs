//! Owns failure detection: when was the other side last heard, and is that too long ago.
//!
//! A detector only raises a suspicion. What follows from it the arbiter decides.

mod gaps;
mod links;

pub use gaps::{Gaps, GapsView};
pub use links::Links;

use crate::time::{Instant, Micros};

/// How a host listens to its peer, for displays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listening {
    /// So much silence is suspicious now.
    pub timeout: Micros,
    /// What was learnt of the link; nothing where the time-out is fixed.
    pub learnt: Option<GapsView>,
}

/// Watches one direction of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Detector {
    heard: Instant,
    timeout: Micros,
}

impl Detector {
    /// Begins to listen: silence counts from `now`.
    #[must_use]
    pub fn new(now: Instant, timeout: Micros) -> Self {
        Self { heard: now, timeout }
    }

    /// Something came.
    pub fn hear(&mut self, now: Instant) {
        self.heard = self.heard.max(now);
    }

    /// Until now nobody listened: silence counts from here.
    pub fn excuse(&mut self, now: Instant) {
        self.heard = self.heard.max(now);
    }

    /// This host did nothing for so long, up to `now`: what it did not hear for that reason is no silence.
    pub fn forgive(&mut self, now: Instant, asleep: Micros) {
        self.heard = (self.heard + asleep).min(now).max(self.heard);
    }

    /// From now on another length of silence is too long.
    pub fn set_timeout(&mut self, timeout: Micros) {
        self.timeout = timeout;
    }

    /// The length of silence that is too long now.
    #[must_use]
    pub fn timeout(&self) -> Micros {
        self.timeout
    }

    /// How long nothing was heard.
    #[must_use]
    pub fn silence(&self, now: Instant) -> Micros {
        now.since(self.heard)
    }

    /// When the silence becomes too long.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.heard + self.timeout
    }

    /// Whether the silence is too long.
    #[must_use]
    pub fn expired(&self, now: Instant) -> bool {
        now >= self.deadline()
    }
}

/// How long a loop slept beyond the deadline that its machine had set, if that is more than it may be late: a machine
/// is called at least once a heartbeat.
#[must_use]
pub fn overslept(deadline: Option<Instant>, now: Instant, heartbeat: Micros) -> Option<Micros> {
    let asleep = now.since(deadline?);
    (asleep >= heartbeat).then_some(asleep)
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Instant = Instant(1_000_000);
    const MS: fn(u64) -> Micros = Micros::from_millis;

    #[test]
    fn what_this_host_slept_is_no_silence_and_the_future_is_not_heard() {
        let mut detector = Detector::new(T, MS(300));
        let woke = T + MS(5_000);
        detector.forgive(woke, MS(4_900));
        assert_eq!(detector.silence(woke), MS(100));
        detector.forgive(woke, MS(4_900));
        assert_eq!(detector.silence(woke), MS(0));
        assert_eq!(detector.deadline(), woke + MS(300));
    }

    #[test]
    fn only_a_deadline_that_was_missed_by_a_heartbeat_was_slept_through() {
        assert_eq!(overslept(Some(T), T + MS(29), MS(30)), None);
        assert_eq!(overslept(Some(T), T + MS(30), MS(30)), Some(MS(30)));
        assert_eq!(overslept(Some(T + MS(9)), T, MS(30)), None);
        assert_eq!(overslept(None, T, MS(30)), None);
    }
}
