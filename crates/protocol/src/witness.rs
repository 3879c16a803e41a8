//! Owns the bytes between a host and a witness: one question, one answer, each in a frame that checks itself.
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 4 | magic `UDYW` |
//! | 4 | 2 | version |
//! | 6 | 2 | kind: 1 question, 2 answer |
//! | 8 | 4 | body length in bytes |
//! | 12 | 4 | reserved, 0 |
//! | 16 | 8 | xxh3-64 of the body |
//! | 24 | 8 | xxh3-64 of bytes 0..24 |
//! | 32 | | body: [`Question`] or [`Answer`] (postcard) |
//!
//! Little endian. A reader checks the magic, the header's checksum, version, kind and length before it reads the body,
//! and the body's checksum before it decodes. A length is bounded before anything is allocated.

use crate::ids::{HostName, Term, VmName};
use crate::le::{u16_at, u32_at, u64_at};
use crate::ownership::{Claim, TermRecord};
use alloc::string::String;
use alloc::vec::Vec;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// Length of a frame's header in bytes.
pub const HEADER_LEN: usize = 32;
/// Version that this build speaks.
pub const VERSION: u16 = 1;
/// Longest body in bytes.
pub const MAX_BODY_LEN: u32 = 16 * 1024;
/// Most VMs in one answer: with names of the longest kind they fit into a body.
pub const MAX_VMS: usize = 256;
/// Longest text in an answer, in bytes; [`Answer::text`] cuts it.
pub const MAX_TEXT: usize = 1024;

const MAGIC: [u8; 4] = *b"UDYW";

/// What a host asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// For a term.
    Claim(Claim),
    /// For the newest term of a VM.
    Look(VmName),
    /// That a VM be noted as stopped.
    Stopped {
        /// The VM.
        vm: VmName,
        /// The term in which it was stopped.
        term: Term,
        /// The owner, who stopped it.
        host: HostName,
    },
    /// Which witness it is.
    Identity,
    /// For the VMs that were ever owned, in order, behind this one.
    Vms {
        /// The last one of the answer before.
        after: Option<VmName>,
    },
    /// That a host's token be kept, in place of its last one: a write that says nothing of any VM.
    LeaveToken {
        /// The host that asks.
        host: HostName,
        /// What others shall find.
        token: u64,
    },
    /// For the token that a host left last.
    Token {
        /// The host.
        host: HostName,
    },
}

/// What a witness answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To a claim: the record that stands for the term.
    Record(TermRecord),
    /// To a look.
    View {
        /// Which witness it is.
        identity: String,
        /// The newest record, and whether its owner stopped the VM.
        standing: Option<(TermRecord, bool)>,
    },
    /// It is noted that the VM is stopped.
    Noted,
    /// Which witness it is.
    Identity(String),
    /// VMs, in order.
    Vms {
        /// At most [`MAX_VMS`].
        vms: Vec<VmName>,
        /// There are more.
        more: bool,
    },
    /// Later terms exist.
    Stale(TermRecord),
    /// The term before does not exist.
    Gap {
        /// The newest that does, 0 if none.
        newest: Term,
    },
    /// The term is another's.
    NotOwner {
        /// Whose it is.
        owner: HostName,
    },
    /// A record of the witness cannot be read.
    Corrupt {
        /// Which.
        record: String,
        /// What is wrong with it.
        why: String,
    },
    /// The witness cannot say now.
    Failed(String),
    /// The host may not ask that.
    Refused(String),
    /// The token, if the host left one.
    Token(Option<u64>),
}

