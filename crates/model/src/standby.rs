//! Owns a backup's engine: it carries out at once what a backup's machine decides, but for the journal's syncs and
//! promotions, which are steps of their own.
//!
//! # Fault model
//! A standby's process may die; the journal or a promotion may fail.

use crate::judge::{Broken, Snapshot};
use crate::network::Item;
use crate::owner::{BULK_BYTES, Vm};
use crate::world::{HostId, Incoming, Role, World};
use protocol::backup::{Action, Backup, BulkUse, Conn, Event, PhaseName};
use protocol::notice::{LinkLoss, Notice};
use protocol::resync::DiskOffer;
use protocol::wire::{Hello, Kind, Refusal, ToBackup, ToPrimary};
use protocol::{Epoch, Grant, Instant, Session, Term};
use std::collections::VecDeque;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Standby {
    pub(crate) machine: Backup,
    /// The newest epoch that is applied.
    image: Option<(Epoch, Snapshot)>,
    staged: Vec<(Epoch, Snapshot)>,
    /// What the journal was asked to make durable, in this order.
    persisting: VecDeque<(Conn, Epoch)>,
    /// Not before this instant.
    promotion: Option<(Grant, Epoch, Instant)>,
    alive: bool,
}

impl Standby {
    fn new(machine: Backup) -> Self {
        Self {
            machine,
            image: None,
            staged: Vec::new(),
            persisting: VecDeque::new(),
            promotion: None,
            alive: false,
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.alive
    }

    pub(crate) fn persists(&self) -> bool {
        !self.persisting.is_empty()
    }

    pub(crate) fn promotes(&self, now: Instant) -> bool {
        self.promotion.as_ref().is_some_and(|&(.., not_before)| now >= not_before)
    }

    pub(crate) fn is_promoting(&self) -> bool {
        self.promotion.is_some()
    }
}

impl World {
    fn standby(&mut self, host: HostId) -> Option<&mut Standby> {
        match &mut self.host(host).role {
            Role::Standby(standby) => Some(standby),
            _ => None,
        }
    }

    /// Something came on a connection that this host accepted.
    pub(crate) fn incoming(&mut self, host: HostId, conn: usize, incoming: Incoming) {
        let id = Conn(conn as u64);
        match (&self.hosts[host.index()].role, incoming) {
            (Role::Owner(owner), Incoming::Message(ToBackup::Hello(_))) => {
                let known = owner.machine.term();
                let no = match self.conns[conn].term < known {
                    true => ToPrimary::Fenced(known),
                    false => ToPrimary::Refuse(Refusal::Busy { term: known }),
                };
                self.conns[conn].send(host, Item::ToPrimary(no));
                self.conns[conn].close(host);
            }
            (_, Incoming::Message(ToBackup::Hello(hello))) => self.hello(host, conn, hello),
            (Role::Standby(_), Incoming::Message(message)) => {
                self.drive_backup(host, Event::Message(id, message));
            }
            (Role::Standby(_), Incoming::Ended) => {
                let why = LinkLoss::Disconnected("reset".into());
                self.drive_backup(host, Event::Disconnected(id, why));
            }
            (Role::Standby(_), Incoming::Bulk(kind, epoch, snapshot)) => {
                self.bulk(host, id, (kind, epoch, snapshot));
            }
            _ => {}
        }
    }

    fn hello(&mut self, host: HostId, conn: usize, hello: Hello) {
        if matches!(self.hosts[host.index()].role, Role::Idle) {
            #[allow(unused_mut, reason = "only with the feature `planted`")]
            let mut machine = Backup::new(self.claimant(host), self.hosts[host.index()].least);
            #[cfg(feature = "planted")]
            machine.plant(self.planted);
            self.host(host).role = Role::Standby(Box::new(Standby::new(machine)));
        }
        let of = (self.conns[conn].term, self.conns[conn].session);
        self.drive_backup(host, Event::Hello(Conn(conn as u64), of, hello));
    }

    fn bulk(&mut self, host: HostId, conn: Conn, (kind, epoch, snapshot): (Kind, Epoch, Snapshot)) {
        let now = self.hosts[host.index()].clock;
        let mut out = Vec::new();
        let Some(standby) = self.standby(host) else { return };
        match standby.machine.bulk(now, conn, kind, epoch, BULK_BYTES, &mut out) {
            BulkUse::ApplyNow if epoch == Epoch(0) => {}
            BulkUse::ApplyNow => standby.image = Some((epoch, snapshot)),
            BulkUse::Stage(epoch) => standby.staged.push((epoch, snapshot)),
            BulkUse::Ignore => {}
        }
        self.carry_out_backup(host, out, VecDeque::new());
    }

    /// Hands an event to the host's backup, and then what its actions led to at once.
    pub(crate) fn drive_backup(&mut self, host: HostId, event: Event) {
        self.carry_out_backup(host, Vec::new(), VecDeque::from([event]));
    }

