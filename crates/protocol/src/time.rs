//! Owns the protocol's notion of time: microseconds that the caller reads from its own clock.
//!
//! The engine takes them from `CLOCK_BOOTTIME`, so that a stopped process and a suspended machine both see
//! the time they missed; the simulator makes them up.

use serde::{Deserialize, Serialize};

/// A length of time in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Micros(pub u64);

impl Micros {
    /// So many milliseconds.
    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms * 1_000)
    }

    /// As milliseconds, for people.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "for display")]
    pub fn as_millis_f64(self) -> f64 {
        self.0 as f64 / 1_000.0
    }
}

/// A point on one host's clock, in microseconds. Instants of two hosts are never compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Instant(pub u64);

impl Instant {
    /// Time since an earlier instant; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Micros {
        Micros(self.0.saturating_sub(earlier.0))
    }
}

impl core::ops::Add<Micros> for Instant {
    type Output = Self;
    fn add(self, by: Micros) -> Self {
        Self(self.0 + by.0)
    }
}
