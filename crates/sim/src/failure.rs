//! Owns what a run says when a promise was broken.

use std::fmt;

/// Which promise was broken. Each class has an exit status of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Output left that the VM which lives on has not sent.
    OutputLost,
    /// Someone ran the VM without the arbiter's record, or released output that was not his to release.
    Ownership,
    /// A host spoke for the VM after its successor had.
    OldHostSpoke,
    /// A promoted VM is not the state that was cut.
    ImageDiffers,
    /// Without faults the VM was not protected again, or its client not served.
    NotProtectedAgain,
    /// An acknowledged write is lost, or one was applied twice.
    WriteLost,
    /// A healthy guest stood still, or its output waited, for too long.
    GuestStopped,
    /// A deadline that stays in the past: the engine would spin.
    BusyLoop,
    /// A damaged, repeated, moved or foreign frame was taken.
    DamageAccepted,
    /// A copy of the VM was thrown away though nobody else was granted the VM.
    CopyThrownAway,
    /// A machine panicked.
    Panic,
    /// An epoch was acknowledged, and a power loss could take its disk changes back.
    NotDurable,
    /// The VM was started from a disk that is not the newest.
    OlderDisk,
}

impl Class {
    /// The exit status of a program that reports this failure.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::OutputLost => 10,
            Self::Ownership => 11,
            Self::OldHostSpoke => 12,
            Self::ImageDiffers => 13,
            Self::NotProtectedAgain => 14,
            Self::WriteLost => 15,
            Self::GuestStopped => 16,
            Self::BusyLoop => 17,
            Self::DamageAccepted => 18,
            Self::CopyThrownAway => 19,
            Self::Panic => 20,
            Self::NotDurable => 21,
            Self::OlderDisk => 22,
        }
    }
}

/// A broken promise: its seed and what led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The seed; with the same commit it fails again.
    pub seed: u64,
    /// Which promise.
    pub class: Class,
    /// What was seen.
    pub what: String,
    /// When, in virtual microseconds.
    pub at_us: u64,
    /// The last lines of the trace.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "  {line}")?;
        }
        let ms = self.at_us / 1_000;
        write!(f, "seed {}: {:?} at {ms}.{:03} ms: {}", self.seed, self.class, self.at_us % 1_000, self.what)
    }
}

impl std::error::Error for Failure {}
