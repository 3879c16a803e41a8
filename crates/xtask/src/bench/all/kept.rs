//! Owns the figures that earlier runs kept, each part in a file of its own: the evaluation is composed of them, so that its
//! parts can be measured in several sittings.

use crate::bench::figures::{Part, Table};
use crate::workspace;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A part of a suite as it was measured last.
#[derive(Debug, Serialize, Deserialize)]
pub struct Kept {
    /// Name of the suite.
    pub suite: String,
    /// What was typed.
    pub command: String,
    /// Where it ran, and when.
    pub facts: Vec<(String, String)>,
    /// What was found.
    pub part: Part,
}

impl Kept {
    /// A fact by its name.
    pub fn fact(&self, name: &str) -> &str {
        self.facts.iter().find(|(fact, _)| fact == name).map_or("?", |(_, value)| value)
    }

    /// The table that has this column.
    ///
    /// # Errors
    /// If none has it: the figures are of an older program.
    pub fn table(&self, column: &str) -> Result<&Table> {
        let has = |table: &&Table| table.columns.iter().any(|(key, _)| key == column);
        self.part.found.tables.iter().find(has).with_context(|| {
            let again = again(&self.suite, self.part.number);
            format!(
                "the figures kept of {}, part {}, have no `{column}`: measure again, by `{again}`",
                self.suite, self.part.number
            )
        })
    }
}

/// The command that measures a part.
pub fn again(suite: &str, number: u32) -> String {
    format!("cargo xtask bench {suite} --only {number}")
}

/// Where figures are kept; those of quick runs never take the place of others.
pub fn folder(quick: bool) -> PathBuf {
    let folder = workspace::target().join("bench");
    if quick { folder.join("quick") } else { folder }
}

fn path(quick: bool, suite: &str, number: u32) -> PathBuf {
    folder(quick).join(suite).join(format!("{number}.json"))
}

/// Keeps a part that was measured.
///
/// # Errors
/// If the file cannot be written.
pub fn keep(quick: bool, kept: &Kept) -> Result<()> {
    let text = serde_json::to_string_pretty(kept).context("figures are JSON")?;
    crate::bench::put(&path(quick, &kept.suite, kept.part.number), &(text + "\n"))
}

/// A part as it was measured last; none if it never was.
///
/// # Errors
/// If the file cannot be read or is not what it should be.
pub fn read(quick: bool, suite: &str, number: u32) -> Result<Option<Kept>> {
    let path = path(quick, suite, number);
    match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        read => {
            let text = read.with_context(|| format!("cannot read {}", path.display()))?;
            let kept = serde_json::from_slice(&text).with_context(|| {
                let again = again(suite, number);
                format!("{} is not of this program: measure again, by `{again}`", path.display())
            })?;
            Ok(Some(kept))
        }
    }
}
