//! Owns the form of replies ("Transmission", simple and structured replies), and those that wait to be sent.

use super::wire::{Error, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, allocation, chunk};
use crate::image::Extent;
use std::io::{self, Write};

/// The longest explanation that goes with an error.
const MAX_MESSAGE: usize = 1024;
/// How much memory is kept when all was sent.
const KEPT: usize = 2 << 20;

/// Replies in the order in which they are sent, in one piece of memory that is used again and again.
#[derive(Debug, Default)]
pub(super) struct Replies {
    /// Never shrinks in use, so that bytes are not set to zero before each read.
    bytes: Vec<u8>,
    used: usize,
}

impl Replies {
    /// Bytes of whole replies.
    pub(super) fn len(&self) -> usize {
        self.used
    }

    /// Done, or not; without data.
    pub(super) fn simple(&mut self, cookie: u64, error: Option<Error>) {
        self.put(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        self.put(&error.map_or(0, Error::code).to_be_bytes());
        self.put(&cookie.to_be_bytes());
    }

    /// `len` bytes of data, which `fill` gets from the medium. If it does not, there is no reply.
    pub(super) fn data<E>(
        &mut self,
        cookie: u64,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<bool, E>,
    ) -> Result<bool, E> {
        let before = self.used;
        self.simple(cookie, None);
        self.filled(before, len, fill)
    }

    /// What comes before the data of one chunk that the caller sends.
    pub(super) fn data_chunk_header(&mut self, cookie: u64, offset: u64, len: usize) {
        self.chunk(cookie, chunk::OFFSET_DATA, &offset.to_be_bytes(), len);
    }

    /// The same as one chunk, for a client that expects chunks.
    pub(super) fn data_chunk<E>(
        &mut self,
        cookie: u64,
        offset: u64,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<bool, E>,
    ) -> Result<bool, E> {
        let before = self.used;
        if len == 0 {
            // Nothing was asked for, but the reply must end all the same.
            self.chunk(cookie, chunk::NONE, &[], 0);
        } else {
            self.data_chunk_header(cookie, offset, len);
        }
        self.filled(before, len, fill)
    }

    /// An error where the client expects chunks, with an explanation.
    pub(super) fn structured_error(&mut self, cookie: u64, error: Error, message: &str) {
        let message = &message[..message.floor_char_boundary(MAX_MESSAGE)];
        let mut body = error.code().to_be_bytes().to_vec();
        body.extend_from_slice(&u16::try_from(message.len()).expect("cut").to_be_bytes());
        body.extend_from_slice(message.as_bytes());
        self.chunk(cookie, chunk::ERROR, &body, 0);
    }

    /// The allocation of extents.
    pub(super) fn block_status(&mut self, cookie: u64, extents: &[Extent]) {
        let mut body = allocation::ID.to_be_bytes().to_vec();
        for extent in extents {
            let flags = if extent.hole { allocation::HOLE | allocation::ZERO } else { 0 };
            let len = u32::try_from(extent.len).expect("inside a request, whose length has 4 bytes");
            body.extend_from_slice(&len.to_be_bytes());
            body.extend_from_slice(&flags.to_be_bytes());
        }
        self.chunk(cookie, chunk::BLOCK_STATUS, &body, 0);
    }

    /// The only chunk of a reply: `body`, and `more` bytes that the caller adds.
    fn chunk(&mut self, cookie: u64, kind: u16, body: &[u8], more: usize) {
        let len = u32::try_from(body.len() + more).expect("what one request may ask for");
        self.put(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
        self.put(&chunk::DONE.to_be_bytes());
        self.put(&kind.to_be_bytes());
        self.put(&cookie.to_be_bytes());
        self.put(&len.to_be_bytes());
        self.put(body);
    }

    fn put(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
        self.used += bytes.len();
    }

    /// The memory behind the replies.
    fn room(&mut self, len: usize) -> &mut [u8] {
        let end = self.used + len;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        &mut self.bytes[self.used..end]
    }

    fn filled<E>(
        &mut self,
        before: usize,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<bool, E>,
    ) -> Result<bool, E> {
        let outcome = fill(self.room(len));
        self.used = if let Ok(true) = outcome { self.used + len } else { before };
        outcome
    }

    /// Writes them all; then there are none.
    pub(super) fn send(&mut self, mut to: impl Write) -> io::Result<()> {
        let outcome = to.write_all(&self.bytes[..self.used]);
        self.used = 0;
        if self.bytes.len() > KEPT {
            self.bytes = Vec::new();
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(make: impl FnOnce(&mut Replies)) -> Vec<u8> {
        let mut replies = Replies::default();
        make(&mut replies);
        let mut out = Vec::new();
        replies.send(&mut out).unwrap();
        assert_eq!(replies.len(), 0);
        out
    }

    fn fill(bytes: &mut [u8]) -> Result<bool, ()> {
        bytes.copy_from_slice(&b"abcd"[..bytes.len()]);
        Ok(true)
    }

    const COOKIE: u64 = u64::from_be_bytes(*b"COOKIE!!");

    #[test]
    fn golden_bytes_of_simple_replies() {
        assert_eq!(bytes(|r| r.simple(COOKIE, None)), b"\x67\x44\x66\x98\0\0\0\0COOKIE!!");
        let refused = bytes(|r| r.simple(COOKIE, Some(Error::NoSpace)));
        assert_eq!(refused, b"\x67\x44\x66\x98\0\0\0\x1cCOOKIE!!");
        let data = bytes(|r| assert_eq!(r.data(COOKIE, 3, fill), Ok(true)));
        assert_eq!(data, b"\x67\x44\x66\x98\0\0\0\0COOKIE!!abc");
    }

    #[test]
    fn golden_bytes_of_chunks() {
        let data = bytes(|r| assert_eq!(r.data_chunk(COOKIE, 16, 2, fill), Ok(true)));
        assert_eq!(data, b"\x66\x8e\x33\xef\0\x01\0\x01COOKIE!!\0\0\0\x0a\0\0\0\0\0\0\0\x10ab");
        let nothing = bytes(|r| assert_eq!(r.data_chunk(COOKIE, 16, 0, fill), Ok(true)));
        assert_eq!(nothing, b"\x66\x8e\x33\xef\0\x01\0\0COOKIE!!\0\0\0\0");
        let extents = [Extent { offset: 16, len: 2, hole: false }, Extent { offset: 18, len: 5, hole: true }];
        let expected = [
            &b"\x66\x8e\x33\xef\0\x01\0\x05COOKIE!!\0\0\0\x14\0\0\0\x01"[..],
            b"\0\0\0\x02\0\0\0\0\0\0\0\x05\0\0\0\x03",
        ];
        assert_eq!(bytes(|r| r.block_status(COOKIE, &extents)), expected.concat());
        let error = bytes(|r| r.structured_error(COOKIE, Error::Io, "bad"));
        assert_eq!(error, b"\x66\x8e\x33\xef\0\x01\x80\x01COOKIE!!\0\0\0\x09\0\0\0\x05\0\x03bad");
    }

    #[test]
    fn a_long_explanation_is_cut_between_characters() {
        let len = |message: &str| bytes(|r| r.structured_error(COOKIE, Error::Io, message)).len();
        assert_eq!(len(&"ü".repeat(5000)), 20 + 6 + MAX_MESSAGE);
        assert_eq!(len(&format!("x{}", "ü".repeat(5000))), 20 + 6 + MAX_MESSAGE - 1);
    }

    #[test]
    fn data_that_did_not_come_leaves_the_other_replies_alone() {
        let out = bytes(|r| {
            r.simple(COOKIE, None);
            assert_eq!(r.data(1, 3, |_| Ok::<_, ()>(false)), Ok(false));
            assert_eq!(r.data_chunk(1, 0, 3, |_| Err("bad")), Err("bad"));
            assert_eq!(r.data(COOKIE, 2, fill), Ok(true));
        });
        assert_eq!(out, b"\x67\x44\x66\x98\0\0\0\0COOKIE!!\x67\x44\x66\x98\0\0\0\0COOKIE!!ab");
    }
}
