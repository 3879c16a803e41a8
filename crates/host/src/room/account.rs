//! Owns the arithmetic of what VMs at a host take: who fits, who does not, and by how much. It reads nothing by itself.

use protocol::VmName;
use protocol::wire::Lack;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a host has for standbys, and for VMs that took over here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of guest memory and buffers.
    pub memory: u64,
    /// Number of VMs.
    pub vms: Option<u32>,
    /// The memory is all that the host had: VMs that an operator started here take of it too.
    pub whole_host: bool,
}

/// What a standby takes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Needs {
    /// The guest's memory.
    pub memory: u64,
    /// Memory of the agent for what comes.
    pub buffers: u64,
    /// Files, and the bytes that they may come to.
    pub files: Vec<(PathBuf, u64)>,
}

/// Where files are: what the arithmetic must ask.
pub trait Media {
    /// The file system on which a file is, or would be; none if it is a device of its own.
    fn file_system(&self, path: &Path) -> Option<u64>;
    /// Bytes that can be written there.
    fn free(&self, path: &Path) -> u64;
    /// Bytes that a file, or all in a directory, take there already.
    fn taken(&self, path: &Path) -> u64;
}

/// Why a standby does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// Of what there is too little.
    pub lack: Lack,
    /// How much it needs.
    pub needs: u64,
    /// How much is left.
    pub left: u64,
    /// Of how much in all.
    pub of: u64,
}

/// What a VM is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tenant {
    /// A standby.
    Standby,
    /// A VM that was one.
    TookOver,
    /// A VM that an operator started here.
    Started,
}

/// Names a reservation. A VM's new one takes the place of its old one, whose end then changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

#[derive(Debug, Clone)]
struct Held {
    ticket: Ticket,
    tenant: Tenant,
    needs: Needs,
}

impl Held {
    fn memory(&self) -> u64 {
        self.needs.memory.saturating_add(self.needs.buffers)
    }
}

/// Who has what.
#[derive(Debug)]
pub struct Account {
    limits: Limits,
    held: BTreeMap<VmName, Held>,
    next: u64,
}

impl Account {
    /// Nothing is taken.
    pub fn new(limits: Limits) -> Self {
        Self { limits, held: BTreeMap::new(), next: 0 }
    }

    /// Reserves what a standby needs. If it does not fit nothing changes.
    pub fn admit(&mut self, vm: &VmName, needs: Needs, media: &impl Media) -> Result<Ticket, Shortage> {
        self.fits(vm, &needs, media)?;
        Ok(self.hold(vm, Tenant::Standby, needs))
    }

    /// Whether what a standby needs would be reserved now.
    pub fn fits(&self, vm: &VmName, needs: &Needs, media: &impl Media) -> Result<(), Shortage> {
        // What the VM has here now goes before the new standby comes.
        let wants = needs.memory.saturating_add(needs.buffers);
        check(Lack::Memory, wants, self.used_beside(vm), self.limits.memory)?;
        if let Some(most) = self.limits.vms {
            check(Lack::Vms, 1, self.counted(vm).count() as u64, u64::from(most))?;
        }
        self.check_files(vm, needs, media)
    }

    /// A VM was started here. The operator decided that: it is not asked whether it fits.
    pub fn started(&mut self, vm: &VmName, memory: u64) -> Ticket {
        self.hold(vm, Tenant::Started, Needs { memory, ..Needs::default() })
    }

    /// A standby's buffers shall be so large from now on. If that does not fit nothing changes.
    pub fn resize(&mut self, vm: &VmName, ticket: Ticket, buffers: u64) -> Result<(), Shortage> {
        let used = self.used_beside(vm);
        let Some(held) = self.held.get_mut(vm).filter(|held| held.ticket == ticket) else { return Ok(()) };
        if buffers > held.needs.buffers {
            check(Lack::Memory, held.needs.memory.saturating_add(buffers), used, self.limits.memory)?;
        }
        held.needs.buffers = buffers;
        Ok(())
    }

    /// A standby became the VM: it keeps its memory and its files, and needs no buffers.
    pub fn took_over(&mut self, vm: &VmName, ticket: Ticket) {
        if let Some(held) = self.held.get_mut(vm).filter(|held| held.ticket == ticket) {
            held.tenant = Tenant::TookOver;
            held.needs.buffers = 0;
        }
    }

    /// What the ticket stands for is free.
    pub fn release(&mut self, vm: &VmName, ticket: Ticket) {
        if self.held.get(vm).is_some_and(|held| held.ticket == ticket) {
            self.held.remove(vm);
        }
    }

    /// What there is.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Memory that is taken.
    pub fn used(&self) -> u64 {
        self.held
            .values()
            .filter(|held| self.counts(held))
            .fold(0, |sum, held| sum.saturating_add(held.memory()))
    }

    /// Every VM that takes of the room, what it is, and its memory.
    pub fn tenants(&self) -> impl Iterator<Item = (&VmName, Tenant, u64)> {
        self.held
            .iter()
            .filter(|(_, held)| self.counts(held))
            .map(|(vm, held)| (vm, held.tenant, held.memory()))
    }

    fn hold(&mut self, vm: &VmName, tenant: Tenant, needs: Needs) -> Ticket {
        self.next += 1;
        let ticket = Ticket(self.next);
        self.held.insert(vm.clone(), Held { ticket, tenant, needs });
        ticket
    }

    fn counts(&self, held: &Held) -> bool {
        self.limits.whole_host || held.tenant != Tenant::Started
    }

    /// Memory that others take.
    pub fn used_beside(&self, vm: &VmName) -> u64 {
        let others = self.held.iter().filter(|(name, held)| *name != vm && self.counts(held));
        others.fold(0, |sum, (_, held)| sum.saturating_add(held.memory()))
    }

    /// Standbys, and VMs that were, beside this one.
    fn counted<'a>(&'a self, vm: &'a VmName) -> impl Iterator<Item = &'a Held> {
        self.held
            .iter()
            .filter(move |(name, held)| *name != vm && held.tenant != Tenant::Started)
            .map(|(_, held)| held)
    }

    /// What others were promised and have not written yet is not free.
    fn check_files(&self, vm: &VmName, needs: &Needs, media: &impl Media) -> Result<(), Shortage> {
        let missing = |files: &[(PathBuf, u64)], on: u64| {
            let here = files.iter().filter(|(path, _)| media.file_system(path) == Some(on));
            here.fold(0_u64, |sum, (path, size)| sum.saturating_add(size.saturating_sub(media.taken(path))))
        };
        for (path, _) in &needs.files {
            let Some(on) = media.file_system(path) else { continue };
            let promised =
                self.counted(vm).fold(0_u64, |sum, held| sum.saturating_add(missing(&held.needs.files, on)));
            check(Lack::Disk, missing(&needs.files, on), promised, media.free(path))?;
        }
        Ok(())
    }
}

fn check(lack: Lack, needs: u64, used: u64, of: u64) -> Result<(), Shortage> {
    let left = of.saturating_sub(used);
    if needs <= left { Ok(()) } else { Err(Shortage { lack, needs, left, of }) }
}

#[cfg(test)]
mod tests;
