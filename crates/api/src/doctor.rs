//! Owns what the API says of `undying doctor`: what is to be looked at, and what was found.

use protocol::{HostName, VmName};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Ask for this host, or a pair of hosts, to be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DoctorRequest {
    /// The other host of the pair.
    #[serde(default)]
    pub peer: Option<HostName>,
    /// The VM that shall be protected.
    #[serde(default)]
    pub vm: Option<DoctorVm>,
    /// Whether the link may be loaded.
    #[serde(default)]
    pub bandwidth: Bandwidth,
}

/// A VM to be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DoctorVm {
    /// One that runs here.
    Running(VmName),
    /// One of a file.
    File {
        /// The file's text (TOML).
        text: String,
        /// Folder that relative paths in it start from.
        folder: PathBuf,
    },
}

/// When the bandwidth of a link is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bandwidth {
    /// If no VM is protected over it.
    #[default]
    Idle,
    /// In any case.
    Always,
    /// In none.
    Never,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoctorReport {
    /// Each check.
    pub findings: Vec<Finding>,
}

/// How something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Could not be looked at, or was not asked for.
    Skipped,
    /// Protection works, worse than it could.
    Warning,
    /// Stands in the way of protection, or of a failover.
    Failure,
}

/// What a check says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The host that it is about, or the two: `alpha`, `alpha, beta`.
    pub of: String,
    /// What was looked at.
    pub check: String,
    /// How it stands.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// Why it matters.
    pub why: String,
    /// What to do; empty if there is nothing to be done.
    pub remedy: String,
}
