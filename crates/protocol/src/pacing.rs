//! Owns when the next checkpoint is due.
//!
//! Evenly, each `interval`; or so that it follows the output. A packet in the gate waits for the checkpoint behind it,
//! so it pulls that one forward, as far as the share of the time allows that checkpoints may take from the VM, and at
//! the latest when it has waited for as long as it may. When nothing waits, epochs stretch: nobody can see how often
//! such a VM is copied, but it feels each copy. They stretch no further than keeps the pause short, since a longer epoch
//! dirties more pages.

use crate::ids::Epoch;
use crate::time::{Instant, Micros};
use serde::{Deserialize, Serialize};

/// How checkpoints follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Pacing {
    /// Each `interval`.
    Even,
    /// As the output wants them, and at the latest each `interval`.
    Follow(Follow),
}

/// Bounds for checkpoints that follow the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Follow {
    /// Most of the VM's time that checkpoints may take, in percent.
    pub max_overhead: u8,
    /// Output waits no longer than this for the next checkpoint to begin, even past that share.
    pub max_latency: Micros,
}

impl Default for Follow {
    fn default() -> Self {
        Self { max_overhead: 20, max_latency: Micros::from_millis(50) }
    }
}

/// An answer is often several packets: so long the first waits for the others.
const LINGER: Micros = Micros::from_millis(1);
/// A pause, beyond what the shortest of late took, for which an epoch need not be shortened.
const SHORT_PAUSE: Micros = Micros::from_millis(4);
/// The shortest pause of late rises by this part of what it lies below the others: a VM may change its ways.
const RISE: u64 = 64;
/// The first epochs are so long; then they stretch.
const FIRST_STRETCH: Micros = Micros::from_millis(25);
/// However long the pauses are, an epoch without output is not shorter.
const LEAST_STRETCH: Micros = Micros::from_millis(10);

/// Decides when the next checkpoint of a session is due.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pacer {
    pacing: Pacing,
    interval: Micros,
    /// The newest cut; the end of the checkpoint around it.
    cut_at: Instant,
    after: Instant,
    /// What a checkpoint takes from the VM: rises at once, falls slowly.
    pause: Micros,
    /// The shortest of late: what a checkpoint takes however few pages are dirty.
    least: Option<Micros>,
    /// How long an epoch without output may be.
    stretch: Micros,
    /// Output of this epoch waits since.
    waits: Option<(Epoch, Instant)>,
    /// Output of the next epoch too, while that one is being closed.
    behind: Option<(Epoch, Instant)>,
}

impl Pacer {
    /// The first checkpoint is due now.
    #[must_use]
    pub fn new(pacing: Pacing, interval: Micros, now: Instant) -> Self {
        let stretch = FIRST_STRETCH.min(interval);
        // As if the last had been taken long ago.
        let cut_at = Instant(now.0.saturating_sub(interval.0));
        Self {
            pacing,
            interval,
            cut_at,
            after: now,
            pause: Micros(0),
            least: None,
            stretch,
            waits: None,
            behind: None,
        }
    }

    /// A packet of this epoch waits in the gate.
    pub fn output(&mut self, now: Instant, epoch: Epoch) {
        match self.waits {
            None => self.waits = Some((epoch, now)),
            Some((older, _)) if older < epoch && self.behind.is_none() => self.behind = Some((epoch, now)),
            Some(_) => {}
        }
    }

    /// A checkpoint closed this epoch; the VM stood still for `pause`.
    pub fn taken(&mut self, now: Instant, epoch: Epoch, cut_at: Instant, pause: Micros) {
        (self.cut_at, self.after) = (cut_at, now);
        self.pause = pause.max(Micros((self.pause.0 * 3 + pause.0) / 4));
        let open = |waits: &(Epoch, Instant)| waits.0 > epoch;
        self.waits = self.waits.filter(open).or(self.behind.take().filter(open));
        // What a large memory takes to be looked through is no shorter after a short epoch.
        let grown = self.pause.0 - self.learn_least(pause).0.min(self.pause.0);
        let stretch = if grown <= SHORT_PAUSE.0 {
            Micros(self.stretch.0 * 5 / 4)
        } else {
            Micros(self.stretch.0 * SHORT_PAUSE.0 / grown)
        };
        self.stretch = stretch.max(LEAST_STRETCH).min(self.interval);
    }

