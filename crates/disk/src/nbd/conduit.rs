//! Owns sending long reads without copying them: the system hands pages of its cache through a pipe to the socket.
//!
//! First into the pipe, waiting for the medium, then into the socket: so what fails on the medium is known before a
//! reply begins, and other replies do not wait for the medium. What is sent is the page itself: a write that comes
//! while it waits in the socket changes it, as with any read and write that are in flight together.

use crate::image::{Image, ImageError};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

/// What the pipe holds: the most that everyone may have (pipe(7)), and as much as a guest reads at once.
const PIPE: usize = 1 << 20;
/// What each of its places holds, or a part of it.
const PAGE: u64 = 4096;

/// A pipe, empty between two reads.
pub(super) struct Conduit {
    from: OwnedFd,
    to: OwnedFd,
}

impl Conduit {
    /// Whether a read fits.
    pub(super) fn fits(offset: u64, len: usize) -> bool {
        len as u64 + offset % PAGE <= PIPE as u64
    }

    /// `None` if the system does not give such a pipe.
    pub(super) fn new() -> Option<Self> {
        let (from, to) = pipe_with(PipeFlags::CLOEXEC).ok()?;
        fcntl_setpipe_size(&to, PIPE).ok()?;
        Some(Self { from, to })
    }

    /// Takes `len` bytes from `offset` on; `None` if this image does not give them in this way.
    pub(super) fn filled(self, image: &Image, offset: u64, len: usize) -> Result<Option<Self>, ImageError> {
        let mut taken = 0;
        while taken < len {
            match image.splice_at(offset + taken as u64, &self.to, len - taken)? {
                Some(n) => taken += n,
                None => return Ok(None),
            }
        }
        Ok(Some(self))
    }

    /// Sends the `len` bytes that it holds.
    pub(super) fn empty_into(&self, stream: &UnixStream, len: usize) -> io::Result<()> {
        let mut sent = 0;
        while sent < len {
            match splice(&self.from, None, stream, None, len - sent, SpliceFlags::empty()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => sent += n,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn it_carries_the_longest_read_and_is_empty_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let image = Image::create(&folder.path().join("disk"), 2 << 20).unwrap();
        image.write_at(1 << 20, &[7; 4096]).unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut conduit = Conduit::new().unwrap();
        for _ in 0..2 {
            conduit = conduit.filled(&image, 1 << 20, PIPE).unwrap().expect("this filesystem can");
            let mut got = vec![0; PIPE];
            std::thread::scope(|scope| {
                let sent = scope.spawn(|| conduit.empty_into(&ours, PIPE));
                theirs.read_exact(&mut got).unwrap();
                sent.join().unwrap().unwrap();
            });
            assert!(got[..4096] == [7; 4096] && got[4096..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn what_does_not_fit_is_known_beforehand() {
        assert!(Conduit::fits(4096, PIPE) && Conduit::fits(512, PIPE - 4096));
        assert!(!Conduit::fits(512, PIPE) && !Conduit::fits(0, PIPE + 1));
        let folder = tempfile::tempdir().unwrap();
        let image = Image::create(&folder.path().join("disk"), 4 << 20).unwrap();
        assert!(Conduit::new().unwrap().filled(&image, 0, 2 * PIPE).unwrap().is_none(), "it does not wait");
    }
}
