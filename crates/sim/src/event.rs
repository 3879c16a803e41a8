//! Owns what can happen in a run, and the queue that decides what happens next.

use crate::host::Posted;
use crate::network::{ConnId, Way};
use protocol::asking::ClaimAnswer;
use protocol::backup::Conn;
use protocol::wire::compare::Ask;
use protocol::{Claim, Epoch, HostName, Session};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

pub(crate) const HOSTS: usize = 3;

/// One of the hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HostId(pub(crate) usize);

impl HostId {
    pub(crate) const ALL: [Self; HOSTS] = [Self(0), Self(1), Self(2)];
}

/// One run of a host's agent, between two crashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Boot(pub(crate) u64);

/// One machine (a primary or a backup) of the protocol; events of another are not for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MachineId(pub(crate) u64);

/// Work of an agent that takes time.
#[derive(Debug)]
pub(crate) enum Job {
    Connect(MachineId, Session, HostName),
    Copy(MachineId, Session, u32),
    Cut(MachineId, u64),
    CutDone(MachineId, u64),
    StartStandby(MachineId, Conn),
    /// A backup hashes its copy.
    Compare(MachineId, Conn, Ask),
    /// A backup is done with what came of a first copy before a mark.
    Reach(MachineId, Conn),
    /// An owner cleans its difference map.
    Clean(MachineId),
    /// The journal of a backup is durable up to this epoch.
    Sync(MachineId, Conn, Epoch),
    Promote(MachineId),
}

#[derive(Debug)]
pub(crate) enum Event {
    /// Something may have reached the end of a connection.
    Deliver(ConnId, Way),
    /// A connection ends at one of its ends, at once.
    Reset(ConnId, usize),
    /// An agent's readers look at their sockets.
    Read(HostId, Boot),
    /// An agent's loop takes what is posted.
    Run(HostId, Boot),
    /// An agent's timer.
    Tick(HostId, Boot, u64),
    Job(HostId, Boot, Job),
    /// A slow reader posts what it read.
    Late(HostId, Boot, Posted),
    /// The guest of an owner runs a step.
    Step(HostId, MachineId),
    /// A question reaches the arbiter (or gets lost).
    Asked(HostId, Boot, MachineId, Claim),
    /// Its answer reaches the agent.
    Answered(HostId, Boot, MachineId, Claim, ClaimAnswer),
    /// A write of the client of this VM (by its number) reaches a host.
    ToGuest(u64, HostId, u64),
    /// The guest's answer reaches the client of this VM (by its number).
    ToClient(u64, u64),
    ClientTimer,
    Operator,
    Watch,
    Fault,
    /// Whoever has the VM dies.
    AllDie,
    Undo(Undo),
    /// A flapping link is cut again, so many times, for so long each.
    Flap(HostId, HostId, u64, u64),
    /// In a trial: an agent's processor stalls.
    Doze,
    /// In a trial: the owner loses its power.
    OwnerDies,
    Calm,
}

/// The end of a fault.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Undo {
    Restart(HostId),
    Thaw(HostId, Boot),
    Heal(HostId, HostId),
    Widen(HostId, HostId),
    Speed(HostId, HostId),
    Arbiter(HostId),
    DiskFull(HostId),
    DiskError(HostId),
    DiskSpeed(HostId),
    Unblock(ConnId, Way),
}

struct Entry {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Events by time; those of one instant in the order in which they were put.
#[derive(Default)]
pub(crate) struct Queue {
    heap: BinaryHeap<Reverse<Entry>>,
    order: u64,
}

impl Queue {
    pub(crate) fn put(&mut self, at: u64, event: Event) {
        self.order += 1;
        self.heap.push(Reverse(Entry { at, order: self.order, event }));
    }

    pub(crate) fn take(&mut self) -> Option<(u64, Event)> {
        self.heap.pop().map(|Reverse(entry)| (entry.at, entry.event))
    }
}

impl Event {
    /// A number for the trace hash.
    pub(crate) fn tag(&self) -> u64 {
        match self {
            Self::Deliver(conn, way) => 1 + conn.0 * 64 + way.0 as u64 * 32,
            Self::Reset(conn, end) => 2 + conn.0 * 64 + *end as u64 * 32,
            Self::Read(host, _) => 3 + host.0 as u64 * 64,
            Self::Run(host, _) => 4 + host.0 as u64 * 64,
            Self::Tick(host, _, number) => 5 + host.0 as u64 * 64 + (number << 16),
            Self::Job(host, ..) => 6 + host.0 as u64 * 64,
            Self::Step(host, _) => 7 + host.0 as u64 * 64,
            Self::Asked(host, .., claim) => 8 + host.0 as u64 * 64 + (claim.term.0 << 16),
            Self::Answered(host, _, _, claim, _) => 9 + host.0 as u64 * 64 + (claim.term.0 << 16),
            Self::ToGuest(_, host, write) => 10 + host.0 as u64 * 64 + (write << 16),
            Self::ToClient(_, stored) => 11 + (stored << 16),
            Self::ClientTimer => 12,
            Self::Operator => 13,
            Self::Watch => 14,
            Self::Fault => 15,
            Self::Undo(_) => 16,
            Self::Calm => 17,
            Self::AllDie => 19,
            Self::Flap(..) => 20,
            Self::Doze => 21,
            Self::OwnerDies => 22,
            Self::Late(host, ..) => 18 + host.0 as u64 * 64,
        }
    }
}