    fn carry_out_backup(&mut self, host: HostId, mut actions: Vec<Action>, mut events: VecDeque<Event>) {
        loop {
            for action in actions.drain(..) {
                events.extend(self.backup_action(host, action));
            }
            let now = self.hosts[host.index()].clock;
            let (Some(event), Some(standby)) = (events.pop_front(), self.standby(host)) else { break };
            let owed = standby.owes_copy(&event);
            standby.machine.handle(now, event, &mut actions);
            if let Some(of) = owed
                && actions.contains(&Action::Discard)
                && self.arbiter.newest() <= of.0
                && !self.judge.is_relieved(of)
            {
                self.judge.breaks(Broken::ThrownAway);
            }
        }
        if self.standby(host).is_some_and(|standby| standby.machine.phase() == PhaseName::Done) {
            self.become_idle(host);
        }
    }

    fn backup_action(&mut self, host: HostId, action: Action) -> Option<Event> {
        match action {
            Action::Send(conn, message) => self.conn(conn).send(host, Item::ToPrimary(message)),
            Action::Close(conn) => self.conn(conn).close(host),
            Action::Claim(claim) => self.ask(host, claim),
            Action::Notice(Notice::StandbyArmed { .. }) => {
                let of = self.standby(host).and_then(|standby| standby.of());
                of.into_iter().for_each(|of| self.judge.arms(of));
            }
            Action::Prepare(..) | Action::Commit(..) => {
                let of = self.standby(host).and_then(|standby| standby.of());
                let whole = matches!(action, Action::Commit(..));
                let least = |(term, session): (Term, Session)| {
                    (term, if whole { session.next() } else { Session(0) })
                };
                of.into_iter().for_each(|of| self.label(host, least(of)));
                return self.standby(host)?.carry_out(action);
            }
            action => return self.standby(host)?.carry_out(action),
        }
        None
    }

    fn conn(&mut self, conn: Conn) -> &mut crate::network::Connection {
        let index = usize::try_from(conn.0).unwrap_or(usize::MAX);
        &mut self.conns[index]
    }

    /// The journal answers the oldest question.
    pub(crate) fn persisted(&mut self, host: HostId, fails: bool) {
        let Some((conn, epoch)) = self.standby(host).and_then(|standby| standby.persisting.pop_front())
        else {
            return;
        };
        self.drive_backup(
            host,
            match fails {
                true => Event::PersistFailed(conn, epoch, "no space".into()),
                false => Event::Persisted(conn, epoch),
            },
        );
    }

    /// The standby's process dies.
    pub(crate) fn kill_standby(&mut self, host: HostId) {
        if let Some(standby) = self.standby(host) {
            standby.alive = false;
            self.drive_backup(host, Event::StandbyDied("killed".into()));
        }
    }

    /// The VM goes on here, or it cannot.
    pub(crate) fn promote(&mut self, host: HostId, fails: bool) {
        let Some(standby) = self.standby(host) else { return };
        let Some((grant, epoch, _)) = standby.promotion.take() else { return };
        let (image, alive) = (standby.image, standby.alive);
        let Some((applied, from)) = image.filter(|_| alive && !fails) else {
            return self.drive_backup(host, Event::PromotionFailed("the devices could not be loaded".into()));
        };
        if applied != epoch {
            self.judge.breaks(Broken::NotWhole);
        }
        let life = self.new_life(from);
        self.drive_backup(host, Event::Promoted);
        self.become_owner(host, grant, Vm::new(life, from.step));
    }
}

impl Standby {
    /// What concerns only the standby and its process.
    fn carry_out(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Prepare(conn, _) => {
                *self = Self { alive: true, ..Self::new(self.machine.clone()) };
                return Some(Event::StandbyReady(conn, DiskOffer::Blank.into()));
            }
            Action::Persist(conn, epoch) => self.persisting.push_back((conn, epoch)),
            Action::Commit(epoch, _) => {
                let at = self.staged.iter().position(|&(staged, _)| staged == epoch);
                self.image = at.map(|at| self.staged.remove(at)).or(self.image);
            }
            Action::DropStaged => self.staged.clear(),
            Action::Promote(grant, epoch, not_before) => self.promotion = Some((grant, epoch, not_before)),
            Action::Discard => (self.image, self.alive) = (None, false),
            // Copies are blank here: nothing is compared, and nobody asks how far they are. Devices are loaded at a promotion.
            Action::Notice(_)
            | Action::Stand
            | Action::Compare(..)
            | Action::Reach(_)
            | Action::Send(..)
            | Action::Close(_)
            | Action::Claim(_) => {}
        }
        None
    }

    /// Term and session that it stands by in.
    fn of(&self) -> Option<(Term, Session)> {
        Some((self.machine.standing_by()?.1, self.machine.session()?))
    }

    /// The term for which this copy must be kept, and its session, unless it breaks by itself.
    fn owes_copy(&self, event: &Event) -> Option<(Term, Session)> {
        use PhaseName::{Armed, Claiming, Promoting};
        let armed = matches!(self.machine.phase(), Armed | Claiming | Promoting) && self.alive;
        let over = matches!(event, Event::PromotionFailed(_) | Event::Promoted);
        (armed && !over).then(|| self.of())?
    }
}
