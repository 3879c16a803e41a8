//! Owns building a VM's machine: for its guest to begin, or to stand by for a primary's.

use super::alike::{Decided, Print, installation};
use super::qemu::QemuBlueprint;
use super::rv::RvDecided;
use super::{Launched, MachineError, Standby};
use crate::disks::Disks;
use ::qemu::{Channels, VmSpec};
use os::Memory;
use protocol::VmName;
use serde::{Deserialize, Serialize};

/// What a machine is to be built from.
pub enum Blueprint {
    /// A QEMU process.
    Qemu(Box<QemuBlueprint>),
    /// The deterministic machine.
    Rv(Box<RvDecided>),
}

/// What another host must have to build the same machine.
#[derive(Debug, Serialize, Deserialize)]
pub struct Described {
    /// What it is.
    pub resolved: Decided,
    /// What must be equal.
    pub fingerprint: Print,
}

impl Blueprint {
    /// Decides what a VM file leaves open.
    ///
    /// # Errors
    /// If this host cannot build it.
    pub fn of(spec: VmSpec) -> Result<Self, MachineError> {
        if spec.is_deterministic() {
            return Ok(Self::Rv(Box::new(RvDecided::of(spec))));
        }
        let found = installation()?;
        let resolved = found.resolve(spec)?;
        Ok(Self::Qemu(Box::new(QemuBlueprint::of(found, resolved))))
    }

    /// What a primary described.
    ///
    /// # Errors
    /// If this host cannot build exactly the same.
    pub fn like(described: Described) -> Result<Self, MachineError> {
        match (described.resolved, described.fingerprint) {
            (Decided::Qemu(resolved), Print::Qemu(theirs)) => {
                Ok(Self::Qemu(Box::new(QemuBlueprint::like(resolved, theirs)?)))
            }
            (Decided::Rv(decided), Print::Rv(theirs)) => Ok(Self::Rv(Box::new(decided.like(theirs)?))),
            _ => Err(MachineError::Differs("it is described as two kinds of machine".into())),
        }
    }

    /// What the VM's file says.
    #[must_use]
    pub fn spec(&self) -> &VmSpec {
        match self {
            Self::Qemu(blueprint) => blueprint.spec(),
            Self::Rv(decided) => decided.spec(),
        }
    }

    /// Builds it, with the guest about to begin.
    ///
    /// # Errors
    /// If it does not start.
    pub fn launch(self, name: &VmName, disks: &Disks) -> Result<Launched, MachineError> {
        match self {
            Self::Qemu(blueprint) => blueprint.launch(name, disks),
            Self::Rv(decided) => decided.launch(disks),
        }
    }

    /// Builds it to stand by, with a remnant of its memory if there is one.
    ///
    /// # Errors
    /// If it does not start, or turns out to differ.
    pub fn stand_by(
        self,
        name: &VmName,
        disks: &Disks,
        remnant: Option<Memory>,
    ) -> Result<(Box<dyn Standby>, Channels), MachineError> {
        match self {
            Self::Qemu(blueprint) => blueprint.stand_by(name, disks, remnant),
            Self::Rv(decided) => decided.stand_by(disks),
        }
    }
}

/// Refuses what differs between two hosts of a VM.
pub(super) fn alike(theirs: &Print, ours: &Print) -> Result<(), MachineError> {
    ours.compare(theirs).map_err(|differences| {
        let text: Vec<_> = differences.iter().map(ToString::to_string).collect();
        MachineError::Differs(text.join("; "))
    })
}