impl Answer {
    /// Text that fits into an answer.
    #[must_use]
    pub fn text(text: &str) -> String {
        let end = (0..=MAX_TEXT.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
        text[..end.unwrap_or(0)].into()
    }
}

/// Why bytes were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WitnessError {
    /// Not a frame of this protocol.
    #[error("these are not a witness's bytes (they begin with {0:02x?}); is the port right?")]
    Magic([u8; 4]),
    /// Damaged on the way.
    #[error("the header is damaged (checksum mismatch)")]
    HeaderChecksum,
    /// Another version.
    #[error(
        "it speaks version {0} of the witness's protocol, this build speaks {VERSION}; run the same version"
    )]
    Version(u16),
    /// A question where an answer was due, or the other way round.
    #[error("kind {0} does not belong here")]
    Kind(u16),
    /// Reserved bits are set.
    #[error("reserved bits are set")]
    Reserved,
    /// Too long to be true.
    #[error("a body of {0} bytes is longer than the limit of {MAX_BODY_LEN}")]
    TooLong(u32),
    /// Damaged on the way.
    #[error("the body is damaged (checksum mismatch)")]
    BodyChecksum,
    /// Not what the kind says.
    #[error("the body cannot be read")]
    Malformed,
}

/// What may be in a frame.
pub trait Message: Serialize + DeserializeOwned {
    /// Its number in the header.
    const KIND: u16;
}

impl Message for Question {
    const KIND: u16 = 1;
}

impl Message for Answer {
    const KIND: u16 = 2;
}

