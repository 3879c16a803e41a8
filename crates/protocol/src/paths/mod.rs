//! Owns a session over several connections: which frame goes by which path, what is sent again, when a path is silent.
//!
//! A *path* is one connection between the two hosts of a session, each over a network of its own. The session's frames are
//! numbered already; here they become one ordered stream again, whatever path each of them took:
//!
//! - **Small frames go by every path**, so that the loss of one is not even noticed. **Bulk goes by one**, the *active* path.
//! - A sender keeps every frame until the other side said that it came. When the active path falls silent or ends, another
//!   one becomes active and carries all that is not known to have come. No frame goes twice by one connection.
//! - A receiver drops what it has, holds what came too early, and hands on the rest in order.
//! - **A path is silent** when something was sent on it and the other side has not said for [`Limits::patience`] that more
//!   bytes came by it. Probes are sent when nothing else is. So each side notices both directions, and a slow path that still
//!   moves is not taken for a silent one.
//! - What is kept and what is held are bounded by one window: at most so much is sent and not yet consumed.
//!
//! ```text
//!            join                      nothing was answered for `patience`
//!  (absent) ──────▶ heard ────────────────────────────────────────▶ silent
//!     ▲               ▲  └──────────────── bytes are answered ◀────────┘ │
//!     │ gone          │                                                  │ for `give_up`, and another path is heard
//!     └───────────────┴──────────────────────────────────────────────────┘
//! ```
//!
//! No clock, no I/O: the time comes in, and whoever writes a path *pulls* what to write on it.

mod arrivals;
mod departures;
#[cfg(test)]
mod tests;

use crate::time::{Instant, Micros};
use crate::wire::path::{PROBE_LEN, Receipt};
use alloc::vec::Vec;
use arrivals::Arrivals;
use departures::Departures;

/// Most paths of a session.
pub const MAX_PATHS: usize = 4;

/// Number of a path in its session: the place of its address in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u8);

impl Slot {
    /// The path with this number, if there can be one.
    #[must_use]
    pub fn new(number: usize) -> Option<Self> {
        u8::try_from(number).ok().filter(|_| number < MAX_PATHS).map(Self)
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> usize {
        usize::from(self.0)
    }
}

/// Times and bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes sent and not yet consumed at the other side, at the most.
    pub window: u64,
    /// Bytes that may wait for the active path's writer: the less, the less stands before a heartbeat.
    pub ahead: u64,
    /// Frames of at most so many bytes go by every path.
    pub small: u64,
    /// A path that answers nothing for so long is silent.
    pub patience: Micros,
    /// A path that is silent for so long is not waited for: a new connection is the quicker way back.
    pub give_up: Micros,
}

impl Limits {
    /// The usual ones, for a session whose shortest time-out is this. A third of it: what was lost with a path is sent again
    /// before a backup suspects its primary, or the primary (after three quarters) its backup.
    #[must_use]
    pub fn of(timeout: Micros) -> Self {
        let patience = Micros((timeout.0 / 3).max(10_000));
        Self { window: 8 << 20, ahead: 256 << 10, small: 4 << 10, patience, give_up: Micros(patience.0 * 10) }
    }

    /// Time between probes of an idle path.
    fn probe(&self) -> Micros {
        Micros(self.patience.0 / 4)
    }

    /// How long an answer may wait for more to answer.
    fn delay(&self) -> Micros {
        Micros(self.patience.0 / 10)
    }

    /// So many bytes are answered at once.
    fn at_once(&self) -> u64 {
        self.window / 32
    }
}

/// What the other side said cannot be true; the session must be given up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// More came than was sent.
    #[error("the peer says that it got frames or bytes that were never sent to it")]
    NeverSent,
    /// More is held than may be.
    #[error("the peer sends more ahead than was agreed ({0} bytes)")]
    Ahead(u64),
}

/// What is to be written on a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Give<F> {
    /// A frame of the session.
    Frame(F),
    /// An answer.
    Receipt(Receipt),
    /// A question, which is an answer too.
    Probe(Receipt),
}

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// It is silent since then.
    Silent(Slot, Instant),
    /// Its connection ended while it was heard.
    Ended(Slot),
    /// It was silent or away, and is heard again.
    Back(Slot),
    /// It was silent for too long: its connection shall be ended.
    GiveUp(Slot),
}

/// A path as an operator sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PathView {
    /// There is a connection.
    pub joined: bool,
    /// It carries the bulk.
    pub active: bool,
    /// Nothing was answered since then.
    pub silent_since: Option<Instant>,
    /// Bytes sent by it, over all its connections.
    pub sent: u64,
    /// Bytes that came by it, over all its connections.
    pub came: u64,
}

