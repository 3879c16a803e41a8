//! Owns `cargo xtask test`: what a change must pass. Cheap steps come first, the test runner's closing lines last.

use crate::step::{self, Step};
use crate::{hygiene, process, simulate, tiers};
use anyhow::Result;
use lab::packages;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Seeds of the simulator's smoke run.
const SMOKE_SEEDS: u64 = 300;
/// Packages whose tests start QEMU or build networks: one at a time, since they share the machine's processors.
/// `.config/nextest.toml` says the same to nextest.
const HEAVY: &[&str] = &["lab", "qemu", "undying"];
/// No test run may take longer than this.
const LIMIT: Duration = Duration::from_secs(45 * 60);

/// Runs every step.
pub fn run() -> Result<()> {
    step::run_all(&[
        Step { name: "Debian packages", work: debian_packages },
        Step { name: "formatting", work: formatting },
        Step { name: "tiers", work: tiers::run },
        Step { name: "hygiene", work: hygiene::run },
        Step { name: "lints", work: lints },
        Step { name: "documentation", work: documentation },
        Step { name: "simulation", work: simulation },
        Step { name: "tests", work: tests },
    ])
}

/// Installs what the tests need, after saying what and why. Where it cannot, the tests that need it say SKIPPED.
fn debian_packages() -> Result<()> {
    let missing = packages::missing();
    if missing.is_empty() {
        println!("all there");
        return Ok(());
    }
    println!("to be installed from Debian:\n{}", packages::explain(&missing));
    Ok(packages::install(&missing)?)
}

fn formatting() -> Result<()> {
    process::run(process::cargo().args(["fmt", "--all", "--check"]))
}

fn lints() -> Result<()> {
    process::run(process::cargo().args([
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))
}

fn documentation() -> Result<()> {
    let mut command = process::cargo();
    command.env("RUSTDOCFLAGS", "-D warnings").args(["doc", "--locked", "--workspace", "--no-deps"]);
    process::run(&mut command)
}

fn simulation() -> Result<()> {
    simulate::smoke(SMOKE_SEEDS)
}

fn tests() -> Result<()> {
    if has_nextest() {
        process::run_within(LIMIT, process::cargo().args(["test", "--locked", "--workspace", "--doc"]))?;
        return process::run_within(
            LIMIT,
            process::cargo().args(["nextest", "run", "--locked", "--workspace"]),
        );
    }
    println!("cargo-nextest is not installed: `cargo test` does, without a time limit for each test");
    let (mut light, mut heavy) = (process::cargo(), process::cargo());
    light.args(["test", "--locked", "--workspace"]);
    heavy.args(["test", "--locked"]);
    for package in HEAVY {
        light.args(["--exclude", package]);
        heavy.args(["--package", package]);
    }
    process::run_within(LIMIT, &mut light)?;
    process::run_within(LIMIT, heavy.args(["--", "--test-threads=1"]))
}

fn has_nextest() -> bool {
    let mut command: Command = process::cargo();
    command.args(["nextest", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
