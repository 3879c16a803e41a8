//! Owns a session's connection at the primary: connecting and reading run beside the loop.

use crate::context::Context;
use crate::link::{self, CopyWire, LinkError, Outbox};
use crate::measure::Measurements;
use crossbeam_channel::Sender;
use protocol::notice::LinkLoss;
use protocol::wire::{Inbound, ToPrimary};
use protocol::{HostName, Session, Term, VmId};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const CONNECT_WITHIN: Duration = Duration::from_secs(5);

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

/// Connects on a thread of its own, and reads from then on.
pub fn connect(
    context: &Arc<Context>,
    (peer, address): (HostName, SocketAddr),
    identity: (VmId, Term, Session),
    incoming: Sender<(Session, Incoming)>,
    measurements: Arc<Mutex<Measurements>>,
) {
    let session = identity.2;
    let (failed, context) = (incoming.clone(), Arc::clone(context));
    let spawned = std::thread::Builder::new().name("ud-session".into()).spawn(move || {
        crate::loops::prefer_this_thread();
        let opened = context.door.call(&peer, address, CONNECT_WITHIN);
        let opened = opened.map_err(|error| error.to_string()).and_then(|connection| {
            open(connection, identity, &incoming, measurements).map_err(|error| error.to_string())
        });
        let gone = match opened {
            Ok((receiver, wire)) => read(receiver, identity, &incoming, &wire).into(),
            Err(error) => LinkLoss::Connect(format!("{address}: {error}")),
        };
        let _ = incoming.send((session, Incoming::Gone(gone)));
    });
    if let Err(error) = spawned {
        let _ = failed.send((session, Incoming::Gone(LinkLoss::Connect(error.to_string()))));
    }
}

fn open(
    connection: trust::Connection,
    identity: (VmId, Term, Session),
    incoming: &Sender<(Session, Incoming)>,
    measurements: Arc<Mutex<Measurements>>,
) -> std::io::Result<(trust::Receiver, Arc<CopyWire>)> {
    let (receiver, sender) = connection.split();
    let outbox = Outbox::start(sender, identity, move |written| {
        let mut measurements = measurements.lock().unwrap_or_else(PoisonError::into_inner);
        measurements.written(&written);
    })?;
    let (session, wire) = (identity.2, Arc::clone(outbox.copy_wire()));
    let _ = incoming.send((session, Incoming::Connected(SessionLink { session, outbox })));
    Ok((receiver, wire))
}

fn read(
    mut receiver: trust::Receiver,
    (vm, term, session): (VmId, Term, Session),
    incoming: &Sender<(Session, Incoming)>,
    wire: &CopyWire,
) -> LinkError {
    let mut inbound = Inbound::new(vm, term, session);
    loop {
        let message = link::read_session_frame(&mut receiver, &mut inbound).and_then(|frame| {
            wire.count(frame.header.kind, frame.header.epoch, frame.body.len());
            Ok(ToPrimary::decode(frame.header.kind, frame.header.epoch, &frame.body)?)
        });
        match message {
            Ok(message) => {
                if incoming.send((session, Incoming::Message(message))).is_err() {
                    return LinkError::Closed;
                }
            }
            Err(error) => return error,
        }
    }
}
