//! Owns a session's connections when it has several: the threads that write, read and deliver, around the pure machine
//! `protocol::paths`, which decides what goes where.
//!
//! Each path has a thread that writes and one that reads; one more for the session delivers frames in order, so that a
//! consumer that is slow does not make a path look silent. The first connection opens the session, others join it with the
//! secret that came by the first. What happens to paths is told as events; the loops of the VM see one stream of frames that
//! ends when no path is left.

mod dial;
mod lane;
mod tell;

pub use dial::dial;
pub use lane::run;
pub use tell::Teller;

use super::{Frame, LinkError};
use crate::loops::now;
use api::types::PathStatus;
use protocol::paths::{Limits, News, Paths, Slot};
use protocol::wire::path::PathHello;
use protocol::wire::{HEADER_LEN, Header, Inbound, Outbound};
use protocol::{Session, Term, VmId};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use trust::Handle;

/// A frame that may have to go twice.
pub type Sealed = Arc<(Header, Vec<u8>)>;

struct End {
    handle: Handle,
    /// Tells this connection of the path from earlier ones.
    number: u64,
    /// It was ended here because it was silent.
    given_up: bool,
}

struct State {
    core: Paths<Sealed, Frame>,
    ends: Vec<Option<End>>,
    /// Where the other host is at each path, as far as it is known.
    addresses: Vec<Option<String>>,
    connections: u64,
    /// A connection opened the session.
    opened: bool,
    /// The other side has answered: others may join.
    answered: bool,
    /// Nothing more is sent behind what is queued; for so long it is waited that it comes.
    closing: Option<Instant>,
    /// Why it is over, until that is delivered.
    why: Option<LinkError>,
    over: bool,
}

/// A session over several paths.
pub struct Bundle {
    identity: (VmId, Term, Session),
    hello: PathHello,
    /// Number of the first frame to come.
    expected: u64,
    state: Mutex<State>,
    /// There is something to write.
    work: Condvar,
    /// There is room for another frame.
    room: Condvar,
    /// There is something to deliver, or it is over.
    ready: Condvar,
    teller: Teller,
}

impl State {
    fn is_over(&self) -> bool {
        self.over || self.closing.is_some()
    }
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bundle({:?})", self.identity)
    }
}

impl Bundle {
    /// A session without a connection; the first frame to come has the number `expected`.
    #[must_use]
    pub fn new(
        identity: (VmId, Term, Session),
        hello: PathHello,
        expected: u64,
        teller: Teller,
    ) -> Arc<Self> {
        let state = State {
            core: Paths::new(Limits::of(hello.timeout), expected),
            ends: (0..protocol::paths::MAX_PATHS).map(|_| None).collect(),
            addresses: vec![None; protocol::paths::MAX_PATHS],
            connections: 0,
            opened: false,
            answered: false,
            closing: None,
            why: None,
            over: false,
        };
        let (work, room, ready) = (Condvar::new(), Condvar::new(), Condvar::new());
        Arc::new(Self { identity, hello, expected, state: Mutex::new(state), work, room, ready, teller })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the other host is to be found by this path.
    pub fn name(&self, slot: Slot, address: String) {
        self.state().addresses[slot.number()] = Some(address);
    }

    /// Whether this host may join the session with what it says.
    #[must_use]
    pub fn admits(&self, said: &PathHello) -> bool {
        let differ =
            self.hello.secret.iter().zip(said.secret).fold(0, |all, (ours, theirs)| all | (ours ^ theirs));
        differ == 0 && !self.is_over()
    }

    /// Whether no path is left, or none is wanted any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state().is_over()
    }

