//! Owns the Redis guest: a Linux guest whose initramfs has Redis in it.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cache::Cache;
use super::debian::{self, Unpacked};
use super::{GuestError, linux, on, pulse, read_manifest, write_manifest};
use crate::plain::Machine;
use crate::topology::GuestAddress;

/// Port on which the guest's Redis listens, on IPv4 and IPv6.
pub const REDIS_PORT: u16 = 6379;

const SERVE: &str = include_str!("../../guest/redis.sh");
const CONFIG: &str = include_str!("../../guest/redis.conf");
const REDIS: &str = "redis-server";
/// Counts changes of this file that change the image without changing a source above.
const RECIPE: &str = "redis guest, recipe 2";

/// The files and facts of the Redis guest.
#[derive(Clone, Debug)]
pub struct RedisGuest {
    /// For QEMU's `-kernel`.
    pub kernel: PathBuf,
    /// For QEMU's `-initrd`.
    pub initrd: PathBuf,
    /// What is in it.
    pub manifest: Manifest,
}

/// What a Redis guest was made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the Debian kernel package.
    pub kernel: String,
    /// Version of the Debian Redis package.
    pub redis: String,
    /// All packages of which files may be in the image: name and version.
    pub packages: Vec<(String, String)>,
}

impl RedisGuest {
    /// The guest from the cache; the first time it is downloaded and built, which takes seconds.
    ///
    /// # Errors
    /// The packages cannot be fetched, a program of the build fails, or the disk does.
    pub fn build(cache: &Cache) -> Result<RedisGuest, GuestError> {
        let pulse = pulse::program(cache)?;
        let recipe = [RECIPE, REDIS, SERVE, CONFIG, &linux::recipe()];
        let place = cache.get("redis", &recipe.map(str::as_bytes), |work| build_in(work, &pulse))?;
        let manifest = read_manifest(&place)?;
        Ok(RedisGuest { kernel: place.join("vmlinuz"), initrd: place.join("initrd"), manifest })
    }

    /// The kernel command line for this guest on a machine of this type.
    ///
    /// `pulse` is the load that the pulse program begins with: pages, rate, pattern, such as `300:300/tick:seq`.
    pub fn append(&self, machine: Machine, address: GuestAddress, pulse: Option<&str>) -> String {
        linux::append(machine, address, pulse)
    }
}

fn build_in(work: &Path, pulse: &Path) -> Result<(), GuestError> {
    // The downloads are far larger than the image: they go when it is made.
    let scratch = work.join("scratch");
    let unpacked = debian::unpack(&scratch, &[linux::KERNEL, REDIS], |name| {
        debian::is_library_or_kernel(name) || name.starts_with("redis-")
    })?;
    linux::kernel(&unpacked, &work.join("vmlinuz"))?;
    let initrd = initramfs(&unpacked, pulse)?;
    fs::write(work.join("initrd"), initrd).map_err(on("write", work.join("initrd")))?;
    let manifest = Manifest {
        kernel: unpacked.version(linux::KERNEL),
        redis: unpacked.version(REDIS),
        packages: unpacked.versions,
    };
    write_manifest(work, &manifest)?;
    fs::remove_dir_all(&scratch).map_err(on("remove", &scratch))
}

fn initramfs(unpacked: &Unpacked, pulse: &Path) -> Result<Vec<u8>, GuestError> {
    let mut archive = linux::initramfs(unpacked, pulse, SERVE)?;
    archive.file("etc/redis.conf", CONFIG.as_bytes());
    let redis = unpacked.find("redis-server", |path| path.ends_with("bin/redis-server"))?;
    let redis = fs::canonicalize(&redis).map_err(on("resolve", &redis))?;
    archive.file("bin/redis-server", &fs::read(&redis).map_err(on("read", &redis))?);
    for (name, file) in unpacked.libraries(&redis)? {
        // The dynamic linker has a fixed place; the others are where it looks.
        let directory = if name.starts_with("ld-linux") { "lib64" } else { "lib/x86_64-linux-gnu" };
        archive.file(&format!("{directory}/{name}"), &fs::read(&file).map_err(on("read", &file))?);
    }
    Ok(archive.finish())
}
