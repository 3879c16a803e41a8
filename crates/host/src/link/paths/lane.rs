//! Owns one connection of a session with several: its writer, its reader.

use super::super::{Frame, LinkError, read_exact};
use super::{Bundle, End, Sealed};
use crate::loops::{Haste, now};
use protocol::paths::{Give, Slot};
use protocol::wire::path::{PROBE_LEN, Receipt};
use protocol::wire::{HEADER_LEN, Header, Inbound, Kind, Outbound};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use trust::{Connection, Receiver, Sender};

/// So much of a body is read before it is said that it comes.
const PIECE: usize = 64 << 10;

/// Carries a path over this connection, until it ends; reads on the calling thread. `already` bytes of frames came by it.
pub fn run(
    bundle: &Arc<Bundle>,
    slot: Slot,
    connection: Connection,
    address: String,
    already: u64,
) -> LinkError {
    let handle = connection.handle();
    let number = {
        let mut state = bundle.state();
        if state.is_over() {
            return LinkError::Closed;
        }
        state.connections += 1;
        let number = state.connections;
        let end = End { handle, number, given_up: false };
        state.addresses[slot.number()] = Some(address);
        if let Some(old) = state.ends[slot.number()].replace(end) {
            old.handle.end_all(&trust::Ended("a new connection takes its place".into()));
        }
        state.core.join(now(), slot);
        if already > 0 {
            state.core.arrived(now(), slot, already);
        }
        bundle.told(state);
        number
    };
    bundle.wake_all();
    let (mut receiver, sender) = connection.split();
    let writes = Arc::clone(bundle);
    let writer = std::thread::Builder::new().name("ud-path".into()).spawn(move || {
        crate::loops::prefer_this_thread();
        if let Err(error) = write(&writes, slot, number, sender) {
            tracing::debug!(%error, "a path cannot be written");
        }
    });
    let error = match writer {
        Ok(_) => read(bundle, slot, number, &mut receiver),
        Err(error) => LinkError::Io(error),
    };
    left(bundle, slot, number, error)
}

/// The connection is over; with the last one, or if nonsense came by it, the session is.
fn left(bundle: &Bundle, slot: Slot, number: u64, error: LinkError) -> LinkError {
    let mut state = bundle.state();
    let end = state.ends[slot.number()].as_ref().filter(|end| end.number == number);
    let Some(given_up) = end.map(|end| end.given_up).filter(|_| !state.over) else {
        return LinkError::Closed;
    };
    state.core.gone(slot);
    let fatal = !matches!(error, LinkError::Io(_) | LinkError::Closed) && !given_up;
    let text = error.to_string();
    if fatal || !state.core.any() {
        Bundle::end_locked(&mut state, error);
    }
    bundle.told(state);
    bundle.wake_all();
    LinkError::Nonsense(text)
}

fn write(bundle: &Bundle, slot: Slot, number: u64, mut sender: Sender) -> std::io::Result<()> {
    let mut haste = Haste::default();
    let mut link = bundle.outbound();
    while let Some(give) = next(bundle, slot, number) {
        match give {
            Give::Frame(frame) => frame_out(&mut sender, &frame, &mut haste)?,
            Give::Receipt(receipt) => say(&mut sender, &mut link, Kind::Receipt, receipt)?,
            Give::Probe(receipt) => say(&mut sender, &mut link, Kind::Probe, receipt)?,
        }
    }
    Ok(())
}

fn frame_out(sender: &mut Sender, frame: &Sealed, haste: &mut Haste) -> std::io::Result<()> {
    let (header, body) = &**frame;
    if matches!(header.kind, Kind::Pages | Kind::Disk | Kind::Device | Kind::Commit) {
        haste.suit(header.epoch);
    }
    sender.send(&header.encode(), body)
}

fn say(sender: &mut Sender, link: &mut Outbound, kind: Kind, receipt: Receipt) -> std::io::Result<()> {
    let body = receipt.encode();
    sender.send(&link.seal(kind, protocol::Epoch(0), &body).encode(), &body)
}

