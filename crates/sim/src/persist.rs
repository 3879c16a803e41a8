//! Owns the journal's thread of a backup: epochs are appended at once and made durable in some time, several at a
//! time if they came meanwhile.

use crate::event::{Event, HostId, Job, MachineId};
use crate::failure::Class;
use crate::host::{Host, Posted, Role};
use crate::report::Count;
use crate::storage::Stamp;
use crate::world::World;
use protocol::Epoch;
use protocol::backup::{Conn, Event as BackupEvent};
use protocol::wire::Kind;
use protocol::wire::disk::unpack;

impl World {
    /// The disk changes staged for the epoch shall be durable.
    pub(crate) fn persist(&mut self, host: HostId, conn: Conn, epoch: Epoch) {
        let Host { role: Role::Standby(standby), storage, .. } = self.host(host) else { return };
        let of_epoch = standby.staged.iter().filter(|(of, kind, _)| (*of, *kind) == (epoch, Kind::Disk));
        let batches: Vec<_> = of_epoch.filter_map(|(.., body)| unpack(body).ok()).collect();
        if !batches.is_empty() {
            storage.append(epoch, batches);
        }
        standby.appended = epoch;
        if standby.sync.is_none() {
            self.start_sync(host, conn, epoch);
        }
    }

    fn start_sync(&mut self, host: HostId, conn: Conn, epoch: Epoch) {
        let slow = self.hosts[host.0].storage.slow.max(1);
        let after = self.rng.wait(self.plan.sync_time) * slow;
        if self.rng.chance(self.plan.death_in_sync) {
            self.report.add(Count::FaultBothDie, 1);
            self.queue.put(self.now + after / 2, Event::AllDie);
        }
        if let Some(standby) = self.standby(host) {
            standby.sync = Some((conn, epoch));
            let id = standby.id;
            self.job(host, after, Job::Sync(id, conn, epoch));
        }
    }

    /// A sync ends. One of a session that is over still says so.
    pub(crate) fn sync_done(&mut self, host: HostId, id: MachineId, conn: Conn, epoch: Epoch) {
        let fails = self.rng.chance(self.plan.persist_failure);
        let Host { role: Role::Standby(standby), storage, .. } = self.host(host) else { return };
        if standby.id != id {
            return;
        }
        if standby.sync != Some((conn, epoch)) {
            self.report.add(Count::LatePersists, 1);
            return self.post(host, Posted::ToBackup(id, BackupEvent::Persisted(conn, epoch)));
        }
        standby.sync = None;
        let trouble = storage.trouble().or(fails.then_some("input/output error"));
        if let Some(why) = trouble {
            self.report.add(Count::PersistsFailed, 1);
            let event = BackupEvent::PersistFailed(conn, epoch, why.into());
            return self.post(host, Posted::ToBackup(id, event));
        }
        let (of, next) = (standby.of, standby.appended);
        let epochs = storage.sync(epoch, Stamp::backup(of, epoch));
        self.report.add(Count::Persists, 1);
        self.report.add(Count::PersistsGrouped, u64::from(epochs > 1));
        self.post(host, Posted::ToBackup(id, BackupEvent::Persisted(conn, epoch)));
        if next > epoch {
            self.start_sync(host, conn, next);
        }
    }

    /// An acknowledgement leaves: the epoch's disk must outlive a power loss of this very instant.
    pub(crate) fn check_acknowledged(&mut self, host: HostId, epoch: Epoch) {
        let Some((term, session)) = self.standby(host).map(|standby| standby.of) else { return };
        let Some(snapshot) = self.checks.snapshots.get(&(term, session, epoch)) else { return };
        let storage = &self.hosts[host.0].storage;
        if storage.keeps(epoch, &snapshot.disk) {
            return;
        }
        if storage.disk.sectors() == snapshot.disk {
            let what = format!("{host:?} acknowledges {epoch}, a power loss now would lose of its disk");
            return self.fail(Class::NotDurable, what);
        }
        let what = format!("{host:?} acknowledges {epoch} and holds another disk than was cut");
        self.fail(Class::ImageDiffers, what);
    }
}
