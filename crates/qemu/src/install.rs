//! Owns what is known of the QEMU installed on this host, and the resolving of a VM's description with it.
//!
//! A machine type such as `q35` means something else in every QEMU, and `accel = "auto"` something else on every
//! host. The host where a VM starts resolves both once; the result travels to the backup, which must use the same.

use crate::accel::{self, Accel, KvmFacts, NoKvm};
use crate::launch::{LaunchError, Process};
use crate::qmp::{Command, QmpError, REQUIRED_COMMANDS, Version};
use crate::spec::VmSpec;
use crate::stamp::{self, Learnt};
use os::Spawn;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The QEMU that is used if no other is named.
pub const DEFAULT_BINARY: &str = "qemu-system-x86_64";

/// Why this host's QEMU cannot run a VM.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// QEMU does not start, or is too old.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// QEMU does not answer.
    #[error("cannot ask QEMU what it can do: {0}")]
    Qmp(#[from] QmpError),
    /// The machine type is unknown.
    #[error("QEMU {version} has no machine type {wanted:?}; `{} -machine help` lists what it has", .binary.display())]
    NoMachine {
        /// The type asked for.
        wanted: String,
        /// The QEMU.
        binary: PathBuf,
        /// Its version.
        version: Version,
    },
    /// KVM was asked for in vain.
    #[error(transparent)]
    NoKvm(#[from] NoKvm),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Machine {
    name: String,
    alias: Option<String>,
}

/// A QEMU that was asked what it can do.
#[derive(Debug, Clone)]
pub struct Installation {
    binary: PathBuf,
    version: Version,
    machines: Vec<Machine>,
}

/// A VM's description with everything decided that depends on QEMU and the host. Both hosts of a protected VM
/// run it from the same one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedSpec {
    /// The description.
    pub spec: VmSpec,
    /// The exact machine type, such as `pc-q35-7.2`.
    pub machine: String,
    /// The accelerator.
    pub accel: Accel,
    /// Why this accelerator, for people.
    pub accel_why: String,
    /// QEMU's `-cpu`.
    pub cpu_model: String,
}

/// QEMUs that were asked.
static ASKED: Learnt<Installation> = Learnt::new();

impl Installation {
    /// What is known of `binary`: it is asked again only if it is another program than it was.
    ///
    /// # Errors
    /// As for [`Installation::probe`].
    pub fn known(binary: &Path) -> Result<Self, InstallError> {
        let Some(program) = stamp::program(binary) else { return Self::probe(binary) };
        ASKED.of(&program, || Self::probe(binary))
    }

    /// Starts `binary` (looked up in `PATH` if it has no slash) without a machine and asks what it can do.
    ///
    /// # Errors
    /// If it does not start, or lacks commands that are needed.
    pub fn probe(binary: &Path) -> Result<Self, InstallError> {
        let mut spawn = Spawn::new(binary);
        spawn.args(["-M", "none", "-nodefaults", "-no-user-config", "-display", "none"]);
        let (_process, qmp) = Process::start(spawn, REQUIRED_COMMANDS)?;
        let answer = qmp.execute(Command::new("query-machines"))?;
        let text = |value: &serde_json::Value| value.as_str().map(str::to_string);
        let machines = answer
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|m| Some(Machine { name: text(&m["name"])?, alias: text(&m["alias"]) }))
            .collect();
        Ok(Self { binary: binary.to_path_buf(), version: qmp.version().clone(), machines })
    }

    /// The program.
    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// The exact machine type that `wanted` means here.
    ///
    /// # Errors
    /// [`InstallError::NoMachine`].
    pub fn resolve_machine(&self, wanted: &str) -> Result<&str, InstallError> {
        let found = self.machines.iter().find(|m| m.name == wanted || m.alias.as_deref() == Some(wanted));
        found.map(|m| m.name.as_str()).ok_or_else(|| InstallError::NoMachine {
            wanted: wanted.to_string(),
            binary: self.binary.clone(),
            version: self.version.clone(),
        })
    }

    /// Decides what `spec` leaves open.
    ///
    /// # Errors
    /// If this host has no such machine type, or not the accelerator that is asked for.
    pub fn resolve(&self, spec: VmSpec) -> Result<ResolvedSpec, InstallError> {
        let machine = self.resolve_machine(spec.machine_or_default())?.to_string();
        let (accel, accel_why) = accel::choose(spec.accel, &KvmFacts::of_this_host())?;
        let cpu_model = spec.cpu_model.clone().unwrap_or_else(|| accel.default_cpu_model().to_string());
        Ok(ResolvedSpec { spec, machine, accel, accel_why, cpu_model })
    }
}
