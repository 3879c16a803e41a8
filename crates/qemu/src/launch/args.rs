//! Owns QEMU's argument list.
//!
//! The primary and its standby get the same list but for descriptors and `-incoming defer`: the device state of
//! one fits the other only if both were built alike.

use super::Role;
use crate::accel::Accel;
use crate::install::ResolvedSpec;
use crate::spec::{DiskModel, NicModel};
use serde_json::json;
use std::os::fd::RawFd;

/// Name of the main memory's block.
pub const MAIN_MEMORY: &str = "ram0";

/// The numbers under which QEMU has our descriptors.
#[derive(Debug, Clone)]
pub struct InheritedFds {
    /// Main memory.
    pub memory: RawFd,
    /// The serial console.
    pub console: RawFd,
    /// One for each NIC.
    pub nics: Vec<RawFd>,
    /// One for each disk.
    pub disks: Vec<RawFd>,
}

/// The arguments for `role`, without the monitor.
#[must_use]
pub fn build(resolved: &ResolvedSpec, role: Role, fds: &InheritedFds) -> Vec<String> {
    let spec = &resolved.spec;
    let size = spec.memory.0;
    let mut args = Arguments::default();
    args.flag("-nodefaults").flag("-no-user-config").flag("-no-shutdown").flag("-S");
    // A device that cannot be saved must not exist: saving would silently leave it out.
    args.flag("-only-migratable");
    args.pair("-name", format!("guest={}", spec.name));
    args.pair("-display", "none").pair("-vga", "none");
    let (machine, options) = (&resolved.machine, spec.machine_options());
    args.pair(
        "-machine",
        format!("{machine}{options},accel={},memory-backend={MAIN_MEMORY}", resolved.accel),
    );
    args.pair("-cpu", &resolved.cpu_model).pair("-smp", processors(resolved));
    args.pair("-m", format!("{}k", size >> 10));
    args.pair(
        "-object",
        format!(
            "memory-backend-file,id={MAIN_MEMORY},size={size},mem-path=/proc/self/fd/{},share=on",
            fds.memory
        ),
    );
    args.pair("-chardev", format!("socket,id=console,fd={}", fds.console)).pair("-serial", "chardev:console");
    boot(&mut args, resolved);
    nics(&mut args, resolved, &fds.nics);
    disks(&mut args, resolved, &fds.disks);
    if role == Role::Standby {
        args.pair("-incoming", "defer");
    }
    args.0.extend(spec.extra_args.iter().cloned());
    args.0
}

/// TCG leaves the guest's memory barriers out where there can be one processor only, though QEMU's own thread shares
/// the rings of its devices: after some hundred thousand frames the guest misses a notification, and its network card
/// is dead for good (QEMU `accel/tcg/tcg-accel-ops-mttcg.c`, `smp.max_cpus > 1`; locked instructions are not atomic
/// then in any version, `mfence` is nothing before 8.1). Room for a second processor keeps them in.
fn processors(resolved: &ResolvedSpec) -> String {
    match (resolved.spec.cpus, resolved.accel) {
        (1, Accel::Tcg) => "1,maxcpus=2".to_owned(),
        (cpus, _) => cpus.to_string(),
    }
}

#[derive(Default)]
struct Arguments(Vec<String>);

impl Arguments {
    fn flag(&mut self, name: &str) -> &mut Self {
        self.0.push(name.to_string());
        self
    }

    fn pair(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.0.extend([name.to_string(), value.into()]);
        self
    }
}

fn boot(args: &mut Arguments, resolved: &ResolvedSpec) {
    let spec = &resolved.spec;
    let files = [("-kernel", &spec.kernel), ("-initrd", &spec.initrd), ("-bios", &spec.firmware)];
    for (option, file) in files {
        if let Some(file) = file {
            args.pair(option, file.display().to_string());
        }
    }
    if let Some(append) = &spec.append {
        args.pair("-append", append);
    }
}

