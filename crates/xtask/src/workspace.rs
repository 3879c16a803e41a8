//! Owns what is known of the workspace: where it is, and its packages as cargo tells them.

use crate::process;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The workspace's folder.
pub fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).expect("xtask lies two folders below the root")
}

/// Where cargo builds, and checks may write.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// A package, as `cargo metadata` tells it.
#[derive(Debug, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// What it depends on.
    pub dependencies: Vec<Dependency>,
    /// Its libraries, programs and tests.
    pub targets: Vec<Target>,
}

/// An arrow from a package to another.
#[derive(Debug, Deserialize)]
pub struct Dependency {
    /// Name of the other.
    pub name: String,
    /// `dev`, `build`, or nothing for an ordinary one.
    pub kind: Option<String>,
    /// Set if it lies in a folder, as this workspace's own packages do.
    pub path: Option<PathBuf>,
}

/// Something that cargo builds.
#[derive(Debug, Deserialize)]
pub struct Target {
    /// `lib`, `bin`, `test`...
    pub kind: Vec<String>,
    /// Its root file.
    pub src_path: PathBuf,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

/// The workspace's own packages.
pub fn packages() -> Result<Vec<Package>> {
    let text = process::output(process::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    parse(&text)
}

fn parse(text: &str) -> Result<Vec<Package>> {
    let metadata: Metadata =
        serde_json::from_str(text).context("cargo metadata says what is not understood")?;
    Ok(metadata.packages)
}

/// A file's path as seen from the workspace, for messages.
pub fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}
