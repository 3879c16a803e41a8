//! Owns the bytes of a connection: ciphertext to and from the socket, plaintext to and from two threads.
//!
//! One thread reads and another one writes; the state of TLS is shared between them. Nobody waits for the network while
//! holding it: the reader takes ciphertext from the socket first and decrypts then, the writer encrypts first and writes
//! then. There is one writer, so what it writes is in order.

use crate::deadline::Deadline;
use crate::handshake::Purpose;
use crate::judge::Peer;
use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Instant;

/// Ciphertext taken from the socket at a time.
const READ: usize = 256 << 10;
/// Plaintext encrypted at a time: as long the reader may have to wait.
const WRITE: usize = 128 << 10;

/// Why a connection was ended at this end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Ended(pub String);

struct Shared {
    tls: Mutex<rustls::Connection>,
    socket: TcpStream,
    ended: OnceLock<Ended>,
}

impl Shared {
    fn tls(&self) -> MutexGuard<'_, rustls::Connection> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection to a host that is known by name.
pub struct Connection {
    peer: Peer,
    purpose: Purpose,
    receiver: Receiver,
    sender: Sender,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({:?})", self.peer)
    }
}

impl Connection {
    /// What a handshake that is complete left. Nothing may be waiting to be written.
    pub(crate) fn new(
        mut tls: rustls::Connection,
        socket: TcpStream,
        peer: Peer,
        purpose: Purpose,
    ) -> io::Result<Self> {
        socket.set_read_timeout(None)?;
        socket.set_write_timeout(None)?;
        // How much is encrypted at a time is decided where it is done.
        tls.set_buffer_limit(None);
        let shared = Arc::new(Shared { tls: Mutex::new(tls), socket, ended: OnceLock::new() });
        let receiver = Receiver {
            shared: Arc::clone(&shared),
            ciphertext: vec![0; READ].into(),
            at: 0,
            end: 0,
            until: None,
        };
        let sender = Sender { shared, ciphertext: Vec::new() };
        Ok(Self { peer, purpose, receiver, sender })
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// What both sides want of it.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// A way to end it from anywhere.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle { shared: Arc::downgrade(&self.receiver.shared) }
    }

    /// All that is said on it must have been said by then; without an instant it may take for ever.
    ///
    /// # Errors
    /// If the socket does not take it.
    pub fn set_deadline(&mut self, until: Option<Instant>) -> io::Result<()> {
        self.receiver.until = until;
        let socket = &self.receiver.shared.socket;
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        socket.set_write_timeout(left.map(|left| left.max(std::time::Duration::from_millis(1))))?;
        if until.is_none() {
            socket.set_read_timeout(None)?;
        }
        Ok(())
    }

    /// What comes, as long as nobody else shall read.
    pub fn receiver(&mut self) -> &mut Receiver {
        &mut self.receiver
    }

    /// What goes, as long as nobody else shall write.
    pub fn sender(&mut self) -> &mut Sender {
        &mut self.sender
    }

    /// One end for a thread that reads, one for a thread that writes.
    #[must_use]
    pub fn split(self) -> (Receiver, Sender) {
        (self.receiver, self.sender)
    }
}

/// For what the system knows of it. Whoever reads or writes there breaks the connection.
impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.shared.socket.as_fd()
    }
}

/// Ends a connection that others read and write, if it is still there.
#[derive(Clone)]
pub struct Handle {
    shared: Weak<Shared>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handle")
    }
}

impl Handle {
    /// Whether the connection is still read or written by anybody.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.shared.strong_count() > 0
    }

    /// Nothing is read any more, and the reader hears why. A last word may be said.
    pub fn end_reading(&self, why: &Ended) {
        self.end(why, Shutdown::Read);
    }

    /// Nothing is read or written any more, and the reader hears why.
    pub fn end_all(&self, why: &Ended) {
        self.end(why, Shutdown::Both);
    }

    fn end(&self, why: &Ended, how: Shutdown) {
        if let Some(shared) = self.shared.upgrade() {
            let _ = shared.ended.set(why.clone());
            // One that is closed already needs no end.
            let _ = shared.socket.shutdown(how);
        }
    }
}

