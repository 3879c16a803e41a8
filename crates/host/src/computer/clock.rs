//! Owns the correction of a KVM guest's clock: each pause stops kvmclock, so a protected guest would fall behind.
//!
//! The clock is compared with the host's, not with the sum of the pauses: nothing is missed and no error adds up.
//! TCG's clocks cannot be corrected from outside; what a guest lost there is known (the pauses) and documented.

use os::kvm_clock::{KvmClock, KvmClockError};
use std::time::Duration;

/// After so much standing still the clock is looked at: so much, and one pause, a guest may fall behind.
const LOST_US: u64 = 5_000;
/// It is looked at so often in any case.
const EVERY_NS: u64 = 1_000_000_000;
/// Less is left alone: it is within what the measurement itself costs.
const TOLERATED: Duration = Duration::from_micros(500);

/// Keeps one guest's clock at its host's pace.
#[derive(Debug)]
pub struct ClockKeeper {
    clock: KvmClock,
    /// The host's clock when the guest's was zero, as found at the beginning.
    zero_ns: u64,
    looked_ns: u64,
    /// The guest stood still for so long since then.
    paused_us: u64,
}

impl ClockKeeper {
    /// Begins to keep the clock of the virtual machine in process `pid`: from now on it shall run as the host's does.
    ///
    /// # Errors
    /// If there is no KVM virtual machine in it.
    pub fn start(pid: u32) -> Result<Self, KvmClockError> {
        let clock = KvmClock::find(pid)?;
        let looked_ns = os::clock::now_ns();
        let zero_ns = looked_ns.saturating_sub(clock.read()?);
        Ok(Self { clock, zero_ns, looked_ns, paused_us: 0 })
    }

    /// The guest stood still for `paused_us` once more. Looks at its clock if it is time to, and sets it forward by
    /// what it lost.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn keep(&mut self, paused_us: u64) -> Result<(), KvmClockError> {
        let now = os::clock::now_ns();
        self.paused_us += paused_us;
        if self.paused_us < LOST_US && now < self.looked_ns + EVERY_NS {
            return Ok(());
        }
        self.paused_us = 0;
        self.looked_ns = now;
        let due = os::clock::now_ns().saturating_sub(self.zero_ns);
        let lost = due.saturating_sub(self.clock.read()?);
        if Duration::from_nanos(lost) > TOLERATED {
            self.clock.advance(lost)?;
        }
        Ok(())
    }
}
