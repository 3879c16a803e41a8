//! Owns making the connections of a session with several, at the host that opens it, and making them anew.

use super::super::LinkError;
use super::{Bundle, lane};
use crate::context::Context;
use crate::door::CONNECT_WITHIN;
use protocol::HostName;
use protocol::paths::Slot;
use protocol::wire::Kind;
use protocol::wire::path::PathHello;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use trust::Purpose;

/// For so long a path that is away is left alone.
const AGAIN: Duration = Duration::from_millis(500);

/// Connects over every address, from threads of their own, for as long as the session lasts. `opened` hears once when the
/// first connection stands. If none can be made the session is over.
///
/// # Errors
/// If there is no thread.
pub fn dial(
    context: &Arc<Context>,
    bundle: &Arc<Bundle>,
    peer: &HostName,
    addresses: &[SocketAddr],
    opened: &Arc<dyn Fn() + Send + Sync>,
) -> std::io::Result<()> {
    let hopes = Arc::new(AtomicUsize::new(addresses.len()));
    for (number, &address) in addresses.iter().enumerate() {
        let Some(slot) = Slot::new(number) else { break };
        bundle.name(slot, address.to_string());
        let caller = Caller {
            context: Arc::clone(context),
            bundle: Arc::clone(bundle),
            peer: peer.clone(),
            address,
            slot,
        };
        let (hopes, opened) = (Arc::clone(&hopes), Arc::clone(opened));
        std::thread::Builder::new().name("ud-session".into()).spawn(move || {
            crate::loops::prefer_this_thread();
            caller.keep(&hopes, &*opened);
        })?;
    }
    Ok(())
}

struct Caller {
    context: Arc<Context>,
    bundle: Arc<Bundle>,
    peer: HostName,
    address: SocketAddr,
    slot: Slot,
}

impl Caller {
    fn keep(&self, hopes: &AtomicUsize, opened: &dyn Fn()) {
        let mut hopeful = true;
        while !self.bundle.is_over() {
            let ended = self.once(opened);
            tracing::debug!(address = %self.address, error = %ended, "a path ended, or could not be made");
            // The last one that has no way to the peer says so, if none ever had.
            if std::mem::take(&mut hopeful)
                && hopes.fetch_sub(1, Ordering::SeqCst) == 1
                && !self.bundle.state().opened
            {
                return self.bundle.end(LinkError::Connect(format!("{}: {ended}", self.address)));
            }
            self.pause();
        }
    }

    fn once(&self, opened: &dyn Fn()) -> LinkError {
        let called = self.context.door.call(&self.peer, self.address, Purpose::Replication, CONNECT_WITHIN);
        let mut connection = match called {
            Ok(connection) => connection,
            Err(error) => return LinkError::Connect(error.to_string()),
        };
        let first = !std::mem::replace(&mut self.bundle.state().opened, true);
        if !first && !self.may_join() {
            return LinkError::Closed;
        }
        let slot = u8::try_from(self.slot.number()).unwrap_or(0);
        let body = PathHello { first, slot, ..self.bundle.hello }.encode();
        let header = self.bundle.outbound().seal(Kind::Path, protocol::Epoch(0), &body);
        if let Err(error) = connection.sender().send(&header.encode(), &body) {
            if first {
                self.bundle.end(LinkError::Connect(error.to_string()));
            }
            return LinkError::Io(error);
        }
        if first {
            opened();
        }
        lane::run(&self.bundle, self.slot, connection, self.address.to_string(), 0)
    }

    /// Waits until the peer knows the session; false if it is over.
    fn may_join(&self) -> bool {
        let mut state = self.bundle.state();
        while !state.answered && !state.is_over() {
            state = self.bundle.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.is_over()
    }

    fn pause(&self) {
        let until = Instant::now() + AGAIN;
        let mut state = self.bundle.state();
        while !state.is_over() && Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            state = self.bundle.ready.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
