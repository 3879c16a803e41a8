//! Owns a VM's disks at this host: their images, serving them to its machine, and what was written to them.
//!
//! A disk is one image on each host: the owner's, which its guest writes, and the backup's replica, which holds
//! committed epochs. Beside each lies a label ([`label`]) that says whose it is: nothing is overwritten that is not
//! this VM's, and no VM is started from a disk that is not its newest.
//!
//! A disk on storage that the hosts share is one image for all of them ([`shared`]): it has no label, replica or journal, and
//! only who has the VM's term touches it.

mod differences;
mod error;
mod format;
mod journal;
mod label;
mod meter;
mod replica;
mod shared;
mod tap;

pub use differences::{Marker, begin_at as differences_from};
pub use error::DiskError;
pub use format::Placeholders;
pub use journal::{close_journal, finish_journal, journal_directory};
pub use label::{Label, directory};
pub use meter::Meter;
pub use replica::{Described, Replicas, apply};
pub use shared::{Proofs, SharedImage, release, take, why_unprotectable};
pub use tap::{Kept, KeptChange, Tap};

use crate::config::HostConfig;
use api::types::{BaseStatus, DiskStatus};
use disk::qcow2::Header;
use disk::{Access, Export, Image, Observer, Unobserved};
use format::Formatted;
use protocol::VmName;
use qemu::VmSpec;
use qemu::spec::DiskFormat;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// One disk.
struct Served {
    image: Arc<Image>,
    export: Export,
    read_only: bool,
    /// Its number among those that are copied; none if the hosts share it.
    number: Option<u8>,
    format: DiskFormat,
    /// None if it is raw.
    header: Option<Header>,
}

/// The disks of a VM whose QEMU is here, as owner or as standby.
pub struct Disks {
    disks: Vec<Served>,
    tap: Arc<Tap>,
}

impl Disks {
    /// Opens and locks the images that a VM is to be started from, and begins to mark what is written to them.
    ///
    /// # Errors
    /// If one is missing, in use, of an impossible size or another format, or cannot be written and should; or their
    /// difference map cannot be had.
    pub fn open(config: &HostConfig, vm: &VmName, spec: &VmSpec) -> Result<Self, DiskError> {
        let open = |disk| format::open(config, disk);
        let images = spec.disks.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let disks = Self::serve(spec, images)?;
        if disks.are_copied() {
            let stamp = Label::of(config, vm).read()?;
            let map = differences::of_images(config, vm, &disks.sizes(), stamp.as_ref())?;
            disks.mark_with(map)?;
        }
        Ok(disks)
    }

    /// The VM is about to run here: whatever is written is marked in this map.
    ///
    /// # Errors
    /// If the system gives no thread to clean it.
    pub fn mark_with(&self, map: differences::Map) -> Result<(), DiskError> {
        self.tap.mark_with(Marker::start(map, self.images()).map_err(DiskError::Cleaner)?);
        Ok(())
    }

    /// Serves these images, which are in the order of the VM file.
    fn serve(spec: &VmSpec, images: Vec<Formatted>) -> Result<Self, DiskError> {
        let tap = Arc::new(Tap::new(spec.copied_disks().count()));
        let (mut disks, mut numbers) = (Vec::new(), 0..);
        for (at, (formatted, disk)) in images.into_iter().zip(&spec.disks).enumerate() {
            let Formatted { image, header } = formatted;
            let name = qemu::launch::disk_export(at);
            let number = if disk.shared { None } else { numbers.next() };
            let observer: Arc<dyn Observer> = match number {
                Some(number) => Arc::new(tap.of_disk(number, Arc::clone(&image))),
                None => Arc::new(Unobserved),
            };
            let export = Export::new(Arc::clone(&image), &name, observer)?;
            let format = disk.format.unwrap_or_default();
            disks.push(Served { image, export, read_only: disk.read_only, number, format, header });
        }
        Ok(Self { disks, tap })
    }

    /// Those of which each host has a copy of its own. They are numbered for the backup in this order.
    fn copied(&self) -> impl Iterator<Item = &Served> {
        self.disks.iter().filter(|disk| disk.number.is_some())
    }

    /// QEMU's end of a conversation about each disk; served from now on.
    ///
    /// # Errors
    /// If the system gives no sockets or threads.
    pub fn connect(&self) -> Result<Vec<OwnedFd>, DiskError> {
        let connect = |disk: &Served| Ok(OwnedFd::from(disk.export.connect()?));
        self.disks.iter().map(connect).collect()
    }

    /// Each disk, to be read and written from within this process: as by a conversation, without one.
    #[must_use]
    pub fn direct(&self) -> Vec<disk::Direct> {
        self.disks.iter().map(|disk| disk.export.direct()).collect()
    }

    /// Whether there are any of which each host has a copy of its own.
    #[must_use]
    pub fn are_copied(&self) -> bool {
        self.copied().next().is_some()
    }

    /// What is written to them.
    #[must_use]
    pub fn tap(&self) -> &Arc<Tap> {
        &self.tap
    }

    /// The images that are copied, in the order of the VM file.
    #[must_use]
    pub fn images(&self) -> Vec<Arc<Image>> {
        self.copied().map(|disk| Arc::clone(&disk.image)).collect()
    }

    /// What a backup's replicas must begin with.
    #[must_use]
    pub fn placeholders(&self) -> Placeholders {
        Placeholders::of(self.copied().map(|disk| disk.header.as_ref()))
    }

    /// The sizes in bytes of the images that are copied.
    #[must_use]
    pub fn sizes(&self) -> Vec<u64> {
        self.copied().map(|disk| disk.image.size()).collect()
    }

    /// For displays.
    #[must_use]
    pub fn status(&self) -> Vec<DiskStatus> {
        let map = self.tap.marker().map(|marker| marker.map().status());
        let bases: Vec<BaseStatus> = map.iter().flat_map(|map| &map.bases).map(BaseStatus::from).collect();
        let status = |disk: &Served| {
            let number = disk.number.map(usize::from);
            let (copy, unacknowledged_bytes) =
                number.map(|at| self.tap.meter().of_disk(at)).unwrap_or_default();
            DiskStatus {
                image: disk.image.path().to_path_buf(),
                size: disk.header.map_or(disk.image.size(), |header| header.virtual_size()),
                format: disk.format,
                image_size: Some(disk.image.size()),
                read_only: disk.read_only,
                shared: number.is_none(),
                served: disk.export.stats(),
                copy,
                unacknowledged_bytes,
                differing_bytes: number.and_then(|at| map.as_ref()?.marked_bytes.get(at).copied()),
                bases: number.map(|_| bases.clone()).unwrap_or_default(),
            }
        };
        self.disks.iter().map(status).collect()
    }
}

/// Brings everything that was written onto the media.
///
/// # Errors
/// If a medium fails.
pub fn sync(images: &[Arc<Image>]) -> Result<(), DiskError> {
    images.iter().filter(|image| image.access() == Access::ReadWrite).try_for_each(|image| Ok(image.flush()?))
}
