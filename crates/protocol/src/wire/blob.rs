//! Owns the packing of the body of a Device or Disk frame: its length, then one LZ4 block, or the bytes themselves where
//! they do not pack.
//!
//! QEMU writes most of its device state as zeros (a modern virtio card has room for 1,024 queues), and all of it in each
//! epoch. What a guest writes to a disk is often packed already; trying it again took more of the sender's time than
//! everything else. The highest bit of the length says that the bytes follow as they are.

use alloc::vec::Vec;

/// Longest piece in one frame, in bytes, before it is compressed.
pub const MAX_PIECE: usize = 512 << 10;
/// In the length: what follows is not compressed.
const RAW: u32 = 1 << 31;
/// Bytes of a sample that tells whether a piece packs.
const SAMPLE: usize = 1 << 10;
/// Samples of a piece, at even distances.
const SAMPLES: usize = 4;

/// Why a packed piece was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    /// Too short or too long to be true.
    #[error("a packed piece has an impossible length")]
    Length,
    /// It does not unpack to the length it names.
    #[error("a packed piece is damaged")]
    Lz4,
}

/// The body for a piece.
///
/// # Panics
/// If the piece is longer than [`MAX_PIECE`]: an error of the caller.
#[must_use]
pub fn pack(piece: &[u8]) -> Vec<u8> {
    assert!(piece.len() <= MAX_PIECE, "a piece of {} bytes", piece.len());
    let len = u32::try_from(piece.len()).unwrap_or(u32::MAX);
    if !packs(piece) {
        let mut body = Vec::with_capacity(4 + piece.len());
        body.extend_from_slice(&(len | RAW).to_le_bytes());
        body.extend_from_slice(piece);
        return body;
    }
    let mut body = alloc::vec![0; 4 + lz4_flex::block::get_maximum_output_size(piece.len())];
    body[..4].copy_from_slice(&len.to_le_bytes());
    // There is room for the worst case, so it cannot fail.
    let packed = lz4_flex::block::compress_into(piece, &mut body[4..]).unwrap_or(0);
    body.truncate(4 + packed);
    body
}

/// Whether any of a few samples becomes shorter by a sixteenth. What is too short to be sampled is tried whole.
fn packs(piece: &[u8]) -> bool {
    if piece.len() < SAMPLE * SAMPLES {
        return true;
    }
    let mut packed = [0; SAMPLE + SAMPLE / 16 + 64];
    let step = (piece.len() - SAMPLE) / (SAMPLES - 1);
    (0..SAMPLES).any(|at| {
        let sample = &piece[at * step..][..SAMPLE];
        lz4_flex::block::compress_into(sample, &mut packed).is_ok_and(|len| len < SAMPLE / 16 * 15)
    })
}

/// The piece in a body.
///
/// # Errors
/// If the body is not what [`pack`] makes.
pub fn unpack(body: &[u8]) -> Result<Vec<u8>, BlobError> {
    let (head, packed) = body.split_first_chunk::<4>().ok_or(BlobError::Length)?;
    let head = u32::from_le_bytes(*head);
    let len = (head & !RAW) as usize;
    if len > MAX_PIECE {
        return Err(BlobError::Length);
    }
    if head & RAW != 0 {
        return if packed.len() == len { Ok(packed.to_vec()) } else { Err(BlobError::Length) };
    }
    let mut piece = alloc::vec![0; len];
    match lz4_flex::block::decompress_into(packed, &mut piece) {
        Ok(unpacked) if unpacked == len => Ok(piece),
        _ => Err(BlobError::Lz4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes that do not pack (Marsaglia, xorshift64).
    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed | 1;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        };
        core::iter::repeat_with(next).take(len).collect()
    }

    #[test]
    fn what_does_not_pack_goes_as_it_is_and_a_part_that_does_is_found() {
        let mut piece = noise(7, 64 << 10);
        let body = pack(&piece);
        assert_eq!(body.len(), 4 + piece.len());
        assert_eq!(unpack(&body[..body.len() - 1]), Err(BlobError::Length));
        piece[40 << 10..].fill(0);
        assert!(pack(&piece).len() < 42 << 10);
    }

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked(piece in prop::collection::vec(0u8..4, 0..5_000)) {
            prop_assert_eq!(unpack(&pack(&piece)), Ok(piece));
        }

        #[test]
        fn what_does_not_pack_is_unpacked(seed in any::<u64>(), len in 0usize..20_000, packs in any::<bool>()) {
            let mut piece = noise(seed, len);
            if packs && len > 0 {
                piece[len / 2..].fill(0);
            }
            prop_assert_eq!(unpack(&pack(&piece)), Ok(piece));
        }

        #[test]
        fn no_bytes_panic_or_allocate_without_bound(body in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(piece) = unpack(&body) {
                prop_assert!(piece.len() <= MAX_PIECE);
            }
        }
    }

    #[test]
    fn a_longer_piece_and_a_cut_one_are_refused() {
        let mut body = pack(&[7; 1000]);
        assert_eq!(unpack(&body[..body.len() - 1]), Err(BlobError::Lz4));
        body[..4].copy_from_slice(&(MAX_PIECE as u32 + 1).to_le_bytes());
        assert_eq!(unpack(&body), Err(BlobError::Length));
        assert_eq!(unpack(&[1, 0]), Err(BlobError::Length));
    }
}
