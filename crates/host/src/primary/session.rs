//! Owns a session's connection at the primary: connecting and reading run beside the loop.

use crate::context::Context;
use crate::door::CONNECT_WITHIN;
use crate::link::paths::{self, Bundle, Teller};
use crate::link::{self, CopyWire, Frame, LinkError, Outbox, Wire};
use crate::measure::Measurements;
use crate::vm::VmHandle;
use crossbeam_channel::Sender;
use protocol::notice::LinkLoss;
use protocol::wire::path::PathHello;
use protocol::wire::{Inbound, ToPrimary};
use protocol::{HostName, Session, Term, VmId};
use std::io::Read;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use trust::Purpose;

/// The connection of a session.
#[derive(Debug)]
pub struct SessionLink {
    /// The session.
    pub session: Session,
    /// What is sent on it.
    pub outbox: Outbox,
}

impl SessionLink {
    /// Closes it behind what was queued.
    pub fn close(self) {
        self.outbox.close();
    }
}

/// What comes from a session's threads.
#[derive(Debug)]
pub enum Incoming {
    /// It stands.
    Connected(SessionLink),
    /// The backup says this.
    Message(ToPrimary),
    /// It is over.
    Gone(LinkLoss),
}

/// A session to be opened.
#[derive(Clone)]
pub struct Call {
    /// The backup's host.
    pub peer: HostName,
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    /// VM, term and session.
    pub identity: (VmId, Term, Session),
    /// The VM, for whom the paths are shown.
    pub handle: Arc<VmHandle>,
    /// What comes goes there.
    pub incoming: Sender<(Session, Incoming)>,
    /// What was written is counted there.
    pub measurements: Arc<Mutex<Measurements>>,
}

impl Call {
    /// Connects on threads of its own, and reads from then on.
    pub fn start(self, context: &Arc<Context>) {
        let (session, failed) = (self.identity.2, self.incoming.clone());
        let context = Arc::clone(context);
        let spawned = std::thread::Builder::new().name("ud-session".into()).spawn(move || {
            crate::loops::prefer_this_thread();
            let gone = match self.addresses[..] {
                [address] => self.over_one(&context, address),
                _ => self.over_several(&context),
            };
            let _ = self.incoming.send((session, Incoming::Gone(gone)));
        });
        if let Err(error) = spawned {
            let _ = failed.send((session, Incoming::Gone(LinkLoss::Connect(error.to_string()))));
        }
    }

    fn over_one(&self, context: &Context, address: SocketAddr) -> LinkLoss {
        let opened = context.door.call(&self.peer, address, Purpose::Replication, CONNECT_WITHIN);
        let opened = opened.map_err(|error| error.to_string()).and_then(|connection| {
            let (receiver, sender) = connection.split();
            let outbox = self.outbox(Wire::One(sender)).map_err(|error| error.to_string())?;
            Ok((receiver, outbox))
        });
        match opened {
            Ok((receiver, outbox)) => self.read(receiver, outbox).into(),
            Err(error) => LinkLoss::Connect(format!("{address}: {error}")),
        }
    }

    fn read(&self, mut receiver: trust::Receiver, outbox: Outbox) -> LinkError {
        let (vm, term, session) = self.identity;
        let wire = Arc::clone(outbox.copy_wire());
        let _ = self.incoming.send((session, Incoming::Connected(SessionLink { session, outbox })));
        let mut inbound = Inbound::new(vm, term, session);
        loop {
            let frame = link::read_session_frame(&mut receiver, &mut inbound);
            if let Err(error) = frame.and_then(|frame| take(&frame, session, &self.incoming, &wire)) {
                return error;
            }
        }
    }

    fn over_several(&self, context: &Arc<Context>) -> LinkLoss {
        match self.bundle(context) {
            Ok((bundle, wire)) => {
                bundle.deliver(|frame| take(&frame, self.identity.2, &self.incoming, &wire)).into()
            }
            Err(error) => LinkLoss::Connect(error.to_string()),
        }
    }

    fn bundle(&self, context: &Arc<Context>) -> std::io::Result<(Arc<Bundle>, Arc<CopyWire>)> {
        let mut secret = [0; 16];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut secret)?;
        let timeout = context.config.shortest_timeout();
        let hello = PathHello { secret, slot: 0, first: true, timeout };
        let (events, vm) = (Arc::clone(&context.events), self.handle.name().clone());
        let bundle = Bundle::new(self.identity, hello, 0, Teller { events, vm, peer: self.peer.clone() });
        self.handle.attach_paths(&bundle);
        let outbox = self.outbox(Wire::Several(Arc::clone(&bundle)))?;
        let (session, wire) = (self.identity.2, Arc::clone(outbox.copy_wire()));
        // Taken by the first connection that stands. Who else might hold it would keep the session from being closed.
        let link = Mutex::new(Some(SessionLink { session, outbox }));
        let incoming = self.incoming.clone();
        let opened: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
            if let Some(link) = link.lock().unwrap_or_else(PoisonError::into_inner).take() {
                let _ = incoming.send((session, Incoming::Connected(link)));
            }
        });
        paths::dial(context, &bundle, &self.peer, &self.addresses, &opened)
            .inspect_err(|_| bundle.close())?;
        Ok((bundle, wire))
    }

    fn outbox(&self, wire: Wire) -> std::io::Result<Outbox> {
        let measurements = Arc::clone(&self.measurements);
        Outbox::start(wire, self.identity, move |written| {
            measurements.lock().unwrap_or_else(PoisonError::into_inner).written(&written);
        })
    }
}

/// Hands a frame's message to the loop.
fn take(
    frame: &Frame,
    session: Session,
    incoming: &Sender<(Session, Incoming)>,
    wire: &CopyWire,
) -> Result<(), LinkError> {
    wire.count(frame.header.kind, frame.header.epoch, frame.body.len());
    let message = ToPrimary::decode(frame.header.kind, frame.header.epoch, &frame.body)?;
    incoming.send((session, Incoming::Message(message))).map_err(|_| LinkError::Closed)
}
