//! Owns what `undying doctor` asks another host before it is needed, and the answers: each in an
//! [envelope](crate::envelope) of the family `UDYD`.
//!
//! It is not a part of the replication protocol, and has a version of its own: two hosts that cannot replicate to one
//! another, since one is of another version, can still find out that this is why. What hosts know of themselves travels as
//! JSON, whose fields may come and go.
//!
//! | question | answer |
//! |---|---|
//! | [`Question::Facts`] | [`Answer::Facts`] |
//! | [`Question::Clock`] | [`Answer::Clock`] |
//! | [`Question::Token`] | [`Answer::Token`] |
//! | [`Question::Take`] | [`Answer::Ready`]; the asker's chunks; [`Answer::Took`] |
//! | [`Question::Give`] | [`Answer::Ready`]; the other host's chunks |
//!
//! Any of them may be answered by [`Answer::Refused`]. A chunk is a byte 1 and [`CHUNK`] bytes that mean nothing; a byte 0
//! is the end of them.

use crate::envelope::Message;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Longest body in bytes.
pub const MAX_BODY_LEN: u32 = 256 << 10;
/// Longest JSON in a message, in bytes.
pub const MAX_JSON: usize = 192 << 10;
/// Longest text in an answer, in bytes.
pub const MAX_TEXT: usize = 1024;
/// Bytes of a chunk, without the one before them.
pub const CHUNK: usize = 64 << 10;
/// A byte before a chunk.
pub const MORE: u8 = 1;
/// The byte behind the last one.
pub const END: u8 = 0;
/// Most bytes of one burst.
pub const MAX_BURST: u64 = 128 << 20;
/// A burst of no more bytes disturbs nobody, and is never refused.
pub const SMALL_BURST: u64 = 256 << 10;
/// Longest time of one burst, in microseconds.
pub const MAX_BURST_US: u64 = 3_000_000;

/// So many chunks, and no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Burst {
    /// Bytes at the most.
    pub bytes: u64,
    /// Microseconds at the most.
    pub within_us: u64,
    /// Also if VMs are protected over the link now.
    pub anyway: bool,
}

impl Burst {
    /// Within what a host lets itself be asked for.
    #[must_use]
    pub fn bounded(self) -> Self {
        Self { bytes: self.bytes.min(MAX_BURST), within_us: self.within_us.min(MAX_BURST_US), ..self }
    }
}

/// What a host asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// For what the other host knows of itself, and of whether it could run this VM (JSON; none: empty).
    Facts(Vec<u8>),
    /// For the time of day.
    Clock,
    /// That the other host read this host's token at its arbiter, and leave one of its own there.
    Token {
        /// What it shall leave.
        leave: u64,
    },
    /// That it take a burst.
    Take(Burst),
    /// That it give one.
    Give(Burst),
}

/// What a host answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// What it knows of itself (JSON).
    Facts(Vec<u8>),
    /// The time of day, microseconds since 1970.
    Clock {
        /// When the question came.
        came_us: u64,
        /// When this answer went.
        goes_us: u64,
    },
    /// What became of the tokens; errors are texts.
    Token {
        /// The asker's, as it stands at this host's arbiter.
        found: Result<Option<u64>, String>,
        /// Its own was left.
        left: Result<(), String>,
    },
    /// The burst may begin.
    Ready,
    /// It is over.
    Took {
        /// Bytes that came.
        bytes: u64,
        /// From the first to the last, in microseconds.
        us: u64,
    },
    /// Not now, or not to this host.
    Refused(String),
}

impl Message for Question {
    const MAGIC: [u8; 4] = *b"UDYD";
    const VERSION: u16 = 1;
    const KIND: u16 = 1;
    const MAX_BODY_LEN: u32 = MAX_BODY_LEN;
}

impl Message for Answer {
    const MAGIC: [u8; 4] = *b"UDYD";
    const VERSION: u16 = 1;
    const KIND: u16 = 2;
    const MAX_BODY_LEN: u32 = MAX_BODY_LEN;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::tests::decode;
    use crate::envelope::{HEADER_LEN, encode};
    use alloc::string::ToString;
    use alloc::vec;

    const BURST: Burst = Burst { bytes: u64::MAX, within_us: 1 << 40, anyway: true };

    #[test]
    fn the_bytes_are_a_contract() {
        let bytes = encode(&Question::Token { leave: 0x0102_0304 });
        assert_eq!(&bytes[..16], b"UDYD\x01\x00\x01\x00\x05\x00\x00\x00\x00\x00\x00\x00");
        assert_eq!(&bytes[HEADER_LEN..], b"\x02\x84\x86\x88\x08");
        assert_eq!(&encode(&Answer::Clock { came_us: 1, goes_us: 2 })[HEADER_LEN..], b"\x01\x01\x02");
    }

    #[test]
    fn every_message_comes_back() {
        let text = || "why".to_string();
        for question in [
            Question::Facts(vec![1, 2]),
            Question::Clock,
            Question::Token { leave: u64::MAX },
            Question::Take(BURST),
            Question::Give(BURST.bounded()),
        ] {
            assert_eq!(decode(&encode(&question)), Ok(question));
        }
        for answer in [
            Answer::Facts(vec![b'{'; MAX_JSON]),
            Answer::Clock { came_us: u64::MAX, goes_us: 0 },
            Answer::Token { found: Ok(Some(7)), left: Err(text()) },
            Answer::Token { found: Err(text()), left: Ok(()) },
            Answer::Ready,
            Answer::Took { bytes: 1, us: 2 },
            Answer::Refused("x".repeat(MAX_TEXT)),
        ] {
            assert_eq!(decode(&encode(&answer)), Ok(answer));
        }
    }

    #[test]
    fn a_burst_is_bounded_whatever_is_asked_for() {
        assert_eq!(BURST.bounded(), Burst { bytes: MAX_BURST, within_us: MAX_BURST_US, anyway: true });
    }
}
