//! Owns the console: a byte stream that is output like any other, and must come out exactly once.
//!
//! Every byte has an offset in the stream that the VM has written over all its lives. The bytes of an epoch travel
//! with its checkpoint, offset first, so the backup's log is the committed stream, whoever wrote it.

use crate::event::PortFailure;
use crate::ledger::{Ledger, Mode};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Where released console bytes go. Called on the gate's thread, without its lock; while it blocks the gate
/// forwards no input.
pub trait ConsoleSink: Send {
    /// Takes `bytes`, the first of which has this offset in the stream. Offsets rise without gaps.
    ///
    /// # Errors
    /// Any error ends the console's output for good and becomes an event.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
}

impl<F: FnMut(u64, &[u8]) -> io::Result<()> + Send> ConsoleSink for F {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self(offset, bytes)
    }
}

/// Why a console log could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleLogError {
    /// Bytes of the stream are missing.
    #[error("console log {path}: the stream goes on at byte {got}, but the log ends at {expected}")]
    Gap {
        /// The log.
        path: PathBuf,
        /// Offset after the last byte in the log.
        expected: u64,
        /// Offset of the bytes given.
        got: u64,
    },
    /// The file could not be created or written.
    #[error("console log {path}: {source}")]
    Io {
        /// The log.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
}

/// A file with the committed console stream from some offset on. Bytes that it has already are skipped.
#[derive(Debug)]
pub struct ConsoleLog {
    path: PathBuf,
    file: File,
    next: u64,
}

impl ConsoleLog {
    /// Creates the log; its first byte is the stream's byte `start`. An existing file is emptied: the stream it
    /// held ended with the VM it came from.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub fn create(path: &Path, start: u64) -> Result<Self, ConsoleLogError> {
        let path = path.to_path_buf();
        match File::create(&path) {
            Ok(file) => Ok(Self { path, file, next: start }),
            Err(source) => Err(ConsoleLogError::Io { path, source }),
        }
    }

    /// Offset after the last byte in the log.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.next
    }

    /// Adds `bytes`, which begin at `offset` of the stream, as far as they are new.
    ///
    /// # Errors
    /// If bytes before `offset` are missing, or the file cannot be written.
    pub fn append(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ConsoleLogError> {
        let Some(known) = self.next.checked_sub(offset) else {
            return Err(ConsoleLogError::Gap { path: self.path.clone(), expected: self.next, got: offset });
        };
        let known = usize::try_from(known).unwrap_or(usize::MAX).min(bytes.len());
        let new = &bytes[known..];
        self.file.write_all(new).map_err(|source| ConsoleLogError::Io { path: self.path.clone(), source })?;
        self.next += new.len() as u64;
        Ok(())
    }
}

impl ConsoleSink for ConsoleLog {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.append(offset, bytes).map_err(io::Error::other)
    }
}

struct Chunk {
    sequence: u64,
    bytes: Vec<u8>,
}

/// A sink that the gate's thread writes to while the port stays usable by others.
pub(crate) type SharedSink = Arc<Mutex<Box<dyn ConsoleSink>>>;

/// Bytes that may be written now, to be written without the gate's lock.
pub(crate) struct SinkWork {
    pub(crate) port: String,
    pub(crate) sink: SharedSink,
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
}

/// The console of a VM.
pub(crate) struct ConsolePort {
    pub(crate) guest: Option<Arc<OwnedFd>>,
    sink: Option<SharedSink>,
    held: VecDeque<Chunk>,
    outgoing: Vec<u8>,
    /// Bytes held, going out, or being written.
    waiting: usize,
    /// Offset of the first byte in `held`.
    held_offset: u64,
    /// Sequence number before which all chunks are cut.
    cut_before: u64,
    read: u64,
    written: u64,
    limit: usize,
}

impl ConsolePort {
    pub(crate) fn new(guest: OwnedFd, start: u64, sink: Box<dyn ConsoleSink>, limit: usize) -> Self {
        Self {
            guest: Some(Arc::new(guest)),
            sink: Some(Arc::new(Mutex::new(sink))),
            held: VecDeque::new(),
            outgoing: Vec::new(),
            waiting: 0,
            held_offset: start,
            cut_before: 0,
            read: 0,
            written: 0,
            limit: limit.max(1),
        }
    }

