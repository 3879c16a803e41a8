//! Owns the connections between hosts: encoded frames on their way, and what may happen to them there.
//!
//! # Fault model
//! A connection behaves like TCP, with these faults:
//! - *Delay*: every frame takes a time drawn from the plan and its length over the bandwidth; order is kept.
//! - *Loss*: what a TCP makes of it. The direction stalls, then goes on (retransmission), or the connection is
//!   reset; each end learns of a reset at a time of its own, or, while the link is cut, when it heals.
//! - *Bursts*: under some plans a frame now and then takes much longer, and with it all behind it.
//! - *Cut*, one way or both: a direction stalls until the link heals. A connection cannot be made. A *flapping* link is cut
//!   and heals again and again.
//! - *Narrow*: long frames do not pass, short ones do; since order is kept, what is behind a long one waits with it. A
//!   connection can be made.
//! - *Death of an end*: what had left the host still arrives. A killed process is followed by the end of the
//!   connection, a power loss by nothing; a frame that reaches a host which does not know the connection is
//!   answered by a reset.
//! - *Frame faults*, what a TCP does not do but broken hardware, a middlebox or a bug might: one bit flipped, a
//!   frame repeated, left out, moved behind the next, or one of another connection in between. The first frame
//!   that is not right is marked; if a reader takes it, the run has failed.
//!
//! Not injected, since it need not be survived: forged frames with right checksums and identity.

use crate::event::{Event, HOSTS, HostId, Queue, Undo};
use crate::plan::Plan;
use crate::rng::Rng;
use std::collections::{BTreeMap, VecDeque};

/// A connection; never used again in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConnId(pub(crate) u64);

/// A direction: from this end (0: who connected) to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way(pub(crate) usize);

impl Way {
    fn to(self) -> usize {
        1 - self.0
    }
}

#[derive(Debug)]
pub(crate) enum Item {
    /// A frame; `wrong` ones must be refused.
    Frame {
        bytes: Vec<u8>,
        wrong: bool,
    },
    End(&'static str),
}

#[derive(Debug)]
struct OnItsWay {
    departs: u64,
    arrives: u64,
    item: Item,
}

#[derive(Debug, Default)]
struct Flow {
    queue: VecDeque<OnItsWay>,
    departed: u64,
    arrived: u64,
    blocked_until: u64,
    sent: u64,
    /// The next frame does not follow on the one before it.
    next_is_wrong: bool,
    /// A frame fault was injected: one is enough, a second might undo it.
    harmed: bool,
}

#[derive(Debug)]
struct Connection {
    ends: [HostId; 2],
    /// Whether the end still knows the connection.
    known: [bool; 2],
    flows: [Flow; 2],
}

/// The longest frame that a narrow link lets pass: heartbeats, pulses, acknowledgements.
const NARROW: usize = 200;

/// Which frame fault to inject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameFault {
    Flip,
    Repeat,
    LeaveOut,
    Swap,
    Foreign,
}

#[derive(Debug, Default)]
pub(crate) struct Network {
    connections: BTreeMap<ConnId, Connection>,
    last: u64,
    cut: [[bool; HOSTS]; HOSTS],
    /// Long frames do not pass.
    narrow: [[bool; HOSTS]; HOSTS],
    /// By how much a direction is slower than the plan says.
    slow: [[u64; HOSTS]; HOSTS],
    /// Frames of the past, to be found on the wrong connection.
    museum: Vec<Vec<u8>>,
    /// The fault to inject into the next frame.
    pub(crate) next_fault: Option<FrameFault>,
}

impl Network {
    pub(crate) fn connect(&mut self, from: HostId, to: HostId) -> ConnId {
        self.last += 1;
        let id = ConnId(self.last);
        let connection = Connection { ends: [from, to], known: [true; 2], flows: Default::default() };
        self.connections.insert(id, connection);
        id
    }

    pub(crate) fn is_cut(&self, from: HostId, to: HostId) -> bool {
        self.cut[from.0][to.0]
    }

    pub(crate) fn cut(&mut self, from: HostId, to: HostId) {
        self.cut[from.0][to.0] = true;
    }

