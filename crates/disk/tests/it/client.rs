//! A client of our own that may have many requests in flight and may lie. Written from the protocol's document, not
//! with the server's code: both would make the same mistakes.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const TRIM: u16 = 4;
pub const WRITE_ZEROES: u16 = 6;

/// A connection after the oldest negotiation there is: simple replies only.
pub struct Client {
    pub stream: UnixStream,
    pub size: u64,
}

impl Client {
    pub fn connect(socket: &Path) -> Self {
        let mut stream = UnixStream::connect(socket).unwrap();
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        // Fixed newstyle and no zeroes; then EXPORT_NAME.
        stream.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x03vda").unwrap();
        let mut answer = [0; 10];
        stream.read_exact(&mut answer).unwrap();
        let size = u64::from_be_bytes(answer[..8].try_into().unwrap());
        Self { stream, size }
    }

    /// Sends a request without waiting for its reply.
    pub fn send(&mut self, kind: u16, cookie: u64, offset: u64, len: u32, payload: &[u8]) {
        self.stream.write_all(&header(kind, cookie, offset, len)).unwrap();
        self.stream.write_all(payload).unwrap();
    }

    /// The next reply without data: its error and cookie.
    pub fn reply(&mut self) -> (u32, u64) {
        let mut bytes = [0; 16];
        self.stream.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes[..4], [0x67, 0x44, 0x66, 0x98]);
        let error = u32::from_be_bytes(bytes[4..8].try_into().unwrap());
        (error, u64::from_be_bytes(bytes[8..].try_into().unwrap()))
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> u32 {
        self.send(WRITE, 1, offset, u32::try_from(bytes.len()).unwrap(), bytes);
        self.reply().0
    }

    pub fn read(&mut self, offset: u64, len: usize) -> Vec<u8> {
        self.send(READ, 1, offset, u32::try_from(len).unwrap(), &[]);
        assert_eq!(self.reply(), (0, 1));
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }
}

pub fn header(kind: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut out = vec![0x25, 0x60, 0x95, 0x13, 0, 0];
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&cookie.to_be_bytes());
    out.extend_from_slice(&offset.to_be_bytes());
    out.extend_from_slice(&len.to_be_bytes());
    out
}
