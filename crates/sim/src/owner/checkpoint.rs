//! Owns an owner's checkpoints: the cut, what it gathers, and its frames.

use super::{Cut, Gathered};
use crate::event::{HostId, Job, MachineId};
use crate::gate::Mode;
use crate::guest::{Guest, Page};
use crate::guest_disk::Tapped;
use crate::host::{Host, Posted, Role};
use crate::network::ConnId;
use crate::report::Count;
use crate::world::World;
use protocol::pacing::Taken;
use protocol::primary::Event as PrimaryEvent;
use protocol::resync::Base;
use protocol::wire::{Commit, Kind, ToBackup};
use protocol::{Epoch, Micros, Session};

impl World {
    /// Leaves a checkpoint out if the guest wrote nothing since the one before.
    pub(super) fn spares(&mut self, host: HostId, session: Session, epoch: Epoch) -> bool {
        let Some(owner) = self.owner(host) else { return false };
        let (id, vm) = (owner.id, owner.vm.as_ref());
        let idle =
            vm.is_some_and(|vm| vm.runs && vm.guest.is_clean() && vm.tap.as_ref().is_none_or(Vec::is_empty));
        if idle {
            self.report.add(Count::CheckpointsSpared, 1);
            self.post(host, Posted::ToPrimary(id, PrimaryEvent::CheckpointSpared(session, epoch)));
        }
        idle
    }

    pub(super) fn begin_cut(
        &mut self,
        host: HostId,
        session: Session,
        (epoch, cut): (Epoch, Epoch),
        (last, with): (bool, Option<Session>),
    ) {
        let Some(owner) = self.owner(host) else { return };
        owner.cuts += 1;
        let (id, number) = (owner.id, owner.cuts);
        assert!(owner.cut.is_none(), "one checkpoint at a time");
        owner.cut = Some(Cut { number, session, epoch, last, cut, with, cut_at: None });
        let after = self.rng.between(20, 300);
        self.job(host, after, Job::Cut(id, number));
    }

    /// The VM stands still: memory, devices and output of the epoch are what they are now.
    pub(crate) fn cut(&mut self, host: HostId, id: MachineId, number: u64) {
        let (clock, now) = (self.clock(host), self.now);
        let fails = self.rng.chance(self.plan.checkpoint_failure);
        let early = self.rng.chance(500);
        let stays_stopped = self.rng.chance(500);
        let after = self.rng.between(self.plan.pause.0, self.plan.pause.1);
        let Host { role: Role::Owner(owner), storage, .. } = self.host(host) else { return };
        if owner.id != id {
            return;
        }
        let (Some(vm), Some(cut)) = (&mut owner.vm, owner.cut.as_mut().filter(|cut| cut.number == number))
        else {
            return;
        };
        if fails {
            let (session, epoch, why) = (cut.session, cut.epoch, "QEMU said no".to_string());
            owner.cut = None;
            if stays_stopped && vm.runs {
                (vm.runs, vm.stopped_at) = (false, now);
            }
            if early {
                let dirty = vm.guest.take_dirty();
                vm.guest.give_back_dirty(dirty);
                let pages = pages_of(&vm.guest, dirty);
                self.send_early(host, session, epoch, &pages);
            }
            let event = PrimaryEvent::CheckpointFailed { session, why };
            return self.post(host, Posted::ToPrimary(id, event));
        }
        if vm.runs {
            (vm.runs, vm.stopped_at) = (false, now);
        }
        cut.cut_at = Some(clock);
        if let Some(map) = &mut storage.map {
            map.cut(cut.epoch);
        }
        let (session, epoch, with, last) = (cut.session, cut.epoch, cut.with, cut.last);
        let (term, cut_at) = (owner.machine.term(), clock);
        let dirty = vm.guest.take_dirty();
        let mut pages = pages_of(&vm.guest, dirty);
        let (passed, console) = (vm.gate.cut(cut.cut), vm.gate.console_of(cut.cut));
        let snapshot = vm.guest.snapshot(&storage.disk);
        let (disk, devices) = (vm.tap.replace(Vec::new()).unwrap_or_default(), snapshot.devices);
        if let Some(second) = &mut owner.second {
            second.owed |= dirty;
            second.tapped.extend(disk.iter().cloned());
            if with == Some(second.session) {
                let pages = pages_of(&vm.guest, core::mem::take(&mut second.owed));
                let (disk, dirty) = (core::mem::take(&mut second.tapped), pages.len());
                let console = console.clone();
                let last = false;
                second.gathered = Some(Gathered { pages, dirty, disk, devices, console, cut_at, last });
            }
        }
        let dirty = pages.len();
        let sent = if early { core::mem::take(&mut pages) } else { Vec::new() };
        owner.gathered.insert(epoch, Gathered { pages, dirty, disk, devices, console, cut_at, last });
        self.send_early(host, session, epoch, &sent);
        if let Some(with) = with {
            self.checks.snapshots.insert((term, with, Epoch(1)), snapshot.clone());
        }
        self.checks.snapshots.insert((term, session, epoch), snapshot);
        self.emit(host, passed, Mode::Open);
        self.job(host, after, Job::CutDone(id, number));
    }

