//! Owns the deterministic machine as a machine that can be protected: a RISC-V computer on a thread of this process.

mod driver;
mod machine;
mod medium;
mod memory;

use super::alike::Print;
use super::blueprint::alike;
use super::{Launched, MachineError, Standby};
use crate::disks::Disks;
use ::qemu::fingerprint::{self, Difference};
use ::qemu::{Channels, VmSpec};
use driver::Driver;
use machine::RvComputer;
use medium::media;
use rvrun::Medium;
use rvrun::hosted::{Hosted, HostedError, Listener, Wires};
use rvrun::setup::{Parts, Setup};
use serde::{Deserialize, Serialize};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// Bytes in a sector of its disks.
const SECTOR: u64 = 512;

/// A VM in the deterministic machine, everything decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RvDecided {
    spec: VmSpec,
}

/// What must be equal on both hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RvPrint {
    /// Which machine it is: a state is understood by the same one only.
    rv: u32,
    /// Digest of each file that the VM is made of, with the key that names it.
    files: Vec<(String, String)>,
}

impl RvDecided {
    pub fn of(spec: VmSpec) -> Self {
        Self { spec }
    }

    pub fn like(self, theirs: RvPrint) -> Result<Self, MachineError> {
        alike(&Print::Rv(theirs), &Print::Rv(RvPrint::take(&self)?))?;
        Ok(self)
    }

    pub fn spec(&self) -> &VmSpec {
        &self.spec
    }

    pub fn launch(self, disks: &Disks) -> Result<Launched, MachineError> {
        let (machine, channels) = self.make(disks, Hosted::start)?;
        Ok((Arc::new(machine), channels))
    }

    pub fn stand_by(self, disks: &Disks) -> Result<(Box<dyn Standby>, Channels), MachineError> {
        let (machine, channels) = self.make(disks, Hosted::standby)?;
        Ok((Box::new(machine), channels))
    }

    fn make(
        self,
        disks: &Disks,
        begin: impl FnOnce(Parts, Wires, Listener) -> Result<Hosted, HostedError>,
    ) -> Result<(RvComputer, Channels), MachineError> {
        let media = media(disks);
        let setup = setup(&self.spec, &media)?;
        let (console, their_console) = UnixStream::pair().map_err(MachineError::Sockets)?;
        let pairs = setup.cards.iter().map(|_| UnixStream::pair()).collect::<Result<Vec<_>, _>>();
        let (nics, their_nics): (Vec<_>, Vec<_>) = pairs.map_err(MachineError::Sockets)?.into_iter().unzip();
        let wires = Wires {
            console: their_console.into(),
            nics: their_nics.into_iter().map(Into::into).collect(),
            disks: media,
        };
        let parts = setup.load()?;
        let driver = Driver::new(|told| begin(parts, wires, told))?;
        Ok((RvComputer::new(self, driver), Channels { console, nics }))
    }
}

impl RvPrint {
    pub fn take(decided: &RvDecided) -> Result<Self, MachineError> {
        let files = fingerprint::digests(&decided.spec)?;
        Ok(Self { rv: rvrun::hosted::VERSION, files })
    }

    pub fn compare(&self, other: &Self) -> Result<(), Vec<Difference>> {
        let mut differences = Vec::new();
        if self.rv != other.rv {
            differences.push(Difference {
                what: "the deterministic machine".into(),
                first: format!("version {}", self.rv),
                second: format!("version {}", other.rv),
                remedy: "use the same version of undying on both hosts".into(),
            });
        }
        differences.extend(fingerprint::compare_files(&self.files, &other.files));
        if differences.is_empty() { Ok(()) } else { Err(differences) }
    }
}

/// What the machine is made of, at this host.
fn setup(spec: &VmSpec, disks: &[Box<dyn Medium>]) -> Result<Setup, MachineError> {
    // Its description was checked: there is a kernel.
    let kernel = spec.kernel.clone().unwrap_or_default();
    let append = spec.append.as_deref().unwrap_or_default();
    let mut setup = Setup::new(spec.memory.0, append, &kernel, spec.initrd.as_deref())?;
    if let Some(firmware) = &spec.firmware {
        setup = setup.with_firmware(firmware)?;
    }
    setup.disks = disks.iter().map(|disk| (disk.size() / SECTOR, disk.is_read_only())).collect();
    setup.cards = (0..spec.nics.len()).map(|card| spec.mac(card).0).collect();
    setup.draw_seed().map_err(MachineError::Random)?;
    Ok(setup)
}
