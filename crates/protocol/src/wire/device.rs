//! Owns the bodies of Device frames: the state of an epoch's devices as what changed since the epoch before, packed
//! ([`blob`]).
//!
//! Of some 80 kB that QEMU writes in each epoch a few hundred bytes are new: timers, counters, the ends of rings. What
//! did not change becomes zeros, which pack to next to nothing. Where a state is longer than the one before, its rest
//! goes as it is. It is right as long as both sides went through the same states, in order: a new session knows none.

use super::blob::{self, BlobError, MAX_PIECE};
use crate::ids::Epoch;
use alloc::vec::Vec;

/// Longest state in bytes. QEMU's is some 100 kB.
pub const MAX_STATE: usize = 64 << 20;

/// The states that a session went through, as far as they are needed: the newest and the one before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceStates {
    epoch: Epoch,
    newest: Vec<u8>,
    before: Vec<u8>,
}

impl DeviceStates {
    /// The bodies for the state of an epoch. A state without a byte has none: the other side does not hear of it, so here, too, the
    /// one before it stays the newest.
    pub fn pack(&mut self, epoch: Epoch, state: Vec<u8>) -> Vec<Vec<u8>> {
        if state.is_empty() {
            return Vec::new();
        }
        self.begin(epoch);
        let mut bodies = Vec::with_capacity(state.len().div_ceil(MAX_PIECE));
        let mut piece = Vec::with_capacity(state.len().min(MAX_PIECE));
        for at in (0..state.len()).step_by(MAX_PIECE) {
            piece.clear();
            piece.extend_from_slice(&state[at..state.len().min(at + MAX_PIECE)]);
            self.difference(at, &mut piece);
            bodies.push(blob::pack(&piece));
        }
        self.newest = state;
        bodies
    }

    /// The piece of a state in a body; bodies come in the order in which they were packed.
    ///
    /// # Errors
    /// If the body is not what [`DeviceStates::pack`] makes, or the state would be longer than [`MAX_STATE`].
    pub fn unpack(&mut self, epoch: Epoch, body: &[u8]) -> Result<Vec<u8>, BlobError> {
        if epoch != self.epoch {
            self.begin(epoch);
        }
        let mut piece = blob::unpack(body)?;
        if self.newest.len() + piece.len() > MAX_STATE {
            return Err(BlobError::Length);
        }
        self.difference(self.newest.len(), &mut piece);
        self.newest.extend_from_slice(&piece);
        Ok(piece)
    }

    fn begin(&mut self, epoch: Epoch) {
        self.epoch = epoch;
        core::mem::swap(&mut self.before, &mut self.newest);
        self.newest.clear();
    }

    /// The piece from `at` on against the state before. Doing it twice gives the piece again.
    fn difference(&self, at: usize, piece: &mut [u8]) {
        let before = self.before.get(at..).unwrap_or_default();
        piece.iter_mut().zip(before).for_each(|(byte, before)| *byte ^= before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A state that does not pack, and a successor in which little is new.
    fn states() -> [Vec<u8>; 2] {
        let mut state = 1_u64;
        let noise = core::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        });
        let first: Vec<u8> = noise.take(80_000).collect();
        let mut second = first.clone();
        second[40_000] ^= 1;
        [first, second]
    }

    #[test]
    fn a_state_that_hardly_changed_is_sent_in_few_bytes() {
        let mut sender = DeviceStates::default();
        let [first, second] = states();
        let len = |bodies: Vec<Vec<u8>>| bodies.iter().map(Vec::len).sum::<usize>();
        assert!(len(sender.pack(Epoch(1), first)) > 70_000);
        assert!(len(sender.pack(Epoch(2), second)) < 500);
    }

    #[test]
    fn a_state_without_end_is_refused() {
        let mut receiver = DeviceStates::default();
        let body = blob::pack(&alloc::vec![0; MAX_PIECE]);
        for _ in 0..MAX_STATE / MAX_PIECE {
            assert!(receiver.unpack(Epoch(1), &body).is_ok());
        }
        assert_eq!(receiver.unpack(Epoch(1), &body), Err(BlobError::Length));
    }

    proptest! {
        /// Whatever states follow each other, however long they are.
        #[test]
        fn what_is_packed_is_unpacked(
            lens in prop::collection::vec(prop_oneof![0usize..5_000, MAX_PIECE - 2..MAX_PIECE + 3], 1..6),
            seed in any::<u8>(),
        ) {
            let (mut sender, mut receiver) = (DeviceStates::default(), DeviceStates::default());
            for (number, len) in (1..).zip(lens) {
                let state: Vec<u8> = (0..len).map(|at| (at as u8).wrapping_mul(seed) ^ (number as u8)).collect();
                let bodies = sender.pack(Epoch(number), state.clone());
                let mut got = Vec::new();
                for body in bodies {
                    got.extend(receiver.unpack(Epoch(number), &body).unwrap());
                }
                prop_assert_eq!(got, state);
            }
        }

        /// No bytes make the reader panic.
        #[test]
        fn no_bytes_make_the_reader_panic(frames in prop::collection::vec((1u64..4, prop::collection::vec(any::<u8>(), 0..60)), 0..20)) {
            let mut receiver = DeviceStates::default();
            for (epoch, body) in frames {
                let _ = receiver.unpack(Epoch(epoch), &body);
            }
        }
    }
}
