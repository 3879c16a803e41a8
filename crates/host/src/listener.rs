//! Owns the replication port: takes connections, reads their Hello, and leads them to their VM's loop.

use crate::api::types::Role;
use crate::backup::{self, BackupInput};
use crate::context::Context;
use crate::link::{self, LinkError, Outbox};
use crate::loops::Haste;
use crate::table::{Entry, Table};
use crate::vm::VmHandle;
use crossbeam_channel::{Sender, bounded, unbounded};
use protocol::backup::Conn;
use protocol::notice::LinkLoss;
use protocol::wire::{Header, Hello, Inbound, Kind, MAX_BODY_LEN, Refusal, ToBackup, ToPrimary};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A connection that says nothing for so long is closed.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// Bulk frames of one connection that wait for the loop.
const FRAMES_AHEAD: usize = 16;
/// Their bytes at the most.
pub const MAX_AHEAD: u64 = FRAMES_AHEAD as u64 * MAX_BODY_LEN as u64;

static NEXT_CONN: AtomicU64 = AtomicU64::new(1);

/// Listens on the configured address, on a thread of its own.
///
/// # Errors
/// If the address cannot be bound.
pub fn start(context: &Arc<Context>, table: &Arc<Table>) -> std::io::Result<()> {
    let listener = TcpListener::bind(context.config.listen)?;
    let (context, table) = (Arc::clone(context), Arc::clone(table));
    std::thread::Builder::new().name("ud-listener".into()).spawn(move || {
        for stream in listener.incoming() {
            let (context, table) = (Arc::clone(&context), Arc::clone(&table));
            let served = stream.and_then(|stream| {
                std::thread::Builder::new()
                    .name("ud-conn".into())
                    .spawn(move || serve(&context, &table, stream))
            });
            if let Err(error) = served {
                tracing::warn!(%error, "cannot take a connection");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    })?;
    Ok(())
}

fn serve(context: &Arc<Context>, table: &Arc<Table>, mut stream: TcpStream) {
    crate::loops::prefer_this_thread();
    let peer = stream.peer_addr().map_or_else(|_| "?".into(), |address| address.to_string());
    if let Err(error) =
        hello(&mut stream).and_then(|(header, hello)| attend(context, table, stream, header, hello))
    {
        tracing::warn!(%peer, %error, "a replication connection was refused");
    }
}

/// Reads the first frame, which opens the session.
fn hello(stream: &mut TcpStream) -> Result<(Header, Hello), LinkError> {
    link::prepare(stream)?;
    stream.set_read_timeout(Some(HELLO_WITHIN))?;
    let frame = link::read_frame(stream)?;
    if frame.header.kind != Kind::Hello || frame.header.seq != 0 {
        return Err(LinkError::Nonsense(format!("the first frame is {:?}, not Hello", frame.header.kind)));
    }
    let ToBackup::Hello(hello) = ToBackup::decode(frame.header.kind, frame.header.epoch, &frame.body)? else {
        return Err(LinkError::Nonsense("the first frame is not Hello".into()));
    };
    if protocol::VmId::of(&hello.vm) != frame.header.vm {
        return Err(LinkError::Nonsense(format!("the frame's VM id is not that of {}", hello.vm)));
    }
    stream.set_read_timeout(None)?;
    Ok((frame.header, hello))
}

fn attend(
    context: &Arc<Context>,
    table: &Arc<Table>,
    mut stream: TcpStream,
    header: Header,
    hello: Hello,
) -> Result<(), LinkError> {
    let Some(entry) = entry_for(context, table, &hello) else {
        return refuse(table, &mut stream, &header);
    };
    let conn = Conn(NEXT_CONN.fetch_add(1, Ordering::Relaxed));
    let identity = (header.vm, header.term, header.session);
    let outbox = Outbox::start(stream.try_clone()?, identity, |_| ())?;
    let (bulk_tx, bulk) = bounded(FRAMES_AHEAD);
    let opened =
        BackupInput::Opened { conn, term: header.term, session: header.session, hello, outbox, frames: bulk };
    let mut inbound = Inbound::new(header.vm, header.term, header.session);
    inbound.check(&header)?;
    if entry.inputs.send(opened).is_err() {
        return Err(LinkError::Nonsense("the VM's loop just ended; ask again".into()));
    }
    let error = read(&mut stream, &mut inbound, &bulk_tx);
    tracing::debug!(%error, "a replication connection ended");
    let _ = bulk_tx.send(Err(LinkLoss::from(error)));
    Ok(())
}

fn read(
    stream: &mut TcpStream,
    inbound: &mut Inbound,
    frames: &Sender<Result<link::Frame, LinkLoss>>,
) -> LinkError {
    let mut haste = Haste::default();
    loop {
        match link::read_session_frame(stream, inbound) {
            Ok(frame) => {
                if matches!(frame.header.kind, Kind::Pages | Kind::Disk | Kind::Commit) {
                    haste.suit(frame.header.epoch);
                }
                if frames.send(Ok(frame)).is_err() {
                    return LinkError::Closed;
                }
            }
            Err(error) => return error,
        }
    }
}

/// The VM's loop, made if there is none; none if this host runs the VM itself.
fn entry_for(context: &Arc<Context>, table: &Arc<Table>, hello: &Hello) -> Option<Entry> {
    let mut vms = table.vms();
    if let Some(entry) = vms.get(&hello.vm) {
        return (entry.handle.role() == Role::Backup).then(|| entry.clone());
    }
    let handle = VmHandle::new(hello.vm.clone(), context.config.name.clone(), Role::Backup);
    let ((inputs, inputs_rx), (requests, requests_rx)) = (unbounded(), unbounded());
    let entry = Entry { handle: Arc::clone(&handle), requests, inputs };
    let (context, table) = (Arc::clone(context), Arc::clone(table));
    let spawned = std::thread::Builder::new().name(format!("vm-{}", hello.vm)).spawn(move || {
        let ended = backup::run(&context, &handle, &inputs_rx, &requests_rx);
        table.end(&context, &handle, &ended);
    });
    if let Err(error) = spawned {
        tracing::error!(%error, "cannot start the loop of a standby");
        return None;
    }
    vms.insert(hello.vm.clone(), entry.clone());
    Some(entry)
}

/// This host runs the VM: an owner of a lower term is told so, any other is refused.
fn refuse(table: &Table, stream: &mut TcpStream, header: &Header) -> Result<(), LinkError> {
    let term = table.find(header.vm).map_or(header.term, |entry| entry.handle.term());
    let message =
        if header.term < term { ToPrimary::Fenced(term) } else { ToPrimary::Refuse(Refusal::Busy { term }) };
    let (kind, epoch, body) = message.encode();
    let mut outbound = protocol::wire::Outbound::new(header.vm, header.term, header.session);
    let head = outbound.seal(kind, epoch, &body).encode();
    stream.write_all(&head)?;
    stream.write_all(&body)?;
    Ok(())
}
