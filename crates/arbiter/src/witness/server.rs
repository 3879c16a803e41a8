//! Owns the witness's side: answers for a directory of records, whoever asks and whatever comes.
//!
//! A connection has its own thread, its question must come within [`QUESTION_WITHIN`], and there are never more than
//! [`MAX_CONNECTIONS`]: a peer that says nonsense, or nothing, costs a bounded piece of memory for a bounded time.

use crate::directory::DirectoryArbiter;
use crate::{Arbiter, ArbiterError};
use protocol::witness::{Answer, MAX_VMS, Question};
use protocol::{Claim, HostName, TermRecord};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use trust::{Connection, HandshakeError, exchange};

/// Connections at a time; one more is closed at once.
pub const MAX_CONNECTIONS: usize = 256;
/// After this long a connection is closed, whatever came.
pub const QUESTION_WITHIN: Duration = Duration::from_secs(5);

/// Finds out who asks, and hears of those who ask for what they may not.
pub trait Doorkeeper: Send + Sync + 'static {
    /// Has a host say who it is, until this instant.
    ///
    /// # Errors
    /// If it is not wanted here.
    fn let_in(&self, socket: TcpStream, until: Instant) -> Result<Connection, HandshakeError>;

    /// A host at this address asked for what it may not have.
    fn refused(&self, address: SocketAddr, host: &HostName, why: &str);
}

/// A running witness. It ends when dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Begins to answer.
    ///
    /// # Errors
    /// If there is no thread for it.
    pub fn start(
        listener: TcpListener,
        store: DirectoryArbiter,
        door: Arc<dyn Doorkeeper>,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let body = move || accept(&listener, &store, &door, &stopped);
        let thread = std::thread::Builder::new().name("ud-witness".into()).spawn(body)?;
        Ok(Self { address, stop, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, store: &DirectoryArbiter, door: &Arc<dyn Doorkeeper>, stop: &AtomicBool) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        if stop.load(Ordering::Acquire) {
            return;
        }
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                // Out of descriptors, most likely: those in use come free soon.
                tracing::warn!(%error, "the witness cannot accept a connection");
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        let Some(place) = Place::take(&open) else {
            tracing::warn!("the witness has {MAX_CONNECTIONS} connections and closes one more");
            continue;
        };
        let (store, door) = (store.clone(), Arc::clone(door));
        let spawned = std::thread::Builder::new().name("ud-witnessed".into()).spawn(move || {
            let _place = place;
            let peer = stream.peer_addr();
            if let Err(error) = attend(stream, &store, &*door) {
                tracing::debug!(%error, ?peer, "a question to the witness came to nothing");
            }
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "the witness has no thread for a connection");
        }
    }
}

/// A place among the connections, given back when dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(open: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Self(Arc::clone(open));
        (open.fetch_add(1, Ordering::AcqRel) < MAX_CONNECTIONS).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn attend(
    socket: TcpStream,
    store: &DirectoryArbiter,
    door: &dyn Doorkeeper,
) -> Result<(), exchange::ReadError> {
    let until = Instant::now() + QUESTION_WITHIN;
    socket.set_nodelay(true)?;
    let address = socket.peer_addr()?;
    let mut connection = door.let_in(socket, until).map_err(io::Error::other)?;
    connection.set_deadline(Some(until))?;
    let question: Question = exchange::read(connection.receiver())?;
    let asks = connection.peer().name.clone();
    let answer = match own_name(&question, &asks) {
        Ok(()) => answer(store, &question),
        Err(why) => {
            door.refused(address, &asks, &why);
            Answer::Refused(Answer::text(&why))
        }
    };
    exchange::write(connection.sender(), &answer)?;
    Ok(())
}

/// Whoever asks may look at everything, and claim or stop in its own name only.
fn own_name(question: &Question, asks: &HostName) -> Result<(), String> {
    match question {
        Question::Claim(Claim { host, .. })
        | Question::Stopped { host, .. }
        | Question::LeaveToken { host, .. }
            if host != asks =>
        {
            Err(format!("host {asks} speaks in the name of host {host}"))
        }
        _ => Ok(()),
    }
}

/// The answer to a question.
fn answer(store: &DirectoryArbiter, question: &Question) -> Answer {
    let answered = match question {
        Question::Claim(claim) => store.claim(claim).map(Answer::Record),
        Question::Look(vm) => store.look(vm).map(|view| Answer::View {
            identity: Answer::text(&view.identity),
            standing: view.standing.map(|standing| (standing.record, standing.stopped)),
        }),
        Question::Stopped { vm, term, host } => store.mark_stopped(vm, *term, host).map(|()| Answer::Noted),
        Question::LeaveToken { host, token } => store.leave_token(host, *token).map(|()| Answer::Noted),
        Question::Token { host } => store.token(host).map(Answer::Token),
        Question::Identity => store.identity().map(|identity| Answer::Identity(Answer::text(&identity))),
        Question::Vms { after } => store.vms().map(|all| {
            let mut vms: Vec<_> = all.into_iter().filter(|vm| after.as_ref() < Some(vm)).collect();
            let more = vms.len() > MAX_VMS;
            vms.truncate(MAX_VMS);
            Answer::Vms { vms, more }
        }),
    };
    answered.unwrap_or_else(refusal)
}

fn refusal(error: ArbiterError) -> Answer {
    match error {
        ArbiterError::Stale { newest, .. } => Answer::Stale(TermRecord::clone(&newest)),
        ArbiterError::Gap { newest, .. } => Answer::Gap { newest },
        ArbiterError::NotOwner { owner, .. } => Answer::NotOwner { owner },
        ArbiterError::Corrupt { path, why } => {
            Answer::Corrupt { record: Answer::text(&path.to_string_lossy()), why: Answer::text(&why) }
        }
        error => {
            tracing::error!(%error, "the witness cannot answer");
            Answer::Failed(Answer::text(&error.to_string()))
        }
    }
}
