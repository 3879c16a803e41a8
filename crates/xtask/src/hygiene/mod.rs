//! Owns `cargo xtask hygiene`: habits of this project that a machine can check.
//!
//! | check | fails |
//! |---|---|
//! | `lengths` | files over 1,000 lines (over 600 are listed), functions over 100 |
//! | `words` | markers of unfinished work, folders of a developer's machine, `.unwrap()` outside tests |
//! | `links` | links in Markdown to files that are not there |
//! | `orphans` | source files that no module names |

pub mod files;
mod lengths;
mod links;
mod orphans;
pub mod source;
mod words;

use crate::workspace;
use anyhow::{Result, bail};

/// Runs every check over the workspace's files.
pub fn run() -> Result<()> {
    let files = files::all(workspace::root())?;
    let forbidden = words::Forbidden::here(workspace::root());
    let mut wrong = Vec::new();
    for file in &files {
        wrong.extend(lengths::check(file));
        wrong.extend(words::check(file, &forbidden));
        wrong.extend(links::check(workspace::root(), file));
        if let Some(note) = lengths::note(file) {
            println!("note: {note}");
        }
    }
    wrong.extend(orphans::check(&files));
    if !wrong.is_empty() {
        bail!("{} things to put right:\n  {}", wrong.len(), wrong.join("\n  "));
    }
    println!("{} files are in order", files.len());
    Ok(())
}
