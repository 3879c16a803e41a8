//! Owns a journal record's header: 96 bytes, little endian, the same in every version up to its end.
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 4 | magic `UDYJ` |
//! | 4 | 2 | version |
//! | 6 | 2 | kind |
//! | 8 | 16 | VM id |
//! | 24 | 8 | session |
//! | 32 | 8 | term |
//! | 40 | 8 | epoch (see [`Kind`]) |
//! | 48 | 8 | sequence number (see [`Kind`]) |
//! | 56 | 8 | synced: every record with a lower number was durable when this one was written |
//! | 64 | 8 | applied: every epoch up to this one was in the images, synced, when this one was written |
//! | 72 | 4 | life: counts the recoveries of this journal, from 1 |
//! | 76 | 4 | body length in bytes |
//! | 80 | 8 | xxh3-64 of the body |
//! | 88 | 8 | xxh3-64 of bytes 0..88 |
//!
//! Checked in this order: magic, length limit, header checksum, identity, version, kind, body checksum; only then
//! is a body decoded.

use crate::ids::{Epoch, Session, Term, VmId};
use crate::le::{u16_at, u32_at, u64_at, u128_at};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Length of a record header in bytes.
pub const HEADER_LEN: usize = 96;
/// Version of the records that this build writes.
pub const VERSION: u16 = 1;
/// Most bytes of data in one record; a longer write is cut.
pub const MAX_DATA_LEN: usize = 1 << 20;
/// Longest body in bytes: a [`crate::Change`] with [`MAX_DATA_LEN`] bytes.
pub const MAX_BODY_LEN: usize = MAX_DATA_LEN + super::body::CHANGE_HEAD;

const MAGIC: [u8; 4] = *b"UDYJ";

/// Whose journal it is. A record of another one is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The VM.
    pub vm: VmId,
    /// The session whose epochs it holds: epochs are numbered within a session.
    pub session: Session,
}

/// Kind of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Kind {
    /// First block of a segment. Sequence number: of the first record behind it. Epoch: the highest that has
    /// records in earlier segments, so that an applied one proves those segments unneeded.
    Head = 1,
    /// A disk write of the epoch.
    Change = 2,
    /// All changes of the epoch stand before this record.
    Commit = 3,
    /// In the file of marks: every epoch up to this one is in the images. Sequence number: the first that is
    /// still needed.
    Applied = 4,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Head, Self::Change, Self::Commit, Self::Applied];

    fn from_number(number: u16) -> Result<Self, RecordError> {
        Self::ALL.into_iter().find(|&kind| kind as u16 == number).ok_or(RecordError::Kind(number))
    }
}

/// Why bytes were refused as a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// No record begins here.
    #[error("no journal record begins here")]
    Magic,
    /// Too long to be true.
    #[error("a record of {len} bytes is longer than the limit of {MAX_BODY_LEN}")]
    TooLong {
        /// Length in the header.
        len: u32,
    },
    /// Torn or rotten.
    #[error("the record's header is damaged (checksum mismatch)")]
    HeaderChecksum,
    /// A record of another journal.
    #[error("a record of another journal: {got:?} instead of {want:?}")]
    Foreign {
        /// In the record.
        got: Identity,
        /// Of this journal.
        want: Identity,
    },
    /// Written by another version.
    #[error("the record has version {got}, this build reads {VERSION}")]
    Version {
        /// In the record.
        got: u16,
    },
    /// A kind that this version does not know.
    #[error("unknown record kind {0}")]
    Kind(u16),
    /// Torn or rotten.
    #[error("the body of a {kind:?} record is damaged (checksum mismatch)")]
    BodyChecksum {
        /// Kind of the record.
        kind: Kind,
    },
    /// A whole record whose body says nothing: written by a program with a fault.
    #[error("the body of the record makes no sense: {0}")]
    Body(&'static str),
}

/// A record's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Kind of the record.
    pub kind: Kind,
    /// Whose journal.
    pub identity: Identity,
    /// Term of the primary that sent it.
    pub term: Term,
    /// See [`Kind`].
    pub epoch: Epoch,
    /// See [`Kind`].
    pub seq: u64,
    /// Every record with a lower number was durable when this one was written.
    pub synced: u64,
    /// Every epoch up to this one was in the images, synced, when this one was written.
    pub applied: Epoch,
    /// Counts the recoveries of the journal.
    pub life: u32,
    /// Length of the body in bytes.
    pub len: u32,
    /// xxh3-64 of the body.
    pub body_sum: u64,
}

impl Header {
    /// Sets length and checksum for this body.
    ///
    /// # Panics
    /// If the body is longer than [`MAX_BODY_LEN`].
    #[must_use]
    pub fn of_body(mut self, body: &[u8]) -> Self {
        assert!(body.len() <= MAX_BODY_LEN, "a journal record's body has {} bytes", body.len());
        self.len = body.len() as u32;
        self.body_sum = xxh3_64(body);
        self
    }