/// What to write next; none when this connection is to be closed.
fn next(bundle: &Bundle, slot: Slot, number: u64) -> Option<Give<Sealed>> {
    let mut state = bundle.state();
    loop {
        let ours = state.ends[slot.number()].as_ref().is_some_and(|end| end.number == number);
        if !ours || state.over {
            return None;
        }
        let now = now();
        state.core.judge(now);
        let give = state.core.pull(now, slot);
        if state.core.has_news() {
            bundle.told(state);
            state = bundle.state();
        }
        if give.is_some() {
            drop(state);
            // There may be room for what waits.
            bundle.room.notify_all();
            return give;
        }
        if state.closing.is_some_and(|until| state.core.all_came() || Instant::now() >= until) {
            return None;
        }
        let wait = Duration::from_micros(state.core.wake(slot).since(now).0.max(100));
        state = bundle.work.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
    }
}

fn read(bundle: &Bundle, slot: Slot, number: u64, receiver: &mut Receiver) -> LinkError {
    let (vm, term, session) = bundle.identity;
    let inbound = Inbound::new(vm, term, session);
    loop {
        if let Err(error) = one(bundle, slot, number, receiver, &inbound) {
            return error;
        }
    }
}

fn one(
    bundle: &Bundle,
    slot: Slot,
    number: u64,
    receiver: &mut Receiver,
    inbound: &Inbound,
) -> Result<(), LinkError> {
    let mut head = [0; HEADER_LEN];
    read_exact(receiver, &mut head)?;
    let header = Header::decode(&head)?;
    inbound.belongs(&header)?;
    if matches!(header.kind, Kind::Probe | Kind::Receipt) {
        return receipt(bundle, slot, number, receiver, &header);
    }
    let mut body = vec![0; header.len as usize];
    let mut came = HEADER_LEN as u64;
    for piece in body.chunks_mut(PIECE) {
        read_exact(receiver, piece)?;
        came += piece.len() as u64;
        // A short one is counted with its frame.
        if u64::from(header.len) > PIECE as u64 {
            arrived(bundle, slot, number, std::mem::take(&mut came))?;
        }
    }
    header.check_body(&body)?;
    let mut state = ours(bundle, slot, number)?;
    let now = now();
    state.core.arrived(now, slot, came);
    let answered = std::mem::replace(&mut state.answered, true);
    let size = (HEADER_LEN + body.len()) as u64;
    let seq = header.seq;
    state.core.frame(now, seq, size, Frame { header, body }).map_err(nonsense)?;
    let deliver = state.core.can_deliver();
    drop(state);
    if deliver || !answered {
        bundle.ready.notify_all();
    }
    bundle.work.notify_all();
    Ok(())
}

fn receipt(
    bundle: &Bundle,
    slot: Slot,
    number: u64,
    receiver: &mut Receiver,
    header: &Header,
) -> Result<(), LinkError> {
    // No more than a receipt is ever read for one.
    let mut body = [0; PROBE_LEN as usize - HEADER_LEN];
    if header.len as usize != body.len() {
        return Err(LinkError::Nonsense(format!("a {:?} of {} bytes", header.kind, header.len)));
    }
    read_exact(receiver, &mut body)?;
    header.check_body(&body)?;
    let receipt = Receipt::decode(&body).ok_or_else(|| LinkError::Nonsense("no receipt".into()))?;
    let mut state = ours(bundle, slot, number)?;
    let now = now();
    if header.kind == Kind::Probe {
        state.core.arrived(now, slot, PROBE_LEN);
    }
    let answered = std::mem::replace(&mut state.answered, true);
    let more = state.core.receipt(now, slot, receipt).map_err(nonsense)?;
    bundle.told(state);
    if !answered {
        bundle.ready.notify_all();
    }
    if more {
        bundle.room.notify_all();
    }
    bundle.work.notify_all();
    Ok(())
}

fn arrived(bundle: &Bundle, slot: Slot, number: u64, bytes: u64) -> Result<(), LinkError> {
    ours(bundle, slot, number)?.core.arrived(now(), slot, bytes);
    bundle.work.notify_all();
    Ok(())
}

fn ours(
    bundle: &Bundle,
    slot: Slot,
    number: u64,
) -> Result<std::sync::MutexGuard<'_, super::State>, LinkError> {
    let state = bundle.state();
    match state.ends[slot.number()].as_ref() {
        Some(end) if end.number == number && !state.over => Ok(state),
        _ => Err(LinkError::Closed),
    }
}

fn nonsense(error: protocol::paths::PathError) -> LinkError {
    LinkError::Nonsense(error.to_string())
}
