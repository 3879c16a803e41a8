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
    Ok(Installation::probe(Path::new(DEFAULT_BINARY))?)
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
