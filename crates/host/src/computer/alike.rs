//! Owns what a VM's machine is, everything decided, and whether two hosts would build the same one.

use super::MachineError;
use super::rv::{RvDecided, RvPrint};
use ::qemu::fingerprint::{self, Difference, Fingerprint};
use ::qemu::install::DEFAULT_BINARY;
use ::qemu::{Installation, ResolvedSpec, VmSpec};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A VM's description with everything decided that depends on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Decided {
    /// It runs in a QEMU process.
    Qemu(ResolvedSpec),
    /// It runs in the deterministic machine.
    Rv(RvDecided),
}

/// What must be equal on both hosts of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Print {
    /// Of a QEMU.
    Qemu(Fingerprint),
    /// Of the deterministic machine.
    Rv(RvPrint),
}

/// The QEMU of this host.
///
/// # Errors
/// If there is none, or one that will not do.
pub fn installation() -> Result<Installation, MachineError> {
    Ok(Installation::known(Path::new(DEFAULT_BINARY))?)
}

impl Decided {
    /// Decides what a VM file leaves open; `qemu` is asked for only if the VM needs one.
    ///
    /// # Errors
    /// If this host has not what it asks for.
    pub fn of<'a>(
        spec: VmSpec,
        qemu: impl FnOnce() -> Result<&'a Installation, MachineError>,
    ) -> Result<Self, MachineError> {
        if spec.is_deterministic() {
            return Ok(Self::Rv(RvDecided::of(spec)));
        }
        Ok(Self::Qemu(qemu()?.resolve(spec)?))
    }

    /// What the VM's file says.
    #[must_use]
    pub fn spec(&self) -> &VmSpec {
        match self {
            Self::Qemu(resolved) => &resolved.spec,
            Self::Rv(decided) => decided.spec(),
        }
    }

    /// For people.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Qemu(resolved) => format!(
                "{}, {} ({}), -cpu {}",
                resolved.machine, resolved.accel, resolved.accel_why, resolved.cpu_model
            ),
            Self::Rv(_) => "the deterministic machine, in the agent".to_owned(),
        }
    }
}

impl Print {
    /// Takes it of this host.
    ///
    /// # Errors
    /// If a file of the VM is not there, or its machine cannot be had.
    pub fn take<'a>(
        decided: &Decided,
        qemu: impl FnOnce() -> Result<&'a Installation, MachineError>,
    ) -> Result<Self, MachineError> {
        match decided {
            Decided::Qemu(resolved) => {
                let found = qemu()?;
                found.resolve_machine(&resolved.machine)?;
                Ok(Self::Qemu(Fingerprint::take(found, resolved, None)?))
            }
            Decided::Rv(decided) => Ok(Self::Rv(RvPrint::take(decided)?)),
        }
    }

    /// Compares what two hosts have.
    ///
    /// # Errors
    /// Everything that differs.
    pub fn compare(&self, other: &Self) -> Result<(), Vec<Difference>> {
        match (self, other) {
            (Self::Qemu(first), Self::Qemu(second)) => fingerprint::compare(first, second),
            (Self::Rv(first), Self::Rv(second)) => first.compare(second),
            _ => Err(vec![Difference {
                what: "what runs the VM".into(),
                first: self.kind().into(),
                second: other.kind().into(),
                remedy: "use the same version of undying on both hosts".into(),
            }]),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Qemu(_) => "QEMU",
            Self::Rv(_) => "the deterministic machine",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::computer::Described;

    const QEMU: &str = "name = 'web'\nmemory = '64MiB'\nfirmware = '/nonexistent'\n";

    fn spec(text: &str) -> VmSpec {
        VmSpec::parse(text, "a test").expect("right")
    }

    fn rv(folder: &Path) -> Decided {
        let kernel = folder.join("kernel");
        let text = format!("name = 'web'\nmachine = 'rv'\nmemory = '64MiB'\nkernel = {kernel:?}\n");
        Decided::of(spec(&text), || panic!("no QEMU is needed")).expect("decided")
    }

    fn qemu() -> Decided {
        Decided::Qemu(ResolvedSpec {
            spec: spec(QEMU),
            machine: "pc-q35-7.2".into(),
            accel: ::qemu::Accel::Tcg,
            accel_why: String::new(),
            cpu_model: "max".into(),
        })
    }

    fn no_qemu() -> Result<&'static Installation, MachineError> {
        Err(MachineError::NoQemu("a test".into()))
    }

    #[test]
    fn what_is_told_of_either_kind_is_understood_as_that_kind() {
        let folder = tempfile::tempdir().expect("a directory");
        for decided in [qemu(), rv(folder.path())] {
            let told = serde_json::to_string(&decided).expect("JSON");
            assert_eq!(serde_json::from_str::<Decided>(&told).expect("understood"), decided, "{told}");
        }
    }

    #[test]
    fn a_kernel_that_differs_is_named_and_another_kind_is_no_match() {
        let folder = tempfile::tempdir().expect("a directory");
        let (kernel, decided) = (folder.path().join("kernel"), rv(folder.path()));
        let why = Print::take(&decided, no_qemu).expect_err("no kernel").to_string();
        assert!(why.contains("kernel"), "{why}");
        let take = |bytes: &[u8]| {
            std::fs::write(&kernel, bytes).expect("written");
            Print::take(&decided, no_qemu).expect("it is there")
        };
        let (one, other, again) = (take(b"one"), take(b"other"), take(b"one"));
        assert_eq!(one.compare(&again), Ok(()));
        let differences = one.compare(&other).expect_err("they differ");
        assert_eq!(differences.len(), 1);
        assert!(differences[0].what.contains("kernel"), "{}", differences[0]);
        let described = Described { resolved: qemu(), fingerprint: one };
        let told = serde_json::to_string(&described).expect("JSON");
        let described = serde_json::from_str(&told).expect("understood");
        let refused = crate::computer::Blueprint::like(described).err().expect("two kinds").to_string();
        assert!(refused.contains("two kinds"), "{refused}");
    }
}
