//! Owns building the program that is shown: cargo's release build, with its progress on our screen.

use super::screen::Screen;
use crate::{process, workspace};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

/// Builds `undying` as it is released, and tells where it is.
pub fn undying(screen: &mut Screen) -> Result<PathBuf> {
    let start = Instant::now();
    let mut command = process::cargo();
    command.args(["build", "--release", "--package", "undying"]);
    // Not inherited: what cargo says is shown in our own words, and in full if it fails.
    command.env("CARGO_TERM_PROGRESS_WHEN", "never").stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot run cargo")?;
    let said = child.stderr.take().context("cargo has no standard error")?;
    let (mut compiled, mut last_words) = (0, Vec::new());
    screen.live("cargo build --release --package undying");
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
    let binary = workspace::target().join("release/undying");
    let what = if compiled == 0 {
        "undying is built already".to_owned()
    } else {
        format!("{compiled} packages compiled")
    };
    screen.done(&format!("{what} ({:.0} s)", start.elapsed().as_secs_f64()));
    Ok(binary)
}
