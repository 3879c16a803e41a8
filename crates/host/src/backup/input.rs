//! Owns the input that the primary's guest was given and the newest committed epoch does not hold for certain.
//!
//! A guest that goes on here has forgotten it. Its peers would send it again, but only when their own time-outs
//! run out (TCP: 200 ms at least, doubling). Given these frames at once, the guest answers as soon as it runs. To
//! the guest and its peers it is a network that delayed some frames and delivered others twice.

use protocol::Epoch;
use std::collections::VecDeque;

/// Bytes kept; older frames are forgotten, as a network would lose them.
const MAX_BYTES: usize = 16 << 20;

/// Recent input, oldest first.
#[derive(Debug, Default)]
pub struct InputLog {
    frames: VecDeque<(Epoch, Vec<u8>)>,
    bytes: usize,
}

impl InputLog {
    /// Notes a frame that was given to the guest while `epoch` was open.
    pub fn push(&mut self, epoch: Epoch, frame: Vec<u8>) {
        self.bytes += frame.len();
        self.frames.push_back((epoch, frame));
        while self.bytes > MAX_BYTES {
            self.drop_oldest();
        }
    }

    /// Forgets what is in a committed checkpoint. Frames of that very epoch are kept: the last of them may still
    /// have been on their way to the guest when it was cut.
    pub fn committed(&mut self, epoch: Epoch) {
        while self.frames.front().is_some_and(|(of, _)| *of < epoch) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((_, frame)) = self.frames.pop_front() {
            self.bytes -= frame.len();
        }
    }

    /// Everything noted, in order.
    pub fn into_frames(self) -> Vec<Vec<u8>> {
        self.frames.into_iter().map(|(_, frame)| frame).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_committed_epoch_surely_holds_is_forgotten() {
        let mut log = InputLog::default();
        for epoch in 1..=4 {
            log.push(Epoch(epoch), vec![u8::try_from(epoch).unwrap()]);
        }
        log.committed(Epoch(3));
        assert_eq!(log.into_frames(), [[3], [4]]);
    }

    #[test]
    fn the_oldest_is_forgotten_when_there_is_too_much() {
        let mut log = InputLog::default();
        for at in 0..20u8 {
            log.push(Epoch(1), vec![at; 1 << 20]);
        }
        let kept = log.into_frames();
        assert_eq!(kept.len(), 16);
        assert_eq!(kept[0][0], 4);
    }
}
