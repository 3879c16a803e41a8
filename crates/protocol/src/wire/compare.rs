//! Owns comparing a backup's copies with the primary's disks, or its memory, before anything of them is sent: which runs are
//! asked about, and the hashes that come back.
//!
//! An Ask names runs of the disks or of RAM blocks; Hashes answers it with one 128-bit hash for each piece of 4 KiB of each run, in
//! their order (the last piece of a run may be shorter). The primary reads its own, and sends the pieces that differ.
//! Hashes were taken of what the backup had applied at some time since the Ask; whatever the guest writes comes behind
//! them in the stream anyway, so a piece that was equal is equal in the end.
//!
//! xxh3-128 is no cryptographic hash, and a guest may hold programs that would have another's page taken for theirs. So the primary
//! seeds it, with a number that nobody knows before and that is another one for each copy. By chance two pieces that differ are
//! taken for equal once in some 2^128.

use super::blob::{self, BlobError, MAX_PIECE};
use crate::resync::Run;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// Bytes of a piece.
pub const PIECE: u64 = 4_096;
/// Most bytes in one Ask.
pub const MAX_ASK_BYTES: u64 = 16 << 20;
/// Most runs in one Ask.
pub const MAX_ASK_RUNS: usize = 1_024;
/// Most Asks without an answer.
pub const MAX_ASKS: u32 = 4;

/// What is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Store {
    /// The copies of the disks.
    Disks,
    /// The memory: runs are of RAM blocks, by their numbers on the wire.
    Memory,
}

/// What a copy's hashes are seeded with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Seed(pub u64);

impl Seed {
    /// The hash of a piece.
    #[must_use]
    pub fn hash(self, piece: &[u8]) -> u128 {
        xxh3_128_with_seed(piece, self.0)
    }
}

/// Runs whose hashes are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ask {
    /// Of what they are.
    pub of: Store,
    /// What they are seeded with.
    pub seed: Seed,
    /// In the order in which the hashes come.
    pub runs: Vec<Run>,
}

/// Why an Ask was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// A run outside the disks or the memory.
    #[error("hashes of {len} bytes at {offset} of {of} {disk} are asked for, which do not exist in this VM")]
    OutOfRange {
        /// Of what.
        of: Store,
        /// Index of the disk or RAM block.
        disk: u8,
        /// First byte.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// More than one Ask may want.
    #[error(
        "hashes of {bytes} bytes in {runs} runs are asked for at a time, at most {MAX_ASK_BYTES} in {MAX_ASK_RUNS} are allowed"
    )]
    TooMuch {
        /// Runs in it.
        runs: usize,
        /// Bytes in them.
        bytes: u64,
    },
}

impl core::fmt::Display for Store {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Disks => "disk",
            Self::Memory => "RAM block",
        })
    }
}

impl Ask {
    /// Whether it makes sense for disks or RAM blocks of these sizes.
    ///
    /// # Errors
    /// If not.
    pub fn check(&self, sizes: &[u64]) -> Result<(), AskError> {
        if let Some(&Run { disk, offset, len }) = self.runs.iter().find(|run| !run.is_inside(sizes)) {
            return Err(AskError::OutOfRange { of: self.of, disk, offset, len });
        }
        let bytes = self.runs.iter().fold(0_u64, |bytes, run| bytes.saturating_add(run.len));
        if self.runs.len() > MAX_ASK_RUNS || bytes > MAX_ASK_BYTES {
            return Err(AskError::TooMuch { runs: self.runs.len(), bytes });
        }
        Ok(())
    }

    /// How many hashes answer it.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.runs.iter().map(|run| usize::try_from(run.len.div_ceil(PIECE)).unwrap_or(usize::MAX)).sum()
    }

    /// The next Ask for runs that wait; what it takes is taken from them. Runs begin and end at multiples of
    /// [`PIECE`], but for the ends of disks.
    #[must_use]
    pub fn next_of((of, seed): (Store, Seed), waiting: &mut alloc::collections::VecDeque<Run>) -> Self {
        let (mut runs, mut room) = (Vec::new(), MAX_ASK_BYTES);
        while room > 0
            && runs.len() < MAX_ASK_RUNS
            && let Some(run) = waiting.front_mut()
        {
            let len = run.len.min(room);
            runs.push(Run { len, ..*run });
            room -= len;
            (run.offset, run.len) = (run.offset + len, run.len - len);
            if run.len == 0 {
                waiting.pop_front();
            }
        }
        Self { of, seed, runs }
    }
}

