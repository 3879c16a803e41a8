//! Owns an owner's second session: the copy to the host that shall be its backup, while the first one goes on.
//!
//! What the first session's checkpoints find dirty is owed to the second; one checkpoint is taken for both.

use super::checkpoint::pages_of;
use super::{Gathered, KNOWN};
use crate::event::{HostId, Job, MachineId};
use crate::guest_disk::Tapped;
use crate::host::{Host, Role};
use crate::network::ConnId;
use crate::report::Count;
use crate::world::World;
use protocol::resync::{Base, MemoryOffer, Offer, Repair};
use protocol::wire::compare::Ask;
use protocol::wire::known::KnownPages;
use protocol::{Epoch, Session};

/// A session beside the present one.
#[derive(Debug)]
pub(crate) struct Second {
    pub(crate) session: Session,
    pub(super) conn: Option<ConnId>,
    pub(super) known: KnownPages,
    /// What its backup was sent was written since: pages by number.
    pub(super) owed: u64,
    /// Changes of the disk that the first session's checkpoints took.
    pub(crate) tapped: Vec<Tapped>,
    offer: Offer,
    pub(crate) asked: Option<Ask>,
    /// Its first checkpoint.
    pub(super) gathered: Option<Gathered>,
}

impl Second {
    pub(super) fn new(session: Session) -> Self {
        Self {
            session,
            conn: None,
            known: KnownPages::new(KNOWN),
            owed: 0,
            tapped: Vec::new(),
            offer: Offer::default(),
            asked: None,
            gathered: None,
        }
    }
}

impl World {
    pub(crate) fn second(&mut self, host: HostId, session: Session) -> Option<&mut Second> {
        self.owner(host)?.second.as_mut().filter(|second| second.session == session)
    }

    /// Begins to copy, if this is the second session.
    pub(super) fn copy_second(&mut self, host: HostId, session: Session, offer: &Offer) -> bool {
        let Some(second) = self.second(host, session) else { return false };
        (second.offer, second.owed) = (offer.clone(), u64::MAX);
        let Some(id) = self.owner(host).map(|owner| owner.id) else { return true };
        self.report.add(Count::ChangesBegun, 1);
        self.job(host, 100, Job::Copy(id, session, 0));
        true
    }

    /// A round of its first copy: what is owed now.
    pub(super) fn second_round(&mut self, host: HostId, id: MachineId, session: Session, round: u32) {
        let Host { role: Role::Owner(owner), storage, .. } = self.host(host) else { return };
        let (Some(vm), Some(second)) = (&owner.vm, &mut owner.second) else { return };
        let Some(conn) = second.conn.filter(|_| second.session == session && owner.id == id) else { return };
        if core::mem::take(&mut second.offer.memory) == MemoryOffer::Remnant {
            second.owed = 0;
            return self.ask_memory(host, session);
        }
        let pages = pages_of(&vm.guest, core::mem::take(&mut second.owed));
        let mut disk = core::mem::take(&mut second.tapped);
        let repair = storage.map.as_ref().map(|map| second.offer.disks.repair(map)).filter(|_| round == 0);
        match &repair {
            Some(Repair::SendAll) => disk = crate::guest_disk::whole(&storage.disk),
            // What the first session has not taken yet is on the disk, and comes again behind it.
            Some(_) => second.tapped = core::mem::take(&mut disk),
            None => {}
        }
        self.send_pages(host, conn, (Epoch(0), round == 0), &pages);
        self.count_repair(repair.as_ref());
        if let Some(Repair::Compare(runs) | Repair::CompareAll(runs)) = repair
            && !runs.is_empty()
        {
            return self.ask(host, session, runs);
        }
        self.send_disk(host, conn, Epoch(0), &disk);
        let after = self.rng.between(1_000, 8_000);
        if round < 2 {
            self.job(host, after, Job::Copy(id, session, round + 1));
        } else {
            self.copied(host, session);
        }
    }

    /// The second session takes the first one's place. That is still to be ended.
    pub(super) fn succeed(&mut self, host: HostId, session: Session) {
        let Host { role: Role::Owner(owner), storage, .. } = self.host(host) else { return };
        let Some(mut second) = owner.second.take_if(|second| second.session == session) else { return };
        if let Some(map) = &mut storage.map {
            map.succeed(Base { term: owner.machine.term(), session });
        }
        let old = owner.link.replace((second.session, second.conn));
        core::mem::swap(&mut owner.known, &mut second.known);
        owner.gathered.clear();
        owner.early = (0, 0);
        owner.second = old.map(|(session, conn)| Second { session, conn, ..second });
        self.report.add(Count::Changes, 1);
    }
}
