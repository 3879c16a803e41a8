//! Owns the question whether two hosts are alike enough for a VM to move between them.
//!
//! QEMU itself notices only some differences, and late: while it loads a state, at the failover. So everything
//! that must be equal is compared before protection begins.

use crate::accel::Accel;
use crate::install::{Installation, ResolvedSpec};
use crate::qmp::Version;
use crate::ram::RamLayout;
use crate::spec::VmSpec;
use crate::stamp::Learnt;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Why the fingerprint of a host cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum FingerprintError {
    /// A file of the VM cannot be read.
    #[error("cannot read the {key} {path} on this host: {source}; it must be there on every host of the VM", path = .path.display())]
    File {
        /// The key of the VM file that names it.
        key: String,
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The processor's flags cannot be read.
    #[error("cannot read this host's processor flags: {source}")]
    CpuFlags {
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// What must be equal on both hosts of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// QEMU's version, with the distribution's mark.
    pub qemu: Version,
    /// The exact machine type.
    pub machine: String,
    /// The accelerator.
    pub accel: Accel,
    /// QEMU's `-cpu`.
    pub cpu_model: String,
    /// The processor's flags, if the guest may see them; none with a named model under TCG.
    pub cpu_flags: Vec<String>,
    /// Digest of each file that the VM is made of, with the key that names it.
    pub files: Vec<(String, String)>,
    /// The memory blocks, once a QEMU runs.
    pub ram: Option<RamLayout>,
}

/// Something that is not equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// What.
    pub what: String,
    /// On the first host.
    pub first: String,
    /// On the second host.
    pub second: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} differs: {} here, {} there; {}", self.what, self.first, self.second, self.remedy)
    }
}

impl Fingerprint {
    /// Takes the fingerprint of this host for a VM; `ram` is known once a QEMU runs.
    ///
    /// # Errors
    /// If a file of the VM is not there.
    pub fn take(
        installation: &Installation,
        resolved: &ResolvedSpec,
        ram: Option<&RamLayout>,
    ) -> Result<Self, FingerprintError> {
        let cpu_flags = if guest_sees_host(resolved) {
            let mut flags = os::facts::cpu_flags().map_err(|source| FingerprintError::CpuFlags { source })?;
            flags.sort_unstable();
            flags
        } else {
            Vec::new()
        };
        Ok(Self {
            qemu: installation.version().clone(),
            machine: resolved.machine.clone(),
            accel: resolved.accel,
            cpu_model: resolved.cpu_model.clone(),
            cpu_flags,
            files: digests(&resolved.spec)?,
            ram: ram.cloned(),
        })
    }
}

/// Under KVM even a named model runs on the host's own instructions; under TCG `max` follows what TCG can emulate
/// on this host, so it asks for equal hosts too.
fn guest_sees_host(resolved: &ResolvedSpec) -> bool {
    let model = resolved.cpu_model.split(',').next().unwrap_or("");
    resolved.accel == Accel::Kvm || matches!(model, "max" | "host")
}

/// The digest of each file that a VM is made of, with the key that names it.
///
/// # Errors
/// If one is not there.
pub fn digests(spec: &VmSpec) -> Result<Vec<(String, String)>, FingerprintError> {
    let digested = |(key, path): (String, PathBuf)| match DIGESTS.of(&path, || digest(&path)) {
        Ok(digest) => Ok((key, digest)),
        Err(source) => Err(FingerprintError::File { key, path, source }),
    };
    spec.files().into_iter().map(digested).collect()
}

/// Reading a kernel and an initial file system takes long.
static DIGESTS: Learnt<String> = Learnt::new();

fn digest(path: &Path) -> io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    let mut chunk = vec![0; 1 << 20];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(format!("{:032x}", hasher.digest128())),
            n => hasher.update(&chunk[..n]),
        }
    }
}

