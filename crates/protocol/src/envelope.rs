//! Owns the envelope of a single message between hosts: a header that checks itself, and a body.
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 4 | magic, one for each family of messages |
//! | 4 | 2 | version of the family |
//! | 6 | 2 | kind |
//! | 8 | 4 | body length in bytes |
//! | 12 | 4 | reserved, 0 |
//! | 16 | 8 | xxh3-64 of the body |
//! | 24 | 8 | xxh3-64 of bytes 0..24 |
//! | 32 | | body (postcard) |
//!
//! Little endian. A reader checks the magic, the header's checksum, version, kind and length before it reads the body,
//! and the body's checksum before it decodes. A length is bounded before anything is allocated. Families are questions to a
//! [witness](crate::witness), and what [`undying doctor`](crate::doctor) asks another host.

use crate::le::{u16_at, u32_at, u64_at};
use alloc::string::String;
use alloc::vec::Vec;
use serde::Serialize;
use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::xxh3_64;

/// Length of an envelope's header in bytes.
pub const HEADER_LEN: usize = 32;

/// As much of a text as fits into so many bytes: a message with more could not be read.
#[must_use]
pub fn cut(text: &str, most: usize) -> String {
    let end = (0..=most.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    text[..end.unwrap_or(0)].into()
}

/// Why bytes were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Not a message of this family.
    #[error("these are not the bytes that belong here (they begin with {0:02x?}); is the port right?")]
    Magic([u8; 4]),
    /// Damaged on the way.
    #[error("the header is damaged (checksum mismatch)")]
    HeaderChecksum,
    /// Another version.
    #[error("it speaks version {got} of this protocol, this build speaks {ours}; run the same version")]
    Version {
        /// Theirs.
        got: u16,
        /// This build's.
        ours: u16,
    },
    /// A question where an answer was due, or the other way round.
    #[error("kind {0} does not belong here")]
    Kind(u16),
    /// Reserved bits are set.
    #[error("reserved bits are set")]
    Reserved,
    /// Too long to be true.
    #[error("a body of {len} bytes is longer than the limit of {limit}")]
    TooLong {
        /// What the header says.
        len: u32,
        /// What is allowed.
        limit: u32,
    },
    /// Damaged on the way.
    #[error("the body is damaged (checksum mismatch)")]
    BodyChecksum,
    /// Not what the kind says.
    #[error("the body cannot be read")]
    Malformed,
}

/// What may be in an envelope.
pub trait Message: Serialize + DeserializeOwned {
    /// Its family.
    const MAGIC: [u8; 4];
    /// Version of the family that this build speaks.
    const VERSION: u16;
    /// Its number in the header.
    const KIND: u16;
    /// Longest body in bytes.
    const MAX_BODY_LEN: u32;
}

/// The bytes of a message.
///
/// # Panics
/// If the body is longer than its family allows: whoever makes a message cuts it to size.
#[must_use]
pub fn encode<M: Message>(message: &M) -> Vec<u8> {
    let body = postcard::to_allocvec(message).expect("plain data");
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    assert!(len <= M::MAX_BODY_LEN, "a message is cut to size");
    let mut bytes = Vec::with_capacity(HEADER_LEN + body.len());
    bytes.extend_from_slice(&M::MAGIC);
    bytes.extend_from_slice(&M::VERSION.to_le_bytes());
    bytes.extend_from_slice(&M::KIND.to_le_bytes());
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&xxh3_64(&body).to_le_bytes());
    let sum = xxh3_64(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

/// A header that was found right: what must follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    len: u32,
    sum: u64,
}

impl Expected {
    /// Length of the body in bytes, at most what its family allows.
    #[must_use]
    pub fn len(self) -> usize {
        self.len as usize
    }

