//! Owns one NIC port: QEMU's frame socket on one side, a TAP (or any datagram-like descriptor) on the other.

use crate::addresses::Stations;
use crate::event::{PortFailure, Side};
use crate::framing::{self, FrameReader, HEADER_LEN, QEMU_MAX_FRAME};
use crate::ledger::{Ledger, Mode};
use crate::stats::PortStats;
use rustix::io::Errno;
use rustix::net::SendFlags;
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Shorter is no Ethernet frame; a TAP refuses it.
const MIN_FRAME: usize = 14;

struct Frame {
    sequence: u64,
    arrived_us: u64,
    /// It waited for its epoch (frames that passed an open gate have no hold time).
    held: bool,
    bytes: Box<[u8]>,
}

/// What became of a frame that was offered to the TAP.
enum Sent {
    Out,
    Busy,
    Dropped,
    Dead(PortFailure),
}

/// One side of the port failed.
pub(crate) struct Failed(pub(crate) Side, pub(crate) PortFailure);

pub(crate) struct NicPort {
    pub(crate) guest: Option<Arc<OwnedFd>>,
    pub(crate) tap: Option<Arc<OwnedFd>>,
    reader: FrameReader,
    held: VecDeque<Frame>,
    outgoing: VecDeque<Frame>,
    /// A header's room, then a frame on its way in.
    input: Box<[u8]>,
    /// The part of `input` that QEMU's socket has not taken yet.
    input_rest: std::ops::Range<usize>,
    /// Input that a promotion brought along, to go in before anything from the TAP.
    injected: VecDeque<Vec<u8>>,
    pub(crate) stations: Stations,
    pub(crate) counts: PortStats,
}

impl NicPort {
    pub(crate) fn new(guest: OwnedFd, tap: OwnedFd, max_frame: usize) -> Self {
        Self {
            guest: Some(Arc::new(guest)),
            tap: Some(Arc::new(tap)),
            reader: FrameReader::new(max_frame),
            held: VecDeque::new(),
            outgoing: VecDeque::new(),
            input: vec![0; HEADER_LEN + QEMU_MAX_FRAME].into_boxed_slice(),
            input_rest: 0..0,
            injected: VecDeque::new(),
            stations: Stations::default(),
            counts: PortStats::default(),
        }
    }

    /// Input waits for room in QEMU's socket.
    pub(crate) fn input_stalled(&self) -> bool {
        !self.input_rest.is_empty() || !self.injected.is_empty()
    }

    /// Frames that shall reach the guest before anything new does.
    pub(crate) fn inject(&mut self, frames: impl IntoIterator<Item = Vec<u8>>) {
        let fits = |frame: &Vec<u8>| (MIN_FRAME..=QEMU_MAX_FRAME).contains(&frame.len());
        self.injected.extend(frames.into_iter().filter(fits));
    }

    /// Frames wait for the TAP.
    pub(crate) fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Arrival of the oldest frame that waits.
    pub(crate) fn oldest_us(&self) -> Option<u64> {
        let front = self.outgoing.front().or(self.held.front());
        front.map(|frame| frame.arrived_us)
    }

