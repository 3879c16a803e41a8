//! Owns the frame header: 80 bytes, little endian, the same in every version up to the version field.
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 4 | magic `UDYF` |
//! | 4 | 2 | version |
//! | 6 | 2 | kind |
//! | 8 | 16 | VM id |
//! | 24 | 8 | term |
//! | 32 | 8 | session |
//! | 40 | 8 | sequence number in this direction of the session, from 0 |
//! | 48 | 8 | epoch, 0 where it has no meaning |
//! | 56 | 4 | body length in bytes |
//! | 60 | 4 | reserved, 0 |
//! | 64 | 8 | xxh3-64 of the body |
//! | 72 | 8 | xxh3-64 of bytes 0..72 |

use crate::ids::{Epoch, Session, Term, VmId};
use crate::le::{u16_at, u32_at, u64_at, u128_at};
use xxhash_rust::xxh3::xxh3_64;

/// Length of a frame header in bytes.
pub const HEADER_LEN: usize = 80;
/// Version of the frames that this build writes.
///
/// - 1: memory, devices, console.
/// - 2: Disk frames; an acknowledgement says that the epoch's disk changes are durable. A backup of version 1 would
///   take a VM with disks and keep nothing of them.
/// - 3: Accept says what copies of the disks the backup has; Ask and Hashes. A backup of version 2 would throw them away.
/// - 4: a piece that does not pack goes as it is; pages that are sent again go as what changed; a refusal says what there
///   is no room for; Leaving.
/// - 5: heartbeats and answers say what time-out each side goes by, and how long a backup has heard nothing; device state
///   goes as what changed; a VM may be given up because it shall run at the backup's host; several connections of one
///   session: Path, Probe, Receipt.
/// - 6: a backup refuses an owner that would overwrite a newer copy of the disks.
/// - 7: Mark and Reached; few changed words of a page go one by one.
/// - 8: Resign and Resigned: a VM's backup is changed while it stays protected.
/// - 9: a Commit says whether it is its session's last.
/// - 10: an Accept says what the backup has of the VM's memory, and an Ask may be about it; an Ask seeds its hashes.
pub const VERSION: u16 = 10;
/// Longest body in bytes; a batch of pages is cut before it.
pub const MAX_BODY_LEN: u32 = 1 << 20;

const MAGIC: [u8; 4] = *b"UDYF";

/// Why bytes were refused as a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not a frame of this protocol.
    #[error("this is not an Undying frame (it begins with {0:02x?}); is the port right?")]
    Magic([u8; 4]),
    /// A peer of another version.
    #[error(
        "the peer speaks version {got} of the replication protocol, this build speaks {VERSION}; run the same version on both hosts"
    )]
    Version {
        /// Version in the frame.
        got: u16,
    },
    /// Damaged on the way.
    #[error("the frame header is damaged (checksum mismatch)")]
    HeaderChecksum,
    /// Damaged on the way.
    #[error("the body of a {kind:?} frame is damaged (checksum mismatch)")]
    BodyChecksum {
        /// Kind of the frame.
        kind: Kind,
    },
    /// Too long to be true.
    #[error("a frame of {len} bytes is longer than the limit of {MAX_BODY_LEN}")]
    TooLong {
        /// Length in the header.
        len: u32,
    },
    /// A kind that this version does not know.
    #[error("unknown frame kind {0}")]
    Kind(u16),
    /// Reserved bits are set.
    #[error("reserved bits of the frame header are set")]
    Reserved,
    /// A frame of another VM.
    #[error("a frame of another VM ({got:?}) on the connection of {want:?}")]
    Vm {
        /// In the frame.
        got: VmId,
        /// Of the connection.
        want: VmId,
    },
    /// A frame of an older owner.
    #[error("a frame of term {got} is refused: term {known} is known")]
    StaleTerm {
        /// In the frame.
        got: Term,
        /// Newest known.
        known: Term,
    },
    /// A frame of a term or session that this connection was not opened for.
    #[error("a frame of term {term}, session {session} on another session's connection")]
    Session {
        /// In the frame.
        term: Term,
        /// In the frame.
        session: Session,
    },
    /// A repeated frame.
    #[error("frame {got} came again, {want} was expected: a replay is refused")]
    Replay {
        /// Sequence number in the frame.
        got: u64,
        /// Sequence number expected.
        want: u64,
    },
    /// A missing frame.
    #[error("frame {got} came where {want} was expected: frames are missing")]
    Gap {
        /// Sequence number in the frame.
        got: u64,
        /// Sequence number expected.
        want: u64,
    },
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal),* $(,)?) => {
        /// Kind of a frame.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Kind {
            $($(#[$doc])* $name = $number),*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            fn from_number(number: u16) -> Result<Self, WireError> {
                match number {
                    $($number => Ok(Self::$name),)*
                    other => Err(WireError::Kind(other)),
                }
            }
        }
    };
}

