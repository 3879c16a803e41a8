//! Owns the form of replies ("Transmission", simple and structured replies).

use super::wire::{Error, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, allocation, chunk};
use crate::image::Extent;
use std::io::{self, IoSlice, Write};
use std::ops::Range;

/// The longest explanation that goes with an error.
const MAX_MESSAGE: usize = 1024;

/// One whole reply. Bytes that were read for it stay in the worker's buffer and are named by their place there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Reply {
    parts: Vec<Part>,
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Bytes(Vec<u8>),
    Read(Range<usize>),
}

impl Reply {
    /// Done, or not; without data.
    pub(super) fn simple(cookie: u64, error: Option<Error>) -> Self {
        let mut bytes = SIMPLE_REPLY_MAGIC.to_be_bytes().to_vec();
        bytes.extend_from_slice(&error.map_or(0, Error::code).to_be_bytes());
        bytes.extend_from_slice(&cookie.to_be_bytes());
        Self { parts: vec![Part::Bytes(bytes)] }
    }

    /// The first `len` bytes of the buffer.
    pub(super) fn simple_data(cookie: u64, len: usize) -> Self {
        let mut reply = Self::simple(cookie, None);
        reply.parts.push(Part::Read(0..len));
        reply
    }

    /// An error where the client expects chunks, with an explanation.
    pub(super) fn structured_error(cookie: u64, error: Error, message: &str) -> Self {
        let message = &message[..message.floor_char_boundary(MAX_MESSAGE)];
        let mut body = error.code().to_be_bytes().to_vec();
        body.extend_from_slice(&u16::try_from(message.len()).expect("cut").to_be_bytes());
        body.extend_from_slice(message.as_bytes());
        let mut reply = Self::default();
        reply.chunk(cookie, true, chunk::ERROR, &body, 0);
        reply
    }

    /// Data and holes from `offset` on, where the buffer begins.
    pub(super) fn extents(cookie: u64, offset: u64, extents: &[Extent]) -> Self {
        let mut reply = Self::default();
        for (place, extent) in extents.iter().enumerate() {
            let done = place + 1 == extents.len();
            let mut body = extent.offset.to_be_bytes().to_vec();
            if extent.hole {
                body.extend_from_slice(&length(extent).to_be_bytes());
                reply.chunk(cookie, done, chunk::OFFSET_HOLE, &body, 0);
            } else {
                reply.chunk(cookie, done, chunk::OFFSET_DATA, &body, length(extent));
                let start = usize::try_from(extent.offset - offset).expect("inside the buffer");
                reply.parts.push(Part::Read(start..start + length(extent) as usize));
            }
        }
        if extents.is_empty() {
            // Nothing was asked for, but the reply must end all the same.
            reply.chunk(cookie, true, chunk::NONE, &[], 0);
        }
        reply
    }

    /// The allocation of extents.
    pub(super) fn block_status(cookie: u64, extents: &[Extent]) -> Self {
        let mut body = allocation::ID.to_be_bytes().to_vec();
        for extent in extents {
            let flags = if extent.hole { allocation::HOLE | allocation::ZERO } else { 0 };
            body.extend_from_slice(&length(extent).to_be_bytes());
            body.extend_from_slice(&flags.to_be_bytes());
        }
        let mut reply = Self::default();
        reply.chunk(cookie, true, chunk::BLOCK_STATUS, &body, 0);
        reply
    }

