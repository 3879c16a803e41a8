//! Owns the UDP clients: each has one request under way, waits for its answer for a while, and never asks it again.
//!
//! The server gives every datagram back as it came, so an answer tells which request it belongs to.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::ClientError;
use crate::topology::Namespace;

/// A request, once its answer came or was not waited for any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// When it was sent, on `os::clock`.
    pub sent_us: u64,
    /// When the first answer came; none if none did.
    pub answered_us: Option<u64>,
}

/// UDP clients that are running.
#[derive(Debug)]
pub struct Askers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<io::Result<io::Result<()>>>>,
    target: SocketAddr,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    asked: Mutex<Vec<Asked>>,
    /// When each sent the newest request that was answered.
    newest_us: Vec<AtomicU64>,
    repeated: AtomicU64,
}

impl Askers {
    /// Starts `count` clients in the client's namespace; each waits for an answer for `patience`.
    ///
    /// # Errors
    /// A socket cannot be made.
    pub fn start(
        client: &Namespace,
        target: SocketAddr,
        count: usize,
        patience: Duration,
    ) -> Result<Askers, ClientError> {
        let failed = |source| ClientError::Connection { what: "send to", target, source };
        let sockets = client
            .run(|| (0..count).map(|_| connect(target)).collect::<io::Result<Vec<_>>>())?
            .map_err(failed)?;
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            asked: Mutex::default(),
            newest_us: sockets.iter().map(|_| AtomicU64::new(0)).collect(),
            repeated: AtomicU64::new(0),
        });
        let start = |(index, socket): (usize, UdpSocket)| {
            let asker = Asker { shared: Arc::clone(&shared), index, socket, patience, given_up: Vec::new() };
            client.spawn(move || asker.ask_until_stopped())
        };
        let threads = sockets.into_iter().enumerate().map(start).collect();
        Ok(Askers { shared, threads, target })
    }

    /// Requests that ended since this was asked last.
    pub fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many answers came a second time.
    pub fn repeated(&self) -> u64 {
        self.shared.repeated.load(Relaxed)
    }

    /// Whether each of them has the answer to a request that it sent since then.
    pub fn all_answered_since(&self, since_us: u64) -> bool {
        self.shared.newest_us.iter().all(|newest| newest.load(Relaxed) >= since_us)
    }

    /// Ends them; requests under way are not waited for.
    ///
    /// # Errors
    /// One could not go on.
    pub fn stop(self) -> Result<(), ClientError> {
        self.shared.stop.store(true, Relaxed);
        let target = self.target;
        for thread in self.threads {
            super::join(thread)?.map_err(|source| ClientError::Connection { what: "ask", target, source })?;
        }
        Ok(())
    }
}

fn connect(target: SocketAddr) -> io::Result<UdpSocket> {
    let socket = match target {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
    }?;
    socket.connect(target)?;
    Ok(socket)
}

struct Asker {
    shared: Arc<Shared>,
    index: usize,
    socket: UdpSocket,
    patience: Duration,
    /// Requests whose answers were not waited for any longer: one that comes late is no second one.
    given_up: Vec<u64>,
}

impl Asker {
    fn ask_until_stopped(mut self) -> io::Result<()> {
        // How long one look for an answer may take, so that an end is noticed.
        const LOOK: Duration = Duration::from_millis(100);
        self.socket.set_read_timeout(Some(LOOK.min(self.patience)))?;
        let mut number = 0;
        while !self.shared.stop.load(Relaxed) {
            number += 1;
            let sent_us = os::clock::now_us();
            self.socket.send(&u64::to_be_bytes(number))?;
            let answered_us = self.await_answer(number)?;
            match answered_us {
                Some(_) => self.shared.newest_us[self.index].store(sent_us, Relaxed),
                None => self.given_up.push(number),
            }
            let mut asked = self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.push(Asked { sent_us, answered_us });
        }
        Ok(())
    }

    /// When the answer to this request came, if it came in time.
    fn await_answer(&mut self, number: u64) -> io::Result<Option<u64>> {
        let until = Instant::now() + self.patience;
        while Instant::now() < until && !self.shared.stop.load(Relaxed) {
            let mut answer = [0; 8];
            match self.socket.recv(&mut answer) {
                Ok(8) => {}
                Ok(_) => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer of another length"));
                }
                // What the network says of a datagram that was lost is no more than that.
                Err(error) if is_silence(&error) => continue,
                Err(error) => return Err(error),
            }
            let of = u64::from_be_bytes(answer);
            if of == number {
                return Ok(Some(os::clock::now_us()));
            }
            match self.given_up.iter().position(|&late| late == of) {
                Some(at) => drop(self.given_up.swap_remove(at)),
                None => drop(self.shared.repeated.fetch_add(1, Relaxed)),
            }
        }
        Ok(None)
    }
}

fn is_silence(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), ConnectionRefused | HostUnreachable | Interrupted | TimedOut | WouldBlock)
}
