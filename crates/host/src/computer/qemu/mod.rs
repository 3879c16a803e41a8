//! Owns a QEMU process as a machine that can be protected.

mod memory;
mod tracking;

use super::alike::{Decided, Print, installation};
use super::blueprint::alike;
use super::events::watch;
use super::{
    Built, ClockKeeper, Computer, Described, Launched, MachineError, MachineEvent, PageTracker, Saving,
    Standby, StateSaver, Then,
};
use crate::disks::Disks;
use crate::ram::GuestRam;
use crate::vm::Facts;
use ::qemu::fingerprint::Fingerprint;
use ::qemu::{
    Accel, Channels, DeviceSaver, DeviceState, Installation, Qemu, ResolvedSpec, Role, VmSpec, saver,
};
use crossbeam_channel::Sender;
use os::Memory;
use os::thread_time::ThreadTime;
use protocol::VmName;
use std::sync::{Arc, OnceLock};

/// What a QEMU is to be started with.
pub struct QemuBlueprint {
    installation: Installation,
    resolved: ResolvedSpec,
    /// The primary's, for a standby.
    theirs: Option<Fingerprint>,
}

impl QemuBlueprint {
    pub fn of(installation: Installation, resolved: ResolvedSpec) -> Self {
        Self { installation, resolved, theirs: None }
    }

    pub fn like(resolved: ResolvedSpec, theirs: Fingerprint) -> Result<Self, MachineError> {
        let installation = installation()?;
        let ours = Fingerprint::take(&installation, &resolved, theirs.ram.as_ref())?;
        same(&theirs, ours)?;
        Ok(Self { installation, resolved, theirs: Some(theirs) })
    }

    pub fn spec(&self) -> &VmSpec {
        &self.resolved.spec
    }

    pub fn launch(self, name: &VmName, disks: &Disks) -> Result<Launched, MachineError> {
        let memory = Arc::new(Memory::create(name.as_str(), self.resolved.spec.memory.0)?);
        let (qemu, channels) =
            Qemu::launch(&self.installation, &self.resolved, Role::Primary, memory, disks.connect()?)?;
        Ok((Arc::new(QemuComputer::new(qemu, self.installation)?), channels))
    }

    /// With a remnant in the place of blank memory.
    pub fn stand_by(
        self,
        name: &VmName,
        disks: &Disks,
        remnant: Option<Memory>,
    ) -> Result<(Box<dyn Standby>, Channels), MachineError> {
        let Self { installation, resolved, theirs } = self;
        let blank = || Memory::create(name.as_str(), resolved.spec.memory.0);
        let memory = Arc::new(remnant.map_or_else(blank, Ok)?);
        let (standby, channels) = ::qemu::Standby::start(&installation, &resolved, memory, disks.connect()?)?;
        if let Some(theirs) = theirs {
            let layout = standby.qemu().ram().layout();
            same(&theirs, Fingerprint::take(&installation, &resolved, Some(layout))?)?;
        }
        let ram = memory::ram_of(standby.qemu())?;
        Ok((Box::new(QemuStandby { standby, installation, ram }), channels))
    }
}

/// Whether this kernel tells truly what is written; once it did it does until the host is booted again.
fn can_track() -> Result<(), MachineError> {
    static TOLD: OnceLock<()> = OnceLock::new();
    if TOLD.get().is_none() {
        os::tracker::self_test().map_err(MachineError::SelfTest)?;
        let _ = TOLD.set(());
    }
    Ok(())
}

fn same(theirs: &Fingerprint, ours: Fingerprint) -> Result<(), MachineError> {
    alike(&Print::Qemu(theirs.clone()), &Print::Qemu(ours))
}

struct QemuComputer {
    qemu: Qemu,
    ram: GuestRam,
    installation: Installation,
}

impl QemuComputer {
    fn new(qemu: Qemu, installation: Installation) -> Result<Self, MachineError> {
        Ok(Self { ram: memory::ram_of(&qemu)?, qemu, installation })
    }

    fn has_kvm(&self) -> bool {
        self.qemu.resolved().accel == Accel::Kvm
    }
}

impl Built for QemuComputer {
    fn facts(&self) -> Facts {
        facts(&self.qemu)
    }

    fn ram(&self) -> &GuestRam {
        &self.ram
    }

