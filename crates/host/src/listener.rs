//! Owns the replication port: takes connections, has them say who they are, reads their Hello, and leads them to their
//! VM's loop.
//!
//! Nothing that a peer says is taken for true that its certificate does not say too: a Hello is in the name of the host
//! that sends it, of a VM that this host was given, and does not push another host's session aside on its own word.

mod joins;
mod places;

use crate::backup::{self, BackupInput};
use crate::context::Context;
use crate::doctor;
use crate::link::paths::{Bundle, Teller};
use crate::link::{self, LinkError, Outbox, Wire};
use crate::loops::Haste;
use crate::table::{Entry, Table};
use crate::vm::VmHandle;
use api::types::Role;
use crossbeam_channel::{SendError, Sender, bounded, unbounded};
use joins::Joins;
use places::{Place, Places};
use protocol::backup::Conn;
use protocol::notice::LinkLoss;
use protocol::paths::Slot;
use protocol::wire::path::PathHello;
use protocol::wire::{HEADER_LEN, Header, Hello, Inbound, Kind, MAX_BODY_LEN, Refusal, ToBackup, ToPrimary};
use protocol::{HostName, Term};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use trust::{Connection, Purpose, Receiver, Wanted};

/// A connection that has not said who it is and what it wants by then is closed.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// Bulk frames of one connection that wait for the loop.
const FRAMES_AHEAD: usize = 16;
/// Their bytes at the most.
pub const MAX_AHEAD: u64 = FRAMES_AHEAD as u64 * MAX_BODY_LEN as u64;

static NEXT_CONN: AtomicU64 = AtomicU64::new(1);

/// Listens on the configured addresses, on a thread for each. Returns what was bound.
///
/// # Errors
/// Which address cannot be bound, and why.
pub fn start(
    context: &Arc<Context>,
    table: &Arc<Table>,
) -> Result<Vec<SocketAddr>, (SocketAddr, std::io::Error)> {
    let (places, joins) = (Places::default(), Arc::new(Joins::default()));
    let listen = |&address: &SocketAddr| {
        listen(context, table, (&places, &joins), address).map_err(|error| (address, error))
    };
    context.config.listen.iter().map(listen).collect()
}

