//! Owns the file systems of the guests' disks, from outside.

use crate::command::{self, CommandError};
use std::path::Path;
use std::process::Command;

/// Puts an empty ext4 on an image.
///
/// # Errors
/// The disk is full, or `mkfs.ext4` is not there.
pub fn format(image: &Path) -> Result<(), CommandError> {
    command::run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(image)).map(drop)
}

/// Whether the file system on an image is whole; nothing is changed.
///
/// # Errors
/// It is not, or `e2fsck` is not there.
pub fn check(image: &Path) -> Result<(), CommandError> {
    command::run(Command::new("e2fsck").args(["-f", "-n"]).arg(image)).map(drop)
}