    fn memory(&self) -> Option<&Arc<Memory>> {
        Some(self.qemu.memory())
    }

    fn watch(&self, events: Sender<MachineEvent>) {
        watch(&self.qemu, events);
    }
}

impl Computer for QemuComputer {
    fn describe(&self) -> Result<Described, MachineError> {
        let resolved = self.qemu.resolved().clone();
        let fingerprint = Fingerprint::take(&self.installation, &resolved, Some(self.qemu.ram().layout()))?;
        Ok(Described { resolved: Decided::Qemu(resolved), fingerprint: Print::Qemu(fingerprint) })
    }

    fn check_protectable(&self) -> Result<(), MachineError> {
        can_track()?;
        Ok(self.qemu.check_migratable()?)
    }

    fn cont(&self) -> Result<(), MachineError> {
        Ok(self.qemu.cont()?)
    }

    fn stop(&self) -> Result<(), MachineError> {
        Ok(self.qemu.stop()?)
    }

    fn go_on(&self) -> Result<(), MachineError> {
        let is_off = || self.qemu.run_state().is_ok_and(|state| state == "shutdown");
        self.cont().or_else(|error| if is_off() { Ok(()) } else { Err(error) })
    }

    fn last_pause(&self) -> Option<(u64, u64)> {
        self.qemu.last_pause()
    }

    fn track(&self) -> Result<Box<dyn PageTracker>, MachineError> {
        Ok(Box::new(tracking::QemuTracker::attach(self.qemu.pid(), &self.ram.tracked(), self.has_kvm())?))
    }

    fn saver(&self) -> Result<Box<dyn StateSaver>, MachineError> {
        Ok(Box::new(DeviceSaver::new(&self.qemu)?))
    }

    fn clock(&self) -> Result<Option<ClockKeeper>, MachineError> {
        // TCG's clocks cannot be corrected.
        Ok(self.has_kvm().then(|| ClockKeeper::start(self.qemu.pid())).transpose()?)
    }

    fn processors(&self) -> Result<Vec<ThreadTime>, MachineError> {
        let open = |tid| ThreadTime::open(self.qemu.pid(), tid).map_err(MachineError::Processors);
        self.qemu.processor_threads()?.into_iter().map(open).collect()
    }
}

struct QemuStandby {
    standby: ::qemu::Standby,
    installation: Installation,
    ram: GuestRam,
}

impl Built for QemuStandby {
    fn facts(&self) -> Facts {
        facts(self.standby.qemu())
    }

    fn ram(&self) -> &GuestRam {
        &self.ram
    }

    fn memory(&self) -> Option<&Arc<Memory>> {
        Some(self.standby.qemu().memory())
    }

    fn watch(&self, events: Sender<MachineEvent>) {
        watch(self.standby.qemu(), events);
    }
}

impl Standby for QemuStandby {
    fn load(self: Box<Self>, device: Vec<u8>) -> Result<Arc<dyn Computer>, MachineError> {
        let state = DeviceState::from_bytes(device)?;
        let qemu = self.standby.load(&state)?;
        Ok(Arc::new(QemuComputer { qemu, ram: self.ram, installation: self.installation }))
    }
}

impl StateSaver for DeviceSaver {
    fn begin(&mut self, then: Then) -> Result<Box<dyn Saving + '_>, MachineError> {
        Ok(Box::new(DeviceSaver::begin(self, then)?))
    }
}

impl Saving for saver::Pending<'_> {
    fn wait_stopped(&mut self) -> Result<(), MachineError> {
        Ok(saver::Pending::wait_stopped(self)?)
    }

    fn take(self: Box<Self>) -> Result<Vec<u8>, MachineError> {
        Ok(saver::Pending::take(*self)?.into_bytes())
    }
}

fn facts(qemu: &Qemu) -> Facts {
    let resolved = qemu.resolved();
    Facts {
        pid: Some(qemu.pid()),
        machine: resolved.machine.clone(),
        accel: format!("{}: {}", resolved.accel.as_str(), resolved.accel_why),
        cpus: resolved.spec.cpus,
        memory_bytes: resolved.spec.memory.0,
        resolved: Some(Arc::new(Decided::Qemu(resolved.clone()))),
    }
}
