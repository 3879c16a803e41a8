//! Owns what each command does: ask, wait, show.

pub mod agent;
pub mod arbiter;
pub mod bisect;
pub mod disk;
pub mod doctor;
pub mod events;
pub mod identity;
pub mod maintenance;
pub mod migrate;
pub mod rv;
pub mod vm;

use crate::cli::Cli;
use crate::failure::Failure;
use clap::CommandFactory;
use clap_complete::Shell;

/// Prints a shell's completions.
pub fn completions(shell: Shell) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "undying", &mut text);
    crate::out::line(String::from_utf8_lossy(&text).trim_end())
}
