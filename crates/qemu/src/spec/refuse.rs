//! Owns the list of what cannot be protected, as far as QEMU's arguments show it.
//!
//! Two kinds of arguments are refused: those that put a part of the VM outside the reach of checkpoints (a disk
//! that would not follow, memory written behind the tracker's back, output that would not wait), and those that
//! are given by the agent itself. What is not refused here may still be refused by QEMU as a migration blocker.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// Why something cannot be protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Writes to a local disk stay behind when the VM goes on elsewhere.
    WritableDisk,
    /// The argument is one of those that the agent gives.
    OwnedArgument,
    /// A vhost-user back end writes guest memory through its own mapping, unseen by the tracker.
    VhostUser,
    /// vhost moves frames past the gate, and memory past the tracker.
    Vhost,
    /// A device that is passed through writes guest memory by DMA and keeps state that cannot be saved.
    PassedThrough,
    /// Huge pages of hugetlbfs are tracked whole, and the kernel has bugs there.
    HugePages,
    /// The guest's memory must be the agent's own.
    ForeignMemory,
    /// A balloon discards memory while it is tracked.
    Balloon,
    /// Memory added later is not tracked.
    MemoryHotplug,
    /// Frames that do not pass the gate would leave before their checkpoint is safe.
    UngatedNetwork,
    /// A file system shared with the host stays behind.
    SharedFiles,
    /// A part of the VM's state is in another program.
    StateElsewhere,
    /// The argument hides others, which cannot be checked.
    Hidden,
    /// A sandbox forbids the system call that starts the tracker.
    Sandbox,
    /// Not an argument at all, or one without its value.
    Malformed,
}

impl Reason {
    fn why(self) -> &'static str {
        match self {
            Self::WritableDisk => {
                "writes to a local disk would stay behind when the VM goes on at another host"
            }
            Self::OwnedArgument => "the agent gives this argument itself",
            Self::VhostUser => {
                "a vhost-user back end writes guest memory where the dirty-page tracker cannot see it"
            }
            Self::Vhost => "vhost moves frames past the output gate and memory past the tracker",
            Self::PassedThrough => "a host device writes guest memory unseen, and its state cannot be saved",
            Self::HugePages => "hugetlbfs pages cannot be tracked one by one",
            Self::ForeignMemory => "the guest's memory must belong to the agent, which copies it",
            Self::Balloon => "a balloon discards memory while it is tracked",
            Self::MemoryHotplug => "memory that is added later is not tracked",
            Self::UngatedNetwork => {
                "its frames would leave before the checkpoint that they depend on is safe"
            }
            Self::SharedFiles => "files shared with this host would stay behind",
            Self::StateElsewhere => {
                "a part of the VM's state lives in another program and cannot be saved with it"
            }
            Self::Hidden => "it brings in settings that cannot be checked",
            Self::Sandbox => "it forbids the system call with which dirty pages are tracked",
            Self::Malformed => "it is not an option of QEMU with its value",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::WritableDisk => "describe the disk in [[disk]], which is replicated, or add read-only=on",
            Self::OwnedArgument => {
                "remove it, and use the key of the VM file that stands for it, if there is one"
            }
            Self::VhostUser | Self::Vhost | Self::UngatedNetwork => {
                "remove it, and describe the card in [[nic]]"
            }
            Self::PassedThrough => "use an emulated or virtio device",
            Self::HugePages | Self::ForeignMemory => "remove it; `memory` sets the size",
            Self::Balloon => "remove the balloon",
            Self::MemoryHotplug => "give the VM its memory from the start with `memory`",
            Self::SharedFiles => "reach the files over the network, from a server that survives the host",
            Self::StateElsewhere => "remove the device",
            Self::Hidden => "write the settings out as arguments",
            Self::Sandbox => "remove it",
            Self::Malformed => "write each option and each value as an element of its own",
        }
    }
}

