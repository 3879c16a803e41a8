//! Owns a backup's replicas: making them, and writing a primary's changes into them.

use super::{DiskError, Disks, Label};
use crate::config::HostConfig;
use disk::{Access, Holes, Image};
use protocol::journal::stamp::Content;
use protocol::wire::disk::{Change, read_batch};
use protocol::{Epoch, Session, Term, VmName};
use qemu::VmSpec;
use std::path::Path;
use std::sync::Arc;

/// So many zeroes at its beginning make a device blank: no partition table or file system begins so.
const BLANK: usize = 1 << 20;

impl Disks {
    /// Makes blank replicas of these sizes for a session. What this VM had here before is gone after it.
    ///
    /// # Errors
    /// If something stands in their place that is not this VM's, or they cannot be made.
    pub fn make_replicas(
        config: &HostConfig,
        vm: &VmName,
        spec: &VmSpec,
        sizes: &[u64],
        (term, session): (Term, Session),
    ) -> Result<Self, DiskError> {
        if sizes.len() != spec.disks.len() {
            return Err(DiskError::Count { described: spec.disks.len(), sizes: sizes.len() });
        }
        let label = Label::of(config, vm);
        let known = label.read()?.is_some();
        let paths: Vec<_> = spec.disks.iter().map(|disk| config.disk_path(&disk.image)).collect();
        for path in paths.iter().filter(|path| path.exists()) {
            if !known && !is_blank(path)? {
                return Err(DiskError::NotOurs { path: path.clone(), vm: vm.to_string() });
            }
        }
        if !paths.is_empty() {
            // Before anything is touched: a replica that is half filled must not pass for a disk.
            label.write(Content::Filling, term, session, Epoch(0))?;
        }
        let images = paths.iter().zip(sizes).map(|(path, &size)| blank(path, size).map(Arc::new));
        Self::serve(spec, images.collect::<Result<_, _>>()?)
    }
}

fn is_blank(path: &Path) -> Result<bool, DiskError> {
    let image = Image::open(path, Access::ReadOnly)?;
    let mut start = vec![0; usize::try_from(image.size()).unwrap_or(BLANK).min(BLANK)];
    image.read_at(0, &mut start)?;
    Ok(start.iter().all(|&byte| byte == 0))
}

/// An image that reads as zeroes: a new file, or a device of the right size.
fn blank(path: &Path, size: u64) -> Result<Image, DiskError> {
    let failed = |source| DiskError::Place { path: path.to_path_buf(), source };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    match std::fs::metadata(path) {
        Ok(found) if !found.is_file() => {
            let image = Image::open(path, Access::ReadWrite)?;
            if image.size() != size {
                return Err(DiskError::Size { path: path.to_path_buf(), has: image.size(), needs: size });
            }
            image.write_zeroes_at(0, size, Holes::Allowed)?;
            Ok(image)
        }
        Ok(_) => {
            // Opened first: one that is in use is not removed.
            drop(Image::open(path, Access::ReadWrite)?);
            std::fs::remove_file(path).map_err(failed)?;
            Ok(Image::create(path, size)?)
        }
        Err(_) => Ok(Image::create(path, size)?),
    }
}

/// Writes the changes in an unpacked batch into the replicas.
///
/// # Errors
/// If a medium fails; the changes before are written.
pub fn apply(images: &[Arc<Image>], records: &[u8]) -> Result<(), DiskError> {
    let sizes: Vec<u64> = images.iter().map(|image| image.size()).collect();
    let mut outcome = Ok(());
    let read = read_batch(records, &sizes, |disk, change| {
        if outcome.is_ok()
            && let Some(image) = images.get(usize::from(disk))
        {
            outcome = write(image, change);
        }
    });
    read.map_err(DiskError::Changes)?;
    Ok(outcome?)
}

fn write(image: &Image, change: Change<'_>) -> Result<(), disk::ImageError> {
    match change {
        Change::Data { offset, bytes } => image.write_at(offset, bytes),
        // A guest may rely on zeroes where it discarded, so a medium that cannot discard gets zeroes.
        Change::Zeroes { offset, len } | Change::Discard { offset, len } => {
            image.write_zeroes_at(offset, len, Holes::Allowed)
        }
    }
}