    pub(crate) fn slow(&mut self, from: HostId, to: HostId, factor: u64) {
        self.slow[from.0][to.0] = factor;
    }

    pub(crate) fn narrow(&mut self, from: HostId, to: HostId) {
        self.narrow[from.0][to.0] = true;
    }

    /// Long frames pass again.
    pub(crate) fn widen(&mut self, now: u64, from: HostId, to: HostId, queue: &mut Queue) {
        self.narrow[from.0][to.0] = false;
        self.go_on(now, from, to, queue);
    }

    /// The link carries again what waited for it.
    pub(crate) fn heal(&mut self, now: u64, from: HostId, to: HostId, queue: &mut Queue) {
        self.cut[from.0][to.0] = false;
        self.go_on(now, from, to, queue);
    }

    fn go_on(&self, now: u64, from: HostId, to: HostId, queue: &mut Queue) {
        for (&id, connection) in &self.connections {
            for way in [Way(0), Way(1)] {
                if (connection.ends[way.0], connection.ends[way.to()]) == (from, to) {
                    queue.put(now, Event::Deliver(id, way));
                }
            }
        }
    }

    /// Sends a frame from `host`. What is sent on a connection that is over goes nowhere.
    pub(crate) fn send(
        &mut self,
        now: u64,
        id: ConnId,
        host: HostId,
        bytes: Vec<u8>,
        (rng, plan, queue): (&mut Rng, &Plan, &mut Queue),
    ) {
        let fault = self.next_fault.take();
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let way = connection.way_from(host);
        if !connection.known[way.0] {
            return;
        }
        let foreign = rng.index(self.museum.len());
        let foreign = self.museum.get(foreign).cloned().unwrap_or_default();
        if self.museum.len() < 40 {
            self.museum.push(bytes.clone());
        } else if rng.chance(100) {
            let at = rng.index(self.museum.len());
            self.museum[at].clone_from(&bytes);
        }
        let slow = self.slow[host.0][connection.ends[way.to()].0].max(1);
        let flow = &mut connection.flows[way.0];
        let mut wrong = core::mem::take(&mut flow.next_is_wrong);
        let mut frames = Vec::new();
        let fault = fault.filter(|_| flow.sent > 0 && !flow.harmed);
        flow.harmed |= fault.is_some();
        match fault {
            Some(FrameFault::LeaveOut) => flow.next_is_wrong = true,
            Some(FrameFault::Flip) => {
                let mut bytes = bytes;
                let bit = rng.index(bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
                frames.push((bytes, true));
            }
            Some(FrameFault::Repeat) => frames.extend([(bytes.clone(), wrong), (bytes, true)]),
            Some(FrameFault::Swap) => match flow.queue.back_mut() {
                Some(OnItsWay { item: Item::Frame { bytes: before, wrong: wrong_before }, .. }) => {
                    frames.push((core::mem::replace(before, bytes), true));
                    *wrong_before = true;
                }
                _ => frames.push((bytes, wrong)),
            },
            Some(FrameFault::Foreign) => {
                frames.extend([(foreign, true), (bytes, true)]);
            }
            None => frames.push((bytes, core::mem::take(&mut wrong))),
        }
        flow.sent += 1;
        for (bytes, wrong) in frames {
            let arrives =
                flow.schedule(now, bytes.len() as u64 * slow, rng, plan, Item::Frame { bytes, wrong });
            queue.put(arrives, Event::Deliver(id, way));
        }
    }

    /// The end at `host` forgets the connection; the other end hears of it behind what was sent before.
    pub(crate) fn close(
        &mut self,
        now: u64,
        id: ConnId,
        host: HostId,
        why: &'static str,
        (rng, plan, queue): (&mut Rng, &Plan, &mut Queue),
    ) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let way = connection.way_from(host);
        if core::mem::replace(&mut connection.known[way.0], false) {
            let arrives = connection.flows[way.0].schedule(now, 0, rng, plan, Item::End(why));
            queue.put(arrives, Event::Deliver(id, way));
        }
    }