/// The bytes of a message.
///
/// # Panics
/// If the body is longer than [`MAX_BODY_LEN`]: texts are cut by [`Answer::text`], lists by [`MAX_VMS`].
#[must_use]
pub fn encode<M: Message>(message: &M) -> Vec<u8> {
    let body = postcard::to_allocvec(message).expect("plain data");
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    assert!(len <= MAX_BODY_LEN, "an answer is cut to size");
    let mut bytes = Vec::with_capacity(HEADER_LEN + body.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
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
    /// Length of the body in bytes, at most [`MAX_BODY_LEN`].
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
    pub fn body<M: Message>(self, body: &[u8]) -> Result<M, WitnessError> {
        if body.len() != self.len() || xxh3_64(body) != self.sum {
            return Err(WitnessError::BodyChecksum);
        }
        let (message, rest) = postcard::take_from_bytes(body).map_err(|_| WitnessError::Malformed)?;
        if rest.is_empty() { Ok(message) } else { Err(WitnessError::Malformed) }
    }
}

/// Checks the header of a message of this kind.
///
/// # Errors
/// If it is not one, damaged, of another version or kind, or announces too much.
pub fn expect<M: Message>(head: &[u8; HEADER_LEN]) -> Result<Expected, WitnessError> {
    let magic: [u8; 4] = core::array::from_fn(|i| head[i]);
    if magic != MAGIC {
        return Err(WitnessError::Magic(magic));
    }
    if xxh3_64(&head[..24]) != u64_at(head, 24) {
        return Err(WitnessError::HeaderChecksum);
    }
    if u16_at(head, 4) != VERSION {
        return Err(WitnessError::Version(u16_at(head, 4)));
    }
    if u16_at(head, 6) != M::KIND {
        return Err(WitnessError::Kind(u16_at(head, 6)));
    }
    if u32_at(head, 12) != 0 {
        return Err(WitnessError::Reserved);
    }
    let len = u32_at(head, 8);
    if len > MAX_BODY_LEN {
        return Err(WitnessError::TooLong(len));
    }
    Ok(Expected { len, sum: u64_at(head, 16) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;

    fn vm(name: &str) -> VmName {
        VmName::new(name).unwrap()
    }

    fn claim() -> Claim {
        Claim { vm: vm("web"), term: Term(7), host: HostName::new("alpha").unwrap(), nonce: 0x0102_0304 }
    }

    fn decode<M: Message>(bytes: &[u8]) -> Result<M, WitnessError> {
        let head: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(WitnessError::Malformed)?;
        expect::<M>(head)?.body(&bytes[HEADER_LEN..])
    }

    #[test]
    fn the_bytes_are_a_contract() {
        let bytes = encode(&Question::Claim(claim()));
        assert_eq!(&bytes[..16], b"UDYW\x01\x00\x01\x00\x10\x00\x00\x00\x00\x00\x00\x00");
        assert_eq!(&bytes[HEADER_LEN..], b"\x00\x03web\x07\x05alpha\x84\x86\x88\x08");
        let sum = u64::from_le_bytes(*bytes[24..].first_chunk().unwrap());
        assert_eq!(sum, 0x85c6_7d88_e722_1d87);
    }

    #[test]
    fn every_message_comes_back() {
        let record = TermRecord { claim: claim() };
        let (why, vms) = ("w".to_string(), vec![vm("a"), vm("b")]);
        for question in [
            Question::Claim(claim()),
            Question::Look(vm("web")),
            Question::Stopped { vm: vm("web"), term: Term(1), host: claim().host },
            Question::Identity,
            Question::Vms { after: Some(vm("x")) },
            Question::LeaveToken { host: claim().host, token: 7 },
            Question::Token { host: claim().host },
        ] {
            assert_eq!(decode(&encode(&question)), Ok(question));
        }
        for answer in [
            Answer::Record(record.clone()),
            Answer::View { identity: why.clone(), standing: Some((record.clone(), true)) },
            Answer::View { identity: why.clone(), standing: None },
            Answer::Noted,
            Answer::Identity(why.clone()),
            Answer::Vms { vms, more: true },
            Answer::Stale(record),
            Answer::Gap { newest: Term(0) },
            Answer::NotOwner { owner: claim().host },
            Answer::Corrupt { record: why.clone(), why: why.clone() },
            Answer::Failed(why.clone()),
            Answer::Refused(why),
            Answer::Token(Some(7)),
        ] {
            assert_eq!(decode(&encode(&answer)), Ok(answer));
        }
    }

    #[test]
    fn the_longest_answers_fit() {
        let name = vm(&"n".repeat(crate::ids::MAX_NAME_LEN));
        let text = Answer::text(&"é".repeat(MAX_TEXT));
        assert_eq!(text.len(), MAX_TEXT);
        assert_eq!(Answer::text(&alloc::format!("x{text}")).len(), MAX_TEXT - 1);
        let _ = encode(&Answer::Vms { vms: vec![name; MAX_VMS], more: true });
        let _ = encode(&Answer::Corrupt { record: text.clone(), why: text });
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_refused() {
        let bytes = encode(&Question::Claim(claim()));
        for length in 0..bytes.len() {
            assert!(decode::<Question>(&bytes[..length]).is_err(), "cut at {length}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode::<Question>(&bad).is_err(), "bit {bit}");
        }
        assert_eq!(decode::<Answer>(&bytes), Err(WitnessError::Kind(1)));
    }

    fn sealed(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = encode(&Question::Identity);
        change(&mut bytes);
        let sum = xxh3_64(&bytes[..24]);
        bytes[24..32].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    #[test]
    fn a_header_with_a_right_checksum_is_still_not_believed() {
        let refused = |bytes: &[u8]| decode::<Question>(bytes).unwrap_err();
        assert_eq!(refused(&sealed(|b| b[4] = 9)), WitnessError::Version(9));
        assert_eq!(refused(&sealed(|b| b[12] = 1)), WitnessError::Reserved);
        assert_eq!(refused(&sealed(|b| b[11] = 1)), WitnessError::TooLong(1 << 24 | 1));
        assert_eq!(refused(b"SSH-2.0-OpenSSH_9.2 and thirty-two bytes"), WitnessError::Magic(*b"SSH-"));
        let trailing = sealed(|b| {
            b.push(0);
            b[8] = 2;
            let sum = xxh3_64(&b[HEADER_LEN..]);
            b[16..24].copy_from_slice(&sum.to_le_bytes());
        });
        assert_eq!(refused(&trailing), WitnessError::Malformed);
    }
}
