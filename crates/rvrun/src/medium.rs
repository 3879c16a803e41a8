//! Owns what a disk's requests are carried out on, at once and in order.

use rv::{Answer, Request};
use std::io;

/// Bytes in a sector.
pub(crate) const SECTOR: u64 = 512;

/// What holds a disk.
pub trait Medium: Send {
    /// Its size in bytes, a multiple of 512.
    fn size(&self) -> u64;

    /// Whether the guest may only read it.
    fn is_read_only(&self) -> bool;

    /// Reads bytes from an offset on.
    ///
    /// # Errors
    /// They cannot be read: the guest is told.
    fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Writes bytes at an offset.
    ///
    /// # Errors
    /// They cannot be written: the guest is told.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes durable what was written.
    ///
    /// # Errors
    /// It cannot be: the guest is told.
    fn flush(&mut self) -> io::Result<()>;
}

/// Carries a request out.
pub(crate) fn carry_out(medium: &mut (impl Medium + ?Sized), request: &Request) -> Answer {
    let done = match request {
        Request::Read { sector, length } => {
            let mut data = vec![0; *length as usize];
            medium.read_at(sector * SECTOR, &mut data).map(|()| Answer::Data(data))
        }
        Request::Write { sector, data } => medium.write_at(sector * SECTOR, data).map(|()| Answer::Done),
        Request::Flush => medium.flush().map(|()| Answer::Done),
    };
    // The guest is told, as by a real disk.
    done.unwrap_or(Answer::Failed)
}