/// The answer to an [`Ask`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Hashes {
    /// One for each piece.
    pub sums: Vec<u128>,
}

impl Hashes {
    /// The body of their frame: the hashes, little endian, packed. Those of zeroes are many and pack well.
    ///
    /// # Panics
    /// If there are more than answer any Ask: an error of the caller.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let bytes: Vec<u8> = self.sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
        blob::pack(&bytes)
    }

    /// Reads the body of a frame.
    ///
    /// # Errors
    /// If it does not unpack, or not to whole hashes.
    pub fn decode(body: &[u8]) -> Result<Self, BlobError> {
        let bytes = blob::unpack(body)?;
        let (sums, rest) = bytes.as_chunks::<16>();
        if !rest.is_empty() {
            return Err(BlobError::Length);
        }
        Ok(Self { sums: sums.iter().map(|sum| u128::from_le_bytes(*sum)).collect() })
    }
}

// Every answer fits a frame.
const _: () = assert!((MAX_ASK_BYTES / PIECE) as usize + MAX_ASK_RUNS <= MAX_PIECE / 16);

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::VecDeque;
    use proptest::prelude::*;

    const SEED: Seed = Seed(7);

    fn run(offset: u64, len: u64) -> Run {
        Run { disk: 0, offset, len }
    }

    proptest! {
        #[test]
        fn hashes_come_back(sums in prop::collection::vec(any::<u128>(), 0..100)) {
            let hashes = Hashes { sums };
            prop_assert_eq!(Hashes::decode(&hashes.encode()), Ok(hashes));
        }

        #[test]
        fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Hashes::decode(&body);
        }

        #[test]
        fn asks_cover_all_runs_in_order_and_keep_the_limits(lens in prop::collection::vec(1u64..3_000, 0..60)) {
            let runs: Vec<Run> = (0u64..).zip(&lens).map(|(at, len)| run(at << 30, len * PIECE)).collect();
            let mut waiting: VecDeque<Run> = runs.iter().copied().collect();
            let mut asked: Vec<Run> = Vec::new();
            while !waiting.is_empty() {
                let ask = Ask::next_of((Store::Disks, SEED), &mut waiting);
                prop_assert_eq!(ask.check(&[u64::MAX]), Ok(()));
                for next in ask.runs {
                    match asked.last_mut() {
                        Some(last) if last.offset + last.len == next.offset => last.len += next.len,
                        _ => asked.push(next),
                    }
                }
            }
            prop_assert_eq!(asked, runs);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let check = |runs: Vec<Run>| Ask { of: Store::Memory, seed: SEED, runs }.check(&[64 << 20]);
        assert_eq!(check(alloc::vec![run(0, MAX_ASK_BYTES)]), Ok(()));
        for bad in [run(0, 0), run(64 << 20, 1), run(u64::MAX, 2), Run { disk: 1, ..run(0, 1) }] {
            assert!(matches!(check(alloc::vec![bad]), Err(AskError::OutOfRange { .. })), "{bad:?}");
        }
        assert!(matches!(
            check(alloc::vec![run(0, MAX_ASK_BYTES), run(0, 1)]),
            Err(AskError::TooMuch { .. })
        ));
        assert!(matches!(check(alloc::vec![run(0, 1); MAX_ASK_RUNS + 1]), Err(AskError::TooMuch { .. })));
        assert_eq!(Hashes::decode(&blob::pack(&[0; 17])), Err(BlobError::Length));
    }

    #[test]
    fn a_short_last_piece_has_a_hash_too() {
        assert_eq!(
            Ask { of: Store::Disks, seed: SEED, runs: alloc::vec![run(0, 4097), run(8192, 512)] }.pieces(),
            3
        );
        assert_eq!(Seed(0).hash(b""), 0x99aa_06d3_0147_98d8_6001_c324_468d_497f, "xxh3-128, as published");
        assert_ne!(Seed(0).hash(&[0; 4096]), SEED.hash(&[0; 4096]));
    }
}
