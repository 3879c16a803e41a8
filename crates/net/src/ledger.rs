//! Owns the rule of output commit: which piece of output belongs to which epoch, and what may leave.
//!
//! Pure. Every piece of output gets the next sequence number when it arrives. A cut closes the open epoch at the
//! present number; a release says up to which number output may leave.
//!
//! ```text
//!            hold                     open
//!   Open ───────────▶ Holding ───────────────▶ Open
//!     │                  │  cut, release, hold (new numbering)
//!     └───── discard ────┴──────────▶ Fenced (for good)
//! ```

use crate::GateLimits;
use crate::event::GateError;
use crate::histogram::Histogram;
use protocol::Epoch;
use serde::Serialize;
use std::collections::VecDeque;

/// What the gate does with output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Output waits for the release of its epoch.
    Holding,
    /// Output leaves at once: the VM is not protected.
    Open,
    /// Nothing ever leaves again: this host lost the VM.
    Fenced,
}

/// An answer is often several packets: the owner hears of it when so long none came, in microseconds, and the guest waits.
const QUIET_US: u64 = 100;
/// A guest at work may be about to go on, or to answer others: then when so long none came.
const QUIET_AT_WORK_US: u64 = 1_000;
/// And of one that does not end when its first packet has waited for so long.
const LONGEST_LINGER_US: u64 = 10_000;

/// Closed epochs that are not released yet are bounded by the protocol's window; this is far above any.
const MAX_CUTS: usize = 1 << 16;

/// Frames that wait in the open epoch, of which nobody was told yet.
#[derive(Debug, Clone, Copy)]
struct Untold {
    first_us: u64,
    last_us: u64,
    /// When to look whether the guest is still at work.
    look_us: u64,
}

impl Untold {
    fn new(now_us: u64) -> Self {
        Self { first_us: now_us, last_us: now_us, look_us: now_us + QUIET_US }
    }

    fn goes_on(&mut self, now_us: u64) {
        (self.last_us, self.look_us) = (now_us, now_us + QUIET_US);
    }

    /// When it is told of whatever the guest does.
    fn late_us(&self, longest_us: u64) -> u64 {
        (self.last_us + QUIET_AT_WORK_US).min(self.first_us + longest_us)
    }
}

#[derive(Debug)]
struct Cut {
    epoch: Epoch,
    /// First sequence number that is not in this epoch.
    end: u64,
}

/// Numbers, bounds and times of the output of one gate.
pub(crate) struct Ledger {
    mode: Mode,
    limits: GateLimits,
    cuts: VecDeque<Cut>,
    last_cut: Option<Epoch>,
    last_released: Option<Epoch>,
    next: u64,
    queued: Volume,
    high_water: Volume,
    open_epoch: Volume,
    untold: Option<Untold>,
    longest_us: u64,
    pub(crate) hold_times: Histogram,
}

/// Frames and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) frames: usize,
    pub(crate) bytes: usize,
}

impl Ledger {
    pub(crate) fn new(limits: GateLimits) -> Self {
        Self {
            mode: Mode::Holding,
            limits,
            cuts: VecDeque::new(),
            last_cut: None,
            last_released: None,
            next: 0,
            queued: Volume::default(),
            high_water: Volume::default(),
            open_epoch: Volume::default(),
            untold: None,
            longest_us: LONGEST_LINGER_US,
            hold_times: Histogram::default(),
        }
    }

    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    pub(crate) fn limits(&self) -> &GateLimits {
        &self.limits
    }

    pub(crate) fn queued(&self) -> Volume {
        self.queued
    }

    pub(crate) fn high_water(&self) -> Volume {
        self.high_water
    }

    pub(crate) fn last_cut(&self) -> Option<Epoch> {
        self.last_cut
    }

    pub(crate) fn last_released(&self) -> Option<Epoch> {
        self.last_released
    }