    /// The header's bytes, with their checksum.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[0..4].copy_from_slice(&MAGIC);
        out[4..6].copy_from_slice(&VERSION.to_le_bytes());
        out[6..8].copy_from_slice(&(self.kind as u16).to_le_bytes());
        out[8..24].copy_from_slice(&self.identity.vm.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.identity.session.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.term.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.epoch.0.to_le_bytes());
        out[48..56].copy_from_slice(&self.seq.to_le_bytes());
        out[56..64].copy_from_slice(&self.synced.to_le_bytes());
        out[64..72].copy_from_slice(&self.applied.0.to_le_bytes());
        out[72..76].copy_from_slice(&self.life.to_le_bytes());
        out[76..80].copy_from_slice(&self.len.to_le_bytes());
        out[80..88].copy_from_slice(&self.body_sum.to_le_bytes());
        let sum = xxh3_64(&out[..88]);
        out[88..96].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads a header of this journal.
    ///
    /// # Errors
    /// If none begins here, or it is too long, damaged, of another journal or version, or of an unknown kind.
    pub fn decode(bytes: &[u8; HEADER_LEN], want: Identity) -> Result<Self, RecordError> {
        if bytes[0..4] != MAGIC {
            return Err(RecordError::Magic);
        }
        let len = u32_at(bytes, 76);
        if len as usize > MAX_BODY_LEN {
            return Err(RecordError::TooLong { len });
        }
        if xxh3_64(&bytes[..88]) != u64_at(bytes, 88) {
            return Err(RecordError::HeaderChecksum);
        }
        let vm = u128_at(bytes, 8);
        let got = Identity { vm: VmId(vm), session: Session(u64_at(bytes, 24)) };
        if got != want {
            return Err(RecordError::Foreign { got, want });
        }
        let version = u16_at(bytes, 4);
        if version != VERSION {
            return Err(RecordError::Version { got: version });
        }
        Ok(Self {
            kind: Kind::from_number(u16_at(bytes, 6))?,
            identity: got,
            term: Term(u64_at(bytes, 32)),
            epoch: Epoch(u64_at(bytes, 40)),
            seq: u64_at(bytes, 48),
            synced: u64_at(bytes, 56),
            applied: Epoch(u64_at(bytes, 64)),
            life: u32_at(bytes, 72),
            len,
            body_sum: u64_at(bytes, 80),
        })
    }

    /// Checks the body that stands behind this header.
    ///
    /// # Errors
    /// If it is not the body that was written.
    pub fn check_body(&self, body: &[u8]) -> Result<(), RecordError> {
        if body.len() != self.len as usize || xxh3_64(body) != self.body_sum {
            return Err(RecordError::BodyChecksum { kind: self.kind });
        }
        Ok(())
    }

    /// The epoch's running digest with this record added: over the header, which holds the body's checksum.
    #[must_use]
    pub fn digest(&self, before: u64) -> u64 {
        xxh3_64_with_seed(&self.encode(), before)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::journal) fn identity() -> Identity {
        Identity { vm: VmId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10), session: Session(3) }
    }

    fn sample() -> Header {
        let (term, epoch) = (Term(7), Epoch(99));
        let (synced, applied, life) = (40, Epoch(97), 2);
        let kind = Kind::Commit;
        Header {
            kind,
            identity: identity(),
            term,
            epoch,
            seq: 41,
            synced,
            applied,
            life,
            len: 0,
            body_sum: 0,
        }
        .of_body(b"hello")
    }

    #[test]
    fn golden_bytes_of_version_1() {
        let bytes = sample().encode();
        let mut golden = alloc::vec::Vec::new();
        golden.extend([0x55, 0x44, 0x59, 0x4a, 1, 0, 3, 0]);
        golden.extend((1..=16).rev());
        for number in [3_u8, 7, 99, 41, 40, 97] {
            golden.extend([number, 0, 0, 0, 0, 0, 0, 0]);
        }
        golden.extend([2, 0, 0, 0, 5, 0, 0, 0]);
        golden.extend(0x9555_e855_5c62_dcfd_u64.to_le_bytes());
        assert_eq!(bytes[..88], golden[..]);
        assert_eq!(Header::decode(&bytes, identity()), Ok(sample()));
    }

    #[test]
    fn every_single_bit_flip_of_a_header_is_refused() {
        let bytes = sample().encode();
        for bit in 0..HEADER_LEN * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&bad, identity()).is_err(), "bit {bit}");
        }
    }

    fn signed(change: impl FnOnce(&mut [u8; HEADER_LEN])) -> [u8; HEADER_LEN] {
        let mut bytes = sample().encode();
        change(&mut bytes);
        let sum = xxh3_64(&bytes[..88]);
        bytes[88..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    #[test]
    fn what_is_wrong_is_named_in_the_order_of_the_checks() {
        let decode = |bytes| Header::decode(&bytes, identity());
        assert_eq!(decode([0; HEADER_LEN]), Err(RecordError::Magic));
        let mut long = sample().encode();
        long[79] = 1;
        assert!(matches!(decode(long), Err(RecordError::TooLong { .. })), "before the checksum");
        let foreign = signed(|bytes| (bytes[4], bytes[24]) = (9, 4));
        assert!(matches!(decode(foreign), Err(RecordError::Foreign { .. })), "before the version");
        let newer = signed(|bytes| (bytes[4], bytes[6]) = (9, 77));
        assert_eq!(decode(newer), Err(RecordError::Version { got: 9 }), "before the kind");
        assert_eq!(decode(signed(|bytes| bytes[6] = 77)), Err(RecordError::Kind(77)));
    }

    #[test]
    fn a_damaged_or_shortened_body_is_refused() {
        assert_eq!(sample().check_body(b"hello"), Ok(()));
        assert!(sample().check_body(b"hellp").is_err());
        assert!(sample().check_body(b"hell").is_err());
    }
}
