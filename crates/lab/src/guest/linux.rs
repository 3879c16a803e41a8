//! Owns what all Linux guests have in common: Debian's stock cloud kernel, and an initramfs with the drivers, busybox
//! and the pulse program, in which each guest puts its own `/serve`.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::cpio::Archive;
use super::debian::{Unpacked, file_name};
use super::{GuestError, on, pulse};
use crate::command;
use crate::plain::Machine;
use crate::topology::GuestAddress;

/// Debian's package of the kernel.
pub const KERNEL: &str = "linux-image-cloud-amd64";
/// The kernel's word that tells a guest to mount its first disk, an ext4, at `/data`.
pub const ON_DISK: &str = "ud.disk=/dev/vda";

const INIT: &str = include_str!("../../guest/init.sh");
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

/// What is in every guest made here, for the recipe of one.
pub fn recipe() -> String {
    let debian = fs::read_to_string("/etc/debian_version").unwrap_or_default();
    [KERNEL, INIT, pulse::SOURCE, &MODULES.join(" "), &debian].join("\0")
}

/// Puts the kernel at `place`.
pub fn kernel(unpacked: &Unpacked, place: &Path) -> Result<(), GuestError> {
    let kernel = unpacked.find("vmlinuz", |path| file_name(path).starts_with("vmlinuz-"))?;
    fs::copy(&kernel, place).map(drop).map_err(on("copy", &kernel))
}

/// An initramfs that begins with `init.sh`, and goes on with the shell script `serve`.
pub fn initramfs(unpacked: &Unpacked, pulse: &Path, serve: &str) -> Result<Archive, GuestError> {
    let mut archive = Archive::new();
    for directory in ["proc", "sys", "tmp"] {
        archive.directory(directory);
    }
    archive.file("init", INIT.as_bytes());
    archive.file("serve", serve.as_bytes());
    for (path, source) in [("bin/busybox", Path::new("/bin/busybox")), ("bin/pulse", pulse)] {
        archive.file(path, &fs::read(source).map_err(on("read", source))?);
    }
    let mut order = String::new();
    for module in MODULES {
        archive.file(&format!("modules/{module}.ko"), &kernel_module(unpacked, module)?);
        order.push_str(&format!("{module}.ko\n"));
    }
    archive.file("modules/order", order.as_bytes());
    Ok(archive)
}

/// A module, decompressed: Debian 12 ships plain files, later ones `.ko.xz` or `.ko.zst`.
pub fn kernel_module(unpacked: &Unpacked, name: &str) -> Result<Vec<u8>, GuestError> {
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

/// The kernel command line on a machine of this type.
///
/// `pulse` is the load that the pulse program begins with: pages, rate, pattern, such as `300:300/tick:seq`.
pub fn append(machine: Machine, address: GuestAddress, pulse: Option<&str>) -> String {
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
