//! Owns the guest of the deterministic machine: Debian 13's stock kernel for riscv64, busybox and Redis from its
//! packages in an initramfs.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cache::Cache;
use super::cpio::Archive;
use super::debian::{self, Source, Unpacked, file_name};
use super::{GuestError, linux, on, read_manifest, write_manifest};
use crate::topology::GuestAddress;

const INIT: &str = include_str!("../../guest/riscv.sh");
const CONFIG: &str = include_str!("../../guest/redis.conf");
const KERNEL: &str = "linux-image-riscv64";
const REDIS: &str = "redis-server";
const BUSYBOX: &str = "busybox-static";
/// In the order of their dependencies.
const MODULES: [&str; 11] = [
    "virtio_mmio",
    "failover",
    "net_failover",
    "virtio_net",
    "virtio_blk",
    "virtio-rng",
    "crc16",
    "crc32c_generic",
    "mbcache",
    "jbd2",
    "ext4",
];
/// Counts changes of this file that change the image without changing a source above.
const RECIPE: &str = "riscv guest, recipe 2";

/// The files and facts of the guest.
#[derive(Clone, Debug)]
pub struct RiscvGuest {
    /// For `undying rv run --kernel`.
    pub kernel: PathBuf,
    /// For `undying rv run --initrd`.
    pub initrd: PathBuf,
    /// What is in it.
    pub manifest: Manifest,
}

/// What the guest was made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// All packages of which files may be in the image: name and version.
    pub packages: Vec<(String, String)>,
}

impl RiscvGuest {
    /// The guest from the cache; the first time it is downloaded and built, which takes a minute.
    ///
    /// # Errors
    /// The packages cannot be fetched, a program of the build fails, or the disk does.
    pub fn build(cache: &Cache) -> Result<RiscvGuest, GuestError> {
        let recipe = [RECIPE, KERNEL, REDIS, BUSYBOX, INIT, CONFIG, &MODULES.join(" ")];
        let place = cache.get("riscv", &recipe.map(str::as_bytes), build_in)?;
        let manifest = read_manifest(&place)?;
        Ok(RiscvGuest { kernel: place.join("kernel"), initrd: place.join("initrd"), manifest })
    }

    /// The kernel command line for a guest with this address and, if wished, an ext4 file system on its first disk.
    pub fn append(&self, address: Option<GuestAddress>, disk: bool) -> String {
        let mut line =
            "console=ttyS0 quiet panic=-1 nowatchdog audit=0 random.trust_bootloader=on".to_owned();
        if let Some(address) = address {
            let (v4, v6) = (address.v4_with_prefix(), address.v6_with_prefix());
            line.push_str(&format!(" ud.ip={v4} ud.ip6={v6}"));
        }
        if disk {
            line.push_str(&format!(" {}", linux::ON_DISK));
        }
        line
    }
}

fn build_in(work: &Path) -> Result<(), GuestError> {
    let scratch = work.join("scratch");
    let source = Source::foreign(&scratch, "trixie", "riscv64")?;
    let unpacked = debian::unpack_from(&source, &scratch, &[KERNEL, BUSYBOX, REDIS], |name| {
        debian::is_library_or_kernel(name) || name.starts_with("redis-")
    })?;
    let kernel = unpacked.find("vmlinux", |path| file_name(path).starts_with("vmlinux-"))?;
    fs::copy(&kernel, work.join("kernel")).map_err(on("copy", &kernel))?;
    fs::write(work.join("initrd"), initramfs(&unpacked)?).map_err(on("write", work.join("initrd")))?;
    write_manifest(work, &Manifest { packages: unpacked.versions })?;
    fs::remove_dir_all(&scratch).map_err(on("remove", &scratch))
}

fn initramfs(unpacked: &Unpacked) -> Result<Vec<u8>, GuestError> {
    let mut archive = Archive::new();
    for directory in ["proc", "sys", "tmp", "data"] {
        archive.directory(directory);
    }
    archive.file("init", INIT.as_bytes());
    archive.file("etc/redis.conf", CONFIG.as_bytes());
    let busybox = unpacked.find("busybox", |path| path.ends_with("bin/busybox"))?;
    archive.file("bin/busybox", &fs::read(&busybox).map_err(on("read", &busybox))?);
    let redis = unpacked.find(REDIS, |path| path.ends_with("bin/redis-server"))?;
    let redis = fs::canonicalize(&redis).map_err(on("resolve", &redis))?;
    archive.file("bin/redis-server", &fs::read(&redis).map_err(on("read", &redis))?);
    for (name, file) in unpacked.libraries(&redis)? {
        // The dynamic linker has a fixed place; the others are where it looks.
        let directory = if name.starts_with("ld-linux") { "lib" } else { "lib/riscv64-linux-gnu" };
        archive.file(&format!("{directory}/{name}"), &fs::read(&file).map_err(on("read", &file))?);
    }
    let mut order = String::new();
    for module in MODULES {
        archive.file(&format!("modules/{module}.ko"), &linux::kernel_module(unpacked, module)?);
        order.push_str(&format!("{module}.ko\n"));
    }
    archive.file("modules/order", order.as_bytes());
    Ok(archive.finish())
}

/// Makes a disk of so many MiB at `path`, with an ext4 file system on it.
///
/// # Errors
/// The disk is full, or `mkfs.ext4` is not there.
pub fn make_disk(path: &Path, mebibytes: u64) -> Result<(), GuestError> {
    let file = fs::File::create(path).map_err(on("create", path))?;
    file.set_len(mebibytes << 20).map_err(on("size", path))?;
    Ok(super::ext4::format(path)?)
}
