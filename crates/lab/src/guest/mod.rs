//! Owns the guests: images made from Debian packages and sources in this crate, built once, kept in a cache.
//!
//! - `linux`: what the Linux guests have in common, a stock Debian cloud kernel with a small initramfs;
//! - [`redis`]: Redis in the initramfs;
//! - [`mod@postgres`]: PostgreSQL on an ext4 disk, with its tables for `pgbench`;
//! - [`pulse`]: the program in it that dirties pages, counts and watches its own time, and the client that steers it;
//! - [`fio`]: the Redis guest with fio in it;
//! - [`riscv`]: the guest of the deterministic machine: Debian 13 for riscv64 with Redis;
//! - [`counter`]: 64 KiB of bare-metal code that counts in memory and on the serial line, for KVM and TCG;
//! - [`console`]: waiting for lines on a guest's serial console.

pub mod cache;
pub mod console;
pub mod counter;
mod cpio;
mod debian;
pub mod ext4;
pub mod fio;
pub(crate) mod linux;
pub mod postgres;
pub mod pulse;
pub mod redis;
pub mod riscv;

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::command::CommandError;

/// Why a guest image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// A file or directory of the build could not be read or written.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A program of the build failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// Packages for the guest could not be fetched.
    #[error(
        "cannot download the guest's Debian packages ({packages}): {source}; is the machine offline, or apt not set up?"
    )]
    Download {
        /// Names of the packages.
        packages: String,
        /// What apt-get said.
        source: CommandError,
    },
    /// Something that should be in the packages is not there.
    #[error("{what} is in none of the downloaded packages ({packages})")]
    NotInPackages {
        /// The file or package looked for.
        what: String,
        /// The packages that were unpacked.
        packages: String,
    },
}

/// In a guest's place in the cache: what it was made of.
const MANIFEST: &str = "manifest.json";

fn write_manifest(work: &Path, manifest: &impl Serialize) -> Result<(), GuestError> {
    let text = serde_json::to_vec_pretty(manifest).expect("a manifest of strings is always JSON");
    let path = work.join(MANIFEST);
    fs::write(&path, text).map_err(on("write", path))
}

fn read_manifest<M: DeserializeOwned>(place: &Path) -> Result<M, GuestError> {
    let path = place.join(MANIFEST);
    let text = fs::read(&path).map_err(on("read", &path))?;
    serde_json::from_slice(&text).map_err(|error| on("read", path)(error.into()))
}

/// For `map_err`: what was tried on which file.
fn on(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> GuestError {
    let path = path.into();
    move |source| GuestError::File { what, path, source }
}