/// One path; its counts are those of its present connection.
#[derive(Debug, Clone, Copy, Default)]
struct Lane {
    joined: bool,
    /// It had a connection before.
    known: bool,
    sent: u64,
    answered: u64,
    /// Something is unanswered, and nothing was answered since then.
    moved_at: Instant,
    silent: Option<Instant>,
    given_up: bool,
    /// When something was last written.
    wrote_at: Instant,
    arrived: u64,
    told: Receipt,
    owes_since: Option<Instant>,
    /// Over all connections.
    total_sent: u64,
    total_came: u64,
}

impl Lane {
    fn is_heard(&self) -> bool {
        self.joined && self.silent.is_none()
    }

    fn writes(&mut self, now: Instant, bytes: u64, counted: bool) {
        self.wrote_at = now;
        self.total_sent += bytes;
        if counted {
            if self.sent == self.answered {
                self.moved_at = now;
            }
            self.sent += bytes;
        }
    }
}

/// The paths of a session at one of its ends. `O` goes out, `I` comes in.
#[derive(Debug)]
pub struct Paths<O, I> {
    limits: Limits,
    lanes: [Lane; MAX_PATHS],
    active: Option<Slot>,
    out: Departures<O>,
    into: Arrivals<I>,
    news: Vec<News>,
}

impl<O: Clone, I> Paths<O, I> {
    /// A session without a path. The next frame to come has the number `expected`.
    #[must_use]
    pub fn new(limits: Limits, expected: u64) -> Self {
        Self {
            limits,
            lanes: [Lane::default(); MAX_PATHS],
            active: None,
            out: Departures::new(),
            into: Arrivals::new(expected, limits.window),
            news: Vec::new(),
        }
    }

    /// There is a connection now. One that was there before is over.
    pub fn join(&mut self, now: Instant, slot: Slot) {
        self.out.forget(slot);
        let lane = &mut self.lanes[slot.number()];
        let before = *lane;
        *lane = Lane {
            joined: true,
            known: true,
            moved_at: now,
            wrote_at: now,
            total_sent: before.total_sent,
            total_came: before.total_came,
            ..Lane::default()
        };
        if before.known {
            self.news.push(News::Back(slot));
        }
        self.choose();
    }

    /// Its connection is over.
    pub fn gone(&mut self, slot: Slot) {
        let lane = &mut self.lanes[slot.number()];
        if !lane.joined {
            return;
        }
        lane.joined = false;
        self.out.forget(slot);
        // Of one that was silent everything was told.
        if lane.silent.is_none() {
            self.news.push(News::Ended(slot));
        }
        self.choose();
    }

    /// Whether there is any path.
    #[must_use]
    pub fn any(&self) -> bool {
        self.lanes.iter().any(|lane| lane.joined)
    }

    /// The path that carries bulk.
    #[must_use]
    pub fn active(&self) -> Option<Slot> {
        self.active
    }

    /// Whether another frame may be pushed.
    #[must_use]
    pub fn has_room(&self, size: u64) -> bool {
        let Some(active) = self.active else { return false };
        let in_flight = self.out.in_flight();
        (in_flight == 0 || in_flight + size <= self.limits.window)
            && !self.out.waits_more_than(active, self.limits.ahead)
    }

    /// Takes the session's next frame; `size` is that of header and body.
    pub fn push(&mut self, size: u64, frame: O) {
        self.out.push(size, frame);
    }

    /// Whether all that was pushed is known to have come.
    #[must_use]
    pub fn all_came(&self) -> bool {
        self.out.all_came()
    }

    /// What a path shall carry next; asked by whoever writes it.
    pub fn pull(&mut self, now: Instant, slot: Slot) -> Option<Give<O>> {
        let active = self.active == Some(slot);
        if !self.lanes[slot.number()].joined {
            return None;
        }
        if self.owes(slot).is_some_and(|at| at <= now) {
            let receipt = self.receipt_for(slot);
            self.lanes[slot.number()].writes(now, PROBE_LEN, false);
            return Some(Give::Receipt(receipt));
        }
        let most = if active { u64::MAX } else { self.limits.small };
        if let Some((size, frame)) = self.out.next(slot, most) {
            self.lanes[slot.number()].writes(now, size, true);
            return Some(Give::Frame(frame));
        }
        if self.lanes[slot.number()].wrote_at + self.limits.probe() <= now {
            let receipt = self.receipt_for(slot);
            self.lanes[slot.number()].writes(now, PROBE_LEN, true);
            return Some(Give::Probe(receipt));
        }
        None
    }

    /// When to pull again, if nothing happens before.
    #[must_use]
    pub fn wake(&self, slot: Slot) -> Instant {
        let probe = self.lanes[slot.number()].wrote_at + self.limits.probe();
        self.owes(slot).map_or(probe, |at| at.min(probe))
    }

    /// Bytes of a frame or probe came by this path.
    pub fn arrived(&mut self, now: Instant, slot: Slot, bytes: u64) {
        let lane = &mut self.lanes[slot.number()];
        lane.arrived += bytes;
        lane.total_came += bytes;
        lane.owes_since.get_or_insert(now);
    }