    /// The sequence number that the next piece of output gets.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.next
    }

    /// A sequence number for a piece of output that is not counted against the frame bounds (console bytes).
    pub(crate) fn number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    /// A sequence number for a frame of `bytes` that arrives now, or `None` if the bounds are reached and it must be dropped.
    pub(crate) fn admit(&mut self, bytes: usize, now_us: u64) -> Option<u64> {
        let after = Volume { frames: self.queued.frames + 1, bytes: self.queued.bytes + bytes };
        if after.frames > self.limits.max_frames || after.bytes > self.limits.max_bytes {
            return None;
        }
        self.queued = after;
        self.high_water.frames = self.high_water.frames.max(after.frames);
        self.high_water.bytes = self.high_water.bytes.max(after.bytes);
        if let Some(untold) = &mut self.untold {
            untold.goes_on(now_us);
        } else if self.open_epoch.frames == 0 && self.mode == Mode::Holding {
            self.untold = Some(Untold::new(now_us));
        }
        self.open_epoch.frames += 1;
        self.open_epoch.bytes += bytes;
        Some(self.number())
    }

    /// A queued frame of `bytes` left the queue, sent or dropped.
    pub(crate) fn leave(&mut self, bytes: usize) {
        assert!(self.queued.frames > 0 && self.queued.bytes >= bytes, "a frame left that had not arrived");
        self.queued.frames -= 1;
        self.queued.bytes -= bytes;
    }

    /// An answer is told of when its first packet has waited for so long, however it goes on.
    pub(crate) fn linger(&mut self, longest_us: u64) {
        self.longest_us = longest_us.min(LONGEST_LINGER_US);
    }

    /// When to ask [`Ledger::tell_waiting`].
    pub(crate) fn tells_at_us(&self) -> Option<u64> {
        self.untold.map(|untold| untold.look_us.min(untold.late_us(self.longest_us)))
    }

    /// The open epoch, and when its first frame arrived, if an answer waits in it that is whole, or has waited for long, and that
    /// was not told before. `works` says whether the guest is at work.
    pub(crate) fn tell_waiting(&mut self, now_us: u64, works: impl FnOnce() -> bool) -> Option<(Epoch, u64)> {
        let untold = self.untold.as_mut()?;
        if now_us < untold.late_us(self.longest_us) {
            if now_us < untold.look_us {
                return None;
            }
            if works() {
                untold.look_us = now_us + QUIET_US;
                return None;
            }
        }
        let untold = self.untold.take()?;
        Some((self.last_cut.map_or(Epoch(1), Epoch::next), untold.first_us))
    }

    /// Begins to hold, or begins a new numbering of epochs: what was cut and not released belongs to the open
    /// epoch again, the safe direction.
    pub(crate) fn hold(&mut self, now_us: u64) -> Result<(), GateError> {
        self.not_fenced("hold output")?;
        self.mode = Mode::Holding;
        self.number_anew();
        self.open_epoch = self.queued;
        self.untold = (self.queued.frames > 0).then(|| Untold::new(now_us));
        Ok(())
    }

    fn number_anew(&mut self) {
        self.cuts.clear();
        self.last_cut = None;
        self.last_released = None;
        self.open_epoch = Volume::default();
        self.untold = None;
    }

    /// Whether `cut(epoch)` would be taken.
    pub(crate) fn may_cut(&self, epoch: Epoch) -> Result<(), GateError> {
        self.not_fenced("cut an epoch")?;
        if self.mode == Mode::Open {
            return Err(GateError::NotHolding);
        }
        if let Some(last) = self.last_cut.filter(|&last| epoch <= last) {
            return Err(GateError::EpochNotAfter { epoch, last });
        }
        if self.cuts.len() >= MAX_CUTS {
            return Err(GateError::TooManyEpochs(MAX_CUTS));
        }
        Ok(())
    }

    /// Closes the open epoch as `epoch` and says how much is in it.
    pub(crate) fn cut(&mut self, epoch: Epoch) -> Result<Volume, GateError> {
        self.may_cut(epoch)?;
        self.cuts.push_back(Cut { epoch, end: self.next });
        self.last_cut = Some(epoch);
        self.untold = None;
        Ok(std::mem::take(&mut self.open_epoch))
    }

    /// Commits all epochs up to `up_to`; output below the returned number may leave, `None` if none of them is
    /// waiting.
    pub(crate) fn release(&mut self, up_to: Epoch) -> Result<Option<u64>, GateError> {
        self.not_fenced("release output")?;
        let mut end = None;
        while let Some(cut) = self.cuts.front().filter(|cut| cut.epoch <= up_to) {
            end = Some(cut.end);
            self.last_released = Some(cut.epoch);
            self.cuts.pop_front();
        }
        Ok(end)
    }

    /// From now on output passes.
    pub(crate) fn open(&mut self) -> Result<(), GateError> {
        self.not_fenced("open the gate")?;
        self.number_anew();
        self.mode = Mode::Open;
        Ok(())
    }

    /// From now on nothing leaves, for good.
    pub(crate) fn fence(&mut self) {
        self.mode = Mode::Fenced;
        self.cuts.clear();
        self.open_epoch = Volume::default();
        self.untold = None;
    }

    pub(crate) fn not_fenced(&self, wish: &'static str) -> Result<(), GateError> {
        if self.mode == Mode::Fenced { Err(GateError::Fenced { wish }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(ledger: &mut Ledger, now_us: u64) -> Option<(Epoch, u64)> {
        ledger.tell_waiting(now_us, || false)
    }

    fn told_at_work(ledger: &mut Ledger, now_us: u64) -> Option<(Epoch, u64)> {
        ledger.tell_waiting(now_us, || true)
    }

    #[test]
    fn an_answer_is_told_of_once_it_is_whole_or_has_waited_for_long() {
        let mut ledger = Ledger::new(GateLimits::default());
        assert_eq!(ledger.tells_at_us(), None);
        ledger.admit(60, 1_000);
        ledger.admit(60, 1_050);
        assert_eq!((ledger.tells_at_us(), told(&mut ledger, 1_149)), (Some(1_150), None));
        assert_eq!(told(&mut ledger, 1_150), Some((Epoch(1), 1_000)), "since its first packet");
        ledger.admit(60, 1_400);
        assert_eq!(told(&mut ledger, 9_000), None, "once an epoch");
        ledger.cut(Epoch(3)).unwrap();
        for at in (10_000..20_000).step_by(90) {
            ledger.admit(60, at);
        }
        assert_eq!(ledger.tells_at_us(), Some(20_000), "the guest goes on and on");
        ledger.linger(3_000);
        assert_eq!(ledger.tells_at_us(), Some(13_000), "nobody waits for longer than he shall");
        ledger.cut(Epoch(4)).unwrap();
        assert_eq!(ledger.tells_at_us(), None, "a cut closes what it would have told");
        ledger.admit(60, 20_000);
        ledger.hold(21_000).unwrap();
        assert_eq!(told(&mut ledger, 22_000), Some((Epoch(1), 21_000)), "in a new numbering it waits still");
        ledger.admit(60, 23_000);
        ledger.open().unwrap();
        ledger.admit(60, 24_000);
        assert_eq!(ledger.tells_at_us(), None, "nothing is held");
    }

    #[test]
    fn a_guest_at_work_may_go_on_answering() {
        let mut ledger = Ledger::new(GateLimits::default());
        ledger.admit(60, 1_000);
        assert_eq!(told_at_work(&mut ledger, 1_100), None);
        assert_eq!(ledger.tells_at_us(), Some(1_200), "it is looked at again");
        assert_eq!(told_at_work(&mut ledger, 1_200), None);
        ledger.admit(60, 1_250);
        assert_eq!(told(&mut ledger, 1_300), None, "it has just gone on");
        assert_eq!(told(&mut ledger, 1_350), Some((Epoch(1), 1_000)), "and waits now");
        ledger.cut(Epoch(1)).unwrap();
        ledger.admit(60, 5_000);
        assert_eq!(told_at_work(&mut ledger, 5_990), None);
        assert_eq!(ledger.tells_at_us(), Some(6_000));
        assert_eq!(
            told_at_work(&mut ledger, 6_000),
            Some((Epoch(2), 5_000)),
            "it is at work on something else"
        );
        ledger.cut(Epoch(2)).unwrap();
        ledger.linger(300);
        ledger.admit(60, 10_000);
        assert_eq!(told_at_work(&mut ledger, 10_299), None);
        assert_eq!(told_at_work(&mut ledger, 10_300), Some((Epoch(3), 10_000)));
    }
}
