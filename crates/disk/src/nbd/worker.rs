//! Owns the turns of the workers that serve one client.
//!
//! The worker whose turn it is reads requests, and carries them out itself as long as none has to wait: handing each to
//! another thread would cost more than carrying it out. Before it waits, for the medium, for an earlier change of the
//! same bytes, or for the observer, it steps aside: the next worker reads on. So several requests are in flight where
//! that helps, and memory is bounded: when all workers wait, nobody reads requests.

use super::command::Command;
use super::conduit::Conduit;
use super::execute::{execute, refuse};
use super::handshake::{Agreed, ExportInfo};
use super::reply::Replies;
use super::session::{Ending, discard};
use super::wire::{MAX_PAYLOAD, REQUEST_LEN, Request, request};
use crate::image::ImageError;
use crate::served::Served;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a worker's buffer may keep between requests.
const KEPT_BUFFER: usize = 2 << 20;
/// Sixteen writes of a page fit: QEMU has up to so many requests in flight.
const READ_AHEAD: usize = 72 << 10;
/// Replies are sent together up to here.
const TOGETHER: usize = 64 << 10;
/// Something longer is worth a hand-over: others can go on meanwhile.
pub(super) const LONG: u32 = 64 << 10;
/// A write that took longer has waited for the medium, or for the system to write back what is dirty.
const SLOW: Duration = Duration::from_millis(1);
/// So many writes after a slow one are handed over before they are begun: reads shall not wait behind them.
const WARY: u32 = 64;

/// What the workers of one client share.
pub(super) struct Session<'a> {
    pub(super) served: &'a Served,
    pub(super) export: &'a ExportInfo,
    pub(super) stream: &'a UnixStream,
    pub(super) agreed: Agreed,
    reader: Mutex<Reader<'a>>,
    writing: Mutex<()>,
}

/// What the worker has whose turn it is.
struct Reader<'a> {
    from: BufReader<&'a UnixStream>,
    /// Set once: nobody reads any more.
    ending: Option<Ending>,
    /// How many more writes are not carried out in turn.
    wary: u32,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        served: &'a Served,
        export: &'a ExportInfo,
        stream: &'a UnixStream,
        agreed: Agreed,
    ) -> Self {
        let from = BufReader::with_capacity(READ_AHEAD, stream);
        let reader = Mutex::new(Reader { from, ending: None, wary: 0 });
        Self { served, export, stream, agreed, reader, writing: Mutex::new(()) }
    }

    /// How it ended, when all workers have.
    pub(super) fn ending(self) -> Ending {
        let reader = self.reader.into_inner().unwrap_or_else(PoisonError::into_inner);
        reader.ending.unwrap_or(Ending::Broken("its workers died"))
    }

    /// What each worker does until the end.
    pub(super) fn work(&self) {
        let _frees_the_others = ShutOnPanic(self.stream);
        let mut worker =
            Worker { session: self, turn: None, replies: Replies::default(), conduit: None, copies: false };
        let mut payload = Vec::new();
        loop {
            let turn = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
            if turn.ending.is_some() {
                return;
            }
            worker.turn = Some(turn);
            while worker.serve_one(&mut payload) {}
        }
    }
}

/// A thread that serves requests.
pub(super) struct Worker<'s, 'a> {
    pub(super) session: &'s Session<'a>,
    turn: Option<MutexGuard<'s, Reader<'a>>>,
    pub(super) replies: Replies,
    conduit: Option<Conduit>,
    /// Data were not to be had without copying: no more attempts.
    copies: bool,
}

impl Worker<'_, '_> {
    /// Reads a request, carries it out and replies; whether it is still this worker's turn.
    fn serve_one(&mut self, payload: &mut Vec<u8>) -> bool {
        let turn = self.turn.as_mut().expect("it is this worker's turn");
        let request = match turn.request(payload) {
            Ok(request) => request,
            Err(ending) => {
                turn.ending = Some(ending);
                self.step_aside();
                return false;
            }
        };
        let _in_flight = self.session.served.counters().in_flight.during();
        match Command::judge(&request, self.session.export, self.session.agreed) {
            Ok(command) => {
                let began = self.begin(command, &request);
                execute(self, &request, command, payload);
                self.look_at(began);
            }
            Err(error) => refuse(self, &request, error, "the request is not allowed here"),
        }
        if payload.len() > KEPT_BUFFER {
            *payload = Vec::new();
        }
        let together = self.turn.as_ref().is_some_and(|turn| turn.has_request());
        if !together || self.replies.len() > TOGETHER {
            self.send();
        }
        self.turn.is_some()
    }

