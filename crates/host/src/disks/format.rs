//! Owns what depends on the format of an image: opening an owner's, and what a replica begins with.
//!
//! QEMU's qcow2 driver reads the header when QEMU starts, and all of its tables once more when a standby takes the disk
//! into use (`block/qcow2.c`, `qcow2_co_invalidate_cache`): a live migration over shared storage needs the same. So a
//! standby may start before its replica has any contents, if there is a header that says how large the disk is.

use super::{DiskError, differences};
use crate::config::HostConfig;
use disk::qcow2::{HEAD, Header};
use disk::{Access, Image, qcow2};
use protocol::resync::DiskOffer;
use qemu::spec::{DiskFormat, DiskSpec};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// An image with what its format says of it.
pub struct Formatted {
    /// Its bytes.
    pub image: Arc<Image>,
    /// The header, or the placeholder that stands for it; none if it is raw.
    pub header: Option<Header>,
}

/// Opens an image that a VM is to be started from.
///
/// # Errors
/// If it cannot be opened, or is not of the format that the VM file says.
pub fn open(config: &HostConfig, disk: &DiskSpec) -> Result<Formatted, DiskError> {
    let path = config.disk_path(&disk.image);
    if disk.shared && std::fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
        return Err(DiskError::SharedDevice { path });
    }
    let access = if disk.read_only { Access::ReadOnly } else { Access::ReadWrite };
    if disk.is_qcow2() {
        let (image, header) = qcow2::open(&path, access)?;
        return Ok(Formatted { image: Arc::new(image), header: Some(header) });
    }
    let image = Image::open(&path, access)?;
    // Who writes "raw" into the VM file knows what is in the image.
    if disk.format.is_none() && qcow2::looks_like_one(&image)? {
        return Err(DiskError::LooksLikeQcow2 { path });
    }
    Ok(Formatted { image: Arc::new(image), header: None })
}

/// Opens an image that another host has: of a VM that is to come from there.
///
/// # Errors
/// If it cannot be opened, or is not of the format that the VM file says.
pub fn open_elsewhere(config: &HostConfig, disk: &DiskSpec) -> Result<Formatted, DiskError> {
    if disk.read_only {
        return open(config, disk);
    }
    let path = config.disk_path(&disk.image);
    if disk.is_qcow2() {
        let (image, header) = qcow2::open_elsewhere(&path)?;
        return Ok(Formatted { image: Arc::new(image), header: Some(header) });
    }
    Ok(Formatted { image: Arc::new(Image::open_elsewhere(&path)?), header: None })
}

/// With what a replica must begin so that a standby can be started on it: for each disk its first bytes, or none if
/// any will do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placeholders(Vec<Option<Vec<u8>>>);

impl Placeholders {
    /// For these disks.
    pub fn of<'a>(headers: impl Iterator<Item = Option<&'a Header>>) -> Self {
        Self(headers.map(|header| header.map(|header| header.placeholder().to_vec())).collect())
    }

    /// The header for each of the disks that a primary describes. None of it is believed before it was checked.
    ///
    /// # Errors
    /// If one is missing for a qcow2 disk, or is nothing that a primary sends.
    pub fn headers<'a>(
        &self,
        disks: impl Iterator<Item = &'a DiskSpec>,
    ) -> Result<Vec<Option<Header>>, DiskError> {
        let of_disk = |(at, disk): (usize, &DiskSpec)| {
            let placeholder = self.0.get(at).and_then(Option::as_deref).filter(|_| disk.is_qcow2());
            let header = placeholder.and_then(|bytes| {
                let bytes: &[u8; HEAD] = bytes.try_into().ok()?;
                Header::parse(bytes).ok().filter(|header| header.placeholder() == *bytes)
            });
            match (disk.format.unwrap_or_default(), header) {
                (DiskFormat::Raw, _) => Ok(None),
                (DiskFormat::Qcow2, Some(header)) => Ok(Some(header)),
                (DiskFormat::Qcow2, None) => {
                    Err(DiskError::Placeholder { image: disk.image.display().to_string() })
                }
            }
        };
        disks.enumerate().map(of_disk).collect()
    }
}

/// Before placeholders are written over copies: their places are marked, so that they are compared and become what they
/// are at the primary. What the copies offer then.
///
/// # Errors
/// If the marks cannot be made durable.
pub fn mark_placeholders(map: &differences::Map, headers: &[Option<Header>]) -> Result<DiskOffer, DiskError> {
    let with_one = (0u8..).zip(headers).filter(|(_, header)| header.is_some());
    let mut any = false;
    for (disk, _) in with_one {
        map.before_write(disk, 0, HEAD as u64)?;
        any = true;
    }
    if any {
        map.close(|| Ok(()))?;
    }
    Ok(map.offer())
}
