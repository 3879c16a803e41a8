//! Owns the Redis guest: Debian's stock cloud kernel, an initramfs with Redis and the pulse program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::cache::Cache;
use super::cpio::Archive;
use super::debian::{self, Unpacked};
use super::{GuestError, on, pulse};
use crate::command;
use crate::plain::Machine;
use crate::topology::GuestAddress;

/// Port on which the guest's Redis listens, on IPv4 and IPv6.
pub const REDIS_PORT: u16 = 6379;

const INIT: &str = include_str!("../../guest/init.sh");
const CONFIG: &str = include_str!("../../guest/redis.conf");
const PACKAGES: [&str; 2] = ["linux-image-cloud-amd64", "redis-server"];
/// In the order of their dependencies. PCI and MMIO both: the same image runs on q35 and on microvm.
const MODULES: [&str; 10] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_mmio",
    "failover",
    "net_failover",
    "virtio_net",
    "virtio_blk",
];
/// The kernel's word that tells the guest to keep Redis's data on its first disk, an ext4.
pub const ON_DISK: &str = "ud.disk=/dev/vda";
/// Counts changes of this file that change the image without changing a source above.
const RECIPE: &str = "redis guest, recipe 1";

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
        let debian = fs::read_to_string("/etc/debian_version").unwrap_or_default();
        let recipe = [RECIPE, INIT, CONFIG, pulse::SOURCE, &PACKAGES.join(" "), &MODULES.join(" "), &debian];
        let place = cache.get("redis", &recipe.map(str::as_bytes), |work| build_in(work, &pulse))?;
        let manifest = place.join("manifest.json");
        let text = fs::read(&manifest).map_err(on("read", &manifest))?;
        let manifest = serde_json::from_slice(&text).map_err(|error| on("read", &manifest)(error.into()))?;
        Ok(RedisGuest { kernel: place.join("vmlinuz"), initrd: place.join("initrd"), manifest })
    }

    /// The kernel command line for this guest on a machine of this type.
    ///
    /// `pulse` is the load that the pulse program begins with: pages, rate, pattern, such as `300:300/tick:seq`.
    pub fn append(&self, machine: Machine, address: GuestAddress, pulse: Option<&str>) -> String {
        let mut line = format!(
            "console=ttyS0 quiet panic=-1 mitigations=off nowatchdog audit=0 random.trust_cpu=on ud.ip={} ud.ip6={}",
            address.v4_with_prefix(),
            address.v6_with_prefix()
        );
        if machine == Machine::Microvm
            && let Some(khz) = processor_khz()
        {
            line.push_str(&format!(" tsc=reliable tsc_early_khz={khz}"));
        }
        if let Some(work) = pulse {
            line.push_str(&format!(" ud.pulse={work}"));
        }
        line
    }
}

/// The rate of this machine's time stamp counter, as far as the kernel tells.
///
/// A microvm has no HPET and no ACPI timer. Its guest measures the counter against the PIT, which fails on a busy
/// host under TCG, and then never gets a timer tick: it hangs. So it is told. TCG's guests see the host's counter.
fn processor_khz() -> Option<u64> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("cpu MHz"))?;
    let mhz: f64 = line.split(':').nth(1)?.trim().parse().ok()?;
    Some((mhz * 1000.0) as u64)
}

fn build_in(work: &Path, pulse: &Path) -> Result<(), GuestError> {
    // The downloads are far larger than the image: they go when it is made.
    let scratch = work.join("scratch");
    let unpacked = debian::unpack(&scratch, &PACKAGES)?;
    let kernel = unpacked.find("vmlinuz", |path| file_name(path).starts_with("vmlinuz-"))?;
    fs::copy(&kernel, work.join("vmlinuz")).map_err(on("copy", &kernel))?;
    let initrd = initramfs(&unpacked, pulse)?;
    fs::write(work.join("initrd"), initrd).map_err(on("write", work.join("initrd")))?;
    let manifest = Manifest {
        kernel: unpacked.version(PACKAGES[0]),
        redis: unpacked.version(PACKAGES[1]),
        packages: unpacked.versions,
    };
    let text = serde_json::to_vec_pretty(&manifest).expect("a manifest of strings is always JSON");
    fs::write(work.join("manifest.json"), text).map_err(on("write", work.join("manifest.json")))?;
    fs::remove_dir_all(&scratch).map_err(on("remove", &scratch))
}

fn initramfs(unpacked: &Unpacked, pulse: &Path) -> Result<Vec<u8>, GuestError> {
    let mut archive = Archive::new();
    for directory in ["proc", "sys", "tmp"] {
        archive.directory(directory);
    }
    archive.file("init", INIT.as_bytes());
    archive.file("etc/redis.conf", CONFIG.as_bytes());
    let redis = unpacked.find("redis-server", |path| path.ends_with("bin/redis-server"))?;
    let redis = fs::canonicalize(&redis).map_err(on("resolve", &redis))?;
    for (path, source) in
        [("bin/busybox", Path::new("/bin/busybox")), ("bin/pulse", pulse), ("bin/redis-server", &redis)]
    {
        archive.file(path, &fs::read(source).map_err(on("read", source))?);
    }
    for (name, file) in unpacked.libraries(&redis)? {
        // The dynamic linker has a fixed place; the others are where it looks.
        let directory = if name.starts_with("ld-linux") { "lib64" } else { "lib/x86_64-linux-gnu" };
        archive.file(&format!("{directory}/{name}"), &fs::read(&file).map_err(on("read", &file))?);
    }
    let mut order = String::new();
    for module in MODULES {
        archive.file(&format!("modules/{module}.ko"), &kernel_module(unpacked, module)?);
        order.push_str(&format!("{module}.ko\n"));
    }
    archive.file("modules/order", order.as_bytes());
    Ok(archive.finish())
}

/// A module, decompressed: Debian 12 ships plain files, later ones `.ko.xz` or `.ko.zst`.
fn kernel_module(unpacked: &Unpacked, name: &str) -> Result<Vec<u8>, GuestError> {
    let prefix = format!("{name}.ko");
    let path = unpacked.find(&prefix, |path| {
        let file = file_name(path);
        file.strip_prefix(&prefix).is_some_and(|rest| matches!(rest, "" | ".xz" | ".zst"))
    })?;
    let unpacker = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(&path).map_err(on("read", &path)),
    };
    command::run(Command::new(unpacker).args(["--decompress", "--quiet"]).arg(&path))?;
    let plain = path.with_extension("");
    fs::read(&plain).map_err(on("read", &plain))
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}