fn listen(
    context: &Arc<Context>,
    table: &Arc<Table>,
    (places, joins): (&Places, &Arc<Joins>),
    address: SocketAddr,
) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address)?;
    let address = listener.local_addr()?;
    let (context, table) = (Arc::clone(context), Arc::clone(table));
    let (places, joins) = (places.clone(), Arc::clone(joins));
    std::thread::Builder::new().name("ud-listener".into()).spawn(move || {
        loop {
            let taken = listener.accept().and_then(|(stream, from)| {
                let Some(place) = places.take(from.ip()) else {
                    let why = "too many connections that have not said yet who they are";
                    context.door.refused(from, None, "too_many", why);
                    return Ok(());
                };
                let (context, table, joins) = (Arc::clone(&context), Arc::clone(&table), Arc::clone(&joins));
                let thread = std::thread::Builder::new().name("ud-conn".into());
                thread.spawn(move || serve(&context, &table, &joins, (stream, from), place)).map(drop)
            });
            if let Err(error) = taken {
                tracing::warn!(%error, "cannot take a connection");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    })?;
    Ok(address)
}

fn serve(
    context: &Arc<Context>,
    table: &Arc<Table>,
    joins: &Joins,
    (stream, from): (TcpStream, SocketAddr),
    place: Place,
) {
    crate::loops::prefer_this_thread();
    let greeted = greet(context, stream);
    let ended = greeted.and_then(|greeted| {
        // Who it is and what it wants is known. Who only asks keeps its place: those are bounded.
        let place = Some(place).filter(|_| matches!(greeted, Greeted::Doctor(_)));
        match greeted {
            Greeted::Doctor(connection) => {
                let attended = doctor::attend(context, table, connection);
                drop(place);
                attended.map_err(|error| LinkError::Nonsense(error.to_string()))
            }
            Greeted::Session(greeting) => attend(context, table, joins, greeting, from),
            Greeted::Path(connection, header, path) => join(context, joins, connection, from, (header, path)),
        }
    });
    if let Err(error) = ended {
        tracing::debug!(%from, %error, "a replication connection came to nothing");
    }
}

/// A connection that opens a session.
struct Greeting {
    connection: Connection,
    header: Header,
    hello: Hello,
    /// It is the first of several.
    path: Option<PathHello>,
}

enum Greeted {
    /// One that only asks.
    Doctor(Connection),
    Session(Greeting),
    /// One that joins a session.
    Path(Connection, Header, PathHello),
}

/// The handshake, and the first frame, which opens the session or joins one.
fn greet(context: &Context, stream: TcpStream) -> Result<Greeted, LinkError> {
    let until = Instant::now() + HELLO_WITHIN;
    link::prepare(&stream)?;
    let peers = Wanted::OneOf(context.config.peers.keys().cloned().collect());
    let mut connection =
        context.door.let_in(stream, peers, &[Purpose::Replication, Purpose::Doctor], until)?;
    if connection.purpose() == Purpose::Doctor {
        return Ok(Greeted::Doctor(connection));
    }
    connection.set_deadline(Some(until))?;
    let mut frame = link::read_frame(connection.receiver())?;
    let mut path = None;
    if frame.header.kind == Kind::Path {
        let said = PathHello::decode(&frame.body)?;
        if !said.first {
            connection.set_deadline(None)?;
            return Ok(Greeted::Path(connection, frame.header, said));
        }
        path = Some(said);
        frame = link::read_frame(connection.receiver())?;
    }
    if frame.header.kind != Kind::Hello || frame.header.seq != 0 {
        return Err(LinkError::Nonsense(format!("the first frame is {:?}, not Hello", frame.header.kind)));
    }
    let ToBackup::Hello(hello) = ToBackup::decode(frame.header.kind, frame.header.epoch, &frame.body)? else {
        return Err(LinkError::Nonsense("the first frame is not Hello".into()));
    };
    if protocol::VmId::of(&hello.vm) != frame.header.vm {
        return Err(LinkError::Nonsense(format!("the frame's VM id is not that of {}", hello.vm)));
    }
    connection.set_deadline(None)?;
    Ok(Greeted::Session(Greeting { connection, header: frame.header, hello, path }))
}

/// A path joins the session whose secret it says, if the same host opened that.
fn join(
    context: &Context,
    joins: &Joins,
    connection: Connection,
    from: SocketAddr,
    (header, path): (Header, PathHello),
) -> Result<(), LinkError> {
    let peer = connection.peer().name.clone();
    let session = joins.find(&peer, (header.vm, header.term, header.session));
    let (Some(bundle), Some(slot)) = (session, Slot::new(usize::from(path.slot))) else {
        return Err(LinkError::Nonsense("there is no such session to join".into()));
    };
    if !bundle.admits(&path) {
        let why = format!("host {peer} would join a session without its secret");
        context.door.refused(from, Some(&peer), "no_secret", &why);
        return Err(LinkError::Nonsense(why));
    }
    Err(link::paths::run(&bundle, slot, connection, from.ip().to_string(), 0))
}

fn attend(
    context: &Arc<Context>,
    table: &Arc<Table>,
    joins: &Joins,
    greeting: Greeting,
    from: SocketAddr,
) -> Result<(), LinkError> {
    let Greeting { mut connection, header, hello, path } = greeting;
    if let Err((reason, why)) = permit(context, &connection.peer().name, &hello) {
        context.door.refused(from, Some(&connection.peer().name), reason, &why);
        return answer(&mut connection, &header, &ToPrimary::Refuse(Refusal::Machine { why }));
    }
    if let Some(refusal) = contested(context, table, &header, &hello) {
        return answer(&mut connection, &header, &refusal);
    }
    if let Some(why) = context.drain.refusal(&context.config.name) {
        return answer(&mut connection, &header, &ToPrimary::Refuse(Refusal::Machine { why }));
    }
    let Some(entry) = entry_for(context, table, &hello) else {
        return answer(&mut connection, &header, &owned_here(table, &header));
    };
    match path {
        None => over_one(&entry, connection, &header, hello),
        Some(path) => over_several(context, joins, &entry, (connection, from), (header, hello, path)),
    }
}

fn over_one(entry: &Entry, connection: Connection, header: &Header, hello: Hello) -> Result<(), LinkError> {
    let (mut receiver, sender) = connection.split();
    let mut inbound = Inbound::new(header.vm, header.term, header.session);
    inbound.check(header)?;
    let bulk = open(entry, header, hello, Wire::One(sender), FRAMES_AHEAD)?;
    let error = read(&mut receiver, &mut inbound, &bulk);
    tracing::debug!(%error, "a replication connection ended");
    let _ = bulk.send(Err(LinkLoss::from(error)));
    Ok(())
}

fn over_several(
    context: &Context,
    joins: &Joins,
    entry: &Entry,
    (connection, from): (Connection, SocketAddr),
    (header, hello, path): (Header, Hello, PathHello),
) -> Result<(), LinkError> {
    let Some(slot) = Slot::new(usize::from(path.slot)) else {
        return Err(LinkError::Nonsense(format!("there is no path {}", path.slot)));
    };
    let identity = (header.vm, header.term, header.session);
    let peer = connection.peer().name.clone();
    let teller = Teller { events: Arc::clone(&context.events), vm: hello.vm.clone(), peer: peer.clone() };
    // The Hello is taken already.
    let bundle = Bundle::new(identity, path, 1, teller);
    joins.add(peer, identity, &bundle);
    entry.handle.attach_paths(&bundle);
    let came = (HEADER_LEN + header.len as usize) as u64;
    // The session's window bounds what is held before it comes here.
    let bulk = open(entry, &header, hello, Wire::Several(Arc::clone(&bundle)), FRAMES_AHEAD / 2)?;
    let deliver = Arc::clone(&bundle);
    std::thread::Builder::new().name("ud-deliver".into()).spawn(move || {
        crate::loops::prefer_this_thread();
        let mut haste = Haste::default();
        let error = deliver.deliver(|frame| pass(frame, &mut haste, &bulk));
        tracing::debug!(%error, "a session over several paths ended");
        let _ = bulk.send(Err(LinkLoss::from(error)));
    })?;
    Err(link::paths::run(&bundle, slot, connection, from.ip().to_string(), came))
}

/// Leads a session to the VM's loop; what is returned takes its frames.
fn open(
    entry: &Entry,
    header: &Header,
    hello: Hello,
    wire: Wire,
    ahead: usize,
) -> Result<Sender<Result<link::Frame, LinkLoss>>, LinkError> {
    let conn = Conn(NEXT_CONN.fetch_add(1, Ordering::Relaxed));
    let outbox = Outbox::start(wire, (header.vm, header.term, header.session), |_| ())?;
    let (bulk, frames) = bounded(ahead);
    let opened =
        BackupInput::Opened { conn, term: header.term, session: header.session, hello, outbox, frames };
    if let Err(SendError(opened)) = entry.inputs.send(opened) {
        opened.turn_away();
        return Err(LinkError::Nonsense("the VM's loop just ended; ask again".into()));
    }
    Ok(bulk)
}

fn pass(
    frame: link::Frame,
    haste: &mut Haste,
    frames: &Sender<Result<link::Frame, LinkLoss>>,
) -> Result<(), LinkError> {
    if matches!(frame.header.kind, Kind::Pages | Kind::Disk | Kind::Commit) {
        haste.suit(frame.header.epoch);
    }
    frames.send(Ok(frame)).map_err(|_| LinkError::Closed)
}

fn read(
    receiver: &mut Receiver,
    inbound: &mut Inbound,
    frames: &Sender<Result<link::Frame, LinkLoss>>,
) -> LinkError {
    let mut haste = Haste::default();
    loop {
        match link::read_session_frame(receiver, inbound) {
            Ok(frame) => {
                if let Err(error) = pass(frame, &mut haste, frames) {
                    return error;
                }
            }
            Err(error) => return error,
        }
    }
}

/// Whether this peer may say this Hello: in its own name, of a VM that it was given.
fn permit(context: &Context, peer: &HostName, hello: &Hello) -> Result<(), (&'static str, String)> {
    let here = &context.config.name;
    if hello.primary != *peer {
        let why = format!("host {peer} speaks to host {here} in the name of host {}", hello.primary);
        return Err(("wrong_name", why));
    }
    if context.config.peers.get(peer).is_some_and(|peer| peer.is_given(&hello.vm)) {
        return Ok(());
    }
    let why = format!(
        "VM {} is not given to host {peer} in the configuration of host {here}: add it there to `vms` of [peers.{peer}]",
        hello.vm
    );
    Err(("vm_not_given", why))
}

/// Why a Hello does not push aside the standby that this host has for another one. Its own word for a higher term is not
/// enough: whoever owns a term stands at the arbiter. It happens only after a failover that this host did not see.
fn contested(context: &Context, table: &Table, header: &Header, hello: &Hello) -> Option<ToPrimary> {
    let entry = table.find(header.vm).filter(|entry| entry.handle.role() == Role::Backup)?;
    let (other, term) = entry.handle.standing_by()?;
    if other == hello.primary || header.term < term {
        return None;
    }
    let newest = match context.arbiter.current(&hello.vm) {
        Ok(standing) => standing.map(|standing| standing.record.claim),
        Err(error) => {
            let why = format!(
                "host {} stands by for host {other}, and cannot ask whether {} owns VM {} now: {error}",
                context.config.name, hello.primary, hello.vm
            );
            return Some(ToPrimary::Refuse(Refusal::Machine { why }));
        }
    };
    match newest {
        Some(claim) if claim.host == hello.primary && claim.term == header.term => None,
        Some(claim) if claim.term > header.term => Some(ToPrimary::Fenced(claim.term)),
        _ => Some(ToPrimary::Refuse(Refusal::Busy { term })),
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
        // They came while it let go of what it had.
        inputs_rx.try_iter().for_each(BackupInput::turn_away);
    });
    if let Err(error) = spawned {
        tracing::error!(%error, "cannot start the loop of a standby");
        return None;
    }
    vms.insert(hello.vm.clone(), entry.clone());
    Some(entry)
}

/// This host runs the VM: an owner of a lower term is told so, any other is refused.
fn owned_here(table: &Table, header: &Header) -> ToPrimary {
    let term: Term = table.find(header.vm).map_or(header.term, |entry| entry.handle.term());
    if header.term < term { ToPrimary::Fenced(term) } else { ToPrimary::Refuse(Refusal::Busy { term }) }
}

/// The one and only answer on a connection.
fn answer(connection: &mut Connection, header: &Header, message: &ToPrimary) -> Result<(), LinkError> {
    let (kind, epoch, body) = message.encode();
    let mut outbound = protocol::wire::Outbound::new(header.vm, header.term, header.session);
    let head = outbound.seal(kind, epoch, &body).encode();
    Ok(connection.sender().send(&head, &body)?)
}

#[cfg(test)]
mod doctor_tests;
#[cfg(test)]
mod path_tests;
#[cfg(test)]
mod tests;
