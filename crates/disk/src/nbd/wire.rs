//! Owns the numbers of the protocol and the headers of fixed size. Pure; any bytes may come.
//!
//! The names are those of `doc/proto.md` without their prefix; sections "Values", "Newstyle negotiation",
//! "Transmission".

/// "NBDMAGIC", with which the server begins.
pub(super) const MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
/// "IHAVEOPT", in the greeting and before each option.
pub(super) const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
pub(super) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub(super) const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// The most bytes that one request may carry or ask for; what clients may assume without asking ("Block size
/// constraints").
pub(super) const MAX_PAYLOAD: u32 = 32 << 20;
/// The longest string of the protocol ("Values", strings).
pub(super) const MAX_STRING: usize = 4096;

/// Of the greeting ("Handshake flags"); the client's answer has the same bits.
pub(super) mod handshake_flag {
    pub(crate) const FIXED_NEWSTYLE: u16 = 1 << 0;
    pub(crate) const NO_ZEROES: u16 = 1 << 1;
}

/// Of an export ("Transmission flags").
pub(super) mod export_flag {
    pub(crate) const HAS_FLAGS: u16 = 1 << 0;
    pub(crate) const READ_ONLY: u16 = 1 << 1;
    pub(crate) const SEND_FLUSH: u16 = 1 << 2;
    pub(crate) const SEND_FUA: u16 = 1 << 3;
    pub(crate) const SEND_TRIM: u16 = 1 << 5;
    pub(crate) const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub(crate) const SEND_DF: u16 = 1 << 7;
    pub(crate) const CAN_MULTI_CONN: u16 = 1 << 8;
}

/// "Option types".
pub(super) mod option {
    pub(crate) const EXPORT_NAME: u32 = 1;
    pub(crate) const ABORT: u32 = 2;
    pub(crate) const LIST: u32 = 3;
    pub(crate) const INFO: u32 = 6;
    pub(crate) const GO: u32 = 7;
    pub(crate) const STRUCTURED_REPLY: u32 = 8;
    pub(crate) const LIST_META_CONTEXT: u32 = 9;
    pub(crate) const SET_META_CONTEXT: u32 = 10;
}

/// "Option reply types".
pub(super) mod answer {
    pub(crate) const ACK: u32 = 1;
    pub(crate) const SERVER: u32 = 2;
    pub(crate) const INFO: u32 = 3;
    pub(crate) const META_CONTEXT: u32 = 4;
    const ERROR: u32 = 1 << 31;
    pub(crate) const ERR_UNSUP: u32 = ERROR + 1;
    pub(crate) const ERR_INVALID: u32 = ERROR + 3;
    pub(crate) const ERR_UNKNOWN: u32 = ERROR + 6;
    pub(crate) const ERR_TOO_BIG: u32 = ERROR + 9;
}

/// Pieces of information in an answer to INFO and GO.
pub(super) mod info {
    pub(crate) const EXPORT: u16 = 0;
    pub(crate) const NAME: u16 = 1;
    pub(crate) const BLOCK_SIZE: u16 = 3;
}

/// "Request types".
pub(super) mod request {
    pub(crate) const READ: u16 = 0;
    pub(crate) const WRITE: u16 = 1;
    pub(crate) const DISC: u16 = 2;
    pub(crate) const FLUSH: u16 = 3;
    pub(crate) const TRIM: u16 = 4;
    pub(crate) const WRITE_ZEROES: u16 = 6;
    pub(crate) const BLOCK_STATUS: u16 = 7;
}

/// "Command flags".
pub(super) mod command_flag {
    pub(crate) const FUA: u16 = 1 << 0;
    pub(crate) const NO_HOLE: u16 = 1 << 1;
    pub(crate) const DF: u16 = 1 << 2;
    pub(crate) const REQ_ONE: u16 = 1 << 3;
}

/// "Structured reply types" and the flag of the last chunk.
pub(super) mod chunk {
    pub(crate) const DONE: u16 = 1 << 0;
    pub(crate) const NONE: u16 = 0;
    pub(crate) const OFFSET_DATA: u16 = 1;
    pub(crate) const BLOCK_STATUS: u16 = 5;
    pub(crate) const ERROR: u16 = (1 << 15) + 1;
}

/// The context `base:allocation` ("Metadata contexts").
pub(super) mod allocation {
    pub(crate) const NAME: &[u8] = b"base:allocation";
    pub(crate) const ID: u32 = 1;
    pub(crate) const HOLE: u32 = 1 << 0;
    pub(crate) const ZERO: u32 = 1 << 1;
}