/// Every NIC is a stream of frames over an inherited socket. Its option ROM is left out: it is a block of memory
/// more, whose address QEMU 7.2 does not tell, and only serves to boot from the network.
fn nics(args: &mut Arguments, resolved: &ResolvedSpec, fds: &[RawFd]) {
    let spec = &resolved.spec;
    assert_eq!(fds.len(), spec.nics.len(), "one descriptor for each NIC");
    let microvm = spec.is_microvm();
    for (index, (nic, fd)) in spec.nics.iter().zip(fds).enumerate() {
        let device = match spec.nic_model(nic) {
            _ if microvm => "virtio-net-device",
            NicModel::Virtio => "virtio-net-pci,romfile=",
            NicModel::VirtioLegacy => "virtio-net-pci,romfile=,disable-modern=on,vectors=0",
            NicModel::E1000e => "e1000e,romfile=",
        };
        args.pair("-netdev", format!("stream,id=net{index},server=off,addr.type=fd,addr.str={fd}"));
        args.pair("-device", format!("{device},id=nic{index},netdev=net{index},mac={}", spec.mac(index)));
    }
    if microvm && spec.nics.iter().any(|nic| spec.nic_model(nic) == NicModel::Virtio) {
        args.pair("-global", "virtio-mmio.force-legacy=false");
    }
}

/// Every disk is a conversation in the NBD protocol over an inherited socket, with the agent at the other end. The
/// guest's write cache is on, so that its flushes reach the agent; the host's page cache is the agent's matter.
fn disks(args: &mut Arguments, resolved: &ResolvedSpec, fds: &[RawFd]) {
    let spec = &resolved.spec;
    assert_eq!(fds.len(), spec.disks.len(), "one descriptor for each disk");
    for (index, (disk, fd)) in spec.disks.iter().zip(fds).enumerate() {
        let device = match spec.disk_model(disk) {
            _ if spec.is_microvm() => "virtio-blk-device",
            DiskModel::Virtio => "virtio-blk-pci",
            DiskModel::VirtioLegacy => "virtio-blk-pci,disable-modern=on,vectors=0",
        };
        let read_only = if disk.read_only { "on" } else { "off" };
        let bytes = if disk.is_qcow2() { format!("disk{index}-bytes") } else { format!("disk{index}") };
        args.pair(
            "-blockdev",
            format!(
                "driver=nbd,node-name={bytes},server.type=fd,server.str={fd},export={},read-only={read_only},discard=unmap",
                disk_export(index)
            ),
        );
        if disk.is_qcow2() {
            args.pair("-blockdev", qcow2(index, &bytes, disk.read_only));
        }
        args.pair("-device", format!("{device},id=disk{index}-dev,drive=disk{index},write-cache=on"));
    }
}

/// QEMU's own driver over the bytes that the agent serves. Whatever the header says, no other file is opened for it; and
/// reference counts are kept at all times, or QEMU would go through the whole image when a standby takes it into use.
fn qcow2(index: usize, bytes: &str, read_only: bool) -> String {
    json!({
        "driver": "qcow2",
        "node-name": format!("disk{index}"),
        "file": bytes,
        "backing": null,
        "lazy-refcounts": false,
        "read-only": read_only,
        "discard": "unmap",
    })
    .to_string()
}

