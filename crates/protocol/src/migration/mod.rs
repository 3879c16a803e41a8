//! Owns when a migration stops copying, at what rate it copies, how much the guest is slowed for it, and when it gives up.
//!
//! ```text
//!             pages of the round are sent,
//!  ┌───────┐  what the guest wrote meanwhile is known    ┌──────┐
//!  │ Round │ ──────────────────────────────────────────▶ │decide│ ─▶ Stop: the rest goes while the VM stands still
//!  └───────┘ ◀────────────────────────────────────────── └──────┘ ─▶ GiveUp: the VM runs on as if nobody had asked
//!              another one, at this rate, with the VM slowed so much
//! ```
//!
//! The rules for the end of the push phase are those of live migration (Clark et al., NSDI'05, §3.2 and §5.3): nothing was
//! changed; no more progress over several rounds; a maximum of rounds; and, instead of a number of pages, an estimated
//! downtime below the limit that was set. Behind the limit nobody is stopped: a guest that writes faster than the link
//! carries is slowed as far as it must be to write less, within a bound, and when that does not do the migration gives up.
//!
//! The rate follows the guest as there: what it dirtied in the last round and a little more, between floor and ceiling.
//! Which pages are sent at all is decided by [`WorkingSet`].

mod working_set;

pub use working_set::WorkingSet;

use crate::slowing;
use crate::time::Micros;
use crate::wire::pages;
use serde::{Deserialize, Serialize};

/// Bytes of a page.
pub const PAGE: u64 = pages::PAGE as u64;
/// What a handover takes beside the pages: stopping, devices, the arbiter, loading them; `cargo xtask bench migrate`
/// shows where it goes.
pub const HANDOVER: Micros = Micros::from_millis(15);
/// Below the limit another round is worth it as long as so much downtime can be saved...
const WORTH_A_ROUND: Micros = Micros::from_millis(4);
/// ...and each leaves at most so much, in percent, of what was owed before it: rounds cost the guest nothing but time, a stop does.
const WORTH_LEAVING: u64 = 85;
/// Rounds without progress before something is done about it.
const PATIENCE: u32 = 3;
/// By so much, in percent, the least that was left must shrink within these rounds to be progress.
const PROGRESS: u64 = 10;
/// The guest is slowed by so much more each time at least, in percent of its time: one that writes the same pages again and
/// again writes hardly fewer for being slower.
const BRAKE_STEP: u8 = 20;
/// So few pages say nothing about the speed of the link.
const TELLING: u64 = 256;
/// The rate is so far above that of the guest's writing: 50 Mbit/s, as in the source.
const HEADWAY: u64 = 50_000_000 / 8;

/// What an operator allows a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The VM stands still for no longer than this, by the estimate.
    pub max_downtime: Micros,
    /// Most rounds.
    pub max_rounds: u32,
    /// Bytes a second at which it begins; none: at the ceiling.
    pub rate_floor: Option<u64>,
    /// Most bytes a second while the VM runs; none: as fast as it goes.
    pub rate_ceiling: Option<u64>,
    /// Most of its time that the guest may lose to being slowed, in percent; 0: it is never slowed.
    pub max_slowdown: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_downtime: Micros::from_millis(100),
            max_rounds: 30,
            rate_floor: None,
            rate_ceiling: None,
            max_slowdown: 60,
        }
    }
}

/// Limits that make no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitsError {
    /// No handover is so short.
    #[error("a handover alone takes 15 ms: allow a downtime of more than that, not {0} µs")]
    Downtime(u64),
    /// No round, or no end.
    #[error("a migration takes between 1 and 1000 rounds, not {0}")]
    Rounds(u32),
    /// Rates the wrong way round, or none.
    #[error("the rate's floor must be above 0 and not above its ceiling")]
    Rates,
    /// The guest would hardly run.
    #[error("a guest may be slowed by at most 90 % of its time, not {0} %")]
    Slowdown(u8),
}

impl Limits {
    /// Checks that they make sense.
    ///
    /// # Errors
    /// Which does not.
    pub fn check(&self) -> Result<(), LimitsError> {
        if self.max_downtime <= HANDOVER {
            return Err(LimitsError::Downtime(self.max_downtime.0));
        }
        if !(1..=1_000).contains(&self.max_rounds) {
            return Err(LimitsError::Rounds(self.max_rounds));
        }
        let (floor, ceiling) = (self.rate_floor.unwrap_or(1), self.rate_ceiling.unwrap_or(u64::MAX));
        if floor == 0 || floor > ceiling {
            return Err(LimitsError::Rates);
        }
        if self.max_slowdown > slowing::MOST {
            return Err(LimitsError::Slowdown(self.max_slowdown));
        }
        Ok(())
    }
}

/// What a round came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// Pages that were sent.
    pub sent: u64,
    /// From its beginning until the destination had them.
    pub took: Micros,
    /// Pages that the guest wrote meanwhile.
    pub dirtied: u64,
    /// Pages that must still be sent: those, and those that were left for the stop.
    pub left: u64,
}

/// Why the VM is stopped now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Nothing was changed since the last round.
    NothingChanged,
    /// The rest takes no longer than the VM may stand still.
    WithinLimit,
    /// It stood still from the beginning.
    StoppedFirst,
}

/// Why a migration does not come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// What is left does not get less.
    NoProgress,
    /// It took as many rounds as it may.
    Rounds,
}