    /// Gives the turn to the next worker, if it is still this one's: what comes now may wait.
    pub(super) fn step_aside(&mut self) {
        if let Some(turn) = self.turn.take() {
            drop(turn);
            self.send();
        }
    }

    /// Whether it is this worker's turn.
    pub(super) fn has_turn(&self) -> bool {
        self.turn.is_some()
    }

    fn begin(&mut self, command: Command, request: &Request) -> Option<Instant> {
        let turn = self.turn.as_mut()?;
        if turn.wary > 0 && matches!(command, Command::Write { .. }) {
            turn.wary -= 1;
            self.step_aside();
        } else if request.len > LONG
            || !matches!(command, Command::Write { .. } | Command::Read | Command::Flush)
        {
            self.step_aside();
        }
        self.turn.is_some().then(Instant::now)
    }

    fn look_at(&mut self, began: Option<Instant>) {
        if let (Some(turn), Some(began)) = (&mut self.turn, began)
            && began.elapsed() > SLOW
        {
            turn.wary = WARY;
        }
    }

    /// Answers a long read without copying its data; whether that is possible.
    pub(super) fn answer_uncopied(&mut self, request: &Request) -> Result<bool, ImageError> {
        let Session { served, stream, agreed, writing, .. } = self.session;
        let len = request.len as usize;
        if self.copies || !agreed.structured || !Conduit::fits(request.offset, len) {
            return Ok(false);
        }
        // One that cannot be filled may hold something: it is not used again.
        let conduit = self.conduit.take().or_else(Conduit::new);
        let filled =
            conduit.map(|conduit| conduit.filled(served.image(), request.offset, len)).transpose()?;
        let Some(conduit) = filled.flatten() else {
            self.copies = true;
            return Ok(false);
        };
        self.replies.data_chunk_header(request.cookie, request.offset, len);
        let _writing = writing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.replies.send(*stream).and_then(|()| conduit.empty_into(stream, len)).is_err() {
            hang_up(stream);
        } else {
            self.conduit = Some(conduit);
        }
        Ok(true)
    }

    fn send(&mut self) {
        if self.replies.len() == 0 {
            return;
        }
        let _writing = self.session.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.replies.send(self.session.stream).is_err() {
            hang_up(self.session.stream);
        }
    }
}

impl Reader<'_> {
    /// Reads the next request, and what comes with it into the beginning of `payload`.
    fn request(&mut self, payload: &mut Vec<u8>) -> Result<Request, Ending> {
        // The end of the stream here, between two requests, is how clients leave that are killed.
        loop {
            match self.from.fill_buf() {
                Ok([]) => return Err(Ending::Orderly),
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Ending::Broken("gone")),
            }
        }
        let cut = |_| Ending::Broken("gone within a request");
        let mut header = [0; REQUEST_LEN];
        self.from.read_exact(&mut header).map_err(cut)?;
        let request = Request::parse(&header).ok_or(Ending::Broken("a request that is none"))?;
        match request.kind {
            request::DISC => return Err(Ending::Orderly),
            request::WRITE if request.len > MAX_PAYLOAD => {
                discard(&mut self.from, request.len).map_err(cut)?
            }
            request::WRITE => {
                let len = request.len as usize;
                // Never shrinks, so that bytes are not set to zero before they are read.
                if payload.len() < len {
                    payload.resize(len, 0);
                }
                self.from.read_exact(&mut payload[..len]).map_err(cut)?;
            }
            _ => {}
        }
        Ok(request)
    }

    /// Whether a whole request has been read already, so that nobody waits for it.
    fn has_request(&self) -> bool {
        let Some((header, rest)) = self.from.buffer().split_first_chunk() else { return false };
        match Request::parse(header) {
            Some(request) if request.kind == request::WRITE => rest.len() >= request.len as usize,
            _ => true,
        }
    }
}

/// Nobody listens: the reader hears of it too.
fn hang_up(stream: &UnixStream) {
    // Fails if the other end has done so.
    let _ = stream.shutdown(Shutdown::Both);
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
