//! Owns where a replica's journal is, and what is done with it when the replica becomes a disk that a VM runs on.

use super::{DiskError, Label, directory};
use crate::config::HostConfig;
use disk::journal::{FileStorage, Journal, Target, recover};
use disk::{Access, Holes, Image};
use protocol::journal::Identity;
use protocol::journal::stamp::Content;
use protocol::{Epoch, VmId, VmName};
use qemu::VmSpec;
use std::fs::File;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where this host keeps the journal of a VM's replicas.
#[must_use]
pub fn journal_directory(config: &HostConfig, vm: &VmName) -> PathBuf {
    directory(config, vm).join("journal")
}

/// The replicas are about to be run on: everything that is in the images is brought onto the media, and the journal,
/// which would put older contents back, is removed.
///
/// # Errors
/// If a medium fails, or the journal cannot be removed.
pub fn close_journal(config: &HostConfig, vm: &VmName, images: &[Arc<Image>]) -> Result<(), DiskError> {
    super::sync(images)?;
    let path = journal_directory(config, vm);
    let removed = std::fs::remove_dir_all(&path).or_else(|error| match error.kind() {
        ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    });
    let parent = directory(config, vm);
    let durable = removed.and_then(|()| match File::open(&parent) {
        Ok(parent) => parent.sync_all(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    });
    durable.map_err(|source| DiskError::Place { path, source })
}

/// Brings into a replica's images what its journal holds, if this host was the backup when it died.
///
/// # Errors
/// If the journal is damaged, or an image cannot be written.
pub fn finish_journal(config: &HostConfig, vm: &VmName, spec: &VmSpec) -> Result<(), DiskError> {
    let path = journal_directory(config, vm);
    let stamp = Label::of(config, vm).read()?.filter(|stamp| stamp.content == Content::Epoch);
    let Some(stamp) = stamp.filter(|_| path.exists()) else { return Ok(()) };
    let open = |image: &Path| Image::open(&config.disk_path(image), Access::ReadWrite).map(Arc::new);
    let images = spec.copied_disks().map(|disk| open(&disk.image)).collect::<Result<Vec<_>, _>>()?;
    let storage =
        FileStorage::new(&path).map_err(|source| DiskError::Place { path: path.clone(), source })?;
    let identity = Identity { vm: VmId::of(vm), session: stamp.session };
    let opened = Journal::open(Arc::new(storage), identity, Epoch(0))?;
    tracing::info!(vm = %vm, epoch = %opened.committed(), found = opened.label(), "the journal of the disks is applied");
    let mut targets: Vec<_> = images.iter().map(|image| Replayed(Arc::clone(image))).collect();
    let mut targets: Vec<&mut dyn Target> =
        targets.iter_mut().map(|target| target as &mut dyn Target).collect();
    recover(opened, &mut targets)?;
    close_journal(config, vm, &images)
}

struct Replayed(Arc<Image>);

impl Target for Replayed {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_at(offset, bytes).map_err(Error::other)
    }

    fn write_zeroes(&mut self, offset: u64, len: u64) -> std::io::Result<()> {
        self.0.write_zeroes_at(offset, len, Holes::Allowed).map_err(Error::other)
    }

    fn discard(&mut self, offset: u64, len: u64) -> std::io::Result<()> {
        self.write_zeroes(offset, len)
    }

    fn sync(&mut self) -> std::io::Result<()> {
        self.0.flush().map_err(Error::other)
    }
}
