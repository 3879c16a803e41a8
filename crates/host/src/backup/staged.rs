//! Owns the frames of epochs that are not committed yet, in the order in which they came.

use crate::link::Frame;
use protocol::Epoch;
use protocol::wire::Kind;

/// What was received of epochs that are not committed.
#[derive(Debug, Default)]
pub struct Staged {
    frames: Vec<Frame>,
    bytes: u64,
}

impl Staged {
    /// Keeps a frame.
    pub fn push(&mut self, frame: Frame) {
        self.bytes += frame.body.len() as u64;
        self.frames.push(frame);
    }

    /// Bytes of the bodies.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The batches of disk changes of an epoch, which stay.
    pub fn disk_changes(&self, epoch: Epoch) -> Vec<Vec<u8>> {
        let of_epoch = |frame: &&Frame| frame.header.kind == Kind::Disk && frame.header.epoch == epoch;
        self.frames.iter().filter(of_epoch).map(|frame| frame.body.clone()).collect()
    }

    /// Takes the frames of all epochs up to this one.
    pub fn take(&mut self, epoch: Epoch) -> Vec<Frame> {
        // What is staged behind the epoch is of later ones.
        let later = self.frames.partition_point(|frame| frame.header.epoch <= epoch);
        let later = self.frames.split_off(later);
        let taken = std::mem::replace(&mut self.frames, later);
        self.bytes -= taken.iter().map(|frame| frame.body.len() as u64).sum::<u64>();
        taken
    }

    /// Throws everything away.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}
