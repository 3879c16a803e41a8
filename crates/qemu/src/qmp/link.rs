//! Owns the socket: one writer behind a lock, one reader thread, and who waits for what.

use super::message::refused;
use super::{Event, Incoming, QmpError, Version, parse};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown};
use serde_json::Value;
use std::collections::HashMap;
use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

/// Longest line accepted from QEMU. `query-machines` and `query-qmp-schema` stay far below.
const LONGEST_LINE: usize = 64 << 20;

type Answer = Result<Value, QmpError>;

#[derive(Debug)]
pub(super) struct Link {
    writer: Mutex<UnixStream>,
}

impl Link {
    /// Starts the reader thread; `rest` is what was read after the greeting.
    pub(super) fn start(stream: UnixStream, rest: Lines) -> io::Result<(Self, Arc<Pendings>)> {
        let reader = stream.try_clone()?;
        reader.set_read_timeout(None)?;
        stream.set_write_timeout(Some(super::ANSWER_TIMEOUT))?;
        let pendings = Arc::new(Pendings::default());
        let shared = Arc::clone(&pendings);
        std::thread::Builder::new().name("qmp".into()).spawn(move || {
            // A guest stands still until the answer is here that it may go on.
            if let Err(error) = os::sched::raise_current_thread() {
                tracing::debug!(%error, "QEMU's answers are read at ordinary priority");
            }
            read_all(reader, rest, &shared);
        })?;
        Ok((Self { writer: Mutex::new(stream) }, pendings))
    }

    pub(super) fn write(&self, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut writer = locked(&self.writer);
        let sent = match fd {
            Some(fd) => send_with_fd(&writer, bytes, fd)?,
            None => 0,
        };
        writer.write_all(&bytes[sent..])
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Ends the reader thread, which has a copy of the descriptor.
        let _ = rustix::net::shutdown(&*locked(&self.writer), Shutdown::Both);
    }
}

fn send_with_fd(stream: &UnixStream, bytes: &[u8], fd: BorrowedFd<'_>) -> io::Result<usize> {
    let fds = [fd];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)), "room for one descriptor");
    let sent = rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
    })?;
    Ok(sent)
}

/// Bytes read, cut into lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    searched: usize,
}

impl Lines {
    fn next(&mut self) -> Option<Vec<u8>> {
        let found = self.bytes[self.searched..].iter().position(|b| *b == b'\n');
        match found {
            Some(at) => {
                let end = self.searched + at;
                let line = self.bytes.drain(..=end).collect();
                self.searched = 0;
                Some(line)
            }
            None => {
                self.searched = self.bytes.len();
                None
            }
        }
    }

    /// The next line of `stream` that is not blank; the error is what ended it.
    fn read(&mut self, mut stream: &UnixStream) -> Result<Vec<u8>, String> {
        let mut chunk = [0; 65536];
        loop {
            while let Some(line) = self.next() {
                if !line.trim_ascii().is_empty() {
                    return Ok(line);
                }
            }
            if self.bytes.len() > LONGEST_LINE {
                return Err(format!("a line is longer than {LONGEST_LINE} bytes"));
            }
            match stream.read(&mut chunk) {
                Ok(0) => return Err("end of stream".to_string()),
                Ok(n) => self.bytes.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.to_string()),
            }
        }
    }
}

/// Waits for QEMU's greeting; returns what was read beyond it as well.
pub(super) fn greeting(stream: &UnixStream, timeout: Duration) -> Result<(Version, Lines), QmpError> {
    let gone = |why| QmpError::Gone { command: "greeting".to_string(), why };
    stream.set_read_timeout(Some(timeout)).map_err(|e| gone(e.to_string()))?;
    let mut lines = Lines::default();
    let first = lines.read(stream).map_err(gone)?;
    match parse(&first) {
        Ok(Incoming::Greeting(version)) => Ok((version, lines)),
        Ok(other) => Err(QmpError::NotQmp(format!("it began with {other:?}"))),
        Err(why) => Err(QmpError::NotQmp(why)),
    }
}

fn read_all(stream: UnixStream, mut lines: Lines, pendings: &Pendings) {
    let why = loop {
        let line = match lines.read(&stream) {
            Ok(line) => line,
            Err(why) => break why,
        };
        match parse(&line) {
            Ok(Incoming::Event(event)) => pendings.announce(event),
            Ok(Incoming::Answer { id: Some(id), result }) => pendings.answer(id, result),
            Ok(other) => tracing::warn!(?other, "QEMU said something that nobody asked for"),
            Err(why) => break format!("it sent what is not QMP: {why}"),
        }
    };
    let _ = rustix::net::shutdown(&stream, Shutdown::Both);
    pendings.end(&why);
}

