//! Owns resynchronisation by difference in the model: what a host offers, asks, answers and sends, of the disk and of memory, and
//! when its difference map is cleaned. What is decided is `protocol::resync`'s, the very one that the engine uses.

use crate::event::{HostId, Job, MachineId};
use crate::guest_disk::Tapped;
use crate::host::{Host, Posted, Role};
use crate::network::ConnId;
use crate::report::Count;
use crate::storage::SECTOR;
use crate::world::World;
use protocol::backup::{Conn, Event as BackupEvent};
use protocol::resync::{Base, DiskOffer, Repair, Run};
use protocol::wire::ToBackup;
use protocol::wire::compare::{Ask, Hashes, PIECE, Seed, Store};
use protocol::wire::pages::PAGE;
use protocol::{Epoch, Session, Term};
use std::rc::Rc;

impl World {
    /// A session begins at this backup: what it says of its copy.
    pub(crate) fn offer(&mut self, host: HostId, sectors: usize, term: Term) -> DiskOffer {
        #[allow(unused_mut, reason = "only with the feature `planted`")]
        let mut offer = self.host(host).storage.offer(sectors, term);
        #[cfg(feature = "planted")]
        if let DiskOffer::Copies { marked, .. } = &mut offer
            && self.planted.hide_own_writes
        {
            marked.clear();
        }
        let own =
            matches!(&offer, DiskOffer::Copies { marked, bases } if !marked.is_empty() && !bases.is_empty());
        self.report.add(Count::OffersWithOwnWrites, u64::from(own));
        offer
    }

    pub(crate) fn begin_session(&mut self, host: HostId, session: Session) {
        let Host { role: Role::Owner(owner), storage, .. } = self.host(host) else { return };
        let term = owner.machine.term();
        if let Some(map) = &mut storage.map {
            map.begin_session(Base { term, session });
        }
    }

    pub(crate) fn count_repair(&mut self, repair: Option<&Repair>) {
        let count = match repair {
            Some(Repair::SendAll) => Count::CopiesWhole,
            Some(Repair::Compare(runs)) => {
                let asked: u64 = runs.iter().map(|run| run.len / SECTOR as u64).sum();
                self.report.add(Count::PiecesSpared, self.plan.sectors as u64 - asked);
                Count::CopiesByDifference
            }
            Some(Repair::CompareAll(_)) => Count::CopiesCompared,
            None => return,
        };
        self.report.add(count, u64::from(self.plan.sectors > 0));
    }

    /// The owner asks about its backup's copy. A run for each sector, so that each has its hash.
    pub(crate) fn ask(&mut self, host: HostId, session: Session, runs: Vec<Run>) {
        let len = SECTOR as u64;
        assert!(len <= PIECE);
        let sectors =
            |run: Run| (0..run.len / len).map(move |at| Run { offset: run.offset + at * len, len, ..run });
        self.send_ask(host, session, Store::Disks, runs.into_iter().flat_map(sectors).collect());
    }

    /// The owner asks about all memory that its backup has from before.
    pub(crate) fn ask_memory(&mut self, host: HostId, session: Session) {
        let pages = self.owner_vm(host).map_or(0, |vm| vm.guest.pages.len());
        let page = |at: usize| Run { disk: 0, offset: (at * PAGE) as u64, len: PAGE as u64 };
        self.send_ask(host, session, Store::Memory, (0..pages).map(page).collect());
    }

    fn send_ask(&mut self, host: HostId, session: Session, of: Store, runs: Vec<Run>) {
        let ask = Ask { of, seed: Seed(self.rng.next()), runs };
        if let Some(open) = self.open_ask(host, session) {
            *open = Some(ask.clone());
        }
        self.send_to_backup(host, session, &ToBackup::Ask(ask));
    }

    /// The backup hashes its copy in some time, while changes go on coming in.
    pub(crate) fn compare(&mut self, host: HostId, conn: Conn, ask: Ask) {
        let after = self.rng.between(100, 20_000);
        if let Some(standby) = self.standby(host) {
            let id = standby.id;
            self.job(host, after, Job::Compare(id, conn, ask));
        }
    }

    pub(crate) fn hashed(&mut self, host: HostId, id: MachineId, conn: Conn, ask: &Ask) {
        let Host { role: Role::Standby(standby), storage, .. } = self.host(host) else { return };
        let (sectors, pages) = (storage.disk.sectors(), &standby.image.pages);
        let sum = |run: &Run| match ask.of {
            Store::Disks => sectors.get(index(run)).map_or(0, |sector| ask.seed.hash(&**sector)),
            Store::Memory => pages.get(page(run)).map_or(0, |page| ask.seed.hash(&**page)),
        };
        let event = match storage.trouble().filter(|_| storage.failing > 0 && ask.of == Store::Disks) {
            Some(why) => BackupEvent::CompareFailed(conn, why.into()),
            None => BackupEvent::Compared(conn, Hashes { sums: ask.runs.iter().map(sum).collect() }),
        };
        self.post(host, Posted::ToBackup(id, event));
    }

