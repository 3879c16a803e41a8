//! Owns the carrying out of requests: from a judged command to its reply.

use super::command::Command;
use super::wire::{Error, Request};
use super::worker::{LONG, Worker};
use crate::image::{Holes, ImageError};
use rustix::io::Errno;

/// The most extents in one answer to BLOCK_STATUS; the client asks again for the rest.
const MAX_EXTENTS: usize = 2048;

/// Carries out `command` and adds its reply. `payload` begins with what came with the request.
pub(super) fn execute(worker: &mut Worker<'_, '_>, request: &Request, command: Command, payload: &[u8]) {
    let served = worker.session.served;
    let (offset, len) = (request.offset, u64::from(request.len));
    let mut wait = || worker.step_aside();
    let outcome = match command {
        Command::Read => return answered(worker, request, command, read),
        Command::BlockStatus { one } => {
            return answered(worker, request, command, |worker, request| block_status(worker, request, one));
        }
        Command::Write { fua } => served.write(offset, &payload[..request.len as usize], fua, &mut wait),
        Command::Flush => served.flush(&mut wait),
        Command::Trim { fua } => served.discard(offset, len, fua, &mut wait),
        Command::WriteZeroes { no_hole, fua } => {
            let holes = if no_hole { Holes::Forbidden } else { Holes::Allowed };
            served.write_zeroes(offset, len, holes, fua, &mut wait)
        }
    };
    answered(worker, request, command, |worker, request| {
        outcome.map(|()| worker.replies.simple(request.cookie, None))
    });
}

/// Adds the reply, or that it failed.
fn answered(
    worker: &mut Worker<'_, '_>,
    request: &Request,
    command: Command,
    reply: impl FnOnce(&mut Worker<'_, '_>, &Request) -> Result<(), ImageError>,
) {
    if let Err(error) = reply(worker, request) {
        tracing::warn!(%error, ?command, "a disk's client gets an error");
        refuse(worker, request, code(&error), &error.to_string());
    }
}

/// The reply to a request that is not carried out.
pub(super) fn refuse(worker: &mut Worker<'_, '_>, request: &Request, error: Error, message: &str) {
    worker.session.served.counters().errors.one();
    // With structured replies agreed, a read may only be answered by one ("Structured replies"); and so may
    // everything else, which brings the explanation to the client.
    if worker.session.agreed.structured {
        worker.replies.structured_error(request.cookie, error, message);
    } else {
        worker.replies.simple(request.cookie, Some(error));
    }
}

/// Reads in turn what the system has in memory, and waits for the medium aside.
fn read(worker: &mut Worker<'_, '_>, request: &Request) -> Result<(), ImageError> {
    let served = worker.session.served;
    let image = served.image();
    let long = request.len > LONG;
    let done = if long {
        worker.answer_uncopied(request)?
    } else {
        worker.has_turn() && fetch(worker, request, |bytes| image.read_in_memory_at(request.offset, bytes))?
    };
    if !done {
        worker.step_aside();
        fetch(worker, request, |bytes| image.read_at(request.offset, bytes).map(|()| true))?;
    }
    served.counters().reads.one();
    served.counters().read_bytes.add(u64::from(request.len));
    Ok(())
}

fn fetch(
    worker: &mut Worker<'_, '_>,
    request: &Request,
    fill: impl FnOnce(&mut [u8]) -> Result<bool, ImageError>,
) -> Result<bool, ImageError> {
    let (cookie, len) = (request.cookie, request.len as usize);
    if worker.session.agreed.structured {
        worker.replies.data_chunk(cookie, request.offset, len, fill)
    } else {
        worker.replies.data(cookie, len, fill)
    }
}

fn block_status(worker: &mut Worker<'_, '_>, request: &Request, one: bool) -> Result<(), ImageError> {
    let range = request.offset..request.offset + u64::from(request.len);
    let found = worker.session.served.image().extents(range).take(if one { 1 } else { MAX_EXTENTS });
    let extents = found.collect::<Result<Vec<_>, _>>()?;
    worker.replies.block_status(request.cookie, &extents);
    Ok(())
}

/// What the protocol can say of an error.
fn code(error: &ImageError) -> Error {
    match error {
        ImageError::ReadOnly { .. } => Error::NotPermitted,
        ImageError::OutOfBounds { .. } => Error::Invalid,
        _ => match error.io().and_then(std::io::Error::raw_os_error).map(Errno::from_raw_os_error) {
            // QEMU can stop the guest for want of space and go on later (`werror=enospc`).
            Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => Error::NoSpace,
            _ => Error::Io,
        },
    }
}
