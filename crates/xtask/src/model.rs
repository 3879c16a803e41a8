//! Owns `cargo xtask model`: builds the exhaustive check of the ownership protocol and runs it.
//!
//! A program of its own, because it needs machines that can be cloned: a feature of `protocol` that nothing else that
//! `xtask` builds shall carry.

use crate::process;
use anyhow::{Context, Result};
use clap::Args;
use std::ffi::OsString;
use std::process::ExitCode;

/// Whatever the check itself understands
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// Options of the check; `--help` tells them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<OsString>,
}

/// Runs the check. Fails if a promise is broken.
pub fn run(args: &ModelArgs) -> Result<ExitCode> {
    let mut command = process::cargo();
    command.args(["run", "--quiet", "--locked", "--package", "model", "--"]).args(&args.options);
    let status = command.status().with_context(|| format!("cannot run `{}`", process::line(&command)))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
