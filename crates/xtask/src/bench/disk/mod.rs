//! Owns `cargo xtask bench disk`: the agent's disks beside QEMU's own driver for files, what a busy disk adds to
//! checkpoints, and what protection costs a database.

pub mod bank;
pub mod busy;
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
