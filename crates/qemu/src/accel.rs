//! Owns the choice of the accelerator.
//!
//! That `/dev/kvm` opens is not enough: a KVM that emulates the processor's virtualization in software opens too,
//! and is slower than TCG and unable to run an ordinary kernel. So `auto` takes KVM only if the processor shows
//! `vmx` or `svm` as well, and says what it found.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What the VM file asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccelChoice {
    /// KVM if it is there and real, TCG otherwise.
    #[default]
    Auto,
    /// KVM.
    Kvm,
    /// TCG: QEMU's own translator. Works everywhere.
    Tcg,
}

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// The processor, through Linux's KVM.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

impl Accel {
    /// Its name in QEMU's arguments.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// The CPU model for a VM that asks for none.
    #[must_use]
    pub fn default_cpu_model(self) -> &'static str {
        match self {
            Self::Kvm => "host",
            Self::Tcg => "max",
        }
    }
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What this host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvmFacts {
    /// Whether `/dev/kvm` opens; otherwise why not.
    pub opens: Result<(), String>,
    /// Whether `vmx` or `svm` is among the processor's flags.
    pub hardware: bool,
}

impl KvmFacts {
    /// Looks.
    #[must_use]
    pub fn of_this_host() -> Self {
        Self {
            opens: os::facts::kvm_opens().map_err(|e| e.to_string()),
            hardware: os::facts::has_hardware_virtualization().unwrap_or(false),
        }
    }
}

/// KVM was asked for and is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "accel = \"kvm\" was asked for, but /dev/kvm does not open: {0}; use accel = \"tcg\", or fix the permissions or the kvm module"
)]
pub struct NoKvm(String);

/// Decides, and says why.
///
/// # Errors
/// If KVM is asked for and does not open.
pub fn choose(choice: AccelChoice, facts: &KvmFacts) -> Result<(Accel, String), NoKvm> {
    match (choice, &facts.opens, facts.hardware) {
        (AccelChoice::Tcg, _, _) => Ok((Accel::Tcg, "asked for".to_string())),
        (AccelChoice::Kvm, Err(why), _) => Err(NoKvm(why.clone())),
        (AccelChoice::Kvm, Ok(()), true) => Ok((Accel::Kvm, "asked for".to_string())),
        (AccelChoice::Kvm, Ok(()), false) => {
            Ok((Accel::Kvm, "asked for, though the processor shows neither vmx nor svm".to_string()))
        }
        (AccelChoice::Auto, Ok(()), true) => {
            Ok((Accel::Kvm, "/dev/kvm opens and the processor has vmx or svm".to_string()))
        }
        (AccelChoice::Auto, Ok(()), false) => {
            let why =
                "/dev/kvm opens, but the processor shows neither vmx nor svm: that KVM is a slow emulation";
            Ok((Accel::Tcg, why.to_string()))
        }
        (AccelChoice::Auto, Err(why), _) => Ok((Accel::Tcg, format!("/dev/kvm does not open: {why}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(opens: bool, hardware: bool) -> KvmFacts {
        KvmFacts { opens: if opens { Ok(()) } else { Err("no such file".into()) }, hardware }
    }

    #[test]
    fn auto_takes_kvm_only_if_it_is_real() {
        let chosen = |opens, hardware| choose(AccelChoice::Auto, &facts(opens, hardware)).unwrap().0;
        assert_eq!(chosen(true, true), Accel::Kvm);
        assert_eq!(chosen(true, false), Accel::Tcg);
        assert_eq!(chosen(false, true), Accel::Tcg);
    }

    #[test]
    fn what_is_asked_for_is_given_or_refused() {
        assert_eq!(choose(AccelChoice::Tcg, &facts(true, true)).unwrap().0, Accel::Tcg);
        assert_eq!(choose(AccelChoice::Kvm, &facts(true, false)).unwrap().0, Accel::Kvm);
        let error = choose(AccelChoice::Kvm, &facts(false, true)).unwrap_err();
        assert!(error.to_string().contains("no such file"));
    }
}
