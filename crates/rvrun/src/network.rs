//! Owns network cards: each is one TAP device of this namespace, a frame at a time.

use os::tap::{Tap, TapError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// A frame is no longer, whatever the MTU.
const LONGEST: usize = 65_536;

/// A card's other end.
#[derive(Debug)]
pub struct Cable {
    tap: Tap,
}

impl Cable {
    /// Opens the TAP device, or makes it, and brings it up.
    pub fn open(name: &str) -> Result<Cable, TapError> {
        let tap = Tap::open(name)?;
        os::tap::set_up(name)?;
        Ok(Cable { tap })
    }

    /// The next frame that came in.
    pub fn receive(&self) -> io::Result<Option<Vec<u8>>> {
        let mut frame = vec![0; LONGEST];
        match rustix::io::read(&self.tap, &mut frame[..]) {
            Ok(length) => {
                frame.truncate(length);
                Ok(Some(frame))
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a frame. One for which there is no room, or that the device does not take, is lost, as on any network.
    pub fn send(&self, frame: &[u8]) {
        let _ = rustix::io::write(&self.tap, frame);
    }
}

impl AsFd for Cable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tap.as_fd()
    }
}