    /// A chunk of `body` and of `more` bytes that the caller adds.
    fn chunk(&mut self, cookie: u64, done: bool, kind: u16, body: &[u8], more: u32) {
        let len = u32::try_from(body.len()).expect("bodies are short") + more;
        let mut bytes = STRUCTURED_REPLY_MAGIC.to_be_bytes().to_vec();
        bytes.extend_from_slice(&if done { chunk::DONE } else { 0 }.to_be_bytes());
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&cookie.to_be_bytes());
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend_from_slice(body);
        self.parts.push(Part::Bytes(bytes));
    }

    /// Writes all of it.
    pub(super) fn send(&self, buffer: &[u8], mut to: impl Write) -> io::Result<()> {
        let slices = self.parts.iter().map(|part| match part {
            Part::Bytes(bytes) => IoSlice::new(bytes),
            Part::Read(range) => IoSlice::new(&buffer[range.clone()]),
        });
        let mut slices: Vec<IoSlice<'_>> = slices.collect();
        let mut rest = slices.as_mut_slice();
        // Steps over slices without bytes.
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            match to.write_vectored(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => IoSlice::advance_slices(&mut rest, n),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn length(extent: &Extent) -> u32 {
    u32::try_from(extent.len).expect("an extent inside a request, whose length has 4 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(reply: &Reply, buffer: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        reply.send(buffer, &mut out).unwrap();
        out
    }

    const COOKIE: u64 = u64::from_be_bytes(*b"COOKIE!!");

    #[test]
    fn golden_bytes_of_simple_replies() {
        assert_eq!(bytes(&Reply::simple(COOKIE, None), b""), b"\x67\x44\x66\x98\0\0\0\0COOKIE!!");
        let refused = Reply::simple(COOKIE, Some(Error::NoSpace));
        assert_eq!(bytes(&refused, b""), b"\x67\x44\x66\x98\0\0\0\x1cCOOKIE!!");
        let data = Reply::simple_data(COOKIE, 3);
        assert_eq!(bytes(&data, b"abcd"), b"\x67\x44\x66\x98\0\0\0\0COOKIE!!abc");
    }

    #[test]
    fn golden_bytes_of_chunks() {
        let extents = [
            Extent { offset: 16, len: 2, hole: false },
            Extent { offset: 18, len: 5, hole: true },
            Extent { offset: 23, len: 1, hole: false },
        ];
        let expected = [
            &b"\x66\x8e\x33\xef\0\0\0\x01COOKIE!!\0\0\0\x0a\0\0\0\0\0\0\0\x10ab"[..],
            b"\x66\x8e\x33\xef\0\0\0\x02COOKIE!!\0\0\0\x0c\0\0\0\0\0\0\0\x12\0\0\0\x05",
            b"\x66\x8e\x33\xef\0\x01\0\x01COOKIE!!\0\0\0\x09\0\0\0\0\0\0\0\x17h",
        ];
        assert_eq!(bytes(&Reply::extents(COOKIE, 16, &extents), b"abcdefgh"), expected.concat());
        let nothing = Reply::extents(COOKIE, 16, &[]);
        assert_eq!(bytes(&nothing, b""), b"\x66\x8e\x33\xef\0\x01\0\0COOKIE!!\0\0\0\0");
        let expected = [
            &b"\x66\x8e\x33\xef\0\x01\0\x05COOKIE!!\0\0\0\x14\0\0\0\x01"[..],
            b"\0\0\0\x02\0\0\0\0\0\0\0\x05\0\0\0\x03",
        ];
        assert_eq!(bytes(&Reply::block_status(COOKIE, &extents[..2]), b""), expected.concat());
        let error = Reply::structured_error(COOKIE, Error::Io, "bad");
        assert_eq!(
            bytes(&error, b""),
            b"\x66\x8e\x33\xef\0\x01\x80\x01COOKIE!!\0\0\0\x09\0\0\0\x05\0\x03bad"
        );
    }

    #[test]
    fn a_long_explanation_is_cut_between_characters() {
        let error = Reply::structured_error(COOKIE, Error::Io, &"ü".repeat(5000));
        assert_eq!(bytes(&error, b"").len(), 20 + 6 + MAX_MESSAGE);
        let error = Reply::structured_error(COOKIE, Error::Io, &format!("x{}", "ü".repeat(5000)));
        assert_eq!(bytes(&error, b"").len(), 20 + 6 + MAX_MESSAGE - 1);
    }

    /// Takes one byte at a time.
    struct Slow(Vec<u8>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.extend(bytes.first());
            Ok(bytes.len().min(1))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_socket_that_takes_little_gets_all() {
        let reply = Reply::simple_data(COOKIE, 3);
        let mut slow = Slow(Vec::new());
        reply.send(b"abc", &mut slow).unwrap();
        assert_eq!(slow.0, bytes(&reply, b"abc"));
        let empty = Reply::simple_data(COOKIE, 0);
        assert_eq!(bytes(&empty, b"").len(), 16);
    }
}
