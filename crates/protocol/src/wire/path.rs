//! Owns what is said about a path and not about the VM: the first frame on it, and its receipts.
//!
//! These frames have no number in the session; what they carry is of the connection they come by.
//!
//! | kind | body |
//! |---|---|
//! | Path | [`PathHello`], postcard: the first frame of a connection that is one of several |
//! | Probe, Receipt | [`Receipt`]: three numbers of 8 bytes, little endian |

use super::message::MessageError;
use crate::le::u64_at;
use crate::time::Micros;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Length of a receipt.
const RECEIPT_LEN: usize = 24;
/// Bytes of a Probe or Receipt frame, header included.
pub const PROBE_LEN: u64 = (super::HEADER_LEN + RECEIPT_LEN) as u64;

/// The first frame of a connection that is one of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathHello {
    /// What only the two hosts of the session know: who says it belongs to the session.
    pub secret: [u8; 16],
    /// Number of the path.
    pub slot: u8,
    /// The session begins here: a Hello follows. Otherwise the path joins it.
    pub first: bool,
    /// The session's shortest time-out; both sides judge paths by it.
    pub timeout: Micros,
}

impl PathHello {
    /// Its body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        super::message::bytes_of(self)
    }

    /// Reads a body.
    ///
    /// # Errors
    /// If it is none.
    pub fn decode(body: &[u8]) -> Result<Self, MessageError> {
        super::message::read(super::Kind::Path, body)
    }
}

/// How far one direction of a session is at its receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Receipt {
    /// All frames of the session before this one came, by whatever path.
    pub received: u64,
    /// All before this one are done with.
    pub consumed: u64,
    /// Bytes of frames and probes that came by this connection.
    pub arrived: u64,
}

impl Receipt {
    /// Its body.
    #[must_use]
    pub fn encode(&self) -> [u8; RECEIPT_LEN] {
        let mut out = [0; RECEIPT_LEN];
        out[..8].copy_from_slice(&self.received.to_le_bytes());
        out[8..16].copy_from_slice(&self.consumed.to_le_bytes());
        out[16..].copy_from_slice(&self.arrived.to_le_bytes());
        out
    }

    /// Reads a body; none if it has another length.
    #[must_use]
    pub fn decode(body: &[u8]) -> Option<Self> {
        let body: &[u8; RECEIPT_LEN] = body.try_into().ok()?;
        Some(Self { received: u64_at(body, 0), consumed: u64_at(body, 8), arrived: u64_at(body, 16) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let receipt = Receipt { received: 3, consumed: 2, arrived: 0x0102 };
        let bytes = receipt.encode();
        assert_eq!((bytes[0], bytes[8], &bytes[16..18]), (3, 2, &[2, 1][..]));
        assert_eq!(Receipt::decode(&bytes), Some(receipt));
        assert_eq!(Receipt::decode(&bytes[1..]), None);
        let hello = PathHello { secret: [7; 16], slot: 1, first: true, timeout: Micros(300_000) };
        let bytes = hello.encode();
        assert_eq!(bytes, [[7; 16].as_slice(), &[1, 1, 0xe0, 0xa7, 0x12]].concat());
        assert_eq!(PathHello::decode(&bytes), Ok(hello));
        assert!(PathHello::decode(&bytes[..20]).is_err());
    }
}
