//! Owns copying a checkpoint's pages into buffers, and when these go on the link.

use crate::link::{Outbox, Pack, Part};
use crate::ram::GuestRam;
use crate::staging::Pool;
use protocol::Epoch;

/// Pages that go ahead on the link together.
const AHEAD_PAGES: usize = 512;

/// What went wrong with a checkpoint.
pub struct Failure {
    pub why: String,
    pub resumable: bool,
}

/// When pages go on the link that are copied. What a checkpoint that fails has sent is sent again by the next one, in the same
/// epoch and behind it: all its pages are owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sends {
    /// In small pieces as they are copied, packed if they are there sooner.
    Pieces,
    /// As soon as they are copied, while the machine saves its devices.
    Parts,
    /// When the guest runs again: many would take the processors from the machine.
    Later,
}

/// Copies the numbered pages into buffers, behind those that were copied ahead. When these run out the ones that are full go
/// ahead on the link.
pub fn gather(
    ram: &GuestRam,
    pages: &[(u8, u64)],
    (pool, outbox): (&Pool, &Outbox),
    mut parts: Vec<Part>,
    (epoch, sends): (Epoch, Sends),
) -> Result<Vec<Part>, Failure> {
    let mut left = pages;
    while !left.is_empty() {
        let buffer = match pool.try_take() {
            Some(buffer) => buffer,
            None => {
                for part in parts.drain(..) {
                    outbox.part(epoch, part);
                }
                let wait = pool.free().recv_timeout(std::time::Duration::from_secs(10));
                let gone =
                    |_| Failure { why: "the link does not take the checkpoint".into(), resumable: false };
                pool.adopt(wait.map_err(gone)?)
            }
        };
        let most = if sends == Sends::Pieces { buffer.pages().min(AHEAD_PAGES) } else { buffer.pages() };
        let (now, after) = left.split_at(left.len().min(most));
        left = after;
        let part = Part::copy(ram, now, buffer)
            .map_err(|error| Failure { why: error.to_string(), resumable: true })?;
        match sends {
            Sends::Pieces => outbox.part(epoch, part.packed(Pack::IfSooner)),
            Sends::Parts => outbox.part(epoch, part),
            Sends::Later => parts.push(part),
        }
    }
    Ok(parts)
}