    /// The hashes came: what differs now is sent, and behind it what the guest wrote meanwhile.
    pub(crate) fn compared(&mut self, host: HostId, session: Session, hashes: &Hashes) {
        let Some(conn) = self.session_conn(host, session) else { return };
        let asked = self.open_ask(host, session).and_then(|asked| asked.as_ref());
        if asked.is_some_and(|ask| ask.of == Store::Memory) {
            return self.memory_compared(host, session, conn, hashes);
        }
        let Host { role: Role::Owner(owner), storage, .. } = self.host(host) else { return };
        let id = owner.id;
        let (asked, tapped) = match owner.second.as_mut().filter(|second| second.session == session) {
            Some(second) => (second.asked.take(), core::mem::take(&mut second.tapped)),
            None => {
                let tapped = owner.vm.as_mut().and_then(|vm| vm.tap.replace(Vec::new()));
                (owner.asked.take(), tapped.unwrap_or_default())
            }
        };
        let Some(ask) = asked.filter(|_| owner.vm.is_some()) else { return };
        assert_eq!(ask.pieces(), hashes.sums.len(), "a hash for each piece");
        let sectors = storage.disk.sectors();
        let runs = ask.runs.iter().zip(&hashes.sums);
        let differs = runs.filter(|(run, sum)| ask.seed.hash(&*sectors[index(run)]) != **sum);
        let mut changes: Vec<_> =
            differs.map(|(run, _)| Tapped::Data(index(run), Rc::clone(&sectors[index(run)]))).collect();
        let (equal, sent) = (ask.runs.len() - changes.len(), changes.len());
        changes.extend(tapped);
        self.report.add(Count::PiecesEqual, equal as u64);
        self.report.add(Count::PiecesSent, sent as u64);
        self.send_disk(host, conn, Epoch(0), &changes);
        let after = self.rng.between(1_000, 8_000);
        self.job(host, after, Job::Copy(id, session, 1));
    }

    fn open_ask(&mut self, host: HostId, session: Session) -> Option<&mut Option<Ask>> {
        let owner = self.owner(host)?;
        match owner.second.as_mut().filter(|second| second.session == session) {
            Some(second) => Some(&mut second.asked),
            None => Some(&mut owner.asked),
        }
    }

    /// The hashes of a remnant came: pages that differ now are sent. What was written since it was asked is dirty.
    fn memory_compared(&mut self, host: HostId, session: Session, conn: ConnId, hashes: &Hashes) {
        let asked = self.open_ask(host, session).and_then(Option::take);
        #[cfg(feature = "planted")]
        let trusts = self.planted.trust_remnant;
        #[cfg(not(feature = "planted"))]
        let trusts = false;
        let Some(owner) = self.owner(host) else { return };
        let (id, Some(ask), Some(vm)) = (owner.id, asked, &owner.vm) else { return };
        assert_eq!(ask.pieces(), hashes.sums.len(), "a hash for each page");
        let differs = |&(at, sum): &(usize, &u128)| ask.seed.hash(&*vm.guest.pages[at]) != *sum && !trusts;
        let differing = ask.runs.iter().map(page).zip(&hashes.sums).filter(differs);
        let pages: Vec<_> = differing.map(|(at, _)| (at as u64, Rc::clone(&vm.guest.pages[at]))).collect();
        self.report.add(Count::RemnantPagesEqual, (ask.runs.len() - pages.len()) as u64);
        self.report.add(Count::RemnantPagesSent, pages.len() as u64);
        self.send_pages(host, conn, (Epoch(0), true), &pages);
        let after = self.rng.between(1_000, 8_000);
        self.job(host, after, Job::Copy(id, session, 0));
    }

    /// The backup has an epoch. The first one, and sometimes another, is reason to clean the map.
    pub(crate) fn note_acknowledged(&mut self, host: HostId, session: Session, epoch: Epoch) {
        let (due, after) = (self.rng.chance(100), self.rng.between(10, 5_000));
        let Host { role: Role::Owner(owner), storage, .. } = self.host(host) else { return };
        let id = owner.id;
        if !owner.in_session(session) {
            return;
        }
        let first = storage.map.as_mut().is_some_and(|map| map.acknowledged(epoch));
        if first || due {
            self.job(host, after, Job::Clean(id));
        }
    }

    /// The map is cleaned: the disk is flushed, and what is acknowledged is forgotten.
    pub(crate) fn clean(&mut self, host: HostId, id: MachineId) {
        #[cfg(feature = "planted")]
        let syncs = !self.planted.forget_unsynced;
        #[cfg(not(feature = "planted"))]
        let syncs = true;
        let keep = self.rng.index(8);
        let Host { role: Role::Owner(owner), storage, .. } = self.host(host) else { return };
        if owner.id != id {
            return;
        }
        if syncs {
            storage.disk.flush();
        }
        if let Some(map) = &mut storage.map {
            map.forget(map.settled());
        }
        storage.retire(keep);
        self.report.add(Count::MapsCleaned, 1);
    }
}

fn page(run: &Run) -> usize {
    usize::try_from(run.offset).unwrap_or(usize::MAX) / PAGE
}

fn index(run: &Run) -> usize {
    usize::try_from(run.offset).unwrap_or(usize::MAX) / SECTOR
}
