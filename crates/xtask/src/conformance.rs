//! Owns `cargo xtask rv-conformance`: programs by chance on the deterministic machine and on QEMU, as many as wanted.

use crate::process;
use anyhow::Result;
use clap::Args;
use std::process::ExitCode;

/// Run programs by chance on the deterministic machine and on `qemu-system-riscv64`, which must leave the same memory
///
/// A seed is a program of 1.7 million instructions and takes a second. Example: `cargo xtask rv-conformance --seeds 100`
#[derive(Debug, Args)]
pub struct ConformanceArgs {
    /// How many programs
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first one's seed; a difference is reported with its seed
    #[arg(long, default_value_t = 1)]
    first: u64,
}

/// Runs them. Fails at the first difference, which is told with the unit of the program that made it.
pub fn run(args: &ConformanceArgs) -> Result<ExitCode> {
    let mut command = process::cargo();
    command
        .args(["test", "--quiet", "--locked", "--release", "--package", "rv", "--test", "conformance"])
        .args(["--", "--exact", "--nocapture", "programs_leave_what_they_leave_on_qemu"])
        .env("RV_CONFORMANCE_FIRST", args.first.to_string())
        .env("RV_CONFORMANCE_SEEDS", args.seeds.to_string());
    process::run(&mut command)?;
    Ok(ExitCode::SUCCESS)
}
