//! Owns the conversation with one client, from greeting to end.
//!
//! A fixed number of workers take turns: the one whose turn it is reads a request with all that belongs to it, gives
//! the turn to the next, carries the request out and writes the whole reply. So several requests are in flight, the
//! worker that read a request carries it out without a hand-over, and memory is bounded: when all workers are busy,
//! or wait for a client that does not read its replies, nobody reads requests.

use super::command::Command;
use super::execute::{execute, refusal};
use super::handshake::{Agreed, ExportInfo, Handshake, Next, greeting};
use super::wire::{MAX_PAYLOAD, OPTION_HEADER_LEN, OptionHeader, REQUEST_LEN, Request, request};
use crate::served::Served;
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Requests in flight of one client. QEMU sends up to 16 at once; more workers than these only wait for the medium.
const WORKERS: usize = 8;
/// The most data of one option: several of the longest strings.
const MAX_OPTION: u32 = 64 << 10;
/// How long a client may take to negotiate. Only that it ends matters: an idle one holds a place.
const NEGOTIATION: Duration = Duration::from_secs(10);
/// What a worker's buffer may keep between requests.
const KEPT_BUFFER: usize = 2 << 20;
/// Several small requests fit.
const READ_AHEAD: usize = 16 << 10;

/// How a conversation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// As the protocol has it, or between two requests.
    Orderly,
    /// Within a request or with bytes that mean nothing.
    Broken(&'static str),
}

/// Serves one client until it goes, or somebody shuts the socket down. Requests that were read are finished first.
pub(crate) fn run(served: &Served, export: &ExportInfo, stream: &UnixStream) -> Ending {
    let agreed = match negotiate(export, stream) {
        Ok(Some(agreed)) => agreed,
        Ok(None) => return Ending::Orderly,
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            return Ending::Broken("nonsense in negotiation");
        }
        Err(_) => return Ending::Broken("gone, or too slow, in negotiation"),
    };
    let reader = Reader { from: BufReader::with_capacity(READ_AHEAD, stream), ending: None };
    let session =
        Session { served, export, stream, agreed, reader: Mutex::new(reader), writing: Mutex::new(()) };
    std::thread::scope(|scope| {
        for _ in 1..WORKERS {
            let worker = std::thread::Builder::new().name("nbd-worker".into());
            if let Err(error) = worker.spawn_scoped(scope, || session.work()) {
                // The others do its share.
                tracing::warn!(%error, "no thread for a disk's worker");
            }
        }
        session.work();
    });
    let reader = session.reader.into_inner().unwrap_or_else(PoisonError::into_inner);
    reader.ending.unwrap_or(Ending::Broken("its workers died"))
}

/// Negotiates; `None` if the client ends it in an orderly way.
fn negotiate(export: &ExportInfo, stream: &UnixStream) -> io::Result<Option<Agreed>> {
    let mut timed = Timed { stream, until: Instant::now() + NEGOTIATION };
    timed.write_all(&greeting())?;
    let mut flags = [0; 4];
    timed.read_exact(&mut flags)?;
    let Some(mut handshake) = Handshake::new(export, u32::from_be_bytes(flags)) else {
        return Err(ErrorKind::InvalidData.into());
    };
    loop {
        let mut header = [0; OPTION_HEADER_LEN];
        timed.read_exact(&mut header)?;
        let header = OptionHeader::parse(&header).ok_or(ErrorKind::InvalidData)?;
        let mut out = Vec::new();
        let next = if header.len > MAX_OPTION {
            discard(&mut timed, header.len)?;
            handshake.oversize(header.option, &mut out)
        } else {
            let mut data = vec![0; header.len as usize];
            timed.read_exact(&mut data)?;
            handshake.option(header.option, &data, &mut out)
        };
        timed.write_all(&out)?;
        match next {
            Next::Option => {}
            Next::End => return Ok(None),
            Next::Transmission(agreed) => {
                stream.set_read_timeout(None)?;
                stream.set_write_timeout(None)?;
                return Ok(Some(agreed));
            }
        }
    }
}

/// Reads `len` bytes and forgets them.
fn discard(from: &mut impl Read, len: u32) -> io::Result<()> {
    let read = io::copy(&mut from.take(u64::from(len)), &mut io::sink())?;
    if read == u64::from(len) { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

/// A stream that fails when a time is over, however little the client sends at a time.
struct Timed<'a> {
    stream: &'a UnixStream,
    until: Instant,
}

impl Timed<'_> {
    fn left(&self) -> io::Result<Option<Duration>> {
        match self.until.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(ErrorKind::TimedOut.into()),
            left => Ok(Some(left)),
        }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(bytes)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the workers of one client share.
struct Session<'a> {
    served: &'a Served,
    export: &'a ExportInfo,
    stream: &'a UnixStream,
    agreed: Agreed,
    reader: Mutex<Reader<'a>>,
    writing: Mutex<()>,
}

struct Reader<'a> {
    from: BufReader<&'a UnixStream>,
    /// Set once: nobody reads any more.
    ending: Option<Ending>,
}

impl Session<'_> {
    fn work(&self) {
        let _frees_the_others = ShutOnPanic(self.stream);
        let counters = self.served.counters();
        let mut buffer = Vec::new();
        while let Some(request) = self.next(&mut buffer) {
            let _in_flight = counters.in_flight.during();
            let reply = match Command::judge(&request, self.export, self.agreed) {
                Ok(command) => execute(self.served, self.agreed, &request, command, &mut buffer),
                Err(error) => {
                    counters.errors.one();
                    refusal(self.agreed, &request, error, "the request is not allowed here")
                }
            };
            let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
            if reply.send(&buffer, self.stream).is_err() {
                // Nobody listens: the reader hears of it too.
                let _ = self.stream.shutdown(Shutdown::Both);
            }
            drop(writing);
            if buffer.len() > KEPT_BUFFER {
                buffer = Vec::new();
            }
        }
    }

    /// Waits for its turn, and reads the next request and what comes with it into `buffer`.
    fn next(&self, buffer: &mut Vec<u8>) -> Option<Request> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        if reader.ending.is_some() {
            return None;
        }
        match reader.request(buffer) {
            Ok(request) => Some(request),
            Err(ending) => {
                reader.ending = Some(ending);
                None
            }
        }
    }
}

impl Reader<'_> {
    fn request(&mut self, buffer: &mut Vec<u8>) -> Result<Request, Ending> {
        let mut header = [0; REQUEST_LEN];
        // The end of the stream here, between two requests, is how clients leave that are killed.
        let first = loop {
            match self.from.read(&mut header) {
                Ok(0) => return Err(Ending::Orderly),
                Ok(n) => break n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Ending::Broken("gone")),
            }
        };
        let cut = |_| Ending::Broken("gone within a request");
        self.from.read_exact(&mut header[first..]).map_err(cut)?;
        let request = Request::parse(&header).ok_or(Ending::Broken("a request that is none"))?;
        match request.kind {
            request::DISC => return Err(Ending::Orderly),
            request::WRITE if request.len > MAX_PAYLOAD => {
                discard(&mut self.from, request.len).map_err(cut)?
            }
            request::WRITE => {
                buffer.resize(request.len as usize, 0);
                self.from.read_exact(buffer).map_err(cut)?;
            }
            _ => {}
        }
        Ok(request)
    }
}

/// Ends the conversation if its worker dies: the others would wait for a client that waits for the dead one's reply.
struct ShutOnPanic<'a>(&'a UnixStream);

impl Drop for ShutOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.shutdown(Shutdown::Both);
        }
    }
}

#[cfg(test)]
mod tests;
