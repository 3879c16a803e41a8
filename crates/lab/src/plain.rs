//! Owns running a guest in a QEMU without any agent: the unprotected baseline, and the check of the images themselves.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::topology::{Lab, LabError, ProcessId};

/// A machine type with the network card that suits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// `q35` with a modern virtio card on PCI.
    Q35,
    /// `microvm` with virtio on MMIO.
    Microvm,
}

impl Machine {
    /// Its name for `-M`.
    pub fn name(self) -> &'static str {
        match self {
            Machine::Q35 => "q35",
            Machine::Microvm => "microvm",
        }
    }

    /// The name of its virtio network device.
    pub fn network_device(self) -> &'static str {
        match self {
            Machine::Q35 => "virtio-net-pci",
            Machine::Microvm => "virtio-net-device",
        }
    }

    /// The name of its virtio disk device.
    pub fn disk_device(self) -> &'static str {
        match self {
            Machine::Q35 => "virtio-blk-pci",
            Machine::Microvm => "virtio-blk-device",
        }
    }
}

/// A guest to be run under TCG, with one network card on its host's bridge.
#[derive(Clone, Debug)]
pub struct PlainGuest<'a> {
    /// Name of the process, the TAP device and the log; at most 11 characters.
    pub name: &'a str,
    /// The machine type.
    pub machine: Machine,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// For `-kernel`.
    pub kernel: &'a Path,
    /// For `-initrd`.
    pub initrd: &'a Path,
    /// For `-append`.
    pub append: &'a str,
    /// A raw image for its disk, if it has one: by QEMU's own driver for files, through the host's page cache, as the
    /// agent serves it.
    pub disk: Option<&'a Path>,
}

impl PlainGuest<'_> {
    /// Starts QEMU on `host`; it ends with the lab, or by [`Lab::kill`].
    ///
    /// # Errors
    /// The TAP device cannot be made or QEMU not be started.
    pub fn start(&self, lab: &Lab, host: &str) -> Result<ProcessId, LabError> {
        let tap = format!("tap-{}", self.name);
        lab.add_tap(host, &tap)?;
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-nodefaults", "-vga", "none", "-display", "none", "-accel", "tcg", "-cpu", "max"])
            .args(["-M", self.machine.name(), "-smp", &format!("{},maxcpus={}", self.cpus, self.cpus.max(2))])
            .args(["-m", &format!("{}M", self.memory_mib), "-append", self.append])
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initrd)
            .args(["-netdev", &format!("tap,id=n0,ifname={tap},script=no,downscript=no")])
            .args(["-device", &format!("{},netdev=n0", self.machine.network_device())])
            .args(["-serial", &format!("file:{}", self.console(lab, host).display())]);
        if let Some(image) = self.disk {
            let image = image.display();
            command
                .args([
                    "-blockdev",
                    &format!("driver=file,node-name=f0,filename={image},discard=unmap,cache.direct=off"),
                ])
                .args(["-blockdev", "driver=raw,node-name=d0,file=f0,discard=unmap,cache.direct=off"])
                .args(["-device", &format!("{},drive=d0,write-cache=on", self.machine.disk_device())]);
        }
        lab.start(host, self.name, &mut command)
    }

    /// The file with what the guest says on its console.
    pub fn console(&self, lab: &Lab, host: &str) -> PathBuf {
        lab.directory().join(format!("{host}-{}.console", self.name))
    }
}
