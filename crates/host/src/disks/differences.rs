//! Owns this host's difference map of a VM's disks: where it is, which one belongs to the images, and the thread that
//! cleans it beside the guest.

use super::{DiskError, directory};
use crate::config::HostConfig;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use disk::Image;
use disk::differences::DifferenceMap;
use disk::journal::FileStorage;
use protocol::journal::Stamp;
use protocol::journal::stamp::Content;
use protocol::resync::Base;
use protocol::{VmId, VmName};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// The map's file.
const NAME: &str = "differences";

/// A map in this host's state directory.
pub type Map = DifferenceMap<FileStorage>;

/// The base that a backup's stamp names, once its journal is applied.
#[must_use]
pub fn base_of(stamp: &Stamp) -> Base {
    Base { term: stamp.term, session: stamp.session }
}

/// The map of images that this stamp describes, whose journal is applied. A map that cannot be read is none: then a
/// copy that comes back is compared whole.
///
/// # Errors
/// If a map cannot be made, or one that is of no use cannot be removed.
pub fn of_images(
    config: &HostConfig,
    vm: &VmName,
    sizes: &[u64],
    stamp: Option<&Stamp>,
) -> Result<Map, DiskError> {
    match stamp {
        // What a backup's images hold is a base itself; whatever map is there is of an earlier life.
        Some(stamp) if stamp.content == Content::Epoch => begin_at(config, vm, sizes, base_of(stamp)),
        Some(_) => open(config, vm, sizes),
        None => {
            remove(config, vm)?;
            open(config, vm, sizes)
        }
    }
}

/// The map of images that are the state which `base` names. It is there already if a session's first epoch was made
/// durable here, so this costs a promotion next to nothing.
///
/// # Errors
/// If there is none and none can be made.
pub fn begin_at(config: &HostConfig, vm: &VmName, sizes: &[u64], base: Base) -> Result<Map, DiskError> {
    if let Ok(map) = open(config, vm, sizes) {
        let status = map.status();
        if status.bases == [base] && status.marked_bytes.iter().all(|&bytes| bytes == 0) {
            return Ok(map);
        }
    }
    Ok(Map::create(storage(config, vm)?, NAME, VmId::of(vm), sizes, &[base])?)
}

fn open(config: &HostConfig, vm: &VmName, sizes: &[u64]) -> Result<Map, DiskError> {
    let storage = storage(config, vm)?;
    Map::open(Arc::clone(&storage), NAME, VmId::of(vm), sizes).or_else(|error| {
        tracing::warn!(vm = %vm, %error, "the difference map is removed");
        remove(config, vm)?;
        Ok(Map::open(storage, NAME, VmId::of(vm), sizes)?)
    })
}

/// Removes the map: nothing is known of the images any more.
///
/// # Errors
/// If it cannot be removed.
pub fn remove(config: &HostConfig, vm: &VmName) -> Result<(), DiskError> {
    use disk::journal::Storage;
    if !directory(config, vm).exists() {
        return Ok(());
    }
    let storage = storage(config, vm)?;
    let removed = storage.remove(NAME).and_then(|()| storage.sync_dir());
    removed.map_err(|source| DiskError::Place { path: directory(config, vm).join(NAME), source })
}

fn storage(config: &HostConfig, vm: &VmName) -> Result<Arc<FileStorage>, DiskError> {
    let path = directory(config, vm);
    let storage = FileStorage::new(&path).map_err(|source| DiskError::Place { path, source })?;
    Ok(Arc::new(storage))
}

/// The map of the disks that a VM runs on here, with the thread that cleans it. Dropping it ends the thread.
pub struct Marker {
    map: Arc<Map>,
    images: Vec<Arc<Image>>,
    due: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    told: Mutex<bool>,
}

impl Marker {
    /// Takes a map into use.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(map: Map, images: Vec<Arc<Image>>) -> std::io::Result<Self> {
        let map = Arc::new(map);
        // One order that waits is enough: it covers all that became due before it is carried out.
        let (due, orders) = bounded(1);
        let (cleaned, synced) = (Arc::clone(&map), images.clone());
        let body = move || clean(&cleaned, &synced, &orders);
        let thread = std::thread::Builder::new().name("ud-differences".into()).spawn(body)?;
        Ok(Self { map, images, due: Some(due), thread: Some(thread), told: Mutex::new(false) })
    }

    /// The map.
    #[must_use]
    pub fn map(&self) -> &Map {
        &self.map
    }

    /// Cleaning is due; it is done beside the caller.
    pub fn clean(&self) {
        match self.due.as_ref().map(|due| due.try_send(())) {
            Some(Err(TrySendError::Disconnected(()))) => {
                tracing::error!("the difference map is not cleaned any more")
            }
            Some(Ok(()) | Err(TrySendError::Full(()))) | None => {}
        }
    }

    /// Marks bytes before they are written.
    ///
    /// # Errors
    /// If they must not be written.
    pub fn before_write(&self, disk: u8, offset: u64, len: u64) -> std::io::Result<()> {
        if self.map.before_write(disk, offset, len).map_err(std::io::Error::other)? {
            self.clean();
        }
        Ok(())
    }

    /// Why the map was given up, once.
    #[must_use]
    pub fn new_trouble(&self) -> Option<String> {
        let trouble = self.map.trouble()?;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        (!std::mem::replace(&mut *told, true)).then(|| {
            format!("the difference map of the disks is given up, they will be compared whole: {trouble}")
        })
    }

    /// The VM does not run here any more: what the file says is made exact.
    pub fn close(&self) {
        if let Err(error) = self.map.close(|| sync(&self.images)) {
            tracing::warn!(%error, "the difference map marks more than it must");
        }
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        drop(self.due.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn clean(map: &Map, images: &[Arc<Image>], orders: &Receiver<()>) {
    while orders.recv().is_ok() {
        if let Err(error) = map.clean(|| sync(images)) {
            tracing::warn!(%error, "the difference map could not be cleaned");
        }
    }
}

fn sync(images: &[Arc<Image>]) -> Result<(), String> {
    super::sync(images).map_err(|error| error.to_string())
}
