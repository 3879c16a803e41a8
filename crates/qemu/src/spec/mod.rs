//! Owns the description of a VM: the file that a person writes.
//!
//! ```toml
//! name = "web"
//! profile = "lean"            # or machine = "q35" | "pc" | "microvm" | "pc-q35-7.2"; "rv" is no QEMU
//! accel = "auto"              # auto | kvm | tcg
//! cpus = 1
//! memory = "512MiB"
//! kernel = "vmlinuz"          # relative to this file
//! initrd = "initrd.img"
//! append = "console=ttyS0"
//!
//! [[nic]]
//! bridge = "br0"
//!
//! [[disk]]
//! image = "web.qcow2"         # a file in the host's directory of disks, or a block device
//! format = "qcow2"            # or "raw", the default; never guessed
//! shared = true               # on storage that all hosts mount: handed over, not copied; not by default
//! ```
//!
//! What the file asks for is checked twice: [`VmSpec::parse`] refuses what makes no sense, and
//! [`VmSpec::check_protectable`] what cannot be protected.

mod deterministic;
mod disk;
mod nic;
mod refuse;
mod size;

pub use disk::{DiskFormat, DiskModel, DiskSpec};
pub use nic::{Mac, NicModel, NicSpec};
pub use refuse::{Reason, Refusal};
pub use size::MemorySize;

use crate::accel::AccelChoice;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Longest name of a VM, in bytes: it becomes part of file and device names.
pub const LONGEST_NAME: usize = 48;
/// Most virtual CPUs.
pub const MOST_CPUS: u32 = 255;
/// Least memory.
pub const LEAST_MEMORY: u64 = 1 << 20;

/// Why a VM file was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The file is not TOML, lacks a key, or has one that is unknown or of the wrong type.
    #[error("{origin} is wrong: {source}")]
    Toml {
        /// The file.
        origin: String,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A value makes no sense.
    #[error("{origin} is wrong: `{key}`: {problem}")]
    Value {
        /// The file.
        origin: String,
        /// The key.
        key: String,
        /// What is wrong with its value, and what would be right.
        problem: String,
    },
}

/// A ready-made choice of machine and devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// The least state that still boots a stock Linux everywhere: `pc` without USB, SMM and the VMware port, and
    /// with legacy virtio. 10 KB of device state, against 33 KB of a `q35` with the same card and 79 KB of one with
    /// a modern card.
    ///
    /// `machine = "microvm"` has still less (4 KB), but no ACPI timer or HPET: under TCG on a busy host, Linux cannot
    /// measure its clock there ("tsc: Unable to calibrate against PIT") and hangs while it boots.
    Lean,
}

/// A VM as described by its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    /// The VM's name.
    pub name: String,
    /// QEMU's machine type: `q35` (the default), `pc`, `microvm`, or an exact one such as `pc-q35-7.2`. `rv`: no QEMU but the
    /// deterministic machine, a RISC-V computer in the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// A ready-made choice instead of `machine`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// The accelerator.
    #[serde(default)]
    pub accel: AccelChoice,
    /// Virtual CPUs.
    #[serde(default = "one")]
    pub cpus: u32,
    /// Main memory.
    #[serde(default)]
    pub memory: MemorySize,
    /// QEMU's `-cpu`; by default `host` under KVM and `max` under TCG, which ask for identical hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_model: Option<String>,
    /// A kernel to boot without firmware's help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// The kernel's first file system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub append: Option<String>,
    /// Firmware instead of QEMU's own (`-bios`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<PathBuf>,
    /// Network cards.
    #[serde(default, rename = "nic", skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<NicSpec>,
    /// Disks.
    #[serde(default, rename = "disk", skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskSpec>,
    /// Further arguments for QEMU, as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_args: Vec<String>,
}

fn one() -> u32 {
    1
}

impl VmSpec {
    /// Reads the text of a VM file that lies in `folder`: relative paths in it are taken from there.
    ///
    /// # Errors
    /// If it makes no sense.
    pub fn parse_in(text: &str, origin: &str, folder: &Path) -> Result<Self, SpecError> {
        let mut spec = Self::parse(text, origin)?;
        spec.place_in(folder);
        Ok(spec)
    }

    /// Takes the relative paths in it from `folder`; not those of disks, which each host has at a place of its own.
    pub fn place_in(&mut self, folder: &Path) {
        for file in [&mut self.kernel, &mut self.initrd, &mut self.firmware].into_iter().flatten() {
            *file = folder.join(&*file);
        }
    }

    /// Reads the text of a VM file; `origin` names it in errors: "the VM file".
    ///
    /// # Errors
    /// If the text makes no sense.
    pub fn parse(text: &str, origin: &str) -> Result<Self, SpecError> {
        let spec: Self = toml::from_str(text)
            .map_err(|e| SpecError::Toml { origin: origin.to_string(), source: Box::new(e) })?;
        spec.check(origin)?;
        Ok(spec)
    }

    /// Checks a spec that did not come from a file, such as one from another host.
    ///
    /// # Errors
    /// If a value makes no sense.
    pub fn check(&self, origin: &str) -> Result<(), SpecError> {
        self.problem().map_or(Ok(()), |(key, problem)| {
            Err(SpecError::Value { origin: origin.to_string(), key: key.to_string(), problem })
        })
    }

