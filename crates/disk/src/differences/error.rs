//! Owns what can go wrong with a difference map, in words for people.

use protocol::resync::record::RecordError;
use std::io;

/// Why a difference map could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// The storage failed.
    #[error("cannot {action} the difference map {file}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Path of the file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds no map that can be used.
    #[error("{file} cannot be used, so disks are compared whole when a copy comes back: {source}")]
    Record {
        /// Path of the file.
        file: String,
        /// Why not.
        source: RecordError,
    },
    /// The images could not be synced.
    #[error("marks are kept: {0}")]
    Sync(String),
}
