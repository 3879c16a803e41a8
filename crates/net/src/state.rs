//! Owns the gate's state: its ports and its ledger, driven under one lock by the gate's thread or a caller.

use crate::addresses::Addresses;
use crate::announce;
use crate::console::{ConsolePort, SinkWork};
use crate::event::{GateError, GateEvent, PortFailure, Side};
use crate::gate::GateLimits;
use crate::ledger::{Ledger, Mode};
use crate::nic::{Failed, NicPort};
use crate::stats::{GateStats, PortStats};
use crossbeam_channel::Sender;
use protocol::Epoch;
use rustix::event::PollFlags;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// Most ports of a gate.
const MAX_PORTS: usize = 64;
/// Most repetitions of an announcement.
const MAX_REPEATS: usize = 16;
/// Bytes read from one port's socket at one go by the gate's thread, so that a caller never waits long.
const TURN_BYTES: usize = 256 * 1024;
/// Frames moved inwards at one go.
const TURN_FRAMES: usize = 64;
/// Bytes that `cut` reads from one port: far more than a socket holds, so only a guest that is not stopped gets
/// there; the rest then belongs to the next epoch.
const CUT_BYTES: usize = 16 << 20;
/// The same for a console, whose bytes are never dropped.
const CUT_CONSOLE_BYTES: usize = 1 << 20;

/// The console bytes of one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleCut {
    /// Name of the console's port.
    pub port: String,
    /// Offset of the first byte in the stream that the VM has written over all its lives.
    pub offset: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// What a closed epoch holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutReport {
    /// The epoch.
    pub epoch: Epoch,
    /// Frames in it.
    pub frames: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Console output of the epoch, one entry for each console port, also when it said nothing.
    pub consoles: Vec<ConsoleCut>,
    /// Grows when [`Gate::addresses`](crate::Gate::addresses) would say something new.
    pub addresses_version: u64,
}

/// Input that was given to a VM whose output is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InputFrame<'a> {
    /// Name of the NIC's port.
    pub port: &'a str,
    /// The open epoch: the frame is in the checkpoint of this epoch, or was still on its way to the guest then.
    pub epoch: Epoch,
    /// The frame.
    pub bytes: &'a [u8],
}