/// Something that stands in the way of protection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What: the argument or the property.
    pub what: String,
    /// Why.
    pub reason: Reason,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` cannot be protected: {}; {}", self.what, self.reason.why(), self.reason.remedy())
    }
}

/// Options that take no value. Every other option takes the next argument, whatever it looks like.
const WITHOUT_VALUE: &[&str] = &[
    "S",
    "daemonize",
    "enable-kvm",
    "full-screen",
    "h",
    "help",
    "mem-prealloc",
    "no-acpi",
    "no-fd-bootchk",
    "no-hpet",
    "no-quit",
    "no-reboot",
    "no-shutdown",
    "no-user-config",
    "nodefaults",
    "nographic",
    "only-migratable",
    "portrait",
    "preconfig",
    "s",
    "singlestep",
    "snapshot",
    "usb",
    "version",
    "win2k-hack",
    "xen-attach",
    "xen-domid-restrict",
];

const OWNED: &[&str] = &[
    "M",
    "S",
    "accel",
    "add-fd",
    "append",
    "bios",
    "chroot",
    "cpu",
    "daemonize",
    "enable-kvm",
    "incoming",
    "initrd",
    "kernel",
    "loadvm",
    "m",
    "machine",
    "mon",
    "monitor",
    "name",
    "no-shutdown",
    "nodefaults",
    "nographic",
    "pidfile",
    "preconfig",
    "qmp",
    "qmp-pretty",
    "run-with",
    "runas",
    "serial",
    "smp",
    "user",
    "h",
    "help",
    "version",
    "qtest",
];

/// An option with its value; neither has its dashes.
#[derive(Debug, PartialEq)]
struct Opt<'a> {
    name: &'a str,
    value: &'a str,
}

/// Cuts arguments into options; what is not an option comes back as itself.
fn options(args: &[String]) -> Vec<Result<Opt<'_>, &str>> {
    let mut found = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let name = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|n| !n.is_empty());
        found.push(match name {
            None => Err(arg.as_str()),
            Some(name) if WITHOUT_VALUE.contains(&name) => Ok(Opt { name, value: "" }),
            Some(name) => args.next().map(|value| Opt { name, value }).ok_or(arg.as_str()),
        });
    }
    found
}

pub(super) fn refusals(args: &[String], cpu_model: Option<&str>) -> Vec<Refusal> {
    let mut all: Vec<Refusal> = options(args)
        .into_iter()
        .filter_map(|option| match option {
            Err(what) => Some(Refusal { what: what.to_string(), reason: Reason::Malformed }),
            Ok(option) => reason(&option).map(|reason| Refusal {
                what: format!("-{} {}", option.name, option.value).trim_end().to_string(),
                reason,
            }),
        })
        .collect();
    // `-cpu host,migratable=off` passes on features whose state QEMU cannot save.
    if let Some(model) = cpu_model.filter(|m| has(m, "migratable", "off")) {
        all.push(Refusal { what: format!("-cpu {model}"), reason: Reason::StateElsewhere });
    }
    all
}

fn reason(option: &Opt<'_>) -> Option<Reason> {
    let value = option.value;
    match option.name {
        name if OWNED.contains(&name) => Some(Reason::OwnedArgument),
        "drive" | "blockdev" => (!is_read_only(value)).then_some(Reason::WritableDisk),
        "hda" | "hdb" | "hdc" | "hdd" | "fda" | "fdb" | "mtdblock" | "sd" | "pflash" | "snapshot" => {
            Some(Reason::WritableDisk)
        }
        "netdev" | "nic" | "net" => Some(network_reason(value)),
        "mem-path" if value.contains("huge") => Some(Reason::HugePages),
        "mem-path" | "mem-prealloc" | "numa" => Some(Reason::ForeignMemory),
        "balloon" => Some(Reason::Balloon),
        "fsdev" | "virtfs" => Some(Reason::SharedFiles),
        "tpmdev" => Some(Reason::StateElsewhere),
        "readconfig" | "set" => Some(Reason::Hidden),
        "sandbox" => Some(Reason::Sandbox),
        "object" => object_reason(value),
        "device" => device_reason(value),
        "chardev" if value.contains("vhost") => Some(Reason::VhostUser),
        "usbdevice" if value.starts_with("host") => Some(Reason::PassedThrough),
        _ => None,
    }
}

fn network_reason(value: &str) -> Reason {
    match value {
        v if v.contains("vhost-user") => Reason::VhostUser,
        v if v.contains("vhost-vdpa") || has(v, "vhost", "on") => Reason::Vhost,
        _ => Reason::UngatedNetwork,
    }
}

fn object_reason(value: &str) -> Option<Reason> {
    let kind = kind(value, "qom-type");
    match kind.as_str() {
        "memory-backend-file" if value.contains("huge") => Some(Reason::HugePages),
        k if k.starts_with("memory-backend") && has(value, "hugetlb", "on") => Some(Reason::HugePages),
        k if k.starts_with("memory-backend") => Some(Reason::ForeignMemory),
        k if k.starts_with("vfio") || k.starts_with("iommufd") || k == "x-remote-object" => {
            Some(Reason::PassedThrough)
        }
        k if k.starts_with("filter-") || k == "colo-compare" => Some(Reason::UngatedNetwork),
        _ => None,
    }
}

fn device_reason(value: &str) -> Option<Reason> {
    let kind = kind(value, "driver");
    let is = |prefix: &str| kind.starts_with(prefix);
    match kind.as_str() {
        _ if is("vhost-user") => Some(Reason::VhostUser),
        _ if is("vhost") || has(value, "vhost", "on") => Some(Reason::Vhost),
        _ if is("vfio")
            || is("usb-host")
            || is("xen-pci-passthrough")
            || is("pvrdma")
            || is("scsi-generic") =>
        {
            Some(Reason::PassedThrough)
        }
        _ if is("virtio-balloon") => Some(Reason::Balloon),
        _ if is("pc-dimm") || is("nvdimm") || is("virtio-mem") || is("virtio-pmem") || is("cxl-") => {
            Some(Reason::MemoryHotplug)
        }
        _ if is("virtio-9p") => Some(Reason::SharedFiles),
        _ if is("ivshmem")
            || is("tpm-")
            || is("usb-mtp")
            || is("usb-redir")
            || is("ccid")
            || is("virtio-gpu-rutabaga") =>
        {
            Some(Reason::StateElsewhere)
        }
        _ => None,
    }
}

/// The kind of a device or object: `kind,key=value`, `key=kind,...`, or JSON.
fn kind(value: &str, key: &str) -> String {
    if let Some(json) = json(value) {
        return json[key].as_str().unwrap_or("").to_string();
    }
    let named = value.split(',').find_map(|p| p.strip_prefix(key)?.strip_prefix('='));
    named.or_else(|| value.split(',').next()).unwrap_or("").to_string()
}

fn json(value: &str) -> Option<serde_json::Value> {
    value.trim_start().starts_with('{').then(|| serde_json::from_str(value).unwrap_or_default())
}

/// Whether an option list sets `key` to `on` or `off` in any of the ways in which QEMU reads it.
fn has(list: &str, key: &str, wanted: &str) -> bool {
    let (on, words): (bool, &[&str]) = match wanted {
        "on" => (true, &["on", "yes", "true", "y"]),
        _ => (false, &["off", "no", "false", "n"]),
    };
    if let Some(json) = json(list) {
        return json[key].as_bool() == Some(on) || json[key].as_str().is_some_and(|v| words.contains(&v));
    }
    list.split(',').any(|part| match part.split_once('=') {
        Some((k, v)) => k == key && words.contains(&v),
        None => on && part == key,
    })
}

fn is_read_only(value: &str) -> bool {
    let says_so = has(value, "read-only", "on") || has(value, "readonly", "on");
    let takes_back = has(value, "read-only", "off") || has(value, "readonly", "off");
    let cdrom = value.split(',').any(|part| part == "media=cdrom");
    (says_so || cdrom) && !takes_back
}

/// The files of media that may only be read.
pub(super) fn read_only_files(args: &[String]) -> Vec<PathBuf> {
    let file = |option: &Opt<'_>| match option.name {
        "cdrom" => Some(option.value.to_string()),
        "drive" | "blockdev" => match json(option.value) {
            Some(json) => json["filename"].as_str().map(str::to_string),
            None => option
                .value
                .split(',')
                .find_map(|p| p.strip_prefix("file=").or_else(|| p.strip_prefix("filename=")))
                .map(str::to_string),
        },
        _ => None,
    };
    options(args).into_iter().flatten().filter_map(|o| file(&o)).map(PathBuf::from).collect()
}
