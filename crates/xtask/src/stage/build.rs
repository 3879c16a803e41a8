//! Owns building the program that is shown: cargo's release build, with its progress on our screen.

use super::screen::Screen;
use crate::{process, workspace};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Serialize;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

/// A bug that is built into the program on purpose, to show that the checkers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Planted {
    /// Output leaves one epoch before it is committed.
    ReleaseEarly,
}

impl Planted {
    fn feature(self) -> &'static str {
        match self {
            Self::ReleaseEarly => "release-early",
        }
    }
}

/// Builds `undying` as it is released, and tells where it is.
pub fn undying(screen: &mut Screen) -> Result<PathBuf> {
    release(screen, &[], &workspace::target())
}

/// Builds `undying` with a bug. It lies in a place of its own, so that nobody takes it for the released one.
pub fn with_bug(screen: &mut Screen, planted: Planted) -> Result<PathBuf> {
    release(screen, &["--features", planted.feature()], &workspace::target().join("planted"))
}

/// Builds `undying` so that parts of its checkpoints can be left out. It lies in a place of its own as well.
pub fn ablated(screen: &mut Screen) -> Result<PathBuf> {
    release(screen, &["--features", "ablation"], &workspace::target().join("ablated"))
}

fn release(screen: &mut Screen, features: &[&str], target: &Path) -> Result<PathBuf> {
    let start = Instant::now();
    let mut command = process::cargo();
    command.args(["build", "--release", "--package", "undying"]).args(features);
    command.arg("--target-dir").arg(target);
    // Not inherited: what cargo says is shown in our own words, and in full if it fails.
    command.env("CARGO_TERM_PROGRESS_WHEN", "never").stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot run cargo")?;
    let said = child.stderr.take().context("cargo has no standard error")?;
    let (mut compiled, mut last_words) = (0, Vec::new());
    screen.live(&process::line(&command));
    for line in BufReader::new(said).lines() {
        let line = line.context("cannot read what cargo says")?;
        if let Some(name) = line.trim().strip_prefix("Compiling ") {
            compiled += 1;
            let name = name.split(" (").next().unwrap_or(name);
            screen.live(&format!("compiling {name} (package {compiled}; about 150 the first time)"));
        } else if line.contains("Blocking waiting") {
            screen.live("another cargo is building here; waiting for it");
        }
        last_words.push(line);
    }
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() {
        bail!("undying cannot be built:\n{}", lab::command::tail(&last_words.join("\n"), 40));
    }
    let binary = target.join("release/undying");
    let what = if compiled == 0 {
        "undying is built already".to_owned()
    } else {
        format!("{compiled} packages compiled")
    };
    screen.done(&format!("{what} ({:.0} s)", start.elapsed().as_secs_f64()));
    Ok(binary)
}
