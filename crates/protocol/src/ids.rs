//! Owns the names and numbers of the protocol: hosts, VMs, terms, epochs, sessions.

use alloc::string::{String, ToString};
use core::fmt;
use serde::{Deserialize, Serialize};

/// Longest name of a host or a VM, in bytes: it becomes a file name, a namespace and part of a TAP's name.
pub const MAX_NAME_LEN: usize = 48;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name is empty or longer than [`MAX_NAME_LEN`].
    #[error("a name has 1 to {MAX_NAME_LEN} characters, this one has {0}")]
    Length(usize),
    /// A character that is not allowed.
    #[error(
        "the name {name:?} has the character {bad:?}; allowed are a-z, A-Z, 0-9, '-', '_' and '.', not '.' or '-' first"
    )]
    Character {
        /// The whole name.
        name: String,
        /// The first character that is not allowed.
        bad: char,
    },
}

fn check_name(name: &str) -> Result<(), NameError> {
    if name.is_empty() || name.len() > MAX_NAME_LEN {
        return Err(NameError::Length(name.len()));
    }
    let allowed =
        |(at, c): (usize, char)| c.is_ascii_alphanumeric() || c == '_' || (at > 0 && (c == '-' || c == '.'));
    match name.char_indices().find(|&c| !allowed(c)) {
        None => Ok(()),
        Some((_, bad)) => Err(NameError::Character { name: name.to_string(), bad }),
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks and takes a name.
            ///
            /// # Errors
            /// If the name is empty, too long or has a character outside `a-zA-Z0-9._-`.
            pub fn new(name: &str) -> Result<Self, NameError> {
                check_name(name)?;
                Ok(Self(name.to_string()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(name: String) -> Result<Self, NameError> {
                Self::new(&name)
            }
        }

        impl core::str::FromStr for $name {
            type Err = NameError;
            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type! {
    /// Name of a VM; it is the VM's identity in the whole cluster.
    VmName
}
name_type! {
    /// Name of a host; it is the host's identity in the whole cluster.
    HostName
}

/// A VM as frames name it: 128 bits derived from its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VmId(pub u128);

impl VmId {
    /// The id of the VM with this name.
    #[must_use]
    pub fn of(name: &VmName) -> Self {
        Self(xxhash_rust::xxh3::xxh3_128(name.as_str().as_bytes()))
    }
}

impl fmt::Debug for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VmId({:032x})", self.0)
    }
}

macro_rules! number_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The number after this one.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number_type! {
    /// Number of the current ownership of a VM; grows at each change of owner and each time the owner orphans
    /// its backup. 0 means "never owned".
    Term
}
number_type! {
    /// The time between two checkpoints, numbered from 1 within a session; 0 means "none yet".
    Epoch
}
number_type! {
    /// One attempt of a primary to protect its VM on a backup: one connection, one initial copy. Chosen by the
    /// primary, never reused by it, in whatever term.
    Session
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_escape_a_directory_are_refused() {
        for bad in ["", "..", ".x", "-x", "a/b", "a b", "ü", "a\0"] {
            assert!(VmName::new(bad).is_err(), "{bad:?}");
        }
        assert!(VmName::new(&"x".repeat(MAX_NAME_LEN + 1)).is_err());
        assert_eq!(HostName::new("alpha-1.lan").unwrap().as_str(), "alpha-1.lan");
    }

    #[test]
    fn a_vm_id_is_stable_across_builds() {
        let id = VmId::of(&VmName::new("web").unwrap());
        assert_eq!(id, VmId::of(&VmName::new("web").unwrap()));
        assert_ne!(id, VmId::of(&VmName::new("web2").unwrap()));
    }
}
