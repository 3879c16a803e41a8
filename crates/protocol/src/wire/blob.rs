//! Owns the packing of the body of a Device or Disk frame: its length, then one LZ4 block.
//!
//! QEMU writes most of its device state as zeros (a modern virtio card has room for 1,024 queues), and all of it in each epoch.

use alloc::vec::Vec;

/// Longest piece in one frame, in bytes, before it is compressed.
pub const MAX_PIECE: usize = 512 << 10;

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
    let mut body = alloc::vec![0; 4 + lz4_flex::block::get_maximum_output_size(piece.len())];
    body[..4].copy_from_slice(&u32::try_from(piece.len()).unwrap_or(u32::MAX).to_le_bytes());
    // There is room for the worst case, so it cannot fail.
    let packed = lz4_flex::block::compress_into(piece, &mut body[4..]).unwrap_or(0);
    body.truncate(4 + packed);
    body
}

/// The piece in a body.
///
/// # Errors
/// If the body is not what [`pack`] makes.
pub fn unpack(body: &[u8]) -> Result<Vec<u8>, BlobError> {
    let (len, packed) = body.split_first_chunk::<4>().ok_or(BlobError::Length)?;
    let len = u32::from_le_bytes(*len) as usize;
    if len > MAX_PIECE {
        return Err(BlobError::Length);
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

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked(piece in prop::collection::vec(0u8..4, 0..5_000)) {
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
