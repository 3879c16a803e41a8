//! Owns `cargo xtask bench rv`: the speed of the deterministic machine beside QEMU's.
//!
//! A program of the crate `rv`, because nothing else that `xtask` builds needs that crate, and because what counts is an
//! optimised build.

use crate::process;
use anyhow::{Result, bail};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// What to boot
#[derive(Debug, Args)]
pub struct RvArgs {
    /// A kernel for riscv64 to boot too, as an uncompressed `Image`
    #[arg(long, value_name = "FILE", requires = "initrd")]
    kernel: Option<PathBuf>,
    /// Its initial file system, which has to switch the machine off in the end
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
}

/// Measures, and prints a table.
pub fn run(args: &RvArgs) -> Result<ExitCode> {
    let mut command = process::cargo();
    command.args(["run", "--quiet", "--locked", "--release", "--package", "rv", "--example", "speed", "--"]);
    for file in args.kernel.iter().chain(&args.initrd) {
        if !file.is_file() {
            bail!("there is no file {}", file.display());
        }
        command.arg(file);
    }
    process::run(&mut command)?;
    Ok(ExitCode::SUCCESS)
}
