//! Owns the pipe that a device state comes by, and holds QEMU with it.
//!
//! QEMU lets the guest go on by itself as soon as it has written the state. So the pipe has less room than the state is long, by
//! what those before were, and QEMU waits in its last write until [`Held::open`]. Room is counted in pages, of which a pipe has a power of
//! two: those that are too many are filled beforehand. (Linux fs/pipe.c: `pipe_write`, `pipe_resize_ring`)

use crate::device_state::{DeviceStateError, LARGEST_STATE};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const PAGE: usize = 4096;
/// A page that nobody shall write to.
const FILLING: [u8; PAGE] = [0; PAGE];
/// Room behind which most states fit as a whole, if the system allows it.
const WIDE: usize = 1 << 20;
/// So much shorter than the shortest before it a state may be.
const MARGIN: usize = PAGE;

/// A pipe that QEMU writes a state to.
#[derive(Debug)]
pub struct Held {
    reader: OwnedFd,
    writer: OwnedFd,
    /// Bytes before the state that are none of it.
    filling: usize,
    /// The shortest state until now.
    shortest: Option<usize>,
    state: Vec<u8>,
}

fn error(action: &'static str) -> impl Fn(Errno) -> DeviceStateError {
    move |errno| DeviceStateError::Pipe { action, source: errno.into() }
}

impl Held {
    pub fn new() -> Result<Self, DeviceStateError> {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(error("make"))?;
        // Of our ends only: QEMU opens its own.
        rustix::io::ioctl_fionbio(&reader, true).map_err(error("set up"))?;
        rustix::io::ioctl_fionbio(&writer, true).map_err(error("set up"))?;
        Ok(Self { reader, writer, filling: 0, shortest: None, state: Vec::new() })
    }

