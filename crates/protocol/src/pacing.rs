//! Owns when the next checkpoint is due.
//!
//! Evenly, each `interval`; or so that it follows the output. A packet in the gate waits for the checkpoint behind it,
//! so it pulls that one forward, as far as the share of the time allows that checkpoints may take from the guest, and at
//! the latest when it has waited for as long as it may. A pause takes from a guest what it would have done meanwhile: one
//! that mostly waits itself loses little, and is copied more often. When nothing waits, epochs stretch: nobody can see
//! how often such a VM is copied, but it feels each copy. They stretch no further than keeps the pause short, since a
//! longer epoch dirties more pages.

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
    /// Most of what the guest would do that pauses may take from it, in percent.
    pub max_overhead: u8,
    /// Output waits no longer than this for the next checkpoint to begin, even past that share.
    pub max_latency: Micros,
}

impl Default for Follow {
    fn default() -> Self {
        Self { max_overhead: 20, max_latency: Micros::from_millis(50) }
    }
}

/// However idle the guest is, it stands still for no more of the time, in percent, unless it may lose more: a checkpoint
/// keeps about one processor of its host busy for as long as the pause, and one of the backup's.
const MOST_OF_TIME: u8 = 50;
/// A pause, beyond what the shortest of late took, for which an epoch need not be shortened.
const SHORT_PAUSE: Micros = Micros::from_millis(4);
/// The shortest pause of late rises by this part of what it lies below the others: a VM may change its ways.
const RISE: u64 = 64;
/// The first epochs are so long; then they stretch.
const FIRST_STRETCH: Micros = Micros::from_millis(25);
/// However long the pauses are, an epoch without output is not shorter.
const LEAST_STRETCH: Micros = Micros::from_millis(10);

/// A VM that does next to nothing is copied so often all the same: its devices' timers go on.
const SPARED_FOR: Micros = Micros::from_millis(500);
/// A guest that ran for less than this part of the time has little to lose.
const LITTLE: u64 = 10;
/// A halted processor's thread takes some of it to find that there is nothing to do once it is let go.
const NEXT_TO_NOTHING: Micros = Micros(500);

/// What is known of a checkpoint that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// When the VM was stopped.
    pub cut_at: Instant,
    /// How long it stood still.
    pub pause: Micros,
    /// For so long the guest's busiest processor ran, or wanted to, in the epoch; none if that is not known.
    pub busy: Option<Micros>,
    /// All of its processors waited for something when it was stopped.
    pub waited: bool,
    /// Pages that it wrote in it.
    pub pages: u64,
}