    fn learn_least(&mut self, pause: Micros) -> Micros {
        let least =
            self.least.map_or(pause, |least| Micros(least.0 + pause.0.saturating_sub(least.0) / RISE));
        *self.least.insert(least.min(pause))
    }

    /// A checkpoint failed: the next is not due at once.
    pub fn failed(&mut self, now: Instant) {
        let least = if self.pacing == Pacing::Even { Micros(0) } else { LEAST_STRETCH };
        (self.cut_at, self.after) = (now, now + least);
    }

    /// When the next checkpoint is due.
    #[must_use]
    pub fn due(&self) -> Instant {
        let Pacing::Follow(follow) = self.pacing else {
            return (self.cut_at + self.interval).max(self.after);
        };
        let rested = (self.cut_at + self.rest(follow)).max(self.after);
        let stretched = rested.max(self.cut_at + self.stretch);
        let Some((_, since)) = self.waits else { return stretched };
        let soon = rested.max(since + LINGER);
        let late = self.after.max(since + follow.max_latency);
        soon.min(late).min(stretched)
    }

    /// When the last checkpoint of a planned failover is due: nothing that waits is worth more than its end.
    #[must_use]
    pub fn last_due(&self) -> Instant {
        if self.pacing == Pacing::Even { self.due() } else { self.after }
    }

    /// If acknowledgements are missing when a checkpoint is due: when the VM must stand still for them. Until then its
    /// dirty pages only gather in the guest's own memory.
    #[must_use]
    pub fn overdue(&self) -> Instant {
        match self.pacing {
            Pacing::Even => self.due(),
            Pacing::Follow(follow) => self.due() + follow.max_latency,
        }
    }

    /// From a cut to the next, so that pauses take no more than their share.
    fn rest(&self, follow: Follow) -> Micros {
        Micros(self.pause.0 * 100 / u64::from(follow.max_overhead.max(1)))
    }

    /// What is decided now, for displays.
    #[must_use]
    pub fn view(&self) -> PacingView {
        let rest = match self.pacing {
            Pacing::Even => self.interval,
            Pacing::Follow(follow) => self.rest(follow),
        };
        let stretch = if self.pacing == Pacing::Even { self.interval } else { self.stretch.max(rest) };
        PacingView { pause: self.pause, rest, stretch }
    }
}

