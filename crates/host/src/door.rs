//! Owns the door to other hosts: who is let in and called, what is told of those who are not, and the end of sessions
//! with hosts that are trusted no longer.

mod limit;

use crate::events::EventLog;
use crate::link;
use limit::Limit;
use protocol::HostName;
use serde_json::json;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use trust::certificate::UnixTime;
use trust::{
    Connection, Ended, Handle, HandshakeError, Peer, Purpose, Refusal, Store, TrustError, Wanted, judge,
};

/// Within this time another host is usually reached.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How often it is looked whether the hosts at the other ends are still trusted.
const EVERY: Duration = Duration::from_millis(500);

/// How long before a certificate expires an agent that starts says so.
const WARN_BEFORE: Duration = Duration::from_secs(30 * 86_400);

/// Who opened a connection: it decides how one ends whose peer is not trusted any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opened {
    /// This host: what waits to be sent is a guest's memory, and the other host gets no more of it.
    Here,
    /// The other host: it hears why, so that it can go on without this one.
    There,
}

#[derive(Debug)]
struct Open {
    peer: Peer,
    opened: Opened,
    handle: Handle,
    /// It was told to end in an earlier round.
    ending: bool,
}

/// The door of one host.
#[derive(Debug)]
pub struct Door {
    store: Store,
    events: Arc<EventLog>,
    limit: Mutex<Limit>,
    open: Mutex<Vec<Open>>,
}

/// Why another host cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The network.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The handshake.
    #[error("{0}")]
    Handshake(#[from] HandshakeError),
}

impl Door {
    /// Opens the door, and watches from a thread of its own over those who came through, until it is dropped.
    ///
    /// # Errors
    /// If there is no thread for it.
    pub fn start(store: Store, events: Arc<EventLog>) -> io::Result<Arc<Self>> {
        let door = Arc::new(Self { store, events, limit: Mutex::default(), open: Mutex::default() });
        let weak = Arc::downgrade(&door);
        std::thread::Builder::new().name("ud-door".into()).spawn(move || watch(&weak))?;
        Ok(door)
    }

    /// Where it tells what happens at it.
    #[must_use]
    pub fn events(&self) -> &Arc<EventLog> {
        &self.events
    }

    /// Calls another host's replication port.
    ///
    /// # Errors
    /// If it does not answer in time, or one of the two does not trust the other.
    pub fn call(
        &self,
        host: &HostName,
        address: SocketAddr,
        purpose: Purpose,
        within: Duration,
    ) -> Result<Connection, CallError> {
        let until = Instant::now() + within;
        let socket = link::connect(address, within)?;
        let connection = trust::connect(socket, &self.store, host, purpose, until);
        let connection = connection.inspect_err(|error| {
            if error.is_refusal() {
                let text = format!("host {host} at {address} cannot be reached: {error}");
                let what = json!({"event": "peer_refused", "direction": "out", "host": host, "address": address,
                    "reason": error.reason()});
                self.tell(host.as_str(), error.reason(), what, text);
            }
        })?;
        self.watch_over(&connection, Opened::Here);
        Ok(connection)
    }

    /// Lets another host in, or not.
    ///
    /// # Errors
    /// If it is not wanted, or says nothing.
    pub fn let_in(
        &self,
        socket: TcpStream,
        wanted: Wanted,
        purposes: &[Purpose],
        until: Instant,
    ) -> Result<Connection, HandshakeError> {
        let address = socket.peer_addr();
        let accepted = trust::accept(socket, &self.store, wanted, purposes, until);
        let connection = accepted.inspect_err(|error| {
            let host = match error {
                HandshakeError::Refused(refusal) => refusal.host(),
                _ => None,
            };
            // Who only connects and goes, as monitoring does, is not worth an event.
            if let (Ok(address), false) = (address, matches!(error, HandshakeError::Io(_))) {
                self.refused(address, host, error.reason(), &error.to_string());
            }
        })?;
        self.watch_over(&connection, Opened::There);
        Ok(connection)
    }