    /// Whether there is room for more: past the limit the guest's serial port waits.
    pub(crate) fn wants_input(&self) -> bool {
        self.waiting < self.limit
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(crate) fn read(&self) -> u64 {
        self.read
    }

    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    pub(crate) fn sink_alive(&self) -> bool {
        self.sink.is_some()
    }

    /// Reads what QEMU wrote: up to the bound, or everything if `past_limit` (the guest is stopped then, and the
    /// socket bounds what is there).
    pub(crate) fn drain(
        &mut self,
        ledger: &mut Ledger,
        past_limit: bool,
        mut budget: usize,
    ) -> Result<(), PortFailure> {
        let mut buffer = [0; 16 * 1024];
        while let Some(guest) = self.guest.clone() {
            if budget == 0 || !(past_limit || self.wants_input()) {
                break;
            }
            match rustix::io::read(&*guest, &mut buffer) {
                Ok(0) => return Err(PortFailure::HungUp),
                Ok(n) => {
                    budget = budget.saturating_sub(n);
                    self.take(ledger, &buffer[..n]);
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Err(PortFailure::HungUp),
                Err(errno) => return Err(PortFailure::System(errno)),
            }
        }
        Ok(())
    }

    fn take(&mut self, ledger: &mut Ledger, bytes: &[u8]) {
        self.read += bytes.len() as u64;
        match ledger.mode() {
            Mode::Fenced => {}
            Mode::Open => {
                self.waiting += bytes.len();
                self.held_offset += bytes.len() as u64;
                self.outgoing.extend_from_slice(bytes);
            }
            Mode::Holding => {
                self.waiting += bytes.len();
                match self.held.back_mut() {
                    Some(last) if last.sequence >= self.cut_before => last.bytes.extend_from_slice(bytes),
                    _ => self.held.push_back(Chunk { sequence: ledger.number(), bytes: bytes.to_vec() }),
                }
            }
        }
    }

    /// Closes the open epoch before sequence number `end`: its bytes and the offset of the first.
    pub(crate) fn cut(&mut self, end: u64) -> (u64, Vec<u8>) {
        let mut offset = self.held_offset;
        let mut bytes = Vec::new();
        for chunk in &self.held {
            if chunk.sequence < self.cut_before {
                offset += chunk.bytes.len() as u64;
            } else {
                bytes.extend_from_slice(&chunk.bytes);
            }
        }
        self.cut_before = end;
        (offset, bytes)
    }

    /// What was cut belongs to the open epoch again.
    pub(crate) fn forget_cuts(&mut self) {
        self.cut_before = 0;
    }

    /// Lets chunks before sequence number `end` go.
    pub(crate) fn release(&mut self, end: u64) {
        while self.held.front().is_some_and(|chunk| chunk.sequence < end) {
            let chunk = self.held.pop_front().expect("looked at");
            self.held_offset += chunk.bytes.len() as u64;
            self.outgoing.extend_from_slice(&chunk.bytes);
        }
        if self.sink.is_none() {
            self.drop_outgoing();
        }
    }

    fn drop_outgoing(&mut self) {
        self.waiting -= self.outgoing.len();
        self.outgoing.clear();
    }

    /// Forgets all bytes that have not been handed to the sink yet.
    pub(crate) fn discard(&mut self) {
        self.drop_outgoing();
        while let Some(chunk) = self.held.pop_front() {
            self.waiting -= chunk.bytes.len();
            self.held_offset += chunk.bytes.len() as u64;
        }
    }

    /// Whether [`take_work`](Self::take_work) has something to take.
    pub(crate) fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Takes what may be written now. The caller writes it and then calls [`wrote`](Self::wrote).
    pub(crate) fn take_work(&mut self, port: &str) -> Option<SinkWork> {
        if self.outgoing.is_empty() {
            return None;
        }
        let Some(sink) = self.sink.clone() else {
            self.drop_outgoing();
            return None;
        };
        let bytes = std::mem::take(&mut self.outgoing);
        let offset = self.held_offset - bytes.len() as u64;
        Some(SinkWork { port: port.to_owned(), sink, offset, bytes })
    }

    /// The sink took (or failed to take) `length` bytes.
    pub(crate) fn wrote(&mut self, length: usize, ok: bool) {
        self.waiting -= length;
        if ok {
            self.written += length as u64;
        } else {
            self.sink = None;
            self.drop_outgoing();
        }
    }
}