kinds! {
    /// Opens a session.
    Hello = 1,
    /// A batch of page records.
    Pages = 2,
    /// A piece of device state.
    Device = 3,
    /// Console output.
    Console = 4,
    /// End of a checkpoint.
    Commit = 5,
    /// Heartbeat of the primary.
    Heartbeat = 6,
    /// The primary hands over.
    Yield = 7,
    /// Protection is over.
    End = 8,
    /// A frame that was given to the guest.
    Input = 9,
    /// A batch of disk changes.
    Disk = 10,
    /// Hashes of a backup's copies are wanted.
    Ask = 11,
    /// Word is wanted when all before this is in the backup's copy.
    Mark = 12,
    /// Another backup protects the VM: this one shall go.
    Resign = 13,
    /// The backup is ready.
    Accept = 16,
    /// The backup will not do it.
    Refuse = 17,
    /// An epoch is committed.
    Ack = 18,
    /// Heartbeat of the backup.
    Pulse = 19,
    /// The backup refuses the stream.
    Broken = 20,
    /// The backup won a term it could not use.
    Declined = 21,
    /// A higher term exists.
    Fenced = 22,
    /// Hashes that were asked for.
    Hashes = 23,
    /// The backup's host is being drained.
    Leaving = 24,
    /// All before the Mark is in the backup's copy.
    Reached = 25,
    /// The backup will never claim in this session's term.
    Resigned = 26,
    /// Opens a connection that is one of several.
    Path = 32,
    /// A question whether a path carries, and a receipt.
    Probe = 33,
    /// How far the other direction is.
    Receipt = 34,
}

/// A decoded frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Kind of the frame.
    pub kind: Kind,
    /// The VM.
    pub vm: VmId,
    /// Term of the sender.
    pub term: Term,
    /// Session of the connection.
    pub session: Session,
    /// Number of the frame in its direction of the session, from 0.
    pub seq: u64,
    /// Epoch; 0 where it has no meaning.
    pub epoch: Epoch,
    /// Length of the body in bytes.
    pub len: u32,
    /// xxh3-64 of the body.
    pub body_sum: u64,
}

impl Header {
    /// The header's bytes, with their checksum.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[0..4].copy_from_slice(&MAGIC);
        out[4..6].copy_from_slice(&VERSION.to_le_bytes());
        out[6..8].copy_from_slice(&(self.kind as u16).to_le_bytes());
        out[8..24].copy_from_slice(&self.vm.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.term.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.session.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.seq.to_le_bytes());
        out[48..56].copy_from_slice(&self.epoch.0.to_le_bytes());
        out[56..60].copy_from_slice(&self.len.to_le_bytes());
        out[64..72].copy_from_slice(&self.body_sum.to_le_bytes());
        let sum = xxh3_64(&out[..72]);
        out[72..80].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads a header.
    ///
    /// # Errors
    /// If it is not a header, is damaged, of another version, too long or of an unknown kind.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, WireError> {
        if bytes[0..4] != MAGIC {
            return Err(WireError::Magic([bytes[0], bytes[1], bytes[2], bytes[3]]));
        }
        if xxh3_64(&bytes[..72]) != u64_at(bytes, 72) {
            return Err(WireError::HeaderChecksum);
        }
        let version = u16_at(bytes, 4);
        if version != VERSION {
            return Err(WireError::Version { got: version });
        }
        let len = u32_at(bytes, 56);
        if len > MAX_BODY_LEN {
            return Err(WireError::TooLong { len });
        }
        if bytes[60..64] != [0; 4] {
            return Err(WireError::Reserved);
        }
        let kind = Kind::from_number(u16_at(bytes, 6))?;
        let vm = u128_at(bytes, 8);
        Ok(Self {
            kind,
            vm: VmId(vm),
            term: Term(u64_at(bytes, 24)),
            session: Session(u64_at(bytes, 32)),
            seq: u64_at(bytes, 40),
            epoch: Epoch(u64_at(bytes, 48)),
            len,
            body_sum: u64_at(bytes, 64),
        })
    }

    /// Checks the body that came behind this header.
    ///
    /// # Errors
    /// If it is not the body that was sent.
    pub fn check_body(&self, body: &[u8]) -> Result<(), WireError> {
        if body.len() != self.len as usize || xxh3_64(body) != self.body_sum {
            return Err(WireError::BodyChecksum { kind: self.kind });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Header {
        Header {
            kind: Kind::Commit,
            vm: VmId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
            term: Term(7),
            session: Session(3),
            seq: 41,
            epoch: Epoch(99),
            len: 5,
            body_sum: xxh3_64(b"hello"),
        }
    }

    #[test]
    fn golden_bytes_of_version_10() {
        let bytes = sample().encode();
        let head = [0x55, 0x44, 0x59, 0x46, 10, 0, 5, 0, 0x10, 0x0f, 0x0e, 0x0d];
        assert_eq!(bytes[..12], head);
        assert_eq!(bytes[24..32], [7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[56..64], [5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Header::decode(&bytes), Ok(sample()));
    }

    #[test]
    fn every_single_bit_flip_of_a_header_is_refused() {
        let bytes = sample().encode();
        for bit in 0..HEADER_LEN * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn an_unknown_version_is_named_even_with_a_right_checksum() {
        let mut bytes = sample().encode();
        bytes[4] = 11;
        let sum = xxh3_64(&bytes[..72]);
        bytes[72..80].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(Header::decode(&bytes), Err(WireError::Version { got: 11 }));
    }

    #[test]
    fn a_damaged_or_shortened_body_is_refused() {
        let header = sample();
        assert_eq!(header.check_body(b"hello"), Ok(()));
        assert!(header.check_body(b"hellp").is_err());
        assert!(header.check_body(b"hell").is_err());
    }
}
