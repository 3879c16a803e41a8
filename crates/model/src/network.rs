//! Owns the connections: two directions each, in order, until they are reset or fall silent.
//!
//! # Fault model
//! A direction delivers what was sent in it, in order, after any time or never: a link that is cut in a direction, and
//! heals or does not, is one on which nothing is delivered for a while or from then on, so it needs no step of its own. A
//! connection may be reset: what is under way is lost, both ends are told, sooner, later or never. Damage, gaps and
//! repetitions are refused by the frames' checksums and numbers, which the simulator tests.

use crate::judge::Snapshot;
use crate::world::{HostId, Incoming, World};
use protocol::wire::{Kind, ToBackup, ToPrimary};
use protocol::{Epoch, Session, Term};
use std::collections::VecDeque;

/// A frame, or the end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Item {
    ToBackup(ToBackup),
    ToPrimary(ToPrimary),
    /// All bulk frames of an epoch.
    Bulk(Kind, Epoch, Snapshot),
    End,
}

/// What goes to one end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Direction {
    under_way: VecDeque<Item>,
    reset: bool,
    /// The end to which this goes has closed its socket.
    closed: bool,
}

/// A connection; its opener is the primary.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Connection {
    opener: HostId,
    to: HostId,
    pub(crate) term: Term,
    pub(crate) session: Session,
    /// To the opener, and to the other.
    directions: [Direction; 2],
}

impl Connection {
    pub(crate) fn new((opener, to): (HostId, HostId), term: Term, session: Session) -> Self {
        Self { opener, to, term, session, directions: Default::default() }
    }

    fn has(&self, host: HostId) -> bool {
        self.opener == host || self.to == host
    }

    fn direction_to(&self, host: HostId) -> usize {
        usize::from(self.opener != host)
    }

    pub(crate) fn is_opener(&self, host: HostId) -> bool {
        self.opener == host
    }

    /// Whether something is under way to a host.
    pub(crate) fn delivers(&self, to: HostId) -> bool {
        self.has(to) && !self.directions[self.direction_to(to)].under_way.is_empty()
    }

    pub(crate) fn can_be_reset(&self) -> bool {
        self.directions.iter().any(|direction| !direction.closed && !direction.reset)
    }

    pub(crate) fn send(&mut self, from: HostId, item: Item) {
        let back = self.direction_to(from);
        let may = !self.directions[back].closed;
        let direction = &mut self.directions[1 - back];
        if may && !direction.reset && !direction.closed {
            direction.under_way.push_back(item);
        }
    }

    /// The host closes its end; the other reads what was sent, and then that this is the end.
    pub(crate) fn close(&mut self, host: HostId) {
        self.send(host, Item::End);
        self.vanish(host);
    }

    /// The host's end, if it has one, is no more, and nobody is told.
    pub(crate) fn vanish(&mut self, host: HostId) {
        if !self.has(host) {
            return;
        }
        let direction = &mut self.directions[self.direction_to(host)];
        direction.closed = true;
        direction.under_way.clear();
    }

    pub(crate) fn reset(&mut self) {
        for direction in &mut self.directions {
            direction.under_way.clear();
            if !direction.closed {
                direction.under_way.push_back(Item::End);
            }
            direction.reset = true;
        }
    }
}

impl World {
    /// A host takes the next item of a connection.
    pub(crate) fn deliver(&mut self, conn: usize, to: HostId) {
        let connection = &mut self.conns[conn];
        let direction = connection.direction_to(to);
        let Some(item) = connection.directions[direction].under_way.pop_front() else { return };
        let session = connection.session;
        if item == Item::End {
            connection.vanish(to);
        }
        match item {
            Item::ToPrimary(message) => self.primary_hears(to, session, Some(message)),
            Item::End if connection.is_opener(to) => self.primary_hears(to, session, None),
            Item::ToBackup(message) => self.incoming(to, conn, Incoming::Message(message)),
            Item::Bulk(kind, epoch, snapshot) => {
                self.incoming(to, conn, Incoming::Bulk(kind, epoch, snapshot));
            }
            Item::End => self.incoming(to, conn, Incoming::Ended),
        }
    }
}