    /// What QEMU writes to.
    pub fn writer(&self) -> BorrowedFd<'_> {
        self.writer.as_fd()
    }

    /// For how many bytes of a state there is room when the pipe is closed: less than its length. None before one was seen.
    pub fn room(&self) -> Option<usize> {
        self.shortest.map(|len| (len.saturating_sub(MARGIN + 1) / PAGE * PAGE).min(WIDE))
    }

    /// Makes room for less than the next state, and says whether the system allows that.
    pub fn close(&mut self) -> Result<bool, DeviceStateError> {
        let room = self.room().unwrap_or(0) / PAGE;
        let pages = room.max(1).next_power_of_two();
        if !self.resize(pages * PAGE)? {
            return Ok(false);
        }
        for _ in room..pages {
            rustix::io::retry_on_intr(|| rustix::io::write(&self.writer, &FILLING)).map_err(error("fill"))?;
            self.filling += PAGE;
        }
        Ok(true)
    }

    /// Throws away a state that nobody came for.
    pub fn forget(&mut self) -> Result<(), DeviceStateError> {
        self.read()?;
        self.state.clear();
        Ok(())
    }

    /// Bytes of the state that are there to be read.
    pub fn waiting(&self) -> Result<usize, DeviceStateError> {
        let all = rustix::io::ioctl_fionread(&self.reader).map_err(error("look into"))?;
        Ok(usize::try_from(all).unwrap_or(usize::MAX).saturating_sub(self.filling))
    }

    /// Lets QEMU write the rest.
    pub fn open(&mut self) -> Result<(), DeviceStateError> {
        // Where it stays as it is, it is read while it is written.
        if self.resize(WIDE)? { Ok(()) } else { self.read() }
    }

    /// All pipes of a user without privileges may have so many pages in all.
    fn resize(&self, len: usize) -> Result<bool, DeviceStateError> {
        match fcntl_setpipe_size(&self.reader, len) {
            Ok(_) => Ok(true),
            Err(Errno::PERM) => Ok(false),
            Err(errno) => Err(error("resize")(errno)),
        }
    }

    /// Reads what is there.
    pub fn read(&mut self) -> Result<(), DeviceStateError> {
        let mut piece = [0; 16 * PAGE];
        loop {
            match rustix::io::retry_on_intr(|| rustix::io::read(&self.reader, &mut piece[..])) {
                Ok(0) | Err(Errno::AGAIN) => return Ok(()),
                Ok(len) => {
                    let before = len.min(self.filling);
                    self.filling -= before;
                    self.state.extend_from_slice(&piece[before..len]);
                }
                Err(errno) => return Err(error("read")(errno)),
            }
            if self.state.len() > LARGEST_STATE {
                return Err(DeviceStateError::Malformed("it is far too large"));
            }
        }
    }

    /// The state, which is there as a whole.
    pub fn take(&mut self) -> Result<Vec<u8>, DeviceStateError> {
        self.read()?;
        let len = self.state.len();
        self.shortest = Some(self.shortest.map_or(len, |shortest| shortest.min(len)));
        Ok(std::mem::replace(&mut self.state, Vec::with_capacity(len + PAGE)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::time::Duration;

    /// What QEMU does: writes a state in large pieces, and says when it is through.
    fn write(held: &Held, state: Vec<u8>) -> std::thread::JoinHandle<()> {
        let path = format!("/dev/fd/{}", held.writer().as_raw_fd());
        let writer = std::fs::File::options().write(true).open(path).unwrap();
        std::thread::spawn(move || {
            for mut piece in state.chunks(8 * PAGE) {
                while !piece.is_empty() {
                    let len = rustix::io::retry_on_intr(|| rustix::io::write(&writer, piece)).unwrap();
                    piece = &piece[len..];
                }
            }
        })
    }

    fn state(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at % 251) as u8).collect()
    }

    /// One checkpoint. Returns whether all was written before the pipe was opened.
    fn pass(held: &mut Held, len: usize) -> bool {
        held.forget().unwrap();
        assert!(held.close().unwrap());
        let writer = write(held, state(len));
        std::thread::sleep(Duration::from_millis(30));
        let early = held.waiting().unwrap() == len;
        assert_eq!(writer.is_finished(), early);
        held.open().unwrap();
        while !writer.is_finished() {
            held.read().unwrap();
        }
        assert_eq!(held.take().unwrap(), state(len));
        early
    }

    #[test]
    fn whoever_writes_a_state_waits_until_the_pipe_is_opened() {
        for len in [1, 4_095, 4_096, 4_097, 9_797, 33_551, 65_536, 78_748, 131_073, 900_000, 3 << 20] {
            let mut held = Held::new().unwrap();
            for turn in 0..3 {
                assert!(!pass(&mut held, len), "{len} bytes, turn {turn}");
            }
        }
    }

    #[test]
    fn most_of_a_state_is_written_before() {
        let mut held = Held::new().unwrap();
        pass(&mut held, 78_748);
        assert!(held.close().unwrap());
        let writer = write(&held, state(78_748));
        while held.waiting().unwrap() < 73_000 {
            std::thread::yield_now();
        }
        assert!(!writer.is_finished());
        held.open().unwrap();
        writer.join().unwrap();
    }

    #[test]
    fn a_state_that_is_much_shorter_goes_by_and_the_next_of_its_kind_does_not() {
        let mut held = Held::new().unwrap();
        assert!(!pass(&mut held, 60_000));
        assert!(!pass(&mut held, 60_000 - MARGIN), "a little shorter");
        assert!(pass(&mut held, 40_000), "it fits as a whole, and that can be seen");
        assert!(!pass(&mut held, 40_000));
        assert!(!pass(&mut held, 60_000));
        assert!(!pass(&mut held, 40_000), "the shortest counts");
    }

    #[test]
    fn a_state_that_nobody_came_for_is_no_part_of_the_next() {
        let mut held = Held::new().unwrap();
        pass(&mut held, 20_000);
        assert!(held.close().unwrap());
        let writer = write(&held, vec![9; 20_000]);
        held.open().unwrap();
        writer.join().unwrap();
        assert!(!pass(&mut held, 20_000));
    }
}