#[derive(Debug)]
struct Subscriber {
    /// Nothing else wakes it; none: everything does.
    names: Option<&'static [&'static str]>,
    events: mpsc::Sender<Event>,
}

#[derive(Debug, Default)]
struct Waiting {
    answers: HashMap<u64, (&'static str, mpsc::SyncSender<Answer>)>,
    subscribers: Vec<Subscriber>,
    last_events: HashMap<String, u64>,
    /// By the order of its events; QEMU is started with a guest that does not run.
    guest_runs: bool,
    stops: u64,
    ended: Option<String>,
}

/// Who waits for which answer, and who hears events; told of each event, and of the end.
#[derive(Debug, Default)]
pub(super) struct Pendings(Mutex<Waiting>, Condvar);

impl Pendings {
    /// The channel on which the answer to command `id` will come.
    pub(super) fn expect(&self, id: u64, command: &'static str) -> mpsc::Receiver<Answer> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let mut waiting = locked(&self.0);
        match &waiting.ended {
            Some(why) => {
                let gone = QmpError::Gone { command: command.to_string(), why: why.clone() };
                sender.send(Err(gone)).expect("the receiver is in our hands and has room");
            }
            None => drop(waiting.answers.insert(id, (command, sender))),
        }
        receiver
    }

    pub(super) fn settle(&self, id: u64, answer: Answer) {
        if let Some((_, sender)) = locked(&self.0).answers.remove(&id) {
            // The ticket may have been dropped, or timed out: then nobody wants to know.
            let _ = sender.send(answer);
        }
    }

    fn answer(&self, id: u64, result: Result<Value, (String, String)>) {
        let known = locked(&self.0).answers.get(&id).map(|(command, _)| *command);
        match known {
            Some(command) => self.settle(id, result.map_err(|e| refused(command, e))),
            None => tracing::warn!(id, "QEMU answered a command that was never sent, or twice"),
        }
    }

    fn announce(&self, event: Event) {
        let mut waiting = locked(&self.0);
        waiting.last_events.insert(event.name.clone(), event.at_us);
        match &*event.name {
            "RESUME" => waiting.guest_runs = true,
            "STOP" => (waiting.guest_runs, waiting.stops) = (false, waiting.stops + 1),
            _ => {}
        }
        let wanted =
            |subscriber: &Subscriber| subscriber.names.is_none_or(|names| names.contains(&&*event.name));
        waiting.subscribers.retain(|s| !wanted(s) || s.events.send(event.clone()).is_ok());
        self.1.notify_all();
    }

    fn end(&self, why: &str) {
        let mut waiting = locked(&self.0);
        waiting.ended = Some(why.to_string());
        waiting.subscribers.clear();
        self.1.notify_all();
        for (_, (command, sender)) in waiting.answers.drain() {
            let _ = sender.send(Err(QmpError::Gone { command: command.to_string(), why: why.to_string() }));
        }
    }

    pub(super) fn subscribe(&self, names: Option<&'static [&'static str]>) -> mpsc::Receiver<Event> {
        let (sender, receiver) = mpsc::channel();
        let mut waiting = locked(&self.0);
        if waiting.ended.is_none() {
            waiting.subscribers.push(Subscriber { names, events: sender });
        }
        receiver
    }

    pub(super) fn last_event_us(&self, name: &str) -> Option<u64> {
        locked(&self.0).last_events.get(name).copied()
    }

    pub(super) fn guest_runs(&self) -> bool {
        locked(&self.0).guest_runs
    }

    pub(super) fn stops(&self) -> u64 {
        locked(&self.0).stops
    }

    pub(super) fn wait_stops(&self, before: u64, patience: Duration) -> bool {
        let none = |waiting: &mut Waiting| waiting.stops <= before && waiting.ended.is_none();
        let waited = self.1.wait_timeout_while(locked(&self.0), patience, none);
        waited.unwrap_or_else(PoisonError::into_inner).0.stops > before
    }

    pub(super) fn is_gone(&self) -> bool {
        locked(&self.0).ended.is_some()
    }
}

/// Nothing here leaves its data half-changed when it panics, so a poisoned lock is still good.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
