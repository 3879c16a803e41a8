//! Owns the running of single system calls inside another process, without its help.
//!
//! The main thread of the target is stopped with ptrace, made to execute one `syscall` instruction that it has
//! mapped already (in its vDSO), and let go with its registers and signal mask as they were. A system call that it
//! was blocked in is restarted by the kernel; nothing is left behind. The target stands still for some 0.1 ms.
//!
//! ```text
//!             SEIZE, INTERRUPT           block signals            SETREGS, SINGLESTEP
//!   running ------------------> stopped ---------------> ready <---------------------> stepping
//!      ^                           | error                 | done, error or panic
//!      +---------------------------+-----------------------+   registers, mask, DETACH, signals sent again
//! ```
//!
//! All of it happens on a thread made for it. ptrace belongs to a thread: when that thread ends, in whatever way,
//! the kernel detaches the target.
//!
//! Limits: a thread blocked in one of the few system calls that the kernel never restarts (`epoll_wait`,
//! `sigtimedwait`, ...; see signal(7)) sees `EINTR`, as from any stop. If *we* are killed in the microseconds between
//! `SETREGS` and `DETACH` the target is lost: it must be one that dies with us.

mod stopped;

pub use stopped::Session;

use crate::process::{PidFd, ProcessError};
use crate::process_memory::ProcessMemoryError;
use std::io;
use stopped::Stopped;

/// What kept a system call from being run in another process. The target goes on as before.
#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    /// There is no such process (any more).
    #[error("process {pid} does not exist (any more)")]
    Gone {
        /// The target.
        pid: u32,
    },
    /// We may not trace it.
    #[error("may not trace process {pid}{}: {source}", tracer.map_or(String::new(), |t| format!(", process {t} (a debugger?) does")))]
    NotAllowed {
        /// The target.
        pid: u32,
        /// Who traces it already.
        tracer: Option<u32>,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// A system call outside its filter would kill the target.
    #[error(
        "process {pid} runs under a seccomp filter, which could kill it for a foreign system call; start it without one (QEMU: no -sandbox)"
    )]
    Filtered {
        /// The target.
        pid: u32,
    },
    /// Its main thread did not stop in time: it waits for a device or a file system.
    #[error("process {pid} did not stop within {millis} ms: its main thread hangs in the kernel")]
    Stuck {
        /// The target.
        pid: u32,
        /// How long we waited.
        millis: u128,
    },
    /// The target has no `syscall` instruction where we look, or is not a 64-bit program.
    #[error("process {pid} has no system call instruction to borrow: not an ordinary 64-bit program")]
    NoInstruction {
        /// The target.
        pid: u32,
    },
    /// The system call was run and failed.
    #[error("system call {number} inside process {pid} failed: {source}")]
    Call {
        /// The target.
        pid: u32,
        /// The system call's number.
        number: i64,
        /// Its answer.
        #[source]
        source: io::Error,
    },
    /// A step of the injection failed.
    #[error("cannot {action} process {pid}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The target.
        pid: u32,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The target's memory could not be reached.
    #[error(transparent)]
    Memory(ProcessMemoryError),
    /// The target could not be held.
    #[error(transparent)]
    Process(ProcessError),
}

impl From<ProcessMemoryError> for InjectError {
    fn from(error: ProcessMemoryError) -> Self {
        match error {
            ProcessMemoryError::Gone { pid } => Self::Gone { pid },
            other => Self::Memory(other),
        }
    }
}

impl From<ProcessError> for InjectError {
    fn from(error: ProcessError) -> Self {
        match error {
            ProcessError::Gone { pid } => Self::Gone { pid },
            other => Self::Process(other),
        }
    }
}

/// Stops `target` and lets `work` run system calls in it; when this returns, it runs on.
///
/// # Errors
/// If the target cannot be stopped or resumed, or what `work` returns.
///
/// # Panics
/// If `work` does, after the target was let go.
pub fn session<T, E>(target: &PidFd, work: impl FnOnce(&mut Session) -> Result<T, E> + Send) -> Result<T, E>
where
    T: Send,
    E: From<InjectError> + Send,
{
    refuse_filtered(target.pid())?;
    let on_thread = || {
        let mut session = Session::new(Stopped::stop(target)?)?;
        let result = work(&mut session);
        session.release()?;
        result
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("inject".into()).spawn_scoped(scope, on_thread);
        let system = |source| InjectError::System { action: "start a thread for", pid: target.pid(), source };
        thread.map_err(system)?.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs one system call in the main thread of `target`.
///
/// # Errors
/// [`InjectError::Call`] if the system call failed; else what kept it from being run.
pub fn system_call(target: &PidFd, number: i64, arguments: [u64; 6]) -> Result<u64, InjectError> {
    session(target, |session| session.system_call(number, arguments))
}

fn refuse_filtered(pid: u32) -> Result<(), InjectError> {
    match status_field(pid, "Seccomp")?.as_deref() {
        None | Some("0") => Ok(()),
        Some(_) => Err(InjectError::Filtered { pid }),
    }
}

/// One field of `/proc/PID/status`; `None` if the kernel does not have it.
fn status_field(pid: u32, name: &str) -> Result<Option<String>, InjectError> {
    let status =
        std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => InjectError::Gone { pid },
            _ => InjectError::System { action: "look at", pid, source },
        })?;
    let value = |line: &str| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_string());
    Ok(status.lines().find_map(value))
}
