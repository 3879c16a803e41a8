//! Owns the grammar of `undying doctor` on the command line.

use api::types;
use clap::{Args, ValueEnum};
use protocol::HostName;
use std::path::PathBuf;

/// What to look at.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The other host of a pair, as named among the agent's peers: it, the way there, and what both must have in common
    #[arg(long, value_name = "HOST")]
    pub peer: Option<HostName>,
    /// A VM that shall be protected: its file, or the name of one that runs here
    #[arg(long, value_name = "FILE|NAME")]
    pub vm: Option<String>,
    /// When the bandwidth of the link is measured, for 1.5 s in each direction
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Bandwidth::Idle)]
    pub bandwidth: Bandwidth,
    /// This host's configuration; it is read where no agent runs
    #[arg(long, value_name = "FILE", default_value = "/etc/undying/host.toml")]
    pub config: PathBuf,
}

/// When the bandwidth is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Bandwidth {
    /// If neither host protects a VM or stands by for one: those would be disturbed.
    Idle,
    /// In any case.
    Always,
    /// In none.
    Never,
}

impl From<Bandwidth> for types::Bandwidth {
    fn from(when: Bandwidth) -> Self {
        match when {
            Bandwidth::Idle => Self::Idle,
            Bandwidth::Always => Self::Always,
            Bandwidth::Never => Self::Never,
        }
    }
}
