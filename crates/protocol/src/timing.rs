//! Owns the times and bounds of a session, and their defaults.

use crate::pacing::Pacing;
use crate::time::Micros;
use serde::{Deserialize, Serialize};

/// Times and bounds of a session. The primary's decide, both sides go by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Timing {
    /// From the start of one checkpoint to the start of the next; the most of it where they follow the output.
    pub interval: Micros,
    /// How they follow each other.
    pub pacing: Pacing,
    /// Time between heartbeats, in both directions.
    pub heartbeat: Micros,
    /// A backup that heard nothing for so long asks for the next term. A primary asks after three quarters of
    /// it, so that the incumbent goes first when only the link died.
    pub timeout: Micros,
    /// A connection that ended (and did not just fall silent) is taken for a death after so long.
    pub disconnect_grace: Micros,
    /// A backup that is alive but has not acknowledged a checkpoint, or not in time for its output to leave (see
    /// [`Timing::lease`]), for so long is given up.
    pub stall: Micros,
    /// Time between two tries to reach the arbiter.
    pub claim_retry: Micros,
    /// Checkpoints taken and not yet acknowledged; past it the VM is paused until one is.
    pub max_in_flight: u32,
}

/// Why times do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimingError {
    /// Heartbeats too rare for the time-out.
    #[error(
        "the time-out ({timeout} µs) must be at least four heartbeats ({heartbeat} µs each): one late heartbeat is not a death"
    )]
    Timeout {
        /// Microseconds.
        timeout: u64,
        /// Microseconds.
        heartbeat: u64,
    },
    /// An interval that makes no sense.
    #[error("the checkpoint interval must be between 1 ms and 10 s, not {0} µs")]
    Interval(u64),
    /// A share of the time that makes no sense.
    #[error("checkpoints may take between 1 % and 90 % of the VM's time, not {0} %")]
    Overhead(u8),
    /// A latency that makes no sense.
    #[error("output may wait between 1 ms and 10 s for a checkpoint, not {0} µs")]
    Latency(u64),
    /// No checkpoint could ever be in flight.
    #[error("at least one checkpoint must be allowed in flight, at most 64, not {0}")]
    InFlight(u32),
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            interval: Micros::from_millis(25),
            pacing: Pacing::Even,
            heartbeat: Micros::from_millis(30),
            timeout: Micros::from_millis(300),
            disconnect_grace: Micros::from_millis(30),
            stall: Micros::from_millis(10_000),
            claim_retry: Micros::from_millis(200),
            max_in_flight: 4,
        }
    }
}

impl Timing {
    /// Checks that the times fit together; a backup checks what a peer sent as well.
    ///
    /// # Errors
    /// Which of them does not.
    pub fn check(&self) -> Result<(), TimingError> {
        if self.heartbeat.0 == 0 || self.timeout.0 / 4 < self.heartbeat.0 {
            return Err(TimingError::Timeout { timeout: self.timeout.0, heartbeat: self.heartbeat.0 });
        }
        if !(1_000..=10_000_000).contains(&self.interval.0) {
            return Err(TimingError::Interval(self.interval.0));
        }
        if let Pacing::Follow(follow) = self.pacing {
            if !(1..=90).contains(&follow.max_overhead) {
                return Err(TimingError::Overhead(follow.max_overhead));
            }
            if !(1_000..=10_000_000).contains(&follow.max_latency.0) {
                return Err(TimingError::Latency(follow.max_latency.0));
            }
        }
        if !(1..=64).contains(&self.max_in_flight) {
            return Err(TimingError::InFlight(self.max_in_flight));
        }
        Ok(())
    }

    /// After this much silence a primary takes its backup for lost.
    #[must_use]
    pub fn primary_timeout(&self) -> Micros {
        Micros(self.timeout.0 / 4 * 3)
    }

    /// How long after the echoed clock reading output may be released. Shorter than the backup's time-out by a
    /// tenth, for clocks that run at different speeds.
    #[must_use]
    pub fn lease(&self) -> Micros {
        Micros(self.timeout.0 / 10 * 9)
    }
}