    fn problem(&self) -> Option<(&'static str, String)> {
        let found = |key, problem: &str| Some((key, problem.to_string()));
        let (kernel, firmware) = (self.kernel.is_some(), self.firmware.is_some());
        if let Some(problem) = name_problem(&self.name) {
            return Some(("name", problem));
        }
        if self.machine.is_some() && self.profile.is_some() {
            return found("profile", "it chooses the machine; remove either `machine` or `profile`");
        }
        if !self.machine.as_deref().is_none_or(is_plain) {
            return found("machine", "a machine type is a plain word such as `q35`, without options");
        }
        if self.cpus == 0 || self.cpus > MOST_CPUS {
            return found("cpus", &format!("must be 1 to {MOST_CPUS}"));
        }
        if self.memory.0 < LEAST_MEMORY || !self.memory.0.is_multiple_of(LEAST_MEMORY) {
            return found("memory", "must be a whole number of MiB, at least one");
        }
        if (self.initrd.is_some() || self.append.is_some()) && !kernel {
            return found("kernel", "`initrd` and `append` need a `kernel`");
        }
        if !kernel && !firmware {
            return found("kernel", "there is nothing to boot; give a `kernel` or a `firmware`");
        }
        if self.extra_args.iter().any(|a| a.contains('\0')) {
            return found("extra_args", "an argument has a zero byte");
        }
        if let Some(problem) = self.is_deterministic().then(|| deterministic::problem(self)).flatten() {
            return Some(problem);
        }
        let microvm = self.is_microvm();
        let nics = nic::problem(&self.nics, microvm).map(|p| ("nic", p));
        nics.or_else(|| disk::problem(&self.disks, microvm).map(|p| ("disk", p)))
    }

    /// The machine type asked for, before it is resolved to an exact one.
    #[must_use]
    pub fn machine_or_default(&self) -> &str {
        match self.profile {
            Some(Profile::Lean) => "pc",
            None => self.machine.as_deref().unwrap_or("q35"),
        }
    }

    /// Options of the machine, beginning with a comma if there are any.
    #[must_use]
    pub fn machine_options(&self) -> &'static str {
        match self.profile {
            Some(Profile::Lean) => ",usb=off,smm=off,vmport=off",
            None => "",
        }
    }

    /// Whether it runs in the deterministic machine, not in a QEMU.
    #[must_use]
    pub fn is_deterministic(&self) -> bool {
        self.machine.as_deref() == Some(deterministic::MACHINE)
    }

    /// Whether the machine has no PCI bus.
    #[must_use]
    pub fn is_microvm(&self) -> bool {
        self.machine_or_default() == "microvm"
    }

    /// The model of a NIC: the one it asks for, or the one that suits the machine.
    #[must_use]
    pub fn nic_model(&self, nic: &NicSpec) -> NicModel {
        let suits =
            if self.profile == Some(Profile::Lean) { NicModel::VirtioLegacy } else { NicModel::Virtio };
        nic.model.unwrap_or(suits)
    }

    /// The address of the NIC at `index`: the one it asks for, or one made from the VM's name, which is the same
    /// on every host and in every life.
    ///
    /// # Panics
    /// If there is no such NIC.
    #[must_use]
    pub fn mac(&self, index: usize) -> Mac {
        self.nics[index].mac.unwrap_or_else(|| Mac::derived(&self.name, index))
    }

    /// The files that the VM is made of, each with the key that names it. They must be the same on both hosts.
    #[must_use]
    pub fn files(&self) -> Vec<(String, PathBuf)> {
        let named = [("kernel", &self.kernel), ("initrd", &self.initrd), ("firmware", &self.firmware)];
        let mut files: Vec<_> = named
            .into_iter()
            .filter_map(|(key, path)| path.clone().map(|path| (key.to_string(), path)))
            .collect();
        let media = refuse::read_only_files(&self.extra_args);
        files.extend(media.into_iter().enumerate().map(|(i, path)| (format!("medium {i}"), path)));
        files
    }

    /// Whether the VM can be protected, as far as its description tells. What only a running QEMU tells is checked
    /// after its start: see [`crate::ram`] and [`crate::Qemu::check_migratable`].
    ///
    /// # Errors
    /// Everything that stands in the way.
    pub fn check_protectable(&self) -> Result<(), Vec<Refusal>> {
        let refusals = refuse::refusals(&self.extra_args, self.cpu_model.as_deref());
        if refusals.is_empty() { Ok(()) } else { Err(refusals) }
    }
}

fn name_problem(name: &str) -> Option<String> {
    let allowed =
        |(at, c): (usize, char)| c.is_ascii_alphanumeric() || c == '_' || (at > 0 && (c == '-' || c == '.'));
    let good = (1..=LONGEST_NAME).contains(&name.len()) && name.char_indices().all(allowed);
    (!good).then(|| {
        format!(
            "{name:?} must be 1 to {LONGEST_NAME} of a-z, A-Z, 0-9, '-', '_' and '.', not '-' or '.' first"
        )
    })
}

/// Whether `text` can stand in a QEMU option list without being read as more than one value.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}
