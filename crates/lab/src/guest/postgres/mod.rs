//! Owns the PostgreSQL guest: a Linux guest that runs Debian's PostgreSQL from an ext4 disk, as a server does.
//!
//! `system` makes the tree of files that is the disk's root, `database` the database in it and the image, `inspect`
//! looks at an image whose guest was switched off. Durability is as PostgreSQL ships it; data pages carry checksums.
//! The tables of `pgbench` are there already. The tree without the database is kept beside the image: `pgbench` runs
//! from there on the client's side, so that no server has to be installed on this machine.

mod database;
mod inspect;
mod system;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::cache::Cache;
use super::{GuestError, debian, linux, on, pulse, read_manifest, write_manifest};
use crate::plain::Machine;
use crate::topology::GuestAddress;

pub use inspect::InspectError;

/// Port on which the guest's PostgreSQL listens, on IPv4 and IPv6.
pub const POSTGRES_PORT: u16 = 5432;
/// The user and the database of everyone; no password is asked for.
pub const POSTGRES: &str = "postgres";
/// Scale of `pgbench`'s tables: it advises at least as much as there are clients.
pub const PGBENCH_SCALE: u32 = 4;

const SERVE: &str = include_str!("../../../guest/postgres.sh");
const STOP: &str = include_str!("../../../guest/postgres-stop.sh");
const CONFIG: &str = include_str!("../../../guest/postgresql.conf");
/// Debian's package of the newest PostgreSQL, which needs the one of a certain version.
const PACKAGE: &str = "postgresql";
/// Counts changes of the files in this directory that change the image without changing a source above.
const RECIPE: &str = "postgres guest, recipe 1";

/// The files and facts of the PostgreSQL guest.
#[derive(Clone, Debug)]
pub struct PostgresGuest {
    /// For QEMU's `-kernel`.
    pub kernel: PathBuf,
    /// For QEMU's `-initrd`.
    pub initrd: PathBuf,
    /// The disk as a guest begins with it: raw, sparse, to be copied and never written to.
    pub disk: PathBuf,
    /// What is in it.
    pub manifest: Manifest,
    system: PathBuf,
}

/// What a PostgreSQL guest was made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the Debian kernel package.
    pub kernel: String,
    /// Version of the Debian PostgreSQL package.
    pub postgres: String,
    /// Where its programs are, below the root of the disk, such as `usr/lib/postgresql/15/bin`.
    pub programs: PathBuf,
    /// All packages of which files may be in the image: name and version.
    pub packages: Vec<(String, String)>,
}

impl PostgresGuest {
    /// The guest from the cache; the first time it is downloaded and built, which takes seconds.
    ///
    /// # Errors
    /// The packages cannot be fetched, a program of the build fails (only root may run the ones that make the
    /// database), or the disk does.
    pub fn build(cache: &Cache) -> Result<PostgresGuest, GuestError> {
        let pulse = pulse::program(cache)?;
        let scale = PGBENCH_SCALE.to_string();
        let recipe = [RECIPE, PACKAGE, SERVE, STOP, CONFIG, &scale, &linux::recipe()];
        let place = cache.get("postgres", &recipe.map(str::as_bytes), |work| build_in(work, &pulse))?;
        let manifest = read_manifest(&place)?;
        Ok(PostgresGuest {
            kernel: place.join("vmlinuz"),
            initrd: place.join("initrd"),
            disk: place.join("disk.img"),
            system: place.join("system"),
            manifest,
        })
    }

    /// The kernel command line for this guest on a machine of this type; its disk is the first.
    pub fn append(&self, machine: Machine, address: GuestAddress) -> String {
        format!("{} {}", linux::ON_DISK, linux::append(machine, address, None))
    }

    /// A program of PostgreSQL as it is in the guest (`pgbench`), to be run on this machine with its own libraries.
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.system.join(system::LINKER));
        command.arg("--library-path").arg(self.system.join(system::LIBRARIES));
        command.arg(self.system.join(&self.manifest.programs).join(name));
        command
    }
}

fn build_in(work: &Path, pulse: &Path) -> Result<(), GuestError> {
    // The downloads are far larger than the image: they go when it is made.
    let scratch = work.join("scratch");
    let unpacked = debian::unpack(&scratch, &[linux::KERNEL, PACKAGE, "tzdata"], follow)?;
    linux::kernel(&unpacked, &work.join("vmlinuz"))?;
    let mut archive = linux::initramfs(&unpacked, pulse, SERVE)?;
    archive.file("stop", STOP.as_bytes());
    let initrd = archive.finish();
    fs::write(work.join("initrd"), initrd).map_err(on("write", work.join("initrd")))?;
    let system = work.join("system");
    let programs = system::make(&unpacked, &system)?;
    database::make(&system, &programs, &work.join("disk.img"))?;
    let server = unpacked.versions.iter().find(|(name, _)| is_server(name));
    let manifest = Manifest {
        kernel: unpacked.version(linux::KERNEL),
        postgres: server.map_or_else(|| "unknown".into(), |(_, version)| version.clone()),
        programs,
        packages: unpacked.versions,
    };
    write_manifest(work, &manifest)?;
    fs::remove_dir_all(&scratch).map_err(on("remove", &scratch))
}

/// The server and the programs beside it, with their libraries; not LLVM, which only its just-in-time compiler needs.
fn follow(package: &str) -> bool {
    let library = debian::is_library_or_kernel(package) && !package.starts_with("libllvm");
    library || is_server(package)
}

/// Whether this is the package of a certain version's server, such as `postgresql-15`.
fn is_server(package: &str) -> bool {
    package.strip_prefix("postgresql-").is_some_and(|version| version.parse::<u32>().is_ok())
}
