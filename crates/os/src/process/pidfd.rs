//! Owns pidfds: a hold on a process that stays true when its number is used again.

use super::ProcessError;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// A process, held by a descriptor. Readable (for `poll`) once the process is dead.
#[derive(Debug)]
pub struct PidFd {
    pid: u32,
    fd: OwnedFd,
}

impl PidFd {
    /// Takes hold of the process that has number `pid` now.
    ///
    /// # Errors
    /// [`ProcessError::Gone`] if there is none.
    pub fn open(pid: u32) -> Result<Self, ProcessError> {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(ProcessError::Gone { pid })?;
        let fd = rustix::process::pidfd_open(number, PidfdFlags::empty())
            .map_err(|e| ProcessError::of("open", pid, e))?;
        Ok(Self { pid, fd })
    }

    /// The process's number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// [`ProcessError::Gone`] if the process was reaped; the kernel's reason if it may not be signalled.
    pub fn send_signal(&self, signal: Signal) -> Result<(), ProcessError> {
        rustix::process::pidfd_send_signal(&self.fd, signal)
            .map_err(|e| ProcessError::of("signal", self.pid, e))
    }

    /// Kills the process at once (SIGKILL). To kill a dead one is no error.
    ///
    /// # Errors
    /// If we may not.
    pub fn kill(&self) -> Result<(), ProcessError> {
        match self.send_signal(Signal::KILL) {
            Err(ProcessError::Gone { .. }) => Ok(()),
            other => other,
        }
    }

    /// Whether the process is dead (a zombie counts as dead).
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.wait_dead(Some(Duration::ZERO))
    }

    /// Waits until the process is dead, at most `timeout` (without one: for ever). Says whether it is dead.
    #[must_use]
    pub fn wait_dead(&self, timeout: Option<Duration>) -> bool {
        let deadline = timeout.map(|t| Instant::now() + t);
        loop {
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            let spec = left.map(|l| Timespec::try_from(l).expect("a time-out of less than 2^63 seconds"));
            let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
            match rustix::event::poll(&mut fds, spec.as_ref()) {
                Ok(ready) => return ready > 0,
                Err(rustix::io::Errno::INTR) => {}
                Err(other) => unreachable!("poll of a pidfd: {other}"),
            }
        }
    }

    /// A copy of the descriptor that is number `remote` in the process; close-on-exec here.
    ///
    /// # Errors
    /// If the process is gone, has no such descriptor, or may not be traced by us.
    pub fn get_fd(&self, remote: RawFd) -> Result<OwnedFd, ProcessError> {
        rustix::process::pidfd_getfd(&self.fd, remote, PidfdGetfdFlags::empty())
            .map_err(|e| ProcessError::of("copy a descriptor of", self.pid, e))
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