    /// A frame of the session came. False: it was there already.
    ///
    /// # Errors
    /// If it is further ahead than may be.
    pub fn frame(&mut self, now: Instant, seq: u64, size: u64, frame: I) -> Result<bool, PathError> {
        let new = self.into.take(seq, size, frame)?;
        if new {
            self.owe(now);
        }
        Ok(new)
    }

    /// The next frame in order, if it is there.
    pub fn deliver(&mut self) -> Option<I> {
        self.into.deliver()
    }

    /// Whether [`Paths::deliver`] has something.
    #[must_use]
    pub fn can_deliver(&self) -> bool {
        self.into.can_deliver()
    }

    /// What was delivered is done with: the other side may send more.
    pub fn consumed(&mut self, now: Instant) {
        self.into.consumed();
        self.owe(now);
    }

    /// The other side answered by this path. True: there is more room than before.
    ///
    /// # Errors
    /// If it answers what was never asked.
    pub fn receipt(&mut self, now: Instant, slot: Slot, receipt: Receipt) -> Result<bool, PathError> {
        let lane = &mut self.lanes[slot.number()];
        if receipt.arrived > lane.sent {
            return Err(PathError::NeverSent);
        }
        if receipt.arrived > lane.answered {
            (lane.answered, lane.moved_at) = (receipt.arrived, now);
            if lane.silent.take().is_some() {
                lane.given_up = false;
                self.news.push(News::Back(slot));
                self.choose();
            }
        }
        self.out.receipt(receipt.received, receipt.consumed)
    }

    /// Finds out which paths are silent by now. To be called often; whoever pulls does so.
    pub fn judge(&mut self, now: Instant) {
        for (number, lane) in self.lanes.iter_mut().enumerate() {
            let waits = lane.sent > lane.answered && lane.moved_at + self.limits.patience <= now;
            if let (true, true, Some(slot)) = (lane.is_heard(), waits, Slot::new(number)) {
                lane.silent = Some(lane.moved_at);
                self.news.push(News::Silent(slot, lane.moved_at));
            }
        }
        self.choose();
        if !self.lanes.iter().any(Lane::is_heard) {
            return;
        }
        for (number, lane) in self.lanes.iter_mut().enumerate() {
            let too_long = lane.silent.is_some_and(|since| since + self.limits.give_up <= now);
            if let (true, true, false, Some(slot)) = (lane.joined, too_long, lane.given_up, Slot::new(number))
            {
                lane.given_up = true;
                self.news.push(News::GiveUp(slot));
            }
        }
    }

    /// Whether something happened.
    #[must_use]
    pub fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// What happened since it was asked last.
    pub fn news(&mut self) -> Vec<News> {
        core::mem::take(&mut self.news)
    }

    /// How a path does.
    #[must_use]
    pub fn view(&self, slot: Slot) -> PathView {
        let lane = &self.lanes[slot.number()];
        PathView {
            joined: lane.joined,
            active: lane.joined && self.active == Some(slot),
            silent_since: lane.silent.filter(|_| lane.joined),
            sent: lane.total_sent,
            came: lane.total_came,
        }
    }

    /// Bytes held here for the other side, and from it.
    #[cfg(test)]
    fn held(&self) -> (u64, u64) {
        (self.out.kept(), self.into.held())
    }

    /// The active path stays as long as it is heard: no going back and forth. If none is heard it stays while it is there.
    fn choose(&mut self) {
        let heard = |slot: &Slot| self.lanes[slot.number()].is_heard();
        if self.active.is_some_and(|slot| heard(&slot)) {
            return;
        }
        let all = || (0..MAX_PATHS).filter_map(Slot::new);
        let joined = |slot: &Slot| self.lanes[slot.number()].joined;
        let next = all().find(heard).or(self.active.filter(joined)).or_else(|| all().find(joined));
        if next != self.active {
            self.active = next;
            if let Some(slot) = next {
                self.out.look_again(slot);
            }
        }
    }

    fn owe(&mut self, now: Instant) {
        for lane in self.lanes.iter_mut().filter(|lane| lane.joined) {
            lane.owes_since.get_or_insert(now);
        }
    }

    fn owes(&self, slot: Slot) -> Option<Instant> {
        let lane = &self.lanes[slot.number()];
        let since = lane.owes_since?;
        let many = lane.arrived - lane.told.arrived >= self.limits.at_once();
        Some(if many { since } else { since + self.limits.delay() })
    }

    fn receipt_for(&mut self, slot: Slot) -> Receipt {
        let (received, consumed) = self.into.progress();
        let lane = &mut self.lanes[slot.number()];
        lane.told = Receipt { received, consumed, arrived: lane.arrived };
        lane.owes_since = None;
        lane.told
    }
}