    pub(crate) fn cut_done(&mut self, host: HostId, id: MachineId, number: u64) {
        let Some(owner) = self.owner(host).filter(|owner| owner.id == id) else { return };
        let Some(cut) = owner.cut.take_if(|cut| cut.number == number) else { return };
        let (Some(cut_at), session, epoch) = (cut.cut_at, cut.session, cut.epoch) else { return };
        if !cut.last {
            self.resume(host);
        }
        let pause = self.clock(host).since(cut_at);
        // As busy as can be, or less than a guest of this kind ever is, or nothing can be known.
        let busy = self.rng.pick(&[None, Some(Micros(0)), Some(Micros(2_000)), Some(Micros(u64::MAX))]);
        // Pages of a guest so small stand for many.
        let pages = self.owner(host).and_then(|owner| owner.gathered.get(&epoch)).map_or(0, |g| g.dirty);
        let waited = busy == Some(Micros(0));
        let taken = Taken { cut_at, pause, busy, waited, pages: 64 * pages as u64 };
        let taken = PrimaryEvent::CheckpointTaken { session, epoch, taken };
        self.post(host, Posted::ToPrimary(id, taken));
    }

    pub(super) fn send_checkpoint(&mut self, host: HostId, session: Session, epoch: Epoch) {
        let Some(conn) = self.session_conn(host, session) else { return };
        let of_second = self.second(host, session).map(|second| second.gathered.take());
        let second = of_second.is_some();
        let of_first = || self.owner(host).and_then(|owner| owner.gathered.remove(&epoch));
        let Some(gathered) = of_second.unwrap_or_else(of_first) else { return };
        let Host { role: Role::Owner(owner), storage, .. } = self.host(host) else { return };
        assert_ne!(owner.complete, Some(session), "nothing follows a session's last checkpoint");
        if gathered.last {
            owner.complete = Some(session);
        }
        let (mut frames, mut bytes) = if second { (0, 0) } else { core::mem::take(&mut owner.early) };
        if epoch == Epoch(1)
            && let Some(map) = &mut storage.map
        {
            map.propose(Base { term: owner.machine.term(), session });
        }
        self.report.add(Count::ChangesJoint, u64::from(second));
        let of_pages = self.send_pages(host, conn, (epoch, false), &gathered.pages);
        (frames, bytes) = (frames + of_pages.0, bytes + of_pages.1);
        let of_disk = self.send_disk(host, conn, epoch, &gathered.disk);
        (frames, bytes) = (frames + of_disk.0, bytes + of_disk.1);
        let console: Vec<u8> = gathered
            .console
            .iter()
            .flat_map(|(at, word)| [at.to_le_bytes(), word.to_le_bytes()])
            .flatten()
            .collect();
        for (kind, body) in [(Kind::Device, gathered.devices.encode().to_vec()), (Kind::Console, console)] {
            frames += 1;
            bytes += body.len() as u64;
            self.send_frame(host, conn, kind, epoch, &body);
        }
        let gate = gathered.devices.sent.to_le_bytes().to_vec();
        let commit = Commit { frames, bytes, sent_at: gathered.cut_at, last: gathered.last, gate };
        let (kind, epoch, body) = ToBackup::Commit(epoch, commit).encode();
        self.send_frame(host, conn, kind, epoch, &body);
    }

    /// Sends pages while the VM stands still. If the checkpoint fails they are sent again, behind it and in the same epoch.
    fn send_early(&mut self, host: HostId, session: Session, epoch: Epoch, pages: &[(u64, Page)]) {
        let Some(conn) = self.session_conn(host, session) else { return };
        let (frames, bytes) = self.send_pages(host, conn, (epoch, false), pages);
        if let Some(owner) = self.owner(host) {
            owner.early = (owner.early.0 + frames, owner.early.1 + bytes);
        }
    }

    /// Sends pages in small batches, so that an epoch is several frames; returns frames and bytes.
    pub(crate) fn send_pages(
        &mut self,
        host: HostId,
        conn: ConnId,
        (epoch, once): (Epoch, bool),
        pages: &[(u64, Page)],
    ) -> (u64, u64) {
        let (mut frames, mut bytes) = (0, 0);
        for some in pages.chunks(3) {
            let mut batch = core::mem::take(&mut self.batch);
            match self.owner(host).filter(|_| !once) {
                Some(owner) => {
                    let second = owner.second.as_mut().filter(|second| second.conn == Some(conn));
                    let known = second.map_or(&mut owner.known, |second| &mut second.known);
                    some.iter().for_each(|(index, page)| batch.push_changed(0, *index, page, known, true));
                }
                None => some.iter().for_each(|(index, page)| batch.push(0, *index, page)),
            }
            if !batch.is_empty() {
                let body = batch.finish();
                frames += 1;
                bytes += body.len() as u64;
                self.send_frame(host, conn, Kind::Pages, epoch, body);
            }
            batch.clear();
            self.batch = batch;
        }
        (frames, bytes)
    }

    /// Sends disk changes two to a frame, so that those of an epoch are several frames; returns frames and bytes.
    pub(crate) fn send_disk(
        &mut self,
        host: HostId,
        conn: ConnId,
        epoch: Epoch,
        changes: &[Tapped],
    ) -> (u64, u64) {
        let (mut frames, mut bytes) = (0, 0);
        for some in changes.chunks(2) {
            let body = crate::guest_disk::encode(some);
            frames += 1;
            bytes += body.len() as u64;
            self.send_frame(host, conn, Kind::Disk, epoch, &body);
        }
        (frames, bytes)
    }
}

pub(super) fn pages_of(guest: &Guest, dirty: u64) -> Vec<(u64, Page)> {
    let is_dirty = |&(index, _): &(u64, &Page)| dirty & (1 << index) != 0;
    (0..).zip(&guest.pages).filter(is_dirty).map(|(index, page)| (index, page.clone())).collect()
}