/// A migration that gives up, in figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error(
    "{} after {rounds} rounds: the VM would stand still for some {} ms, and may for {} ms; the guest writes {} MB/s, {} MB/s are \
     carried, and it was slowed by {slowdown} %. Allow more with --max-downtime, --max-rounds, --rate-ceiling or --max-slowdown",
    match cause { Cause::NoProgress => "no more progress", Cause::Rounds => "too long" },
    downtime.0 / 1_000, limit.0 / 1_000, written / 1_000_000, carried / 1_000_000
)]
pub struct GivenUp {
    /// Why.
    pub cause: Cause,
    /// Rounds that it took.
    pub rounds: u32,
    /// The estimated downtime.
    pub downtime: Micros,
    /// The limit.
    pub limit: Micros,
    /// Bytes a second that the guest dirtied.
    pub written: u64,
    /// Bytes a second that were carried.
    pub carried: u64,
    /// By so much it was slowed, in percent.
    pub slowdown: u8,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Send what is owed, at most so many bytes a second, with the guest losing so many percent of its time.
    Round {
        /// Bytes a second; none: as fast as it goes.
        rate: Option<u64>,
        /// Percent.
        slowdown: u8,
    },
    /// Stop the VM and send the rest.
    Stop(Reason),
    /// Leave the VM alone.
    GiveUp(GivenUp),
}

/// What a migration has come to, for displays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct View {
    /// Rounds that are over.
    pub rounds: u32,
    /// Bytes a second that the link carried; 0 while it is not known.
    pub carried: u64,
    /// Bytes a second that the guest dirtied.
    pub written: u64,
    /// The downtime if the VM were stopped now.
    pub downtime: Option<Micros>,
    /// By so much the guest is slowed, in percent.
    pub slowdown: u8,
}

/// The policy of one migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    limits: Limits,
    stop_first: bool,
    view: View,
    /// What had to be sent when the round under way began.
    owed: Option<u64>,
    /// The least that was left, and how many rounds ago that was.
    least: u64,
    since_least: u32,
}

impl Migration {
    /// A migration within these limits.
    #[must_use]
    pub fn new(limits: Limits, stop_first: bool) -> Self {
        Self { limits, stop_first, view: View::default(), owed: None, least: u64::MAX, since_least: 0 }
    }

    /// The first round.
    #[must_use]
    pub fn begin(&self) -> Step {
        let rate = if self.stop_first { None } else { self.limits.rate_floor.or(self.limits.rate_ceiling) };
        Step::Round { rate, slowdown: 0 }
    }

    /// What it has come to.
    #[must_use]
    pub fn view(&self) -> View {
        self.view
    }

    /// What follows a round.
    pub fn after(&mut self, round: Round) -> Step {
        self.learn(round);
        let rounds = self.view.rounds;
        // More than was sent: pages that are written again and again wait for the stop.
        let owed = self.owed.replace(round.left).unwrap_or(round.sent);
        let shrinks = round.left.saturating_mul(100) <= owed.saturating_mul(WORTH_LEAVING);
        if self.stop_first {
            return Step::Stop(Reason::StoppedFirst);
        }
        if round.left == 0 {
            return Step::Stop(Reason::NothingChanged);
        }
        if self.view.downtime.is_some_and(|downtime| downtime <= self.limits.max_downtime) {
            let saves = self.carrying(round.left).is_some_and(|time| time >= WORTH_A_ROUND);
            let on = shrinks && saves && rounds < self.limits.max_rounds;
            return if on { self.again() } else { Step::Stop(Reason::WithinLimit) };
        }
        if rounds >= self.limits.max_rounds {
            return self.give_up(Cause::Rounds);
        }
        if self.progresses(round.left) {
            return self.again();
        }
        if self.view.slowdown >= self.limits.max_slowdown {
            return self.give_up(Cause::NoProgress);
        }
        let View { slowdown, written, carried, .. } = self.view;
        let needed = slowing::slowdown(slowdown, written, carried);
        self.view.slowdown = needed.max(slowdown + BRAKE_STEP).min(self.limits.max_slowdown);
        (self.least, self.since_least) = (round.left, 0);
        self.again()
    }

    fn learn(&mut self, round: Round) {
        self.view.rounds += 1;
        let took = round.took.0.max(1);
        let per_second = |pages: u64| pages.saturating_mul(PAGE).saturating_mul(1_000_000) / took;
        if round.sent >= TELLING || self.view.carried == 0 {
            self.view.carried = per_second(round.sent);
        }
        self.view.written = per_second(round.dirtied);
        self.view.downtime = self.carrying(round.left).map(|time| Micros(time.0.saturating_add(HANDOVER.0)));
    }

    /// How long the link takes for so many pages; none while its speed is not known.
    fn carrying(&self, pages: u64) -> Option<Micros> {
        let bytes = u128::from(pages) * u128::from(PAGE);
        let us = (bytes * 1_000_000).checked_div(u128::from(self.view.carried))?;
        Some(Micros(u64::try_from(us).unwrap_or(u64::MAX / 2)))
    }

    fn progresses(&mut self, left: u64) -> bool {
        if left < self.least / 100 * (100 - PROGRESS) {
            (self.least, self.since_least) = (left, 0);
            return true;
        }
        self.since_least += 1;
        self.since_least < PATIENCE
    }

    fn again(&self) -> Step {
        let Limits { rate_floor, rate_ceiling, .. } = self.limits;
        let follows = self.view.written.saturating_add(HEADWAY);
        let rate = match rate_floor {
            Some(floor) => Some(follows.max(floor).min(rate_ceiling.unwrap_or(u64::MAX))),
            None => rate_ceiling,
        };
        Step::Round { rate, slowdown: self.view.slowdown }
    }

    fn give_up(&self, cause: Cause) -> Step {
        let View { rounds, carried, written, downtime, slowdown } = self.view;
        let (downtime, limit) = (downtime.unwrap_or_default(), self.limits.max_downtime);
        Step::GiveUp(GivenUp { cause, rounds, downtime, limit, written, carried, slowdown })
    }
}

#[cfg(test)]
mod tests;
