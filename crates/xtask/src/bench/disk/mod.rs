//! Owns `cargo xtask bench disk`: the agent's disks beside QEMU's own driver for files, what a busy disk adds to
//! checkpoints, what protection costs a database, and what it takes to bring a copy up to date.

pub mod bank;
pub mod busy;
pub mod difference;
pub mod export;
mod guest;
pub mod speed;

use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Size of the disks: they stay in the page cache, where a server's own cost shows most.
const DISK_MIB: u64 = 256;

/// Makes a disk that is full of random bytes: nothing is a hole, nothing compresses.
fn fill(path: &Path) -> Result<()> {
    let make = || {
        path.parent().map(fs::create_dir_all).transpose()?;
        let mut random = File::open("/dev/urandom")?.take(DISK_MIB << 20);
        io::copy(&mut random, &mut File::create(path)?)
    };
    make().map(drop).with_context(|| format!("cannot make {}", path.display()))
}

/// Makes a disk of `bytes` that is [filled](fill) at its beginning and a hole behind.
fn sparse(path: &Path, bytes: u64) -> Result<()> {
    fill(path)?;
    let grow = || File::options().write(true).open(path)?.set_len(bytes);
    grow().with_context(|| format!("cannot grow {}", path.display()))
}
