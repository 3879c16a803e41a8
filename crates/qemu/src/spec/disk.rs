//! Owns the description of a disk.

use super::{Profile, VmSpec};
use serde::{Deserialize, Serialize};
use std::path::{Component, PathBuf};

/// Most disks of a VM: the legacy PCI machines have 32 places, and cards and bridges need some.
pub const MOST_DISKS: usize = 16;

/// A disk, which the agent serves to QEMU: every write passes through the agent's hands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSpec {
    /// The image: a file, or a block device. A relative path is one in the directory of disks of whichever host
    /// runs the VM or stands by for it; an absolute one is the same on all of them.
    pub image: PathBuf,
    /// The image's format; raw if it is not said. It is never guessed: the guest of a raw disk can write whatever it
    /// likes at its beginning, such as a qcow2 header that names one of the host's files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<DiskFormat>,
    /// Whether the guest may only read it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// Whether the image lies on storage that the VM's hosts share: it is handed over when the VM moves, and never copied. A VM that
    /// may write to it can be migrated, but not protected: what a lost epoch wrote to it could not be taken back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
    /// The controller; by default modern virtio, legacy virtio in the lean profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<DiskModel>,
}

/// How an image holds a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskFormat {
    /// Byte for byte.
    #[default]
    Raw,
    /// QEMU's own format, with QEMU's own driver.
    Qcow2,
}

impl DiskFormat {
    /// As the VM file says it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

impl DiskSpec {
    /// Whether QEMU reads the image as qcow2.
    #[must_use]
    pub fn is_qcow2(&self) -> bool {
        self.format == Some(DiskFormat::Qcow2)
    }
}

/// A disk controller that QEMU can play.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskModel {
    /// virtio 1.0.
    Virtio,
    /// virtio 0.9, without MSI-X: less state, so a shorter pause.
    VirtioLegacy,
}

impl VmSpec {
    /// The disks of which each host has a copy of its own, in the order of the VM file.
    pub fn copied_disks(&self) -> impl Iterator<Item = &DiskSpec> {
        self.disks.iter().filter(|disk| !disk.shared)
    }

    /// The disks that the hosts share, in the order of the VM file.
    pub fn shared_disks(&self) -> impl Iterator<Item = &DiskSpec> {
        self.disks.iter().filter(|disk| disk.shared)
    }

    /// The model of a disk: the one it asks for, or the one that suits the machine.
    #[must_use]
    pub fn disk_model(&self, disk: &DiskSpec) -> DiskModel {
        let suits =
            if self.profile == Some(Profile::Lean) { DiskModel::VirtioLegacy } else { DiskModel::Virtio };
        disk.model.unwrap_or(suits)
    }
}

/// What is wrong with a VM's disks, if something is.
pub(super) fn problem(disks: &[DiskSpec], microvm: bool) -> Option<String> {
    if disks.len() > MOST_DISKS {
        return Some(format!("a VM has at most {MOST_DISKS} disks, not {}", disks.len()));
    }
    if disks.iter().any(|disk| disk.image.as_os_str().is_empty()) {
        return Some("`image` is empty; name an image file or a block device".to_string());
    }
    let climbs = |disk: &&DiskSpec| disk.image.components().any(|part| part == Component::ParentDir);
    if let Some(disk) = disks.iter().find(climbs) {
        return Some(format!("{} climbs out of the directory of disks with `..`", disk.image.display()));
    }
    let twice =
        disks.iter().enumerate().find(|(at, disk)| disks[..*at].iter().any(|d| d.image == disk.image));
    if let Some((_, disk)) = twice {
        return Some(format!("{} is named twice: each disk needs an image of its own", disk.image.display()));
    }
    if microvm && disks.iter().any(|disk| disk.model == Some(DiskModel::VirtioLegacy)) {
        return Some("a microvm's disks are modern virtio; remove `model`".to_string());
    }
    None
}
