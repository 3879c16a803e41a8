//! Owns one socket of a machine: what leaves is kept until the other end takes it, in order and whole.

use crate::world::{WorldError, system};
use net::framing::{self, FrameReader, QEMU_MAX_FRAME};
use rustix::io::Errno;
use rustix::net::SendFlags;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A connected Unix stream socket.
#[derive(Debug)]
pub(super) struct Line {
    /// What it is called when it fails.
    name: String,
    socket: OwnedFd,
    /// What leaves; the first `sent` bytes of it have left.
    kept: Vec<u8>,
    sent: usize,
}

impl Line {
    pub fn new(name: String, socket: OwnedFd) -> Result<Line, WorldError> {
        rustix::io::ioctl_fionbio(&socket, true).map_err(system("make a machine's socket non-blocking"))?;
        Ok(Line { name, socket, kept: Vec::new(), sent: 0 })
    }

    /// Bytes that have not left.
    pub fn waiting(&self) -> usize {
        self.kept.len() - self.sent
    }

    pub fn keep(&mut self, bytes: &[u8]) {
        self.kept.extend_from_slice(bytes);
    }

    /// Takes what has not left.
    pub fn take_kept(&mut self) -> Vec<u8> {
        self.kept.drain(..std::mem::take(&mut self.sent));
        std::mem::take(&mut self.kept)
    }

    /// Lets leave what the other end takes now.
    pub fn push(&mut self) -> Result<(), WorldError> {
        while self.sent < self.kept.len() {
            match rustix::net::send(&self.socket, &self.kept[self.sent..], SendFlags::NOSIGNAL) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(self.closed()),
                Err(error) => return Err(system("write to a machine's socket")(error)),
            }
        }
        self.kept.clear();
        self.sent = 0;
        Ok(())
    }

    /// Reads what has come; how many bytes, 0 if none has.
    pub fn read(&self, into: &mut [u8]) -> Result<usize, WorldError> {
        match rustix::io::read(&self.socket, into) {
            Ok(0) | Err(Errno::CONNRESET) => Err(self.closed()),
            Ok(count) => Ok(count),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(error) => Err(system("read from a machine's socket")(error)),
        }
    }

    fn closed(&self) -> WorldError {
        WorldError::Closed { end: self.name.clone() }
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A network card's socket: each frame follows its length, as QEMU's stream sockets have it.
#[derive(Debug)]
pub(super) struct Card {
    pub line: Line,
    reader: FrameReader,
    /// Whether whole frames may be left in the reader.
    pub has_more: bool,
}

impl Card {
    pub fn new(line: Line) -> Card {
        Card { line, reader: FrameReader::new(QEMU_MAX_FRAME), has_more: false }
    }

    pub fn send(&mut self, frame: &[u8]) {
        self.line.keep(&framing::header(frame.len()));
        self.line.keep(frame);
    }

    /// Takes at most so many frames that have come; `readable` says that the socket has more.
    pub fn receive(&mut self, readable: bool, most: usize) -> Result<Vec<Vec<u8>>, WorldError> {
        let mut frames = Vec::new();
        let mut readable = readable;
        while frames.len() < most {
            let next = self.reader.next_frame();
            let next =
                next.map_err(|source| WorldError::OutOfStep { end: self.line.name.clone(), source })?;
            match next {
                Some(frame) => frames.push(frame.to_vec()),
                None if std::mem::take(&mut readable) => {
                    let count = self.line.read(self.reader.space())?;
                    self.reader.filled(count);
                }
                None => {
                    self.has_more = false;
                    return Ok(frames);
                }
            }
        }
        self.has_more = true;
        Ok(frames)
    }
}