/// Compares the fingerprints of two hosts.
///
/// # Errors
/// Everything that differs.
pub fn compare(first: &Fingerprint, second: &Fingerprint) -> Result<(), Vec<Difference>> {
    let mut differences = Vec::new();
    let mut check = |what: &str, first: String, second: String, remedy: &str| {
        if first != second {
            let (what, remedy) = (what.to_string(), remedy.to_string());
            differences.push(Difference { what, first, second, remedy });
        }
    };
    let (a, b) = (first, second);
    check("QEMU's version", a.qemu.to_string(), b.qemu.to_string(), "install the same package on both hosts");
    check("the machine type", a.machine.clone(), b.machine.clone(), "use the same QEMU on both hosts");
    check(
        "the accelerator",
        a.accel.to_string(),
        b.accel.to_string(),
        "set `accel` to one that both hosts have",
    );
    check("the CPU model", a.cpu_model.clone(), b.cpu_model.clone(), "set `cpu_model` in the VM file");
    let (flags_a, flags_b) = (only(&a.cpu_flags, &b.cpu_flags), only(&b.cpu_flags, &a.cpu_flags));
    check(
        "the set of processor flags",
        flags_a,
        flags_b,
        "use hosts with equal processors, or TCG with a named `cpu_model`",
    );
    differences.extend(compare_files(&a.files, &b.files));
    if let (Some(ram_a), Some(ram_b)) = (&a.ram, &b.ram)
        && let Err(mismatch) = ram_a.check_same(ram_b)
    {
        differences.push(Difference {
            what: "the memory layout".to_string(),
            first: mismatch.first(),
            second: mismatch.second(),
            remedy: "use the same QEMU, machine and devices".to_string(),
        });
    }
    if differences.is_empty() { Ok(()) } else { Err(differences) }
}

/// What differs between the files of two hosts, as [`digests`] gives them.
#[must_use]
pub fn compare_files(first: &[(String, String)], second: &[(String, String)]) -> Vec<Difference> {
    let digest = |files: &[(String, String)], key: &str| {
        let found = files.iter().find(|(k, _)| k == key);
        found.map_or_else(|| "no such file".to_owned(), |(_, digest)| digest.clone())
    };
    let only_there = second.iter().filter(|(key, _)| first.iter().all(|(k, _)| k != key));
    let all = first.iter().chain(only_there).map(|(key, _)| {
        let what = format!("the {key} file");
        let (first, second) = (digest(first, key), digest(second, key));
        Difference { what, first, second, remedy: "copy it from one host to the other".to_owned() }
    });
    all.filter(|found| found.first != found.second).collect()
}

/// What `here` has and `there` has not.
fn only(here: &[String], there: &[String]) -> String {
    let extra: Vec<&str> = here.iter().filter(|f| !there.contains(f)).map(String::as_str).collect();
    if extra.is_empty() { "none more".to_string() } else { extra.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Fingerprint {
        Fingerprint {
            qemu: Version { major: 7, minor: 2, micro: 22, package: String::new() },
            machine: "pc-q35-7.2".into(),
            accel: Accel::Tcg,
            cpu_model: "max".into(),
            cpu_flags: vec!["avx".into(), "sse".into()],
            files: vec![("kernel".into(), "00ff".into())],
            ram: Some(RamLayout { blocks: Vec::new() }),
        }
    }

    #[test]
    fn equal_hosts_are_equal() {
        assert_eq!(compare(&sample(), &sample()), Ok(()));
    }

    #[test]
    fn each_single_difference_is_named() {
        type Change = fn(&mut Fingerprint);
        let changes: [(&str, Change); 7] = [
            ("QEMU's version", |f| f.qemu.micro += 1),
            ("the machine type", |f| f.machine.push('x')),
            ("the accelerator", |f| f.accel = Accel::Kvm),
            ("the CPU model", |f| f.cpu_model.push('x')),
            ("the set of processor flags", |f| drop(f.cpu_flags.pop())),
            ("the kernel file", |f| f.files[0].1.push('0')),
            ("the kernel file", |f| f.files.clear()),
        ];
        for (what, change) in changes {
            let mut other = sample();
            change(&mut other);
            for (a, b) in [(sample(), other.clone()), (other, sample())] {
                let differences = compare(&a, &b).unwrap_err();
                assert_eq!(differences.iter().map(|d| d.what.as_str()).collect::<Vec<_>>(), [what]);
            }
        }
    }
}