/// What a pacer goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PacingView {
    /// What a checkpoint takes from the VM.
    pub pause: Micros,
    /// Checkpoints are at least so far apart while output waits.
    pub rest: Micros,
    /// And so far while none does.
    pub stretch: Micros,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000;
    const FOLLOW: Follow = Follow { max_overhead: 20, max_latency: Micros(50 * MS) };

    fn follower() -> Pacer {
        Pacer::new(Pacing::Follow(FOLLOW), Micros(250 * MS), Instant(1_000 * MS))
    }

    /// Takes the checkpoint that is due, with this pause; gives its cut.
    fn take(pacer: &mut Pacer, epoch: u64, pause: u64) -> Instant {
        let cut_at = pacer.due();
        pacer.taken(cut_at + Micros(pause), Epoch(epoch), cut_at, Micros(pause));
        cut_at
    }

    #[test]
    fn even_checkpoints_are_an_interval_apart_whatever_waits() {
        let mut pacer = Pacer::new(Pacing::Even, Micros(25 * MS), Instant(500 * MS));
        assert_eq!(take(&mut pacer, 1, 2 * MS), Instant(500 * MS));
        pacer.output(Instant(503 * MS), Epoch(2));
        assert_eq!(take(&mut pacer, 2, 40 * MS), Instant(525 * MS));
        assert_eq!(pacer.due(), Instant(565 * MS), "not before the last one is over");
        assert_eq!(pacer.overdue(), pacer.due());
    }

    #[test]
    fn a_lone_packet_is_followed_at_once_and_many_share_a_checkpoint() {
        let mut pacer = follower();
        for epoch in 1..30 {
            take(&mut pacer, epoch, 2 * MS);
        }
        let cut_at = take(&mut pacer, 30, 2 * MS);
        assert_eq!(pacer.due(), cut_at + Micros(250 * MS), "nobody waits");
        let said = cut_at + Micros(100 * MS);
        pacer.output(said, Epoch(31));
        assert_eq!(pacer.due(), said + LINGER);
        pacer.output(said + Micros(500), Epoch(31));
        assert_eq!(pacer.due(), said + LINGER, "the oldest counts");
        let cut_at = take(&mut pacer, 31, 2 * MS);
        pacer.output(cut_at + Micros(2 * MS), Epoch(32));
        assert_eq!(pacer.due(), cut_at + Micros(10 * MS), "2 ms of 10 are a fifth");
    }

    #[test]
    fn a_packet_of_the_closed_epoch_pulls_nothing_and_one_of_the_open_is_kept() {
        let mut pacer = follower();
        let cut_at = pacer.due();
        pacer.output(cut_at, Epoch(1));
        pacer.taken(cut_at + Micros(2 * MS), Epoch(1), cut_at, Micros(2 * MS));
        assert!(pacer.due() > cut_at + Micros(20 * MS));
        let next = pacer.due();
        pacer.output(next, Epoch(2));
        pacer.output(next, Epoch(3));
        pacer.taken(next + Micros(2 * MS), Epoch(2), next, Micros(2 * MS));
        assert_eq!(pacer.due(), next + Micros(10 * MS), "it came behind the cut");
    }

    #[test]
    fn nobody_waits_longer_than_allowed_however_long_the_pauses_are() {
        let mut pacer = follower();
        let cut_at = take(&mut pacer, 1, 40 * MS);
        let said = cut_at + Micros(41 * MS);
        pacer.output(said, Epoch(2));
        assert_eq!(pacer.due(), said + FOLLOW.max_latency, "not 200 ms behind the cut");
    }

    #[test]
    fn long_pauses_shorten_epochs_within_the_share() {
        let mut pacer = follower();
        for epoch in 1..40 {
            take(&mut pacer, epoch, MS);
        }
        assert_eq!(pacer.view().stretch, Micros(250 * MS));
        take(&mut pacer, 40, 20 * MS);
        let view = pacer.view();
        assert_eq!((view.rest, view.stretch), (Micros(100 * MS), Micros(100 * MS)), "the share still counts");
    }

    #[test]
    fn pauses_that_are_always_long_do_not_shorten_epochs() {
        let mut pacer = follower();
        for epoch in 1..40 {
            take(&mut pacer, epoch, 6 * MS);
        }
        assert_eq!(pacer.view().stretch, Micros(250 * MS), "a large memory, not many dirty pages");
        take(&mut pacer, 40, 20 * MS);
        assert!(pacer.view().stretch < Micros(101 * MS));
    }

    #[test]
    fn a_vm_whose_backup_is_slow_runs_on_for_a_while() {
        let pacer = follower();
        assert_eq!(pacer.overdue(), pacer.due() + FOLLOW.max_latency);
    }

    proptest! {
        /// Whatever happens: never before the last checkpoint is over, never later than the interval or the share,
        /// and never more than the latency behind output.
        #[test]
        fn due_times_stay_within_their_bounds(
            steps in prop::collection::vec((0u64..300 * MS, 0u64..60 * MS, any::<bool>()), 1..60),
        ) {
            let mut pacer = follower();
            let mut epoch = 0;
            for (wait, pause, says) in steps {
                let cut_at = pacer.due();
                epoch += 1;
                let after = cut_at + Micros(pause);
                pacer.taken(after, Epoch(epoch), cut_at, Micros(pause));
                let rest = pacer.view().rest.max(Micros(pause));
                prop_assert!(pacer.due() >= after);
                prop_assert!(pacer.due() <= cut_at + Micros(250 * MS).max(rest));
                if says {
                    let said = after + Micros(wait.min(pacer.due().since(after).0));
                    pacer.output(said, Epoch(epoch + 1));
                    prop_assert!(pacer.due() <= said + FOLLOW.max_latency);
                    prop_assert!(pacer.due() >= after);
                }
            }
        }
    }
}
