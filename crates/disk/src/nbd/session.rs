//! Owns the conversation with one client, from greeting to end: negotiation, then workers that take turns.

use super::handshake::{Agreed, ExportInfo, Handshake, Next, greeting};
use super::wire::{OPTION_HEADER_LEN, OptionHeader};
use super::worker::Session;
use crate::served::Served;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Requests in flight of one client. QEMU sends up to 16 at once; more workers than these only wait for the medium.
const WORKERS: usize = 8;
/// The most data of one option: several of the longest strings.
const MAX_OPTION: u32 = 64 << 10;
/// How long a client may take to negotiate. Only that it ends matters: an idle one holds a place.
const NEGOTIATION: Duration = Duration::from_secs(10);

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
    let session = Session::new(served, export, stream, agreed);
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
    session.ending()
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
pub(super) fn discard(from: &mut impl Read, len: u32) -> io::Result<()> {
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

#[cfg(test)]
mod tests;