    /// Tells that somebody who called was refused, unless the same was told a moment ago.
    pub fn refused(&self, address: SocketAddr, host: Option<&HostName>, reason: &'static str, why: &str) {
        let text = match host {
            Some(host) => format!("a connection from {address} (host {host}) was refused: {why}"),
            None => format!("a connection from {address} was refused: {why}"),
        };
        let what = json!({"event": "peer_refused", "direction": "in", "host": host, "address": address,
            "reason": reason});
        self.tell(&address.ip().to_string(), reason, what, text);
    }

    fn tell(&self, whom: &str, reason: &'static str, what: serde_json::Value, text: String) {
        let told =
            self.limit.lock().unwrap_or_else(PoisonError::into_inner).told(whom, reason, Instant::now());
        let Some(held_back) = told else { return tracing::debug!("{text}") };
        let more =
            if held_back > 0 { format!(" ({held_back} more like it since the last)") } else { String::new() };
        self.events.log_host(&what, text + &more);
    }

    fn watch_over(&self, connection: &Connection, opened: Opened) {
        let (peer, handle) = (connection.peer().clone(), connection.handle());
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.push(Open { peer, opened, handle, ending: false });
    }

    /// Ends the connections of those who are trusted no longer.
    fn look(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|open| open.handle.is_open());
        let mut judged: Vec<(Peer, Option<String>)> = Vec::new();
        for open in open.iter_mut() {
            let known = judged.iter().find(|(peer, _)| *peer == open.peer);
            let why = match known {
                Some((_, why)) => why.clone(),
                None => {
                    let why = self.no_longer(&open.peer);
                    judged.push((open.peer.clone(), why.clone()));
                    why
                }
            };
            if let Some(why) = why {
                let why = Ended(why);
                match (open.opened, open.ending) {
                    (Opened::There, false) => open.handle.end_reading(&why),
                    // It had time for a last word.
                    _ => open.handle.end_all(&why),
                }
                open.ending = true;
            }
        }
    }

    /// Why a host that was let in is trusted no longer; none if it still is, or that cannot be said: then it stays, for
    /// nobody said that it shall go.
    fn no_longer(&self, peer: &Peer) -> Option<String> {
        let refusal = judge::still(&self.store, peer).err()?;
        let Peer { name, .. } = peer;
        let (reason, ends) = (refusal.reason(), !matches!(refusal, Refusal::Store(_)));
        let text = match ends {
            true => format!("the sessions with host {name} are ended: {refusal}"),
            false => format!("whether host {name} is still trusted cannot be said: {refusal}"),
        };
        let event = if ends { "peer_distrusted" } else { "trust_unknown" };
        self.tell(name.as_str(), event, json!({"event": event, "host": name, "reason": reason}), text);
        ends.then(|| format!("host {name} is not trusted any more: {refusal}"))
    }
}

/// What an operator hears of certificates, this host's and those of others, that are of no use soon.
///
/// # Errors
/// If the files of trust cannot be read.
pub fn soon_expired(store: &Store) -> Result<Vec<String>, TrustError> {
    let mut all = vec![(store.host().clone(), store.identity()?.certificate().clone())];
    all.extend(store.trusted()?);
    all.retain(|(_, certificate)| certificate.expires_within(UnixTime::now(), WARN_BEFORE));
    let text = |(name, certificate): (HostName, trust::Certificate)| {
        format!(
            "the certificate of host {name} is valid until {}: make a new one there with `undying host init CONFIG --renew`",
            certificate.valid_until()
        )
    };
    Ok(all.into_iter().map(text).collect())
}

fn watch(door: &Weak<Door>) {
    while let Some(door) = door.upgrade() {
        door.look();
        drop(door);
        std::thread::sleep(EVERY);
    }
}

#[cfg(test)]
mod tests;
