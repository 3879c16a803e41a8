//! Owns what a host says of one VM: what it would refuse, and what must be the same at the VM's other host.

use super::facts::Installed;
use super::facts::{HostFacts, Look};
use super::finding::{Check, Probe};
use crate::computer::{Decided, MachineError, Print};
use crate::config::HostConfig;
use crate::room;
use api::doctor::Finding;
use os::tap;
use protocol::VmName;
use qemu::{Installation, VmSpec};
use serde::{Deserialize, Serialize};
use std::io::{Seek, SeekFrom};
use std::path::PathBuf;

const BRIDGES: Check = Check {
    name: "bridges",
    why: "A guest's frames go over a bridge of the same name on every host of the VM, and its packets must fit.",
};
const SAME: Check = Check {
    name: "VM alike",
    why: "A guest that goes on at another host must find the very same machine, processor and files.",
};
const ROOM: Check = Check {
    name: "room for the VM",
    why: "A standby takes the guest's memory, a place, and disks with their journal before protection begins.",
};
const GIVEN: Check = Check {
    name: "VM given",
    why: "A host takes and gives only VMs that its configuration gives to the other one.",
};

/// A VM that is asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// What is to be run, everything decided.
    pub resolved: Decided,
    /// Bytes of its images, where it starts.
    pub disk_sizes: Vec<u64>,
}

/// What a host says of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct VmFacts {
    /// The asker may have it from this host, or give it to it.
    pub given: bool,
    /// What must be the same; none if it cannot be had.
    pub fingerprint: Option<Print>,
    /// Why it cannot.
    pub fingerprint_error: String,
    /// Its bridges.
    pub bridges: Vec<BridgeFacts>,
    /// Whether a standby of it would be taken.
    pub room: Probe,
}

/// A bridge that a VM names.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BridgeFacts {
    /// Its name.
    pub name: String,
    /// It is a bridge, and up.
    pub is: Probe,
    /// The largest packet on it, in bytes.
    pub mtu: u32,
}

impl Asked {
    /// A VM of this description that starts at this host.
    ///
    /// # Errors
    /// If this host has no such machine or accelerator.
    pub fn of(
        spec: VmSpec,
        installation: &Installed,
        config: Option<&HostConfig>,
    ) -> Result<Self, MachineError> {
        let disk_sizes =
            spec.copied_disks().map(|disk| config.map_or(0, |config| size_of(config, &disk.image)));
        let disk_sizes = disk_sizes.collect();
        Ok(Self { resolved: Decided::of(spec, || found(installation))?, disk_sizes })
    }

    fn images(&self) -> Vec<(PathBuf, u64)> {
        let images = self.resolved.spec().copied_disks().map(|disk| disk.image.clone());
        images.zip(self.disk_sizes.iter().copied()).collect()
    }
}

/// Bytes of an image, a file or a device; 0 if it is not there.
fn size_of(config: &HostConfig, image: &std::path::Path) -> u64 {
    let opened = std::fs::File::open(config.disk_path(image));
    opened.and_then(|mut file| file.seek(SeekFrom::End(0))).unwrap_or(0)
}

impl VmFacts {
    /// Looks.
    #[must_use]
    pub fn gather(asked: &Asked, look: &Look<'_>, installation: &Installed) -> Self {
        let resolved = &asked.resolved;
        let (fingerprint, fingerprint_error) = match Print::take(resolved, || found(installation)) {
            Ok(print) => (Some(print), String::new()),
            Err(error) => (None, error.to_string()),
        };
        Self {
            given: true,
            fingerprint,
            fingerprint_error,
            bridges: resolved.spec().nics.iter().map(|nic| bridge(&nic.bridge)).collect(),
            room: has_room(asked, look),
        }
    }
}

/// The QEMU that was found, for a VM that needs it.
fn found(installation: &Installed) -> Result<&Installation, MachineError> {
    installation.as_ref().map_err(|why| MachineError::NoQemu(why.to_string()))
}

fn bridge(name: &str) -> BridgeFacts {
    let is = match tap::is_bridge(name) {
        Ok(true) if tap::is_up(name).unwrap_or(false) => Ok("there, and up"),
        Ok(true) => Err(format!("{name} is down: `ip link set {name} up`")),
        Ok(false) => Err(format!("{name} is no bridge")),
        Err(error) => Err(error.to_string()),
    };
    BridgeFacts { name: name.to_owned(), is: is.into(), mtu: tap::mtu(name).unwrap_or(0) }
}

/// Reserves the room of a standby, and gives it back.
fn has_room(asked: &Asked, look: &Look<'_>) -> Probe {
    let Some((config, room)) = look.config.zip(look.room) else {
        return Err::<&str, _>("it has no configuration that says how much").into();
    };
    let Ok(name) = VmName::new(&asked.resolved.spec().name) else {
        return Err::<&str, _>("its name is none").into();
    };
    let memory = asked.resolved.spec().memory.0;
    room.would_take(&name, &room::needs(config, &name, memory, &asked.images())).into()
}

/// Judges what a host says of the VM; `stands_by` of the host that would be its backup.
#[must_use]
pub fn judge(of: &str, facts: &VmFacts, stands_by: bool) -> Vec<Finding> {
    if !facts.given {
        let remedy = "add the VM to `vms` of [peers] in the configuration there, and start its agent again when no VM needs it";
        return vec![GIVEN.failure(of, "the VM is not given to the other host", remedy)];
    }
    let mut findings: Vec<_> = facts
        .bridges
        .iter()
        .map(|bridge| {
            let found = format!("{}: {}, MTU {}", bridge.name, bridge.is.says, bridge.mtu);
            let remedy = format!("make the bridge {} there, or name another in the VM file", bridge.name);
            Probe { ok: bridge.is.ok, says: found }.judged(BRIDGES, of, &remedy)
        })
        .collect();
    if facts.fingerprint.is_none() {
        let remedy = "put the VM's files there under the same names, and the same QEMU";
        findings.push(SAME.failure(of, &facts.fingerprint_error, remedy));
    }
    if stands_by {
        let remedy = "make room: see [backup] in its configuration, or choose another backup";
        findings.push(facts.room.judged(ROOM, of, remedy));
    }
    findings
}

/// Compares what two hosts say of the VM.
#[must_use]
pub fn compare(of: &str, here: &HostFacts, there: &HostFacts) -> Vec<Finding> {
    let Some((ours, theirs)) = here.vm.as_ref().zip(there.vm.as_ref()).filter(|(_, theirs)| theirs.given)
    else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    if let (Some(first), Some(second)) = (&ours.fingerprint, &theirs.fingerprint) {
        match first.compare(second) {
            Ok(()) => findings.push(SAME.ok(of, "the same machine, processor and files")),
            Err(differences) => findings.extend(differences.iter().map(|differs| {
                let found =
                    format!("{} differs: {} here, {} there", differs.what, differs.first, differs.second);
                SAME.failure(of, found, &differs.remedy)
            })),
        }
    }
    for (first, second) in ours.bridges.iter().zip(&theirs.bridges) {
        if first.is.ok && second.is.ok && first.mtu != second.mtu {
            let found = format!("the MTU of {} is {} here and {} there", first.name, first.mtu, second.mtu);
            findings.push(BRIDGES.warning(of, found, "set the same MTU on both: the guest keeps its own"));
        }
    }
    findings
}
