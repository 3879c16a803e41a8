//! Owns the life and death of other processes: spawning children that die with us, and watching, signalling and
//! reaching into processes through pidfds, which cannot be mistaken for a later process with the same number.

mod pidfd;
mod spawn;

pub use pidfd::PidFd;
pub use spawn::{Child, Exit, Spawn};

use std::io;

/// What went wrong with a process.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The program could not be started.
    #[error("cannot start {program}: {source}")]
    Start {
        /// The program.
        program: String,
        /// The reason; `NotFound` when the program is not installed.
        #[source]
        source: io::Error,
    },
    /// There is no such process (any more).
    #[error("process {pid} does not exist (any more)")]
    Gone {
        /// Its number.
        pid: u32,
    },
    /// A system call failed.
    #[error("cannot {action} process {pid}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Its number.
        pid: u32,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
}

impl ProcessError {
    pub(crate) fn of(action: &'static str, pid: u32, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        match source.raw_os_error() {
            Some(libc::ESRCH) => Self::Gone { pid },
            _ => Self::System { action, pid, source },
        }
    }
}
