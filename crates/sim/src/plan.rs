//! Owns what is drawn once per seed: times, bounds, sizes and how often things go wrong.

use crate::rng::Rng;
use protocol::pacing::{Follow, Pacing};
use protocol::{Micros, Timing};

/// What a caller of [`crate::run`] may choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Length of the phase with faults, in virtual milliseconds.
    pub safety_ms: u64,
    /// Longest time that the phase without faults may take until the VM is protected again, in virtual
    /// milliseconds.
    pub liveness_ms: u64,
    /// Whether faults are injected at all.
    pub faults: bool,
    /// So many lines of trace come with a failure.
    pub trace_lines: usize,
    /// Instead of what the seed draws: a link and times to measure failure detection by.
    pub trial: Option<Trial>,
    /// Bugs to plant.
    #[cfg(feature = "planted")]
    pub planted: protocol::Planted,
}

/// A link between two hosts, and what happens on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// The session's times.
    pub timing: Timing,
    /// One way, shortest and longest.
    pub delay: (Micros, Micros),
    /// So many frames in a thousand take up to so much longer.
    pub burst: (u64, Micros),
    /// Agents do not run now and then.
    pub stalls: Option<Stalls>,
    /// The owner's host loses its power then.
    pub owner_dies_at: Option<Micros>,
}

/// Stalls of an agent's processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stalls {
    /// Between two, on average.
    pub gap: Micros,
    /// For how long at most.
    pub longest: Micros,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            safety_ms: 4_000,
            liveness_ms: 60_000,
            faults: true,
            trace_lines: 40,
            trial: None,
            #[cfg(feature = "planted")]
            planted: protocol::Planted::default(),
        }
    }
}

/// What this seed drew. Times in virtual microseconds, rates per mille.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) timing: Timing,
    /// One way between two hosts, shortest and longest.
    pub(crate) delay: (u64, u64),
    /// So many frames in a thousand take up to so much longer.
    pub(crate) burst: (u64, u64),
    /// Bytes per millisecond of a good link.
    pub(crate) bandwidth: u64,
    /// Between two steps of the guest.
    pub(crate) step: u64,
    pub(crate) pages: usize,
    /// Sectors of the guest's disk; none under some plans.
    pub(crate) sectors: usize,
    /// The guest writes to its disk in one step of so many, and for every write of its client.
    pub(crate) disk_every: u64,
    /// The journal takes so long to be durable, on average.
    pub(crate) sync_time: u64,
    /// Per sync of the journal.
    pub(crate) persist_failure: u64,
    /// Per sync of the journal: the power goes at both hosts while it runs.
    pub(crate) death_in_sync: u64,
    /// Between two faults, on average.
    pub(crate) fault_gap: u64,
    /// Per frame.
    pub(crate) frame_fault: u64,
    /// Per question, and again per answer.
    pub(crate) arbiter_loss: u64,
    pub(crate) arbiter_delay: u64,
    pub(crate) arbiter_timeout: u64,
    pub(crate) checkpoint_failure: u64,
    pub(crate) promotion_failure: u64,
    pub(crate) standby_failure: u64,
    /// Between two looks of the operator.
    pub(crate) operator_gap: u64,
    /// The VM stands still so long for a checkpoint.
    pub(crate) pause: (u64, u64),
    /// Parts per million by which a host's clock runs fast (or slow, if negative).
    pub(crate) clock_ppm: [i64; 3],
    pub(crate) clock_offset: [u64; 3],
}

impl Plan {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let shortest = rng.between(20, 1_500);
        let delay = (shortest, shortest + rng.between(0, 3_000));
        let heartbeat = rng.between(4, 30) * 1_000;
        // A time-out, and so a lease, shorter than an epoch takes to be acknowledged protects nothing.
        let timeout = (heartbeat * rng.between(5, 12)).max(40_000 + 4 * delay.1);
        let timing = Timing {
            interval: Micros(rng.between(2, 40) * 1_000),
            pacing: Pacing::Even,
            heartbeat: Micros(heartbeat),
            timeout: Micros(timeout),
            timeout_max: Micros(timeout * rng.pick(&[1, 2, 5])),
            disconnect_grace: Micros(rng.between(1, 60) * 1_000),
            stall: Micros(rng.between(300, 2_500) * 1_000),
            claim_retry: Micros(rng.between(5, 150) * 1_000),
            max_in_flight: u32::try_from(rng.between(1, 6)).unwrap_or(1),
            max_slowdown: rng.pick(&[0, 50, 90]),
        };
        let mut plan = Self {
            timing,
            delay,
            burst: (rng.pick(&[0, 0, 2, 20]), rng.between(5, 300) * 1_000),
            bandwidth: rng.pick(&[20_000, 50_000, 120_000, 1_000_000]),
            step: rng.between(400, 2_000),
            pages: usize::try_from(rng.between(12, 40)).unwrap_or(16),
            sectors: if rng.chance(850) { crate::storage::SECTORS } else { 0 },
            disk_every: rng.pick(&[1, 4, 15, 60]),
            sync_time: rng.pick(&[100, 1_000, 8_000, 30_000]),
            persist_failure: rng.pick(&[0, 0, 0, 2, 20]),
            death_in_sync: rng.pick(&[0, 0, 0, 2, 10]),
            fault_gap: rng.between(60, 700) * 1_000,
            frame_fault: rng.pick(&[0, 0, 0, 1, 3]),
            arbiter_loss: rng.pick(&[0, 20, 100]),
            arbiter_delay: rng.pick(&[300, 3_000, 40_000]),
            arbiter_timeout: rng.between(50, 250) * 1_000,
            checkpoint_failure: rng.pick(&[0, 0, 10, 60]),
            promotion_failure: rng.pick(&[0, 30, 200]),
            standby_failure: rng.pick(&[0, 50]),
            operator_gap: rng.between(10, 80) * 1_000,
            pause: (200, rng.between(300, 8_000)),
            clock_ppm: core::array::from_fn(|_| i64::try_from(rng.below(60_001)).unwrap_or(0) - 30_000),
            clock_offset: core::array::from_fn(|_| rng.below(1 << 40)),
        };
        if rng.chance(500) {
            let max_overhead = u8::try_from(rng.between(5, 60)).unwrap_or(20);
            let max_latency = Micros(rng.between(5, 60) * 1_000);
            plan.timing.pacing = Pacing::Follow(Follow { max_overhead, max_latency });
        }
        plan
    }

    /// The link and the times of a trial, with a gigabit a second.
    pub(crate) fn try_out(&mut self, trial: &Trial) {
        self.timing = trial.timing;
        self.delay = (trial.delay.0.0, trial.delay.1.0);
        self.burst = (trial.burst.0, trial.burst.1.0);
        self.bandwidth = 120_000;
        self.clock_ppm = [0; 3];
    }

    /// A plan under which nothing goes wrong by itself.
    pub(crate) fn calm(&mut self) {
        self.burst = (0, 0);
        self.frame_fault = 0;
        self.arbiter_loss = 0;
        self.checkpoint_failure = 0;
        self.promotion_failure = 0;
        self.persist_failure = 0;
        self.death_in_sync = 0;
        self.standby_failure = 0;
    }

    /// Longest time that a healthy guest may stand still, or its output wait, while the arbiter answers: the
    /// longest silence that the protocol tolerates, and some tries at the arbiter.
    pub(crate) fn patience(&self) -> u64 {
        let timing = &self.timing;
        let asking = (timing.claim_retry.0 + self.arbiter_timeout + 4 * self.arbiter_delay) * 12;
        2 * timing.stall.0 + 3 * timing.timeout_max.0 + asking + 1_000_000
    }
}