/// Decides when the next checkpoint of a session is due.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pacer {
    pacing: Pacing,
    interval: Micros,
    /// The newest cut; the end of the checkpoint around it.
    cut_at: Instant,
    after: Instant,
    /// The newest checkpoint that was due and spared, behind that cut.
    spared_at: Option<Instant>,
    /// The VM runs since, as far as checkpoints stopped it.
    runs_since: Instant,
    /// How long a checkpoint stops the VM: rises at once, falls by half each time.
    pause: Micros,
    /// What the guest would have done in that time, likewise.
    loss: Micros,
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
            spared_at: None,
            runs_since: now,
            pause: Micros(0),
            loss: Micros(0),
            least: None,
            stretch,
            waits: None,
            behind: None,
        }
    }

    /// Of a session that takes this one's place: what is known of the guest goes on being known. The epoch that was closed last
    /// is the new session's first.
    #[must_use]
    pub fn handed_on(&self, (pacing, interval): (Pacing, Micros), closed: Epoch) -> Self {
        let number = |(epoch, since): (Epoch, Instant)| (Epoch(epoch.0 + 1 - closed.0), since);
        let (waits, behind) = (self.waits.map(number), self.behind.map(number));
        Self { pacing, interval, stretch: self.stretch.min(interval), waits, behind, ..self.clone() }
    }

    /// An answer of this epoch waits in the gate, its first packet since then.
    pub fn output(&mut self, epoch: Epoch, since: Instant) {
        match self.waits {
            None => self.waits = Some((epoch, since)),
            Some((older, _)) if older < epoch && self.behind.is_none() => self.behind = Some((epoch, since)),
            Some(_) => {}
        }
    }

    /// A checkpoint closed this epoch.
    pub fn taken(&mut self, now: Instant, epoch: Epoch, taken: Taken) {
        let Taken { cut_at, pause, busy, waited, .. } = taken;
        // Who waits loses nothing by waiting on. A guest that computes is seldom met so.
        let lost = if waited { Micros(0) } else { busy.map_or(pause, |busy| self.lost(cut_at, pause, busy)) };
        (self.cut_at, self.after, self.runs_since) = (cut_at, now, cut_at + pause);
        self.spared_at = None;
        // The first pauses of a session are long: nobody shall wait for them for long.
        let slowly = |old: Micros, new: Micros| new.max(Micros((old.0 + new.0) / 2));
        (self.pause, self.loss) = (slowly(self.pause, pause), slowly(self.loss, lost));
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

    /// What the guest would have done in a pause behind an epoch in which it was so busy.
    fn lost(&self, cut_at: Instant, pause: Micros, busy: Micros) -> Micros {
        let ran = cut_at.since(self.runs_since);
        if busy >= ran { pause } else { Micros(pause.0 * busy.0 / ran.0) }
    }

    fn learn_least(&mut self, pause: Micros) -> Micros {
        let least =
            self.least.map_or(pause, |least| Micros(least.0 + pause.0.saturating_sub(least.0) / RISE));
        *self.least.insert(least.min(pause))
    }

    /// A checkpoint that is due may be left out if the guest ran for less than this since the one before; none if somebody waits
    /// for it, or if the one before is long ago.
    #[must_use]
    pub fn may_spare(&self, now: Instant) -> Option<Micros> {
        let since = now.since(self.cut_at);
        let little = Micros(since.0 / LITTLE).min(self.interval).max(NEXT_TO_NOTHING);
        (self.waits.is_none() && since < SPARED_FOR).then_some(little)
    }

    /// It was left out.
    pub fn spared(&mut self, now: Instant) {
        self.spared_at = Some(now);
    }

    /// A checkpoint failed: the next is not due at once.
    pub fn failed(&mut self, now: Instant) {
        let least = if self.pacing == Pacing::Even { Micros(0) } else { LEAST_STRETCH };
        (self.cut_at, self.after) = (now, now + least);
    }

    /// When the next checkpoint is due.
    #[must_use]
    pub fn due(&self) -> Instant {
        let before = self.spared_at.unwrap_or(self.cut_at);
        let Pacing::Follow(follow) = self.pacing else {
            return (before + self.interval).max(self.after);
        };
        let rested = (self.cut_at + self.rest(follow)).max(self.after);
        let stretched = rested.max(before + self.stretch);
        let Some((_, since)) = self.waits else { return stretched };
        let soon = rested.max(since);
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

    /// From a cut to the next, so that pauses take no more than their share, of the guest and of the time.
    fn rest(&self, follow: Follow) -> Micros {
        let share = follow.max_overhead.max(1);
        let for_guest = self.loss.0 * 100 / u64::from(share);
        let for_host = self.pause.0 * 100 / u64::from(share.max(MOST_OF_TIME));
        Micros(for_guest.max(for_host))
    }

    /// What is decided now, for displays.
    #[must_use]
    pub fn view(&self) -> PacingView {
        let rest = match self.pacing {
            Pacing::Even => self.interval,
            Pacing::Follow(follow) => self.rest(follow),
        };
        let stretch = if self.pacing == Pacing::Even { self.interval } else { self.stretch.max(rest) };
        PacingView { pause: self.pause, loss: self.loss, rest, stretch }
    }
}

/// What a pacer goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PacingView {
    /// How long a checkpoint stops the VM.
    pub pause: Micros,
    /// What the guest would have done in that time, as busy as it is.
    pub loss: Micros,
    /// Checkpoints are at least so far apart while output waits.
    pub rest: Micros,
    /// And so far while none does.
    pub stretch: Micros,
}

#[cfg(test)]
mod tests;
