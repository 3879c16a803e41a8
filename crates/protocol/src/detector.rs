//! Owns failure detection: when was the other side last heard, and is that too long ago.
//!
//! A detector only raises a suspicion. What follows from it the arbiter decides.

use crate::time::{Instant, Micros};

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

    /// From now on another length of silence is too long.
    pub fn set_timeout(&mut self, timeout: Micros) {
        self.timeout = timeout;
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
