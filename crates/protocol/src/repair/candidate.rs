//! Owns what is known of one candidate host, and the pauses between tries.

use crate::ids::HostName;
use crate::time::{Instant, Micros};
use alloc::string::String;

/// The times between tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pauses {
    /// Pause after the first failure; each further one doubles it.
    pub first: Micros,
    /// The longest pause. What failed longer ago does not speak against a candidate any more.
    pub longest: Micros,
    /// A backup that was kept for so long does not flap: its loss counts as the first.
    pub steady: Micros,
}

impl Default for Pauses {
    fn default() -> Self {
        Self {
            first: Micros::from_millis(500),
            longest: Micros::from_millis(60_000),
            steady: Micros::from_millis(60_000),
        }
    }
}

impl Pauses {
    /// The pause behind so many failures in a row.
    fn after(&self, failures: u32) -> Micros {
        let doublings = failures.saturating_sub(1).min(16);
        Micros((self.first.0 << doublings).min(self.longest.0))
    }
}

/// A host that may stand by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The host.
    pub host: HostName,
    /// Failures and losses in a row.
    pub failures: u32,
    /// Why it is not the backup, as far as known.
    pub why: Option<String>,
    /// It is not tried before.
    pub not_before: Instant,
    /// The newest failure or loss.
    failed_at: Option<Instant>,
    /// It is the backup since.
    pub(super) armed_at: Option<Instant>,
    /// It was tried since an operator asked.
    pub(super) tried: bool,
    /// It wants to be left until then.
    pub(super) leaves_until: Instant,
}

impl Candidate {
    pub(super) fn new(host: HostName) -> Self {
        Self {
            host,
            failures: 0,
            why: None,
            not_before: Instant(0),
            failed_at: None,
            armed_at: None,
            tried: false,
            leaves_until: Instant(0),
        }
    }

    pub(super) fn failed(&mut self, now: Instant, pauses: &Pauses, why: &str) {
        self.failures = self.failures.saturating_add(1);
        self.why = Some(why.into());
        (self.armed_at, self.failed_at) = (None, Some(now));
        // What it said of leaving may keep it away for longer.
        self.not_before = self.not_before.max(now + pauses.after(self.failures));
    }

    /// It is not ready yet, which is no failure.
    pub(super) fn waits(&mut self, until: Instant, why: &str) {
        self.why = Some(why.into());
        self.not_before = self.not_before.max(until);
    }

    pub(super) fn armed(&mut self, now: Instant) {
        (self.armed_at, self.failed_at, self.why) = (Some(now), None, None);
        self.leaves_until = Instant(0);
    }

    pub(super) fn lost(&mut self, now: Instant, pauses: &Pauses, why: &str) {
        if self.armed_at.is_some_and(|at| after(at, pauses.steady) <= now) {
            self.failures = 0;
        }
        self.failed(now, pauses, why);
    }

    /// Whether it is worth giving up a backup for: nothing speaks against it, or what did is long ago.
    pub(super) fn promises(&self, now: Instant, pauses: &Pauses) -> bool {
        let forgotten = self.failed_at.is_none_or(|at| after(at, pauses.longest) <= now);
        forgotten && !self.leaves(now) && self.not_before <= now
    }

    pub(super) fn leaves(&self, now: Instant) -> bool {
        now < self.leaves_until
    }
}

/// So long after an instant; an operator's time may be of any length.
pub(super) fn after(at: Instant, time: Micros) -> Instant {
    Instant(at.0.saturating_add(time.0))
}