    /// Sends the session's next frame: waits for room.
    ///
    /// # Errors
    /// If the session is over.
    pub fn send(&self, header: Header, body: Vec<u8>) -> std::io::Result<()> {
        let size = (HEADER_LEN + body.len()) as u64;
        let frame = Arc::new((header, body));
        let mut state = self.state();
        while !state.over && !state.core.has_room(size) {
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.over {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        state.core.push(size, frame);
        drop(state);
        self.work.notify_all();
        Ok(())
    }

    /// Closes it behind everything that was sent.
    pub fn close(&self) {
        let mut state = self.state();
        let linger = Duration::from_micros(Limits::of(self.hello.timeout).give_up.0);
        state.closing.get_or_insert(Instant::now() + linger);
        if !state.core.any() {
            Self::end_locked(&mut state, LinkError::Closed);
        }
        drop(state);
        self.wake_all();
    }

    /// Delivers frames in order until the session is over, and says why it is.
    pub fn deliver(&self, mut to: impl FnMut(Frame) -> Result<(), LinkError>) -> LinkError {
        let (vm, term, session) = self.identity;
        let mut inbound = Inbound::new(vm, term, session);
        inbound.begin_at(self.expected);
        loop {
            let frame = match self.next() {
                Ok(frame) => frame,
                Err(why) => return why,
            };
            let taken = inbound.check(&frame.header).map_err(LinkError::from).and_then(|()| to(frame));
            if let Err(why) = taken {
                // What was queued, such as a refusal, is still sent.
                self.close();
                return why;
            }
            self.state().core.consumed(now());
            self.work.notify_all();
        }
    }

    fn next(&self) -> Result<Frame, LinkError> {
        let mut state = self.state();
        loop {
            if let Some(frame) = state.core.deliver() {
                return Ok(frame);
            }
            if state.over {
                return Err(state.why.take().unwrap_or(LinkError::Closed));
            }
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The session is over, for this reason.
    fn end(&self, why: LinkError) {
        let mut state = self.state();
        Self::end_locked(&mut state, why);
        drop(state);
        self.wake_all();
    }

    fn end_locked(state: &mut State, why: LinkError) {
        if !std::mem::replace(&mut state.over, true) {
            state.why = Some(why);
        }
        for end in state.ends.iter().flatten() {
            end.handle.end_all(&trust::Ended("the session is over".into()));
        }
    }

    fn wake_all(&self) {
        self.work.notify_all();
        self.room.notify_all();
        self.ready.notify_all();
    }

    /// Tells what happened, and ends connections that are given up.
    fn told(&self, mut state: MutexGuard<'_, State>) {
        let news = state.core.news();
        if news.is_empty() {
            return;
        }
        let active = state.core.active().filter(|slot| state.core.view(*slot).silent_since.is_none());
        let address = |state: &State, slot: Slot| state.addresses[slot.number()].clone();
        let going_on = active.and_then(|slot| address(&state, slot));
        let mut tell = Vec::new();
        for news in news {
            let (News::Silent(slot, _) | News::Ended(slot) | News::Back(slot) | News::GiveUp(slot)) = news;
            if let (News::GiveUp(_), Some(end)) = (news, &mut state.ends[slot.number()]) {
                end.given_up = true;
                end.handle.end_all(&trust::Ended("it is silent".into()));
            }
            tell.push((news, address(&state, slot).unwrap_or_default()));
        }
        let over = state.over || state.closing.is_some();
        drop(state);
        self.wake_all();
        if !over {
            tell.iter()
                .for_each(|(news, address)| self.teller.tell(*news, address, going_on.as_deref(), now()));
        }
    }

    /// How each path does, for the API.
    #[must_use]
    pub fn status(&self) -> Vec<PathStatus> {
        let (state, now) = (self.state(), now());
        let all = state.addresses.iter().enumerate();
        all.filter_map(|(number, address)| {
            let (address, view) = (address.clone()?, state.core.view(Slot::new(number)?));
            Some(PathStatus {
                address,
                up: view.joined && view.silent_since.is_none(),
                active: view.active,
                silent_ms: view.silent_since.map(|since| now.since(since).as_millis_f64()),
                sent_bytes: view.sent,
                received_bytes: view.came,
            })
        })
        .filter(|_| !state.over)
        .collect()
    }

    /// The numbering of what goes out.
    #[must_use]
    pub fn outbound(&self) -> Outbound {
        let (vm, term, session) = self.identity;
        Outbound::new(vm, term, session)
    }
}
