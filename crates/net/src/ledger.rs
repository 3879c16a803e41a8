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

/// Closed epochs that are not released yet are bounded by the protocol's window; this is far above any.
const MAX_CUTS: usize = 1 << 16;

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
    /// Frames wait in the open epoch, and nobody was told yet.
    untold: bool,
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
            untold: false,
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

    /// A sequence number for a frame of `bytes`, or `None` if the bounds are reached and it must be dropped.
    pub(crate) fn admit(&mut self, bytes: usize) -> Option<u64> {
        let after = Volume { frames: self.queued.frames + 1, bytes: self.queued.bytes + bytes };
        if after.frames > self.limits.max_frames || after.bytes > self.limits.max_bytes {
            return None;
        }
        self.queued = after;
        self.high_water.frames = self.high_water.frames.max(after.frames);
        self.high_water.bytes = self.high_water.bytes.max(after.bytes);
        self.untold |= self.open_epoch.frames == 0 && self.mode == Mode::Holding;
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

    /// The open epoch, if frames wait in it and that was not told before.
    pub(crate) fn tell_waiting(&mut self) -> Option<Epoch> {
        std::mem::take(&mut self.untold).then(|| self.last_cut.map_or(Epoch(1), Epoch::next))
    }

    /// Begins to hold, or begins a new numbering of epochs: what was cut and not released belongs to the open
    /// epoch again, the safe direction.
    pub(crate) fn hold(&mut self) -> Result<(), GateError> {
        self.not_fenced("hold output")?;
        self.mode = Mode::Holding;
        self.cuts.clear();
        self.last_cut = None;
        self.last_released = None;
        self.open_epoch = self.queued;
        self.untold = self.queued.frames > 0;
        Ok(())
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
        self.untold = false;
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
        self.hold()?;
        self.open_epoch = Volume::default();
        self.untold = false;
        self.mode = Mode::Open;
        Ok(())
    }

    /// From now on nothing leaves, for good.
    pub(crate) fn fence(&mut self) {
        self.mode = Mode::Fenced;
        self.cuts.clear();
        self.open_epoch = Volume::default();
    }

    pub(crate) fn not_fenced(&self, wish: &'static str) -> Result<(), GateError> {
        if self.mode == Mode::Fenced { Err(GateError::Fenced { wish }) } else { Ok(()) }
    }
}