/// The receiving end. Reads plaintext; an orderly end is an end of file, any other an error.
pub struct Receiver {
    shared: Arc<Shared>,
    ciphertext: Box<[u8]>,
    /// What of the ciphertext is not yet decrypted: from here
    at: usize,
    /// to here.
    end: usize,
    until: Option<Instant>,
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Receiver")
    }
}

impl Receiver {
    /// Whatever ended it at this end is the reason, not what the socket says of it.
    fn ended(&self) -> Option<io::Error> {
        self.shared.ended.get().map(|why| io::Error::other(why.clone()))
    }

    /// Plaintext that is there already, or made from the ciphertext that is; none if more ciphertext is needed.
    fn decrypt(&mut self, out: &mut [u8]) -> io::Result<Option<usize>> {
        let mut tls = self.shared.tls();
        loop {
            match tls.reader().read(out) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read.map(Some),
            }
            if self.at == self.end {
                return Ok(None);
            }
            let taken = tls.read_tls(&mut &self.ciphertext[self.at..self.end])?;
            // After an orderly end nothing is taken: what comes behind it is of no interest.
            self.at = if taken == 0 { self.end } else { self.at + taken };
            tls.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut socket = &self.shared.socket;
        let read = match self.until {
            Some(until) => Deadline::new(socket, until).read(&mut self.ciphertext),
            None => socket.read(&mut self.ciphertext),
        };
        match read {
            Ok(0) => {
                // An end without the word that it is one.
                self.shared.tls().read_tls(&mut io::empty())?;
            }
            Ok(len) => (self.at, self.end) = (0, len),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl Read for Receiver {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            if let Some(ended) = self.ended() {
                return Err(ended);
            }
            let step = match self.decrypt(out) {
                Ok(None) => self.fill(),
                Ok(Some(0)) => return self.ended().map_or(Ok(0), Err),
                Ok(Some(len)) => return Ok(len),
                Err(error) => Err(error),
            };
            step.map_err(|error| self.ended().unwrap_or(error))?;
        }
    }
}

/// The sending end. Dropping it closes the connection in order, behind all that was sent.
pub struct Sender {
    shared: Arc<Shared>,
    ciphertext: Vec<u8>,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

impl Sender {
    /// Sends a head and a body, in as few packets as they need.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn send(&mut self, head: &[u8], body: &[u8]) -> io::Result<()> {
        self.put(head, body)?;
        self.flush()
    }

    /// The same, but the last of it may stay here until [`Sender::flush`]: what is sent behind it goes with it.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn put(&mut self, head: &[u8], body: &[u8]) -> io::Result<()> {
        let (first, rest) = body.split_at(body.len().min(WRITE.saturating_sub(head.len())));
        self.put_piece(&[IoSlice::new(head), IoSlice::new(first)])?;
        rest.chunks(WRITE).try_for_each(|piece| self.put_piece(&[IoSlice::new(piece)]))
    }

    /// Sends what was put.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.ciphertext.is_empty() { Ok(()) } else { self.write_out() }
    }

    fn put_piece(&mut self, piece: &[IoSlice<'_>]) -> io::Result<()> {
        {
            let mut tls = self.shared.tls();
            let len: usize = piece.iter().map(|part| part.len()).sum();
            let taken = tls.writer().write_vectored(piece)?;
            assert_eq!(taken, len, "the buffer has no limit");
            encrypted(&mut tls, &mut self.ciphertext)?;
        }
        if self.ciphertext.len() >= WRITE { self.write_out() } else { Ok(()) }
    }

    fn write_out(&mut self) -> io::Result<()> {
        let written = (&self.shared.socket).write_all(&self.ciphertext);
        self.ciphertext.clear();
        written
    }

    /// Ends the connection in order.
    fn close(&mut self) {
        {
            let mut tls = self.shared.tls();
            tls.send_close_notify();
            let _ = encrypted(&mut tls, &mut self.ciphertext);
        }
        // It may be gone already.
        let _ = self.write_out();
        let _ = self.shared.socket.shutdown(Shutdown::Both);
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.close();
    }
}

/// Takes all that TLS wants to write.
fn encrypted(tls: &mut rustls::Connection, into: &mut Vec<u8>) -> io::Result<()> {
    while tls.wants_write() {
        tls.write_tls(into)?;
    }
    Ok(())
}
