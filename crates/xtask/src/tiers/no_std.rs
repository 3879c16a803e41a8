//! Owns the proof that `protocol` needs no operating system: it builds for wasm32 where that target is installed,
//! and, always, together with a panic handler of its own, which two would be if anything in it used `std`.

use super::is_installed;
use crate::{process, workspace};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

const WASM: &str = "wasm32-unknown-unknown";

/// A crate without `std` that defines what only `std` defines otherwise.
const PROBE: &str = "#![no_std]\nuse protocol as _;\n#[panic_handler]\nfn panic(_: &core::panic::PanicInfo) -> ! { loop {} }\n";

/// Checks `protocol`.
pub fn check() -> Result<()> {
    let messages = process::output(process::cargo().args([
        "build",
        "--quiet",
        "--locked",
        "--package",
        "protocol",
        "--lib",
        "--message-format=json",
    ]))?;
    let library = library(&messages).context("cargo did not say where it built `protocol`")?;
    let folder = workspace::target().join("xtask");
    std::fs::create_dir_all(&folder)?;
    let probe = folder.join("no_std_probe.rs");
    std::fs::write(&probe, PROBE)?;
    let output = rustc(&probe, &library, &folder).output().context("cannot run rustc")?;
    if !output.status.success() {
        bail!("`protocol` uses std, itself or by a dependency:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    println!("`protocol` and all it depends on are free of std");
    wasm()
}

fn rustc(probe: &Path, library: &Path, folder: &Path) -> Command {
    let mut rustc = Command::new("rustc");
    let dependencies = library.parent().expect("a built library lies in a folder").display();
    rustc.args(["--edition", "2024", "--crate-type", "lib", "--emit", "metadata"]);
    rustc.arg("--extern").arg(format!("protocol={}", library.display()));
    rustc.arg("-L").arg(format!("dependency={dependencies}"));
    rustc.arg("--out-dir").arg(folder).arg(probe);
    rustc
}

/// The library's metadata in cargo's folder of dependencies.
fn library(messages: &str) -> Option<PathBuf> {
    let of_protocol = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let built = message["reason"] == "compiler-artifact" && message["target"]["name"] == "protocol";
        let files = message["filenames"].as_array().filter(|_| built)?.clone();
        let metadata = files.iter().filter_map(|file| file.as_str()).find(|file| file.ends_with(".rmeta"))?;
        Some(PathBuf::from(metadata))
    };
    messages.lines().find_map(of_protocol)
}

fn wasm() -> Result<()> {
    if !is_installed(WASM)? {
        println!("SKIPPED: `protocol` for {WASM}: run `rustup target add {WASM}` to have it checked");
        return Ok(());
    }
    process::run(process::cargo().args(["build", "--locked", "--package", "protocol", "--target", WASM]))?;
    println!("`protocol` builds for {WASM}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compiles a crate `protocol` with this text and puts the probe beside it.
    fn probe_accepts(text: &str) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let (source, probe) = (folder.path().join("protocol.rs"), folder.path().join("probe.rs"));
        std::fs::write(&source, text).unwrap();
        std::fs::write(&probe, PROBE).unwrap();
        let mut build = Command::new("rustc");
        build.args(["--crate-type", "lib", "--crate-name", "protocol", "--emit", "metadata", "--out-dir"]);
        assert!(build.arg(folder.path()).arg(&source).status().unwrap().success());
        let library = folder.path().join("libprotocol.rmeta");
        rustc(&probe, &library, folder.path()).output().unwrap().status.success()
    }

    #[test]
    fn a_library_that_uses_std_is_told_from_one_that_does_not() {
        assert!(probe_accepts(
            "#![no_std]\nextern crate alloc;\npub fn f() -> alloc::string::String { \"\".into() }"
        ));
        assert!(!probe_accepts("pub fn f() -> String { \"\".into() }"));
        assert!(!probe_accepts("#![no_std]\nextern crate std;\npub fn f() {}"));
    }
}
