//! Owns which Debian packages this machine needs, which are missing, and installing them.
//!
//! Nothing is installed unseen: [`missing`] tells what and why, the caller shows it, then calls [`install`].
//! What only the guest needs (its kernel, Redis and its libraries) is never installed: see [`crate::guest`].

use std::path::Path;
use std::process::Command;

use crate::command::{self, CommandError};

/// A Debian package that the demo, the tests and the benchmarks need on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Package {
    /// Name in Debian.
    pub name: &'static str,
    /// A file that is there once the package is installed.
    pub file: &'static str,
    /// What it is needed for.
    pub why: &'static str,
}

/// Everything needed on the machine itself.
pub const NEEDED: &[Package] = &[
    Package { name: "qemu-system-x86", file: "usr/bin/qemu-system-x86_64", why: "runs the protected guests" },
    Package {
        name: "qemu-system-misc",
        file: "usr/bin/qemu-system-riscv64",
        why: "is what the deterministic machine is compared with",
    },
    Package {
        name: "iproute2",
        file: "bin/ip",
        why: "builds the hosts, the switch and the client as network namespaces",
    },
    Package { name: "busybox-static", file: "bin/busybox", why: "is the guest's user land" },
    Package {
        name: "redis-tools",
        file: "usr/bin/redis-benchmark",
        why: "redis-benchmark is one of the loads",
    },
    Package {
        name: "binutils",
        file: "usr/bin/as",
        why: "assembles the bare-metal counter guest, lists the libraries of Redis",
    },
    Package {
        name: "tcpdump",
        file: "usr/bin/tcpdump",
        why: "shows in the tests that a fenced host says nothing",
    },
    Package {
        name: "qemu-utils",
        file: "usr/bin/qemu-img",
        why: "makes and checks qcow2 images of the guests' disks",
    },
    Package { name: "e2fsprogs", file: "sbin/mkfs.ext4", why: "makes the file systems of the guests' disks" },
    Package { name: "gcc", file: "usr/bin/cc", why: "links Rust programs" },
    Package {
        name: "libc6-dev",
        file: "usr/lib/x86_64-linux-gnu/libc.a",
        why: "links the guest's pulse program statically",
    },
];

/// Why packages could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum PackagesError {
    /// The machine has no apt.
    #[error(
        "{packages} are missing and this is not a Debian machine (no apt-get): install what they hold by hand"
    )]
    NotDebian {
        /// Names of the missing packages.
        packages: String,
    },
    /// Only root may install.
    #[error(
        "{packages} are missing and only root may install them: run this as root, or run `apt-get install {packages}`"
    )]
    NotRoot {
        /// Names of the missing packages.
        packages: String,
    },
    /// apt-get failed.
    #[error("cannot install {packages}: {source}; is the machine offline?")]
    Apt {
        /// Names of the packages.
        packages: String,
        /// What apt-get said.
        source: CommandError,
    },
}

/// The needed packages whose files are not there.
pub fn missing() -> Vec<Package> {
    missing_below(Path::new("/"))
}

fn missing_below(root: &Path) -> Vec<Package> {
    NEEDED.iter().filter(|package| !root.join(package.file).exists()).copied().collect()
}

/// One line per package, with the reason, to be shown before anything is installed.
pub fn explain(packages: &[Package]) -> String {
    packages.iter().map(|package| format!("  {:<16} {}\n", package.name, package.why)).collect()
}

/// Installs packages with apt-get, without asking and without recommended ones; nothing to do for an empty list.
///
/// # Errors
/// Not root, not Debian, or apt-get fails even after `apt-get update`.
pub fn install(packages: &[Package]) -> Result<(), PackagesError> {
    if packages.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = packages.iter().map(|package| package.name).collect();
    let packages = names.join(" ");
    if !Path::new("/usr/bin/apt-get").exists() {
        return Err(PackagesError::NotDebian { packages });
    }
    if !rustix::process::geteuid().is_root() {
        return Err(PackagesError::NotRoot { packages });
    }
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(&names);
    with_update(apt_get, &arguments).map(drop).map_err(|source| PackagesError::Apt { packages, source })
}

/// Runs `apt-get ARGUMENTS`; if that fails, once more after `apt-get update`, since the lists may be missing or old.
pub(crate) fn with_update(apt_get: impl Fn() -> Command, arguments: &[&str]) -> Result<String, CommandError> {
    let first = command::run(apt_get().args(arguments));
    if first.is_ok() {
        return first;
    }
    command::run(apt_get().arg("update"))?;
    command::run(apt_get().args(arguments))
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_not_missing() {
        let root = tempfile::tempdir().expect("a directory");
        assert_eq!(missing_below(root.path()), NEEDED);
        for package in &NEEDED[1..] {
            let file = root.path().join(package.file);
            std::fs::create_dir_all(file.parent().expect("a parent")).expect("directories");
            std::fs::write(file, "").expect("a file");
        }
        assert_eq!(missing_below(root.path()), NEEDED[..1]);
        assert!(explain(&NEEDED[..1]).contains("runs the protected guests"));
    }
}
