//! Owns the look at an image whose guest was switched off in order: its file system, and every page of the database.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::PostgresGuest;
use super::system::HOME;
use crate::command::{self, CommandError};
use crate::guest::ext4;

/// What is wrong with an image.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The file system was not unmounted, or is damaged.
    #[error("the file system in {image} is not clean: {source}")]
    FileSystem {
        /// The image.
        image: PathBuf,
        /// What e2fsck said.
        source: CommandError,
    },
    /// The files of the image could not be read out.
    #[error("cannot read the files in {image}: {source}")]
    Files {
        /// The image.
        image: PathBuf,
        /// What debugfs said.
        source: CommandError,
    },
    /// A page of the database is not what PostgreSQL wrote, or the server did not end in order.
    #[error("the database in {image} is damaged: {source}")]
    Pages {
        /// The image.
        image: PathBuf,
        /// What pg_checksums said.
        source: CommandError,
    },
}

impl PostgresGuest {
    /// Checks an image whose guest was switched off in order: the file system is clean without any repair, and every
    /// page of the database carries its right checksum. `scratch` is an empty directory with room for the database.
    ///
    /// # Errors
    /// What is wrong; or a program is not there, or `scratch` has no room.
    pub fn inspect(&self, image: &Path, scratch: &Path) -> Result<(), InspectError> {
        let owned = || image.to_owned();
        ext4::check(image).map_err(|source| InspectError::FileSystem { image: owned(), source })?;
        let data = scratch.join("data");
        let mut read_out = Command::new("debugfs");
        read_out.arg("-R").arg(format!("rdump /{HOME}/data {}", scratch.display())).arg(image);
        command::run(&mut read_out).map_err(|source| InspectError::Files { image: owned(), source })?;
        command::run(self.program("pg_checksums").args(["--check", "--pgdata"]).arg(&data))
            .map(drop)
            .map_err(|source| InspectError::Pages { image: owned(), source })
    }
}
