//! Owns the writing and reading of stamps, so that one is always whole.

use super::error::JournalError;
use super::layout::failed;
use super::storage::Storage;
use protocol::VmId;
use protocol::journal::Stamp;
use protocol::journal::stamp::{STAMP_LEN, StampError};
use std::io;

/// Puts a stamp in the place of the one before; when it returns, the new one is durable. After a crash within,
/// one of the two is there.
///
/// # Errors
/// If the storage fails.
pub fn save_stamp<S: Storage>(storage: &S, name: &str, stamp: &Stamp) -> Result<(), JournalError> {
    let new = format!("{name}.new");
    let io = |action, source| failed(storage, action, &new, source);
    storage.create(&new, STAMP_LEN as u64).map_err(|e| io("create", e))?;
    storage.write_at(&new, 0, &stamp.encode()).map_err(|e| io("write to", e))?;
    storage.sync(&new).map_err(|e| io("sync", e))?;
    storage.rename(&new, name).map_err(|e| io("rename", e))?;
    storage.sync_dir().map_err(|e| io("sync the directory of", e))
}

/// Reads the stamp of this VM's images; `None` if there is no file.
///
/// # Errors
/// If the storage fails or the stamp is of no use.
pub fn load_stamp<S: Storage>(storage: &S, name: &str, vm: VmId) -> Result<Option<Stamp>, JournalError> {
    let len = match storage.len(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        len => len.map_err(|source| failed(storage, "look at", name, source))?,
    };
    let refused = |source| JournalError::Stamp { file: storage.describe(name), source };
    if len != STAMP_LEN as u64 {
        return Err(refused(StampError::Magic));
    }
    let mut bytes = [0; STAMP_LEN];
    storage.read_at(name, 0, &mut bytes).map_err(|source| failed(storage, "read", name, source))?;
    Stamp::decode(&bytes, vm).map(Some).map_err(refused)
}