    /// Whether the body has no bytes, which no message has.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// Checks and reads the body.
    ///
    /// # Errors
    /// If it is damaged, or not a whole message and nothing else.
    pub fn body<M: Message>(self, body: &[u8]) -> Result<M, EnvelopeError> {
        if body.len() != self.len() || xxh3_64(body) != self.sum {
            return Err(EnvelopeError::BodyChecksum);
        }
        let (message, rest) = postcard::take_from_bytes(body).map_err(|_| EnvelopeError::Malformed)?;
        if rest.is_empty() { Ok(message) } else { Err(EnvelopeError::Malformed) }
    }
}

/// Checks the header of a message of this kind.
///
/// # Errors
/// If it is not one, damaged, of another version or kind, or announces too much.
pub fn expect<M: Message>(head: &[u8; HEADER_LEN]) -> Result<Expected, EnvelopeError> {
    let magic: [u8; 4] = core::array::from_fn(|i| head[i]);
    if magic != M::MAGIC {
        return Err(EnvelopeError::Magic(magic));
    }
    if xxh3_64(&head[..24]) != u64_at(head, 24) {
        return Err(EnvelopeError::HeaderChecksum);
    }
    if u16_at(head, 4) != M::VERSION {
        return Err(EnvelopeError::Version { got: u16_at(head, 4), ours: M::VERSION });
    }
    if u16_at(head, 6) != M::KIND {
        return Err(EnvelopeError::Kind(u16_at(head, 6)));
    }
    if u32_at(head, 12) != 0 {
        return Err(EnvelopeError::Reserved);
    }
    let len = u32_at(head, 8);
    if len > M::MAX_BODY_LEN {
        return Err(EnvelopeError::TooLong { len, limit: M::MAX_BODY_LEN });
    }
    Ok(Expected { len, sum: u64_at(head, 16) })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Word(u8);

    impl Message for Word {
        const MAGIC: [u8; 4] = *b"WORD";
        const VERSION: u16 = 3;
        const KIND: u16 = 1;
        const MAX_BODY_LEN: u32 = 16;
    }

    /// Reads a whole envelope.
    pub(crate) fn decode<M: Message>(bytes: &[u8]) -> Result<M, EnvelopeError> {
        let head: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(EnvelopeError::Malformed)?;
        expect::<M>(head)?.body(&bytes[HEADER_LEN..])
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_refused() {
        let bytes = encode(&Word(7));
        assert_eq!(decode(&bytes), Ok(Word(7)));
        for length in 0..bytes.len() {
            assert!(decode::<Word>(&bytes[..length]).is_err(), "cut at {length}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode::<Word>(&bad).is_err(), "bit {bit}");
        }
    }

    fn sealed(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = encode(&Word(7));
        change(&mut bytes);
        let sum = xxh3_64(&bytes[..24]);
        bytes[24..32].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    #[test]
    fn a_header_with_a_right_checksum_is_still_not_believed() {
        let refused = |bytes: &[u8]| decode::<Word>(bytes).unwrap_err();
        assert_eq!(refused(&sealed(|b| b[4] = 9)), EnvelopeError::Version { got: 9, ours: 3 });
        assert_eq!(refused(&sealed(|b| b[6] = 2)), EnvelopeError::Kind(2));
        assert_eq!(refused(&sealed(|b| b[12] = 1)), EnvelopeError::Reserved);
        let long = EnvelopeError::TooLong { len: 1 << 24 | 1, limit: 16 };
        assert_eq!(refused(&sealed(|b| b[11] = 1)), long);
        assert_eq!(refused(b"SSH-2.0-OpenSSH_9.2 and thirty-two bytes"), EnvelopeError::Magic(*b"SSH-"));
        let trailing = sealed(|b| {
            b.push(0);
            b[8] = 2;
            let sum = xxh3_64(&b[HEADER_LEN..]);
            b[16..24].copy_from_slice(&sum.to_le_bytes());
        });
        assert_eq!(refused(&trailing), EnvelopeError::Malformed);
    }
}
