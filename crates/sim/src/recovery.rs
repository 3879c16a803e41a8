//! Owns what is left when no host has the VM any more: its disks, of which the newest is started from, as after a
//! power cut.
//!
//! The rule: of the disks that can be read the one with the greatest stamp, if every host was asked, or if its term is
//! the newest that the arbiter granted (then nobody ran the VM in a later one). It leans on the stamps being written
//! in time: a backup's when its first epoch is durable, an owner's before it runs the VM, or lets output leave, in a
//! term that it won; and taken away before a first copy overwrites the disk.

use crate::event::HostId;
use crate::failure::Class;
use crate::guest::{Guest, Life};
use crate::guest_disk::wrong_sector;
use crate::report::Count;
use crate::world::World;
use protocol::{Session, Term};

impl World {
    /// The host to start the VM on, and whether all hosts were asked. None if it may not be started yet.
    pub(crate) fn newest_disk(&self) -> Option<(HostId, bool)> {
        let asked: Vec<_> =
            HostId::ALL.into_iter().filter(|id| self.hosts[id.0].up && !self.hosts[id.0].frozen).collect();
        let stamped = asked.iter().filter_map(|&id| Some((self.hosts[id.0].storage.stamp?, id)));
        let (stamp, host) = stamped.max()?;
        let all = asked.len() == HostId::ALL.len();
        // One of two backups of the newest term resigned, and only the other's disk is the newest.
        let alone = stamp.owner || !self.changes_backups();
        (all || (stamp.term == self.arbiter.newest() && alone)).then_some((host, all))
    }

    /// Whether the VM has a disk to start from, somewhere.
    pub(crate) fn has_disk(&self) -> bool {
        self.hosts.iter().any(|host| host.storage.stamp.is_some())
    }

    /// Starts the VM from the disk of this host, in a term that it was granted.
    pub(crate) fn recover(&mut self, host: HostId, all: bool, life: Life, term: Term) -> Guest {
        let pages = self.plan.pages;
        let storage = &mut self.host(host).storage;
        let of_owner = storage.stamp.is_some_and(|stamp| stamp.owner);
        let whole = storage.recover(term);
        let guest = Guest::boot(life, pages, &storage.disk);
        self.report.add(Count::Recoveries, 1);
        self.report.add(Count::RecoveriesFromBackup, u64::from(!of_owner));
        self.report.add(Count::RecoveriesFromTorn, u64::from(!whole));
        self.check_recovery(host, all, of_owner, &guest);
        self.checks.begin(life, term);
        guest
    }

    fn check_recovery(&mut self, host: HostId, all: bool, of_owner: bool, guest: &Guest) {
        self.check_writes(guest);
        let sectors = self.hosts[host.0].storage.disk.sectors();
        if !of_owner && !self.checks.snapshots.values().any(|snapshot| snapshot.disk == sectors) {
            let what = format!("the disk of {host:?} is that of no epoch, after a crash");
            self.fail(Class::ImageDiffers, what);
        }
        let (stored, last) = (guest.stored(), self.checks.last_ran);
        if let Some(sector) = wrong_sector(&self.hosts[host.0].storage.disk, stored) {
            let what = format!("{stored} writes are on the disk of {host:?}, but sector {sector} is wrong");
            self.fail(Class::WriteLost, what);
        }
        // If nobody was left out it is the disk on which the VM ran last, with all that it had flushed.
        if let Some((ran, flushed)) = last
            && all
            && (ran != host || stored < flushed)
        {
            let what = format!(
                "the VM ran last on {ran:?} and had stored {flushed} writes; it is started from {host:?} with {stored}"
            );
            self.fail(Class::OlderDisk, what);
        }
    }

    /// A whole copy of the disk is about to be overwritten by one of this session: it must be of an older term, or of an
    /// earlier session whose backup resigned. An owner's own is not his session's to overwrite.
    pub(crate) fn check_overwrite(&mut self, host: HostId, (term, session): (Term, Session)) {
        if let Some(stamp) = self.hosts[host.0].storage.stamp
            && (if stamp.owner { stamp.term >= term } else { (stamp.term, stamp.session) >= (term, session) })
        {
            let what = format!("{host:?} overwrites a disk of term {} for term {term}", stamp.term);
            self.fail(Class::CopyThrownAway, what);
        }
    }
}
