//! Owns the times and bounds of a session, and their defaults.

use crate::pacing::Pacing;
use crate::slowing;
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
    /// A backup that heard nothing for so long asks for the next term, on a link that is as quiet as it was always; no
    /// backup ever asks sooner, and leases rest on that. A primary asks after three quarters of what its backup goes by,
    /// so that the incumbent goes first when only the link died.
    pub timeout: Micros,
    /// Most that the time-out grows to on a link that is known to be late. Equal to `timeout`: it is fixed.
    pub timeout_max: Micros,
    /// A connection that ended (and did not just fall silent) is taken for a death after so long.
    pub disconnect_grace: Micros,
    /// A backup that is alive but has not acknowledged a checkpoint, or not in time for its output to leave (see
    /// [`Timing::lease`]), for so long is given up.
    pub stall: Micros,
    /// Time between two tries to reach the arbiter.
    pub claim_retry: Micros,
    /// Checkpoints taken and not yet acknowledged; past it the VM is paused until one is.
    pub max_in_flight: u32,
    /// Most of its time that a guest may lose that writes faster than the link carries, in percent. The owner's business:
    /// it does not travel.
    #[serde(skip, default = "usual_slowdown")]
    pub max_slowdown: u8,
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
    /// Bounds the wrong way round.
    #[error(
        "the longest time-out ({most} µs) must not be shorter than the shortest ({least} µs), nor longer than a minute"
    )]
    TimeoutMax {
        /// Microseconds.
        least: u64,
        /// Microseconds.
        most: u64,
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
    /// The guest would hardly run.
    #[error("a guest may be slowed by at most 90 % of its time, not {0} %")]
    Slowdown(u8),
    /// No checkpoint could ever be in flight.
    #[error("at least one checkpoint must be allowed in flight, at most 64, not {0}")]
    InFlight(u32),
}

const fn usual_slowdown() -> u8 {
    80
}

/// Nobody waits longer for a sign of life.
pub const LONGEST_TIMEOUT: Micros = Micros::from_millis(60_000);

impl Default for Timing {
    fn default() -> Self {
        Self {
            interval: Micros::from_millis(25),
            pacing: Pacing::Even,
            heartbeat: Micros::from_millis(30),
            timeout: Micros::from_millis(280),
            timeout_max: Micros::from_millis(1_400),
            disconnect_grace: Micros::from_millis(30),
            stall: Micros::from_millis(10_000),
            claim_retry: Micros::from_millis(200),
            max_in_flight: 4,
            max_slowdown: usual_slowdown(),
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
        if self.timeout_max < self.timeout || self.timeout_max > LONGEST_TIMEOUT {
            return Err(TimingError::TimeoutMax { least: self.timeout.0, most: self.timeout_max.0 });
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
        if self.max_slowdown > slowing::MOST {
            return Err(TimingError::Slowdown(self.max_slowdown));
        }
        Ok(())
    }

    /// Whether time-outs follow the link.
    #[must_use]
    pub fn adapts(&self) -> bool {
        self.timeout_max > self.timeout
    }

    /// The time-out for who would like this one: within the bounds.
    #[must_use]
    pub fn bounded(&self, wish: Micros) -> Micros {
        wish.clamp(self.timeout, self.timeout_max)
    }

    /// After this much silence a primary takes its backup for lost that goes by this time-out.
    #[must_use]
    pub fn primary_timeout(&self, of_backup: Micros) -> Micros {
        Micros(self.bounded(of_backup).0 / 4 * 3)
    }

    /// How long after the echoed clock reading output may be released. Shorter than the backup's *shortest* time-out, by
    /// a tenth for clocks that run at different speeds: what a backup has learnt may be forgotten, a lease may not.
    #[must_use]
    pub fn lease(&self) -> Micros {
        Micros(self.timeout.0 / 10 * 9)
    }
}
