//! Owns the carrying out of requests: from a judged command to its reply.

use super::command::Command;
use super::handshake::Agreed;
use super::reply::Reply;
use super::wire::{Error, Request};
use crate::image::{Extent, Holes, ImageError};
use crate::served::Served;
use rustix::io::Errno;

/// Reads below this are not looked through for holes: the look would cost more than it saves.
const LOOK_FOR_HOLES: u64 = 64 << 10;
/// The most chunks of one reply to a read; what comes after them is sent as data.
const MAX_CHUNKS: usize = 64;
/// The most extents in one answer to BLOCK_STATUS; the client asks again for the rest.
const MAX_EXTENTS: usize = 2048;

/// Carries out `command`. `buffer` holds what came with the request, and takes what is read.
pub(super) fn execute(
    served: &Served,
    agreed: Agreed,
    request: &Request,
    command: Command,
    buffer: &mut Vec<u8>,
) -> Reply {
    let (cookie, offset, len) = (request.cookie, request.offset, u64::from(request.len));
    let outcome = match command {
        Command::Read { whole } => read(served, agreed, request, whole, buffer),
        Command::BlockStatus { one } => block_status(served, request, one),
        Command::Write { fua } => served.write(offset, buffer, fua).map(|()| Reply::simple(cookie, None)),
        Command::Flush => served.flush().map(|()| Reply::simple(cookie, None)),
        Command::Trim { fua } => served.discard(offset, len, fua).map(|()| Reply::simple(cookie, None)),
        Command::WriteZeroes { no_hole, fua } => {
            let holes = if no_hole { Holes::Forbidden } else { Holes::Allowed };
            served.write_zeroes(offset, len, holes, fua).map(|()| Reply::simple(cookie, None))
        }
    };
    outcome.unwrap_or_else(|error| {
        tracing::warn!(%error, ?command, "a disk's client gets an error");
        served.counters().errors.one();
        refusal(agreed, request, code(&error), &error.to_string())
    })
}

/// The reply to a request that is not carried out.
pub(super) fn refusal(agreed: Agreed, request: &Request, error: Error, message: &str) -> Reply {
    // With structured replies agreed, a read may only be answered by one ("Structured replies"); and so may
    // everything else, which brings the explanation to the client.
    if agreed.structured {
        Reply::structured_error(request.cookie, error, message)
    } else {
        Reply::simple(request.cookie, Some(error))
    }
}

fn read(
    served: &Served,
    agreed: Agreed,
    request: &Request,
    whole: bool,
    buffer: &mut Vec<u8>,
) -> Result<Reply, ImageError> {
    let len = request.len as usize;
    // Never shrinks, so that bytes are not set to zero before each read; see the session for its bound.
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    let extents = if agreed.structured && !whole && u64::from(request.len) >= LOOK_FOR_HOLES {
        chunks(served, request)?
    } else {
        vec![data(request.offset, u64::from(request.len))]
    };
    for extent in extents.iter().filter(|extent| !extent.hole) {
        let start = usize::try_from(extent.offset - request.offset).expect("inside the request");
        let end = start + usize::try_from(extent.len).expect("inside the request");
        served.image().read_at(extent.offset, &mut buffer[start..end])?;
    }
    served.counters().reads.one();
    served.counters().read_bytes.add(u64::from(request.len));
    if !agreed.structured {
        return Ok(Reply::simple_data(request.cookie, len));
    }
    let extents = if len == 0 { &[] } else { extents.as_slice() };
    Ok(Reply::extents(request.cookie, request.offset, extents))
}

/// How a read is cut.
fn chunks(served: &Served, request: &Request) -> Result<Vec<Extent>, ImageError> {
    let end = request.offset + u64::from(request.len);
    let found = served.image().extents(request.offset..end).take(MAX_CHUNKS);
    let mut extents = found.collect::<Result<Vec<_>, _>>()?;
    let next = extents.last().map_or(request.offset, |last| last.offset + last.len);
    if next < end {
        extents.push(data(next, end - next));
    }
    Ok(extents)
}

fn data(offset: u64, len: u64) -> Extent {
    Extent { offset, len, hole: false }
}

fn block_status(served: &Served, request: &Request, one: bool) -> Result<Reply, ImageError> {
    let range = request.offset..request.offset + u64::from(request.len);
    let found = served.image().extents(range).take(if one { 1 } else { MAX_EXTENTS });
    let extents = found.collect::<Result<Vec<_>, _>>()?;
    Ok(Reply::block_status(request.cookie, &extents))
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
