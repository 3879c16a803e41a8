//! Owns writing to standard output and showing progress on standard error.

use crate::failure::Failure;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// Writes text and a line end.
pub fn line(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

/// Writes JSON for a program, indented.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    line(&serde_json::to_string_pretty(value).map_err(Failure::failed)?)
}

/// Writes JSON on one line, for streams.
pub fn json_line(value: &impl Serialize) -> Result<(), Failure> {
    line(&serde_json::to_string(value).map_err(Failure::failed)?)
}

/// Writes text over what was there, if this is a terminal; otherwise below it.
pub fn redraw(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    if out.is_terminal() {
        // To the corner, then every line cleared to its end, then everything below: no flicker.
        let text = text.replace('\n', "\x1b[K\n");
        write!(out, "\x1b[H{text}\x1b[K\n\x1b[J")?;
    } else {
        writeln!(out, "{text}\n")?;
    }
    Ok(out.flush()?)
}

/// Clears a terminal once, before [`redraw`].
pub fn clear() -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    if out.is_terminal() {
        write!(out, "\x1b[2J")?;
    }
    Ok(())
}

/// One line of progress on standard error: rewritten in place on a terminal, said once otherwise.
#[derive(Debug, Default)]
pub struct Progress {
    last: String,
}

impl Progress {
    /// Shows `text`; `milestone` is its part that is worth a line of its own in a log.
    pub fn show(&mut self, milestone: &str, text: &str) {
        let mut err = io::stderr().lock();
        let terminal = err.is_terminal();
        let changed = self.last != milestone;
        // Progress that cannot be written is no reason to stop.
        let _ = match (terminal, changed) {
            (true, _) => write!(err, "\r\x1b[K{text}"),
            (false, true) => writeln!(err, "{text}"),
            (false, false) => Ok(()),
        };
        self.last = milestone.to_owned();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let mut err = io::stderr().lock();
        if err.is_terminal() && !self.last.is_empty() {
            let _ = writeln!(err);
        }
    }
}
