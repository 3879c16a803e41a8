//! Owns what a VM's process needs around it on the host: TAPs on bridges, a place for the console's log.

use super::MachineError;
use crate::context::Context;
use os::tap::{Tap, TapError};
use protocol::VmName;
use qemu::VmSpec;
use qemu::spec::NicSpec;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

const NO_DEVICE: i32 = rustix::io::Errno::NODEV.raw_os_error();

/// Checks that the bridges of the network cards are there.
pub fn check_bridges(spec: &VmSpec) -> Result<(), MachineError> {
    for nic in &spec.nics {
        let found = match os::tap::is_bridge(&nic.bridge) {
            // That it is not there at all is the usual mistake.
            Err(TapError::System { source, .. }) if source.raw_os_error() == Some(NO_DEVICE) => false,
            other => other?,
        };
        if !found {
            return Err(MachineError::Bridge { bridge: nic.bridge.clone(), vm: spec.name.clone() });
        }
    }
    Ok(())
}

/// TAPs on their bridges, still down: nothing comes in before the VM runs here.
pub fn open_taps(vm: &VmName, nics: &[NicSpec]) -> Result<Vec<(String, OwnedFd)>, MachineError> {
    let id = protocol::VmId::of(vm).0;
    let mut taps = Vec::new();
    for (at, nic) in nics.iter().enumerate() {
        // An interface's name has 15 characters at most.
        let name = format!("ud{:08x}n{at}", id & 0xffff_ffff);
        let tap = Tap::open(&name)?;
        os::tap::add_to_bridge(&nic.bridge, &name)?;
        taps.push((name, tap.into_fd()));
    }
    Ok(taps)
}

/// The console's log of this VM; the log of an earlier life here is kept beside it.
pub fn console_path(context: &Context, name: &VmName) -> Result<PathBuf, MachineError> {
    let directory = context.config.state_dir.join("vms").join(name.as_str());
    let path = directory.join("console.log");
    let io = |source| MachineError::Io { path: directory.clone(), source };
    std::fs::create_dir_all(&directory).map_err(io)?;
    if path.exists() {
        std::fs::rename(&path, directory.join("console.log.1")).map_err(io)?;
    }
    Ok(path)
}