    /// Reads QEMU's socket until it is empty or `budget` bytes were read. Returns whether something was learned
    /// about the guest's addresses.
    pub(crate) fn drain(
        &mut self,
        ledger: &mut Ledger,
        now_us: u64,
        mut budget: usize,
    ) -> Result<bool, Failed> {
        let mut learned = false;
        while let Some(guest) = self.guest.clone() {
            if budget == 0 {
                break;
            }
            let failure = match rustix::io::read(&*guest, self.reader.space()) {
                Ok(0) | Err(Errno::CONNRESET) => PortFailure::HungUp,
                Ok(n) => {
                    budget = budget.saturating_sub(n);
                    self.reader.filled(n);
                    learned |= self.take_frames(ledger, now_us)?;
                    continue;
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(errno) => PortFailure::System(errno),
            };
            return Err(Failed(Side::Guest, failure));
        }
        Ok(learned)
    }

    fn take_frames(&mut self, ledger: &mut Ledger, now_us: u64) -> Result<bool, Failed> {
        let mut learned = false;
        loop {
            // The buffer is lent out of `self` so that the frame can be handed on without a copy.
            let mut reader = std::mem::replace(&mut self.reader, FrameReader::empty());
            let step = match reader.next_frame() {
                Ok(None) => Ok(false),
                Ok(Some(frame)) => self.take_frame(frame, ledger, now_us, &mut learned).map(|()| true),
                Err(error) => Err(Failed(Side::Guest, error.into())),
            };
            self.reader = reader;
            if !step? {
                return Ok(learned);
            }
        }
    }

    fn take_frame(
        &mut self,
        frame: &[u8],
        ledger: &mut Ledger,
        now_us: u64,
        learned: &mut bool,
    ) -> Result<(), Failed> {
        self.counts.frames_from_guest += 1;
        self.counts.bytes_from_guest += frame.len() as u64;
        if frame.len() < MIN_FRAME {
            self.counts.dropped_refused += 1;
            return Ok(());
        }
        *learned |= self.stations.learn_frame(frame);
        match ledger.mode() {
            Mode::Fenced => self.counts.dropped_closed += 1,
            Mode::Open if self.outgoing.is_empty() => match self.send(frame) {
                Sent::Out | Sent::Dropped => {}
                Sent::Busy => self.queue(frame, ledger, now_us, false),
                Sent::Dead(failure) => return Err(Failed(Side::Outside, failure)),
            },
            Mode::Open => self.queue(frame, ledger, now_us, false),
            Mode::Holding => self.queue(frame, ledger, now_us, true),
        }
        Ok(())
    }

    fn queue(&mut self, frame: &[u8], ledger: &mut Ledger, arrived_us: u64, held: bool) {
        let Some(sequence) = ledger.admit(frame.len(), arrived_us) else {
            self.counts.dropped_full += 1;
            return;
        };
        let frame = Frame { sequence, arrived_us, held, bytes: frame.into() };
        if held { self.held.push_back(frame) } else { self.outgoing.push_back(frame) }
    }

    fn send(&mut self, frame: &[u8]) -> Sent {
        let Some(tap) = &self.tap else {
            self.counts.dropped_closed += 1;
            return Sent::Dropped;
        };
        let sent = write_frame(tap, frame);
        match sent {
            Sent::Out => {
                self.counts.frames_out += 1;
                self.counts.bytes_out += frame.len() as u64;
            }
            Sent::Dropped => self.counts.dropped_refused += 1,
            Sent::Busy | Sent::Dead(_) => {}
        }
        sent
    }

    /// Sends a frame that is not the guest's own, if the TAP takes it.
    pub(crate) fn send_announcement(&self, frame: &[u8]) {
        if let Some(tap) = &self.tap {
            // Announcements are repeated; a lost one is made good by the next.
            let _ = write_frame(tap, frame);
        }
    }

    /// Lets frames before sequence number `end` go, and sends them as far as the TAP takes them.
    pub(crate) fn release(&mut self, end: u64, ledger: &mut Ledger, now_us: u64) -> Result<(), Failed> {
        while self.held.front().is_some_and(|frame| frame.sequence < end) {
            self.outgoing.extend(self.held.pop_front());
        }
        self.flush(ledger, now_us)
    }

    /// Sends released frames as far as the TAP takes them.
    pub(crate) fn flush(&mut self, ledger: &mut Ledger, now_us: u64) -> Result<(), Failed> {
        while let Some(frame) = self.outgoing.pop_front() {
            match self.send(&frame.bytes) {
                Sent::Out if frame.held => ledger.hold_times.record(now_us.saturating_sub(frame.arrived_us)),
                Sent::Out | Sent::Dropped => {}
                Sent::Busy => {
                    self.outgoing.push_front(frame);
                    break;
                }
                Sent::Dead(failure) => {
                    self.counts.dropped_closed += 1;
                    ledger.leave(frame.bytes.len());
                    return Err(Failed(Side::Outside, failure));
                }
            }
            ledger.leave(frame.bytes.len());
        }
        Ok(())
    }

    /// Drops everything that waits.
    pub(crate) fn discard(&mut self, ledger: &mut Ledger) {
        for frame in self.held.drain(..).chain(self.outgoing.drain(..)) {
            ledger.leave(frame.bytes.len());
            self.counts.dropped_closed += 1;
        }
    }

    /// Moves frames from the TAP to QEMU, at most `budget` of them, until one side can do no more. `observe` sees
    /// each.
    pub(crate) fn forward_input(&mut self, budget: usize, observe: &dyn Fn(&[u8])) -> Result<(), Failed> {
        for _ in 0..budget {
            if !self.push_input()? {
                return Ok(());
            }
            let Some(n) = self.next_input()? else {
                return Ok(());
            };
            observe(&self.input[HEADER_LEN..HEADER_LEN + n]);
            self.input[..HEADER_LEN].copy_from_slice(&framing::header(n));
            self.input_rest = 0..HEADER_LEN + n;
            self.counts.frames_in += 1;
            self.counts.bytes_in += n as u64;
            if !self.push_input()? {
                self.counts.input_stalls += 1;
                return Ok(());
            }
        }
        Ok(())
    }

    /// Puts the next frame for the guest behind the room for its header; none if there is none now.
    fn next_input(&mut self) -> Result<Option<usize>, Failed> {
        if let Some(frame) = self.injected.pop_front() {
            self.input[HEADER_LEN..HEADER_LEN + frame.len()].copy_from_slice(&frame);
            return Ok(Some(frame.len()));
        }
        let Some(tap) = self.tap.clone() else {
            return Ok(None);
        };
        loop {
            return match rustix::io::read(&*tap, &mut self.input[HEADER_LEN..]) {
                // A datagram socket's peer may send nothing; a TAP and QEMU have no empty frames.
                Ok(0) => Err(Failed(Side::Outside, PortFailure::HungUp)),
                Ok(n) => Ok(Some(n)),
                Err(Errno::AGAIN) => Ok(None),
                Err(Errno::INTR) => continue,
                // What Linux says of a deleted TAP (drivers/net/tun.c).
                Err(Errno::BADFD | Errno::IO | Errno::CONNRESET) => {
                    Err(Failed(Side::Outside, PortFailure::HungUp))
                }
                Err(errno) => Err(Failed(Side::Outside, PortFailure::System(errno))),
            };
        }
    }

    /// Writes the rest of the frame that is on its way in. Returns whether it is all written.
    fn push_input(&mut self) -> Result<bool, Failed> {
        while !self.input_rest.is_empty() {
            let Some(guest) = &self.guest else {
                return Ok(false);
            };
            match rustix::net::send(&**guest, &self.input[self.input_rest.clone()], SendFlags::NOSIGNAL) {
                Ok(n) => self.input_rest.start += n,
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => {
                    return Err(Failed(Side::Guest, PortFailure::HungUp));
                }
                Err(errno) => return Err(Failed(Side::Guest, PortFailure::System(errno))),
            }
        }
        Ok(true)
    }

    /// Closes QEMU's socket; what it sent may still be released.
    pub(crate) fn close_guest(&mut self) {
        self.guest = None;
        self.input_rest = 0..0;
        self.injected.clear();
    }

    /// Closes the TAP; what waits has nowhere to go.
    pub(crate) fn close_tap(&mut self, ledger: &mut Ledger) {
        self.tap = None;
        for frame in self.outgoing.drain(..) {
            ledger.leave(frame.bytes.len());
            self.counts.dropped_closed += 1;
        }
    }
}

fn write_frame(tap: &Arc<OwnedFd>, frame: &[u8]) -> Sent {
    loop {
        return match rustix::io::write(tap.as_fd(), frame) {
            Ok(_) => Sent::Out,
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => Sent::Busy,
            // The peer of a test's socket, or a TAP's device, is gone (drivers/net/tun.c: EBADFD).
            Err(Errno::BADFD | Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN | Errno::CONNREFUSED) => {
                Sent::Dead(PortFailure::HungUp)
            }
            Err(errno @ (Errno::BADF | Errno::NODEV)) => Sent::Dead(PortFailure::System(errno)),
            // EIO: the interface is down. EINVAL, ENOBUFS, ENOMEM...: this frame only. A network may lose it.
            Err(_) => Sent::Dropped,
        };
    }
}