/// Sees input on its way in, under the gate's lock: it must be quick and never call the gate.
pub type InputObserver = Box<dyn Fn(InputFrame<'_>) + Send>;

/// Says whether the guest is at work at the moment, under the gate's lock: it must be quick and never call the gate.
pub type GuestWorks = Box<dyn Fn() -> bool + Send>;

pub(crate) enum Kind {
    Nic(Box<NicPort>),
    Console(ConsolePort),
}

pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

/// A descriptor that the gate's thread waits for, and which port and side it belongs to.
pub(crate) struct Watch {
    pub(crate) fd: Arc<OwnedFd>,
    pub(crate) flags: PollFlags,
    pub(crate) port: usize,
    pub(crate) side: Side,
}

pub(crate) struct State {
    ledger: Ledger,
    ports: Vec<Port>,
    events: Sender<GateEvent>,
    addresses_version: u64,
    input_paused: bool,
    observer: Option<InputObserver>,
    works: Option<GuestWorks>,
    /// When announcements are due, in order.
    due_us: Vec<u64>,
    /// Grows whenever ports come or go, so that answers to old watches are recognised.
    pub(crate) generation: u64,
}

impl State {
    pub(crate) fn new(limits: GateLimits, events: Sender<GateEvent>) -> Self {
        Self {
            ledger: Ledger::new(limits),
            ports: Vec::new(),
            events,
            addresses_version: 0,
            input_paused: false,
            observer: None,
            works: None,
            due_us: Vec::new(),
            generation: 0,
        }
    }

    pub(crate) fn mode(&self) -> Mode {
        self.ledger.mode()
    }

    pub(crate) fn limits(&self) -> &GateLimits {
        self.ledger.limits()
    }

    /// Adds a port, in the place of a dead one of the same name.
    pub(crate) fn attach(&mut self, port: Port) -> Result<(), GateError> {
        self.ledger.not_fenced("attach a port")?;
        match self.ports.iter().position(|p| p.name == port.name) {
            Some(at) if self.ports[at].guest_alive() => return Err(GateError::PortExists(port.name)),
            Some(at) => {
                if let Kind::Nic(nic) = &mut self.ports[at].kind {
                    nic.discard(&mut self.ledger);
                }
                self.ports[at] = port;
            }
            None if self.ports.len() >= MAX_PORTS => {
                return Err(GateError::TooManyPorts { name: port.name, limit: MAX_PORTS });
            }
            None => self.ports.push(port),
        }
        self.generation += 1;
        Ok(())
    }

    fn closed(&mut self, port: usize, side: Side, reason: PortFailure) {
        let name = self.ports[port].name.clone();
        tracing::warn!(port = %name, ?side, %reason, "a port of the gate closed");
        match (&mut self.ports[port].kind, side) {
            (Kind::Nic(nic), Side::Guest) => nic.close_guest(),
            (Kind::Nic(nic), Side::Outside) => nic.close_tap(&mut self.ledger),
            (Kind::Console(console), Side::Guest) => console.guest = None,
            (Kind::Console(_), Side::Outside) => {}
        }
        self.generation += 1;
        // The owner may have stopped listening; the gate does its work all the same.
        let _ = self.events.send(GateEvent::PortClosed { port: name, side, reason });
    }

    fn nic_result(&mut self, port: usize, result: Result<(), Failed>) {
        if let Err(Failed(side, reason)) = result {
            self.closed(port, side, reason);
        }
    }

    /// Reads a port's guest side.
    fn drain(&mut self, port: usize, now_us: u64, cutting: bool) {
        let result = match &mut self.ports[port].kind {
            Kind::Nic(nic) => {
                let budget = if cutting { CUT_BYTES } else { TURN_BYTES };
                nic.drain(&mut self.ledger, now_us, budget).map(|learned| {
                    self.addresses_version += u64::from(learned);
                })
            }
            Kind::Console(console) => {
                let budget = if cutting { CUT_CONSOLE_BYTES } else { TURN_BYTES };
                console.drain(&mut self.ledger, cutting, budget).map_err(|reason| Failed(Side::Guest, reason))
            }
        };
        self.nic_result(port, result);
    }

    pub(crate) fn hold(&mut self, now_us: u64) -> Result<(), GateError> {
        self.ledger.hold(now_us)?;
        for console in self.consoles_mut() {
            console.forget_cuts();
        }
        Ok(())
    }

    pub(crate) fn cut(&mut self, epoch: Epoch, now_us: u64) -> Result<CutReport, GateError> {
        self.ledger.may_cut(epoch)?;
        for port in 0..self.ports.len() {
            self.drain(port, now_us, true);
        }
        let volume = self.ledger.cut(epoch)?;
        let end = self.ledger.next_sequence();
        let mut consoles = Vec::new();
        for port in &mut self.ports {
            if let Kind::Console(console) = &mut port.kind {
                let (offset, bytes) = console.cut(end);
                consoles.push(ConsoleCut { port: port.name.clone(), offset, bytes });
            }
        }
        let (frames, bytes, addresses_version) = (volume.frames, volume.bytes, self.addresses_version);
        Ok(CutReport { epoch, frames, bytes, consoles, addresses_version })
    }

    pub(crate) fn release(&mut self, up_to: Epoch, now_us: u64) -> Result<(), GateError> {
        if let Some(end) = self.ledger.release(up_to)? {
            self.let_go(end, now_us);
        }
        Ok(())
    }

    pub(crate) fn open(&mut self, now_us: u64) -> Result<(), GateError> {
        self.ledger.open()?;
        self.let_go(self.ledger.next_sequence(), now_us);
        for console in self.consoles_mut() {
            console.forget_cuts();
        }
        Ok(())
    }

    /// Whether anything that may leave is still here.
    pub(crate) fn has_outgoing(&self) -> bool {
        self.ports.iter().any(|port| match &port.kind {
            Kind::Nic(nic) => nic.has_outgoing(),
            Kind::Console(console) => console.has_outgoing(),
        })
    }

    fn let_go(&mut self, end: u64, now_us: u64) {
        for port in 0..self.ports.len() {
            match &mut self.ports[port].kind {
                Kind::Nic(nic) => {
                    let result = nic.release(end, &mut self.ledger, now_us);
                    self.nic_result(port, result);
                }
                Kind::Console(console) => console.release(end),
            }
        }
    }

    /// Drops all output and closes every way out.
    pub(crate) fn discard(&mut self) {
        self.ledger.fence();
        self.due_us.clear();
        self.generation += 1;
        for port in &mut self.ports {
            match &mut port.kind {
                Kind::Nic(nic) => {
                    nic.discard(&mut self.ledger);
                    nic.tap = None;
                }
                Kind::Console(console) => console.discard(),
            }
        }
    }

    pub(crate) fn pause_input(&mut self, paused: bool) {
        self.input_paused = paused;
    }

    pub(crate) fn observe_input(&mut self, observer: Option<InputObserver>) {
        self.observer = observer;
    }

    pub(crate) fn linger(&mut self, longest_us: u64, works: GuestWorks) {
        self.ledger.linger(longest_us);
        self.works = Some(works);
    }

    pub(crate) fn inject(&mut self, port: &str, frames: impl IntoIterator<Item = Vec<u8>>) {
        let port = self.ports.iter_mut().find(|p| p.name == port);
        if let Some(Port { kind: Kind::Nic(nic), .. }) = port {
            nic.inject(frames);
        }
    }

    pub(crate) fn addresses(&self) -> (Addresses, u64) {
        let nic = |port: &Port| match &port.kind {
            Kind::Nic(nic) => Some((port.name.clone(), nic.stations.clone())),
            Kind::Console(_) => None,
        };
        (Addresses { ports: self.ports.iter().filter_map(nic).collect() }, self.addresses_version)
    }

    pub(crate) fn learn(&mut self, addresses: &Addresses) {
        for port in &mut self.ports {
            let Kind::Nic(nic) = &mut port.kind else { continue };
            for (_, stations) in addresses.ports.iter().filter(|(name, _)| *name == port.name) {
                self.addresses_version += u64::from(nic.stations.merge(stations));
            }
        }
    }

    pub(crate) fn announce(&mut self, schedule: &[Duration], now_us: u64) -> Result<(), GateError> {
        self.ledger.not_fenced("announce addresses")?;
        let micros = |delay: &Duration| u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        let due = |delay: &Duration| now_us.saturating_add(micros(delay));
        self.due_us = schedule.iter().take(MAX_REPEATS).map(due).collect();
        self.due_us.sort_unstable();
        self.announce_due(now_us);
        Ok(())
    }

    /// Does what no descriptor tells, if its time has come.
    pub(crate) fn do_due(&mut self, now_us: u64) {
        let works = || self.works.as_ref().is_some_and(|works| works());
        if let Some((epoch, since_us)) = self.ledger.tell_waiting(now_us, works) {
            let _ = self.events.send(GateEvent::OutputWaits { epoch, since_us });
        }
        self.announce_due(now_us);
    }

    /// Sends the announcements whose time has come; several that are late go as one.
    fn announce_due(&mut self, now_us: u64) {
        let late = self.due_us.iter().take_while(|&&due| due <= now_us).count();
        if late == 0 {
            return;
        }
        self.due_us.drain(..late);
        assert!(self.mode() != Mode::Fenced, "a fenced gate has no announcements to make");
        for port in &self.ports {
            if let Kind::Nic(nic) = &port.kind {
                for frame in announce::of_stations(&nic.stations) {
                    nic.send_announcement(&frame);
                }
            }
        }
    }

    /// Microseconds until the gate's thread has something to do that no descriptor tells.
    pub(crate) fn idle_us(&self, now_us: u64) -> Option<u64> {
        let due = [self.due_us.first().copied(), self.ledger.tells_at_us()].into_iter().flatten().min();
        due.map(|due| due.saturating_sub(now_us))
    }

    /// What the gate's thread must wait for. A descriptor without a wish is left out: poll would report its
    /// hang-up for ever.
    pub(crate) fn watches(&self, into: &mut Vec<Watch>) {
        into.clear();
        let fenced = self.mode() == Mode::Fenced;
        for (port, p) in self.ports.iter().enumerate() {
            let mut add = |fd: &Option<Arc<OwnedFd>>, side, read: bool, write: bool| {
                let mut flags = PollFlags::empty();
                flags.set(PollFlags::IN, read);
                flags.set(PollFlags::OUT, write);
                if let Some(fd) = fd.as_ref().filter(|_| read || write) {
                    into.push(Watch { fd: Arc::clone(fd), flags, port, side });
                }
            };
            match &p.kind {
                Kind::Nic(nic) => {
                    add(&nic.guest, Side::Guest, true, nic.input_stalled() && !self.input_paused);
                    let input = nic.guest.is_some() && !nic.input_stalled() && !self.input_paused && !fenced;
                    add(&nic.tap, Side::Outside, input, nic.has_outgoing());
                }
                Kind::Console(console) => add(&console.guest, Side::Guest, console.wants_input(), false),
            }
        }
    }

    /// Serves a descriptor that poll reported.
    pub(crate) fn serve(&mut self, port: usize, side: Side, got: PollFlags, now_us: u64) {
        let hung_up = got.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL);
        let paused = self.input_paused;
        match side {
            Side::Guest => {
                self.drain(port, now_us, false);
                if got.contains(PollFlags::OUT) && !paused {
                    self.forward_input(port);
                }
            }
            Side::Outside => {
                if let Kind::Nic(nic) = &mut self.ports[port].kind {
                    let flushed = nic.flush(&mut self.ledger, now_us);
                    self.nic_result(port, flushed);
                }
                if !paused {
                    self.forward_input(port);
                }
                if hung_up && !got.contains(PollFlags::IN) && self.ports[port].outside_alive() {
                    self.closed(port, side, PortFailure::HungUp);
                }
            }
        }
    }

    fn forward_input(&mut self, port: usize) {
        let Port { name, kind: Kind::Nic(nic) } = &mut self.ports[port] else { return };
        let observer = self.observer.as_ref().filter(|_| self.ledger.mode() == Mode::Holding);
        let epoch = self.ledger.last_cut().map_or(Epoch(1), Epoch::next);
        let observe = |bytes: &[u8]| {
            if let Some(observer) = observer {
                observer(InputFrame { port: name, epoch, bytes });
            }
        };
        let result = nic.forward_input(TURN_FRAMES, &observe);
        self.nic_result(port, result);
    }

    /// Console bytes that may be written now; the caller writes them without the lock.
    pub(crate) fn take_sink_work(&mut self, into: &mut Vec<SinkWork>) {
        for port in &mut self.ports {
            if let Kind::Console(console) = &mut port.kind {
                into.extend(console.take_work(&port.name));
            }
        }
    }

    /// A sink took bytes, or failed to.
    pub(crate) fn sink_wrote(&mut self, port: &str, length: usize, result: Result<(), PortFailure>) {
        let Some(at) = self.ports.iter().position(|p| p.name == port) else { return };
        let Kind::Console(console) = &mut self.ports[at].kind else { return };
        console.wrote(length, result.is_ok());
        if let Err(reason) = result {
            self.closed(at, Side::Outside, reason);
        }
    }

    pub(crate) fn stats(&self, now_us: u64) -> GateStats {
        let nics = self.ports.iter().filter_map(|p| match &p.kind {
            Kind::Nic(nic) => nic.oldest_us(),
            Kind::Console(_) => None,
        });
        let (queued, high) = (self.ledger.queued(), self.ledger.high_water());
        GateStats {
            mode: self.mode(),
            oldest_waiting_us: nics.min().map(|oldest| now_us.saturating_sub(oldest)),
            ports: self.ports.iter().map(Port::stats).collect(),
            queued_frames: queued.frames,
            queued_bytes: queued.bytes,
            high_water_frames: high.frames,
            high_water_bytes: high.bytes,
            hold_us: self.ledger.hold_times.summary(),
            last_cut: self.ledger.last_cut(),
            last_released: self.ledger.last_released(),
        }
    }

    /// Frames and bytes that wait.
    pub(crate) fn queued(&self) -> (usize, usize) {
        let queued = self.ledger.queued();
        (queued.frames, queued.bytes)
    }

    fn consoles_mut(&mut self) -> impl Iterator<Item = &mut ConsolePort> {
        self.ports.iter_mut().filter_map(|p| match &mut p.kind {
            Kind::Console(console) => Some(console),
            Kind::Nic(_) => None,
        })
    }
}