    /// The host is gone: what had not left it never will. `kernel_lives`: its connections are ended for it.
    pub(crate) fn die(
        &mut self,
        now: u64,
        host: HostId,
        kernel_lives: bool,
        (rng, plan, queue): (&mut Rng, &Plan, &mut Queue),
    ) {
        let ids: Vec<_> = self.of_host(host).collect();
        for id in ids {
            if let Some(connection) = self.connections.get_mut(&id) {
                let way = connection.way_from(host);
                let flow = &mut connection.flows[way.0];
                flow.queue.retain(|on_its_way| on_its_way.departs <= now);
                flow.departed = flow.departed.min(now);
                if !kernel_lives {
                    connection.known[way.0] = false;
                }
            }
            if kernel_lives {
                self.close(now, id, host, "its process was killed", (rng, plan, queue));
            }
        }
    }

    fn of_host(&self, host: HostId) -> impl Iterator<Item = ConnId> {
        self.connections.iter().filter(move |(_, c)| c.ends.contains(&host)).map(|(&id, _)| id)
    }

    /// Connections that both ends know.
    pub(crate) fn alive(&self) -> Vec<ConnId> {
        self.connections.iter().filter(|(_, c)| c.known == [true; 2]).map(|(&id, _)| id).collect()
    }

    pub(crate) fn ends(&self, id: ConnId) -> Option<[HostId; 2]> {
        self.connections.get(&id).map(|connection| connection.ends)
    }

    pub(crate) fn knows(&self, id: ConnId, end: usize) -> bool {
        self.connections.get(&id).is_some_and(|connection| connection.known[end])
    }

    pub(crate) fn forget(&mut self, id: ConnId, end: usize) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.known[end] = false;
        }
    }

    /// A direction carries nothing for a while: a lost segment until it is sent again.
    pub(crate) fn block(&mut self, id: ConnId, way: Way, until: u64, queue: &mut Queue) {
        if let Some(connection) = self.connections.get_mut(&id) {
            let flow = &mut connection.flows[way.0];
            flow.blocked_until = flow.blocked_until.max(until);
            queue.put(until, Event::Undo(Undo::Unblock(id, way)));
        }
    }

    /// What has reached the end of a direction, and whose end that is.
    pub(crate) fn deliver(&mut self, now: u64, id: ConnId, way: Way) -> Option<(HostId, usize, Vec<Item>)> {
        let ends = self.ends(id)?;
        let (from, to) = (ends[way.0], ends[way.to()]);
        let (cut, narrow) = (self.is_cut(from, to), self.narrow[from.0][to.0]);
        let passes = |on_its_way: &OnItsWay| match &on_its_way.item {
            Item::Frame { bytes, .. } => !narrow || bytes.len() <= NARROW,
            Item::End(_) => true,
        };
        let connection = self.connections.get_mut(&id)?;
        let flow = &mut connection.flows[way.0];
        let mut items = Vec::new();
        let there = |f: &OnItsWay| f.arrives <= now && passes(f);
        while !cut && flow.blocked_until <= now && flow.queue.front().is_some_and(there) {
            items.extend(flow.queue.pop_front().map(|on_its_way| on_its_way.item));
        }
        let to = (connection.ends[way.to()], way.to());
        let over = connection.known == [false; 2] && connection.flows.iter().all(|f| f.queue.is_empty());
        if over {
            self.connections.remove(&id);
        }
        Some((to.0, to.1, items))
    }
}

impl Connection {
    fn way_from(&self, host: HostId) -> Way {
        Way(usize::from(self.ends[0] != host))
    }
}

impl Flow {
    fn schedule(&mut self, now: u64, len: u64, rng: &mut Rng, plan: &Plan, item: Item) -> u64 {
        self.departed = self.departed.max(now) + len * 1_000 / plan.bandwidth;
        let mut delay = rng.between(plan.delay.0, plan.delay.1);
        if plan.burst.0 > 0 && rng.chance(plan.burst.0) {
            delay += rng.between(0, plan.burst.1);
        }
        self.arrived = self.arrived.max(self.departed + delay);
        self.queue.push_back(OnItsWay { departs: self.departed, arrives: self.arrived, item });
        self.arrived
    }
}
