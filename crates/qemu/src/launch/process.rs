//! Owns the process: starting it with a QMP connection, keeping what it says on its standard error.

use super::LaunchError;
use crate::qmp::{Qmp, QmpError};
use os::Spawn;
use os::process::{Exit, PidFd};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Lines of standard error that are kept.
const KEPT_LINES: usize = 64;
/// Longest line that is kept, in bytes.
const LONGEST_LINE: u64 = 4096;
/// How long a QEMU whose connection ended may take to end as well.
const END_GRACE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Default)]
struct Messages(Arc<Mutex<VecDeque<String>>>);

impl Messages {
    fn push(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    fn text(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

/// A QEMU process. It dies with this one, and when it is dropped.
#[derive(Debug)]
pub struct Process {
    child: os::Child,
    messages: Messages,
    reader: Option<std::thread::JoinHandle<()>>,
}

/// Gives QEMU a monitor; our end of it.
pub(super) fn monitor(spawn: &mut Spawn, name: &str) -> Result<UnixStream, LaunchError> {
    let (ours, theirs) = UnixStream::pair().map_err(|source| LaunchError::Channel { source })?;
    let fd = spawn.inherit(theirs.into());
    spawn.args([
        "-chardev",
        &format!("socket,id={name},fd={fd}"),
        "-mon",
        &format!("chardev={name},mode=control"),
    ]);
    Ok(ours)
}

impl Process {
    /// Starts QEMU with its arguments so far, and a monitor of ours; connects to it.
    ///
    /// # Errors
    /// If it does not start, dies at once (with its own messages), or lacks a command of `required`.
    pub fn start(mut spawn: Spawn, required: &[&str]) -> Result<(Self, Qmp), LaunchError> {
        let ours = monitor(&mut spawn, "qmp")?;
        spawn.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = spawn.spawn()?;
        let messages = Messages::default();
        let reader = child.stderr.take().map(|stderr| {
            let messages = messages.clone();
            std::thread::spawn(move || keep(stderr, &messages))
        });
        let mut process = Self { child, messages, reader };
        match Qmp::connect(ours, required) {
            Ok(qmp) => Ok((process, qmp)),
            Err(QmpError::Gone { .. }) => Err(process.death()),
            Err(other) => Err(other.into()),
        }
    }

    /// How and with which words QEMU ended, after its connection did.
    pub(crate) fn death(&mut self) -> LaunchError {
        let exit = self.wait(Some(END_GRACE)).ok().flatten();
        let how = exit.map_or_else(|| "closed its monitor".to_string(), |exit| exit.to_string());
        LaunchError::Died { how, messages: self.messages() }
    }

    /// The last lines that QEMU wrote on its standard error.
    #[must_use]
    pub fn messages(&self) -> String {
        let text = self.messages.text();
        if text.is_empty() { "(it said nothing)".to_string() } else { text }
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// A descriptor that becomes readable when it ends.
    #[must_use]
    pub fn pidfd(&self) -> &PidFd {
        self.child.pidfd()
    }

    /// Kills it at once.
    ///
    /// # Errors
    /// If it may not be killed.
    pub fn kill(&self) -> Result<(), LaunchError> {
        Ok(self.child.kill()?)
    }

    /// Waits for its end, at most `timeout` (without one: for ever). `None` if it still runs. After its end
    /// [`Process::messages`] has its last words.
    ///
    /// # Errors
    /// If someone else reaped it.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<Option<Exit>, LaunchError> {
        let exit = self.child.wait(timeout)?;
        if exit.is_some() {
            // The pipe is at its end: the last words are on their way, not outstanding.
            let _ = self.reader.take().map(std::thread::JoinHandle::join);
        }
        Ok(exit)
    }
}

fn keep(stderr: impl Read, messages: &Messages) {
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    while let Ok(1..) = reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
        let text = String::from_utf8_lossy(&line).trim_end().to_string();
        tracing::info!(qemu = %text, "QEMU says");
        messages.push(text);
        line.clear();
    }
}
