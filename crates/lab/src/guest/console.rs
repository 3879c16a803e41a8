//! Owns waiting for what a guest says on its serial console, which QEMU or the agent writes to a file.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::command::tail;

/// A line was not seen in time.
#[derive(Debug, thiserror::Error)]
#[error("the guest did not say `{wanted}` within {seconds} s; the end of its console {path}:\n{end}")]
pub struct ConsoleError {
    /// What was waited for.
    pub wanted: String,
    /// How long.
    pub seconds: u64,
    /// The console's file.
    pub path: PathBuf,
    /// Its last lines.
    pub end: String,
}

/// Waits until `wanted` stands in the console file for the `count`th time, and returns all of it.
///
/// # Errors
/// It does not within `patience`; the error shows the end of the console.
pub fn wait_for(path: &Path, wanted: &str, count: usize, patience: Duration) -> Result<String, ConsoleError> {
    let started = Instant::now();
    loop {
        // The console is bytes from a guest: not always text.
        let bytes = fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        if text.matches(wanted).count() >= count {
            return Ok(text.into_owned());
        }
        if started.elapsed() >= patience {
            return Err(ConsoleError {
                wanted: wanted.to_owned(),
                seconds: patience.as_secs(),
                path: path.to_owned(),
                end: tail(&text, 20),
            });
        }
        thread::sleep(Duration::from_millis(10));
    }
}
