//! Owns by how much a guest is slowed that writes faster than its writes are carried away.
//!
//! It loses a share of its time, so that it writes as much as the link carries: [`slowdown`], for migrations and for
//! checkpoints alike. For checkpoints [`Brake`] watches how long each took to be acknowledged. Only what waits behind a
//! link that is busy counts: a link that is far away makes acknowledgements late, and slowing the guest would not help.

use crate::ids::Epoch;
use crate::time::{Instant, Micros};
use alloc::collections::VecDeque;

/// Nobody is slowed by more, in percent of its time.
pub const MOST: u8 = 90;
/// The guest shall write so much of what is carried, in percent.
const HEADROOM: u64 = 90;
/// Fewer pages under way do not keep a link busy.
const TELLING: u64 = 256;
/// An acknowledgement that is late by less is no sign of a backlog.
const TOLERATED: Micros = Micros::from_millis(30);
/// Nor is an epoch that takes longer to be carried than the guest took to write it by less than this part of that.
const JITTER: u64 = 10;
/// The usual time to an acknowledgement rises by this part of what it lies below the others, if much is under way: a link may
/// change its ways, but most of such a time is a backlog.
const RISE: u64 = 256;
/// A guest that is slowed less is not slowed, in percent.
const LEAST: u8 = 5;
/// While nothing is late the guest is given back its time: as much again as it has within so long,
const GIVES_BACK: Micros = Micros::from_millis(2_000);
/// or, when the link had nothing to do, so long.
const GIVES_BACK_IDLE: Micros = Micros::from_millis(250);
/// All of the guest's time.
const WHOLE: u64 = 1_000;

/// What part of its time a guest must lose, in percent, that wrote so much while it lost `lost` percent and of which so much
/// was carried.
#[must_use]
pub fn slowdown(lost: u8, written: u64, carried: u64) -> u8 {
    let ran = u128::from(100_u8.saturating_sub(lost));
    let may_run = ran * u128::from(carried) * u128::from(HEADROOM) / (u128::from(written.max(1)) * 100);
    100 - u8::try_from(may_run.min(100)).unwrap_or(100)
}

/// A checkpoint that is not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Flight {
    epoch: Epoch,
    cut_at: Instant,
    /// The guest had so long to write it, of which it lost so many percent.
    length: Micros,
    lost: u8,
    pages: u64,
}

/// Decides by how much the guest of a session is slowed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Brake {
    most: u8,
    /// The part of its time that the guest has, of [`WHOLE`].
    runs: u64,
    /// From a cut to its acknowledgement when nothing waits before it: how far away the backup is.
    usual: Option<Micros>,
    waiting: VecDeque<Flight>,
    cut_at: Instant,
    /// The newest acknowledgement.
    heard_at: Instant,
}

impl Brake {
    /// A brake that takes at most so many percent of the guest's time; 0: none ever.
    #[must_use]
    pub fn new(most: u8, now: Instant) -> Self {
        let waiting = VecDeque::new();
        Self { most: most.min(MOST), runs: WHOLE, usual: None, waiting, cut_at: now, heard_at: now }
    }

    /// What part of its time the guest loses, in percent.
    #[must_use]
    pub fn percent(&self) -> u8 {
        let lost = u8::try_from((WHOLE - self.runs) / 10).unwrap_or(MOST);
        if lost < LEAST { 0 } else { lost }
    }

    /// A checkpoint was cut; in its epoch the guest wrote so many pages, and stood still for so long beside being slowed.
    pub fn taken(&mut self, now: Instant, epoch: Epoch, cut_at: Instant, (pages, stood): (u64, Micros)) {
        if self.most == 0 {
            return;
        }
        let length = Micros(cut_at.since(self.cut_at).0.saturating_sub(stood.0).max(1));
        self.cut_at = cut_at;
        self.waiting.push_back(Flight { epoch, cut_at, length, lost: self.percent(), pages });
        self.look(now);
    }

    /// A checkpoint, and all before it, were acknowledged.
    pub fn acknowledged(&mut self, now: Instant, epoch: Epoch) {
        let (mut newest, little) = (None, self.pages() < TELLING);
        while self.waiting.front().is_some_and(|flight| flight.epoch <= epoch) {
            self.look(now);
            newest = self.waiting.pop_front();
        }
        let Some(flight) = newest else { return };
        let took = now.since(flight.cut_at);
        let usual = self
            .usual
            .filter(|_| !little)
            .map_or(took, |usual| took.min(Micros(usual.0 + took.0.saturating_sub(usual.0).div_ceil(RISE))));
        self.usual = Some(usual);
        if took.0 <= usual.0 + TOLERATED.0 {
            let within = if self.waiting.is_empty() { GIVES_BACK_IDLE } else { GIVES_BACK };
            let since = now.since(self.heard_at).0.min(within.0);
            self.runs = (self.runs + (self.runs * since).div_ceil(within.0)).min(WHOLE);
        }
        self.heard_at = now;
    }

    /// Pages under way.
    fn pages(&self) -> u64 {
        self.waiting.iter().map(|flight| flight.pages).sum()
    }

    /// Looks how long the oldest checkpoint has been on its way: it takes at least so long to be carried.
    fn look(&mut self, now: Instant) {
        let (Some(flight), Some(usual)) = (self.waiting.front(), self.usual) else { return };
        let late = now.since(flight.cut_at).0.saturating_sub(usual.0);
        // Carried since those before it are there, or since it was sent.
        let carried = late.min(now.since(self.heard_at).0);
        let length = flight.length.0;
        if self.pages() < TELLING || late < TOLERATED.0 || carried < length + length / JITTER {
            return;
        }
        let wanted = slowdown(flight.lost, carried, length).min(self.most);
        self.runs = self.runs.min(WHOLE - u64::from(wanted) * 10);
    }
}

#[cfg(test)]
mod tests;