impl Port {
    fn guest_alive(&self) -> bool {
        match &self.kind {
            Kind::Nic(nic) => nic.guest.is_some(),
            Kind::Console(console) => console.guest.is_some(),
        }
    }

    fn outside_alive(&self) -> bool {
        match &self.kind {
            Kind::Nic(nic) => nic.tap.is_some(),
            Kind::Console(console) => console.sink_alive(),
        }
    }

    fn stats(&self) -> PortStats {
        let mut stats = match &self.kind {
            Kind::Nic(nic) => nic.counts.clone(),
            Kind::Console(console) => PortStats {
                bytes_from_guest: console.read(),
                bytes_out: console.written(),
                console_waiting: console.waiting(),
                ..PortStats::default()
            },
        };
        stats.port.clone_from(&self.name);
        stats.guest_alive = self.guest_alive();
        stats.outside_alive = self.outside_alive();
        stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_come_due_in_order_and_end_with_a_fence() {
        let (sender, _events) = crossbeam_channel::unbounded();
        let mut state = State::new(GateLimits::default(), sender);
        assert_eq!(state.idle_us(0), None);
        state.announce(&[Duration::from_millis(5), Duration::ZERO, Duration::from_millis(2)], 100).unwrap();
        assert_eq!(state.idle_us(100), Some(2000), "what is due at once is done");
        state.announce_due(2100);
        assert_eq!(state.idle_us(4000), Some(1100));
        state.discard();
        assert_eq!(state.idle_us(4000), None);
    }
}
