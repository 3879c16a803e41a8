//! Owns files that only their owner may read, and directories that only their owner may change.

use crate::store::TrustError;
use rustix::process::geteuid;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Longer files than this are none of ours.
const MAX_LEN: u64 = 1 << 20;

/// Turns an error of the system into one that names the file.
pub fn failed(path: &Path, what: &'static str) -> impl FnOnce(std::io::Error) -> TrustError {
    let path = path.to_path_buf();
    move |source| TrustError::File { path, what, source }
}

/// Makes a directory that is its owner's alone; one that is there is only looked at.
pub fn make_private_directory(path: &Path) -> Result<(), TrustError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed(parent, "make"))?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        made => made.map_err(failed(path, "make"))?,
    }
    check_private(path)
}

/// Refuses a file or directory that somebody else owns, or may read or change.
pub fn check_private(path: &Path) -> Result<(), TrustError> {
    let metadata = fs::symlink_metadata(path).map_err(failed(path, "look at"))?;
    judge(path, &metadata)
}

fn judge(path: &Path, metadata: &fs::Metadata) -> Result<(), TrustError> {
    let mode = metadata.permissions().mode() & 0o777;
    let right = if metadata.is_dir() { 0o700 } else { 0o600 };
    let (owner, me) = (metadata.uid(), geteuid().as_raw());
    if owner != me && owner != 0 {
        return Err(TrustError::Owner { path: path.to_path_buf(), owner, me });
    }
    if mode & 0o077 != 0 {
        return Err(TrustError::Mode { path: path.to_path_buf(), mode, right });
    }
    Ok(())
}

/// Reads a private file; `None` if there is none.
pub fn read_private(path: &Path) -> Result<Option<Vec<u8>>, TrustError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed(path, "read"))?,
    };
    // Of the file that is read, not of what has its name by now.
    judge(path, &file.metadata().map_err(failed(path, "look at"))?)?;
    let mut bytes = Vec::new();
    file.take(MAX_LEN).read_to_end(&mut bytes).map_err(failed(path, "read"))?;
    Ok(Some(bytes))
}

/// Writes a private file, durably and in one step: whoever reads finds the old one or the new one.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), TrustError> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let written =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary).and_then(
            |mut file| {
                file.set_permissions(fs::Permissions::from_mode(0o600))?;
                file.write_all(bytes)?;
                file.sync_all()
            },
        );
    written.map_err(failed(&temporary, "write"))?;
    rename(&temporary, path)
}

/// Renames a file, durably.
pub fn rename(from: &Path, to: &Path) -> Result<(), TrustError> {
    fs::rename(from, to).map_err(failed(to, "write"))?;
    sync_directory_of(to)
}

/// Removes a file, durably; one that is not there is no error.
pub fn remove(path: &Path) -> Result<(), TrustError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(failed(path, "remove")).and_then(|()| sync_directory_of(path)),
    }
}

fn sync_directory_of(path: &Path) -> Result<(), TrustError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(failed(parent, "sync"))
}
