//! Owns what a host asks a witness, and the answers: each in an [envelope](crate::envelope) of the family `UDYW`.

use crate::envelope::{Message, cut};
use crate::ids::{HostName, Term, VmName};
use crate::ownership::{Claim, TermRecord};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Version that this build speaks. It stays when a question is added behind the others: a witness that does not know it
/// ends the connection, and goes on to grant terms to hosts that are newer than it is.
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
        cut(text, MAX_TEXT)
    }
}

impl Message for Question {
    const MAGIC: [u8; 4] = MAGIC;
    const VERSION: u16 = VERSION;
    const KIND: u16 = 1;
    const MAX_BODY_LEN: u32 = MAX_BODY_LEN;
}

impl Message for Answer {
    const MAGIC: [u8; 4] = MAGIC;
    const VERSION: u16 = VERSION;
    const KIND: u16 = 2;
    const MAX_BODY_LEN: u32 = MAX_BODY_LEN;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::tests::decode;
    use crate::envelope::{EnvelopeError, HEADER_LEN, encode};
    use alloc::string::ToString;
    use alloc::vec;

    fn vm(name: &str) -> VmName {
        VmName::new(name).unwrap()
    }

    fn claim() -> Claim {
        Claim { vm: vm("web"), term: Term(7), host: HostName::new("alpha").unwrap(), nonce: 0x0102_0304 }
    }

    #[test]
    fn the_bytes_are_a_contract() {
        let bytes = encode(&Question::Claim(claim()));
        assert_eq!(&bytes[..16], b"UDYW\x01\x00\x01\x00\x10\x00\x00\x00\x00\x00\x00\x00");
        assert_eq!(&bytes[HEADER_LEN..], b"\x00\x03web\x07\x05alpha\x84\x86\x88\x08");
        assert_eq!(decode::<Answer>(&bytes), Err(EnvelopeError::Kind(1)));
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
}