/// "Error values".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Error {
    NotPermitted = 1,
    Io = 5,
    Invalid = 22,
    NoSpace = 28,
}

impl Error {
    pub(super) fn code(self) -> u32 {
        self as u32
    }
}

/// Bytes of [`OptionHeader`].
pub(super) const OPTION_HEADER_LEN: usize = 16;

/// Before each option of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OptionHeader {
    pub(super) option: u32,
    pub(super) len: u32,
}

impl OptionHeader {
    /// `None` if the client is out of step.
    pub(super) fn parse(bytes: &[u8; OPTION_HEADER_LEN]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let (magic, option, len) = (fields.u64()?, fields.u32()?, fields.u32()?);
        (magic == OPTION_MAGIC).then_some(Self { option, len })
    }
}

/// Appends an answer to an option.
pub(super) fn put_answer(out: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]) {
    out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&u32::try_from(data.len()).expect("our answers are short").to_be_bytes());
    out.extend_from_slice(data);
}

/// Bytes of [`Request`].
pub(super) const REQUEST_LEN: usize = 28;

/// The header of a request, not judged yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) flags: u16,
    pub(super) kind: u16,
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) len: u32,
}

impl Request {
    /// `None` if the client is out of step.
    pub(super) fn parse(bytes: &[u8; REQUEST_LEN]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let magic = fields.u32()?;
        let (flags, kind, cookie) = (fields.u16()?, fields.u16()?, fields.u64()?);
        let (offset, len) = (fields.u64()?, fields.u32()?);
        (magic == REQUEST_MAGIC).then_some(Self { flags, kind, cookie, offset, len })
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut out = REQUEST_MAGIC.to_be_bytes().to_vec();
        out.extend_from_slice(&self.flags.to_be_bytes());
        out.extend_from_slice(&self.kind.to_be_bytes());
        out.extend_from_slice(&self.cookie.to_be_bytes());
        out.extend_from_slice(&self.offset.to_be_bytes());
        out.extend_from_slice(&self.len.to_be_bytes());
        out
    }
}

/// Big-endian fields, taken from the front.
#[derive(Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A string behind its length of 4 bytes.
    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u32()?).ok().filter(|len| *len <= MAX_STRING)?;
        let (string, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(string)
    }

    /// `Some` if nothing is left.
    pub(super) fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_request_is_read_as_it_was_written(
            flags: u16, kind: u16, cookie: u64, offset: u64, len: u32
        ) {
            let request = Request { flags, kind, cookie, offset, len };
            let bytes = request.bytes().try_into().unwrap();
            prop_assert_eq!(Request::parse(&bytes), Some(request));
        }

        #[test]
        fn another_magic_is_no_request(bytes: [u8; REQUEST_LEN]) {
            let is_ours = bytes.starts_with(&REQUEST_MAGIC.to_be_bytes());
            prop_assert_eq!(Request::parse(&bytes).is_some(), is_ours);
        }

        #[test]
        fn another_magic_is_no_option(bytes: [u8; OPTION_HEADER_LEN]) {
            let is_ours = bytes.starts_with(b"IHAVEOPT");
            prop_assert_eq!(OptionHeader::parse(&bytes).is_some(), is_ours);
        }

        #[test]
        fn fields_take_only_what_is_there(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut fields = Fields(&bytes);
            if let Some(string) = fields.string() {
                prop_assert_eq!(4 + string.len() + fields.0.len(), bytes.len());
            }
            while fields.u16().is_some() {}
            prop_assert!(fields.0.len() < 2);
        }
    }

    #[test]
    fn golden_bytes() {
        let bytes = *b"\x25\x60\x95\x13\x00\x01\x00\x01COOKIE!!\0\0\0\0\0\0\x02\0\0\0\x10\0";
        let request = Request {
            flags: command_flag::FUA,
            kind: request::WRITE,
            cookie: u64::from_be_bytes(*b"COOKIE!!"),
            offset: 512,
            len: 4096,
        };
        assert_eq!(Request::parse(&bytes), Some(request));
        let mut out = Vec::new();
        put_answer(&mut out, option::GO, answer::ERR_UNKNOWN, b"x");
        assert_eq!(out, b"\x00\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\x80\0\0\x06\0\0\0\x01x");
    }
}
