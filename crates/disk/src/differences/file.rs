//! Owns the file of a difference map: making it, reading it, writing its sectors.

use super::error::MapError;
use crate::journal::Storage;
use protocol::VmId;
use protocol::resync::record::{self, Layout, Row, SECTOR};
use protocol::resync::{Differences, Grain};
use std::io::{self, ErrorKind};
use std::sync::Arc;

/// A map's file.
pub(super) struct MapFile<S> {
    pub(super) storage: Arc<S>,
    pub(super) name: String,
    pub(super) vm: VmId,
    pub(super) layout: Layout,
}

impl<S: Storage> MapFile<S> {
    pub(super) fn failed(&self, action: &'static str, source: io::Error) -> MapError {
        MapError::Io { action, file: self.storage.describe(&self.name), source }
    }

    /// Puts this map in the place of what is there, if anything is. After a crash within, one of the two is there.
    pub(super) fn create(&self, map: &Differences) -> Result<(), MapError> {
        let new = format!("{}.new", self.name);
        let mut bytes = record::head(map, self.vm).to_vec();
        for disk in (0u8..).take(map.sizes().len()) {
            for row in [Row::Listed, Row::Saved] {
                let sectors = self.layout.row(disk, row);
                sectors.for_each(|at| bytes.extend(record::sector(map, &self.layout, disk, row, at)));
            }
        }
        let made = self.storage.create(&new, bytes.len() as u64);
        made.map_err(|e| self.failed("make", e))?;
        self.storage.write_at(&new, 0, &bytes).map_err(|e| self.failed("write", e))?;
        self.storage.sync(&new).map_err(|e| self.failed("sync", e))?;
        self.storage.rename(&new, &self.name).map_err(|e| self.failed("rename", e))?;
        self.storage.sync_dir().map_err(|e| self.failed("sync the directory of", e))
    }

    /// The map as a crash left it; none if there is no file.
    pub(super) fn read(&self, grain: Grain, sizes: &[u64]) -> Result<Option<Differences>, MapError> {
        let len = match self.storage.len(&self.name) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            len => len.map_err(|e| self.failed("look at", e))?,
        };
        let refused = |source| MapError::Record { file: self.storage.describe(&self.name), source };
        // Another length is of other disks; reading no more than expected bounds the memory.
        let expected = self.layout.sectors() * SECTOR as u64;
        if len != expected {
            return Err(refused(record::RecordError::Sizes));
        }
        let mut bytes = vec![0; usize::try_from(expected).unwrap_or_default()];
        self.storage.read_at(&self.name, 0, &mut bytes).map_err(|e| self.failed("read", e))?;
        record::read(&bytes, grain, sizes, self.vm).map(Some).map_err(refused)
    }

    pub(super) fn write(&self, sectors: &[(u64, [u8; SECTOR])]) -> Result<(), MapError> {
        sectors.iter().try_for_each(|(at, bytes)| {
            let written = self.storage.write_at(&self.name, at * SECTOR as u64, bytes);
            written.map_err(|e| self.failed("write", e))
        })
    }

    pub(super) fn sync(&self) -> Result<(), MapError> {
        self.storage.sync(&self.name).map_err(|e| self.failed("sync", e))
    }

    /// Removes the file, durably.
    pub(super) fn remove(&self) -> Result<(), MapError> {
        let removed = self.storage.remove(&self.name).and_then(|()| self.storage.sync_dir());
        removed.map_err(|e| self.failed("remove", e))
    }
}