/// The name under which QEMU asks for the disk at `index`.
#[must_use]
pub fn disk_export(index: usize) -> String {
    format!("disk{index}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accel::Accel;
    use crate::spec::VmSpec;

    fn build_for(text: &str, role: Role) -> String {
        let spec = VmSpec::parse(text, "test").unwrap();
        let fds = InheritedFds {
            memory: 7,
            console: 8,
            nics: (9..).take(spec.nics.len()).collect(),
            disks: (20..).take(spec.disks.len()).collect(),
        };
        let machine = spec.machine_or_default().to_string();
        let resolved = ResolvedSpec {
            spec,
            machine,
            accel: Accel::Tcg,
            accel_why: String::new(),
            cpu_model: "max".into(),
        };
        build(&resolved, role, &fds).join(" ")
    }

    const BASE: &str = "name = \"a\"\nfirmware = \"f.bin\"\nmemory = \"64MiB\"\n";

    #[test]
    fn primary_and_standby_differ_only_in_waiting() {
        let primary = build_for(BASE, Role::Primary);
        assert_eq!(build_for(BASE, Role::Standby), format!("{primary} -incoming defer"));
        assert!(primary.contains("-m 65536k") && primary.contains("mem-path=/proc/self/fd/7,share=on"));
    }

    #[test]
    fn one_processor_under_tcg_has_room_for_another() {
        let of = |cpus: u8| build_for(&format!("{BASE}cpus = {cpus}\n"), Role::Primary);
        assert!(of(1).contains("-smp 1,maxcpus=2 "), "or memory barriers are left out");
        assert!(of(2).contains("-smp 2 "));
    }

    #[test]
    fn each_nic_has_its_socket_and_no_rom() {
        let text =
            format!("{BASE}[[nic]]\nbridge = \"br0\"\n[[nic]]\nbridge = \"br0\"\nmodel = \"e1000e\"\n");
        let args = build_for(&text, Role::Primary);
        assert!(args.contains("addr.type=fd,addr.str=9 -device virtio-net-pci,romfile=,id=nic0"));
        assert!(args.contains("addr.type=fd,addr.str=10 -device e1000e,romfile=,id=nic1"));
    }

    #[test]
    fn lean_is_a_small_pc_with_legacy_cards_unless_told_otherwise() {
        let lean = format!("{BASE}profile = \"lean\"\n[[nic]]\nbridge = \"br0\"\n");
        let args = build_for(&lean, Role::Primary);
        assert!(args.contains("-machine pc,usb=off,smm=off,vmport=off,accel=tcg"));
        assert!(args.contains("disable-modern=on,vectors=0"));
        assert!(!build_for(&format!("{lean}model = \"virtio\"\n"), Role::Primary).contains("disable-modern"));
    }

    #[test]
    fn each_disk_has_its_socket_and_suits_the_machine() {
        let text =
            format!("{BASE}[[disk]]\nimage = \"a.img\"\n[[disk]]\nimage = \"b.img\"\nread_only = true\n");
        let args = build_for(&text, Role::Primary);
        assert!(args.contains("node-name=disk0,server.type=fd,server.str=20,export=disk0,read-only=off"));
        assert!(args.contains("node-name=disk1,server.type=fd,server.str=21,export=disk1,read-only=on"));
        assert!(args.contains("-device virtio-blk-pci,id=disk0-dev,drive=disk0"));
        let lean = format!("{BASE}profile = \"lean\"\n[[disk]]\nimage = \"a.img\"\n");
        assert!(build_for(&lean, Role::Primary).contains("virtio-blk-pci,disable-modern=on,vectors=0"));
    }

    #[test]
    fn qcow2_is_stacked_on_what_is_served_and_never_guessed() {
        let disk =
            |more: &str| build_for(&format!("{BASE}[[disk]]\nimage = \"a.qcow2\"\n{more}"), Role::Primary);
        let args = disk("format = \"qcow2\"\n");
        assert!(args.contains("driver=nbd,node-name=disk0-bytes,server.type=fd"));
        assert!(args.contains(r#""file":"disk0-bytes""#) && args.contains(r#""node-name":"disk0""#));
        assert!(args.contains(r#""backing":null"#) && args.contains(r#""lazy-refcounts":false"#));
        assert!(args.contains(r#""read-only":false"#) && args.contains("id=disk0-dev,drive=disk0,"));
        assert!(
            disk("format = \"qcow2\"\nread_only = true\n").contains(r#""read-only":true"#),
            "both layers"
        );
        assert_eq!(disk(""), disk("format = \"raw\"\n"));
        assert!(!disk("").contains("qcow2\""));
    }

    #[test]
    fn the_bus_of_a_microvm_is_modern_or_legacy_as_a_whole() {
        let microvm = format!("{BASE}machine = \"microvm\"\n[[nic]]\nbridge = \"br0\"\n");
        let modern = build_for(&microvm, Role::Primary);
        assert!(
            modern.contains("virtio-net-device") && modern.contains("-global virtio-mmio.force-legacy=false")
        );
        let legacy = build_for(&format!("{microvm}model = \"virtio-legacy\"\n"), Role::Primary);
        assert!(legacy.contains("virtio-net-device") && !legacy.contains("-global"));
    }
}
