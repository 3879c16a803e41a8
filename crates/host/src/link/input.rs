//! Owns the input that waits to be told to a backup: frames that the guest was given.
//!
//! Telling takes a wake-up of the writer here and of two threads there, and encryption: for each frame by itself that
//! was more than a guest under many small requests needs to answer them. So frames that come shortly after each other
//! are told together. What a host that dies has not told yet is to the guest as if the network had lost it.

use protocol::Epoch;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// So long a frame waits for others at most; with anything else that is sent it goes at once.
pub const LINGER: Duration = Duration::from_micros(500);
/// Bytes of input that may wait behind a slow link.
const MAX_WAITING: usize = 4 << 20;

/// Frames that wait, each with the number of its NIC before it.
#[derive(Debug, Default)]
pub struct WaitingInput(Mutex<Frames>);

#[derive(Debug, Default)]
struct Frames {
    frames: Vec<(Epoch, Vec<u8>)>,
    bytes: usize,
}

impl WaitingInput {
    /// Adds one. True if none waited: the writer does not know yet. When too many wait it is left out.
    pub fn push(&self, epoch: Epoch, nic: u8, frame: &[u8]) -> bool {
        let mut waiting = self.lock();
        if waiting.bytes + frame.len() > MAX_WAITING {
            return false;
        }
        let mut body = Vec::with_capacity(frame.len() + 1);
        body.push(nic);
        body.extend_from_slice(frame);
        waiting.bytes += frame.len();
        waiting.frames.push((epoch, body));
        waiting.frames.len() == 1
    }

    /// Takes all, in order.
    pub fn take(&self) -> Vec<(Epoch, Vec<u8>)> {
        std::mem::take(&mut *self.lock()).frames
    }

    fn lock(&self) -> MutexGuard<'_, Frames> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_frame_wakes_the_writer_and_the_rest_go_with_it() {
        let waiting = WaitingInput::default();
        assert!(waiting.push(Epoch(3), 0, b"one"));
        assert!(!waiting.push(Epoch(3), 1, b"two"));
        assert!(!waiting.push(Epoch(4), 0, b"three"));
        let told = [(3, b"\0one".to_vec()), (3, b"\x01two".to_vec()), (4, b"\0three".to_vec())];
        assert_eq!(waiting.take(), told.map(|(epoch, body)| (Epoch(epoch), body)));
        assert!(waiting.push(Epoch(4), 0, b"four"), "it must be woken again");
    }

    #[test]
    fn behind_a_link_that_stands_still_input_is_left_out() {
        let waiting = WaitingInput::default();
        let frame = vec![7; 64 << 10];
        let first = (0..100).filter(|_| waiting.push(Epoch(1), 0, &frame)).count();
        assert_eq!(first, 1);
        assert_eq!(waiting.take().len(), MAX_WAITING / frame.len());
        assert!(waiting.push(Epoch(1), 0, &frame));
    }
}
