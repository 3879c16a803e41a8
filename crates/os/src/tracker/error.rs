//! Owns what can go wrong with tracking.

use crate::inject::InjectError;
use crate::process::ProcessError;
use crate::process_memory::ProcessMemoryError;
use crate::range::Range;
use std::io;

/// What went wrong with tracking.
#[derive(Debug, thiserror::Error)]
pub enum TrackerError {
    /// This kernel cannot do it.
    #[error(
        "Linux {release} cannot track the memory of another process (asynchronous userfaultfd write protection and PAGEMAP_SCAN); Linux 6.7 or newer can"
    )]
    Kernel {
        /// The running kernel.
        release: String,
    },
    /// A userfaultfd cannot be created.
    #[error(
        "no userfaultfd can be created: {source}; is it forbidden (container, seccomp, LSM) or left out of the kernel?"
    )]
    Create {
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The target is dead, or has become another program.
    #[error("the tracked process {pid} is gone")]
    Gone {
        /// The target.
        pid: u32,
    },
    /// Someone else watches this memory.
    #[error("memory {:#x}-{:#x} of process {pid} is watched by another userfaultfd already (QEMU: postcopy or background-snapshot?)", range.start, range.end())]
    Busy {
        /// The target.
        pid: u32,
        /// The memory.
        range: Range,
    },
    /// The target has mapped something else where the tracked memory was.
    #[error("memory {:#x}-{:#x} of process {pid} is not watched any more: the process has mapped it anew (memory hot-unplug?); attach again", range.start, range.end())]
    Lost {
        /// The target.
        pid: u32,
        /// The memory.
        range: Range,
    },
    /// A range that is not whole pages, or not mapped.
    #[error("{:#x}-{:#x} is no tracked memory of process {pid}: it must be whole pages, mapped from end to end", range.start, range.end())]
    BadRange {
        /// The target.
        pid: u32,
        /// The range.
        range: Range,
    },
    /// The kernel tracks, but wrongly.
    #[error(
        "the self-test of memory tracking failed on Linux {release}, case {case:?}: {reason}; protecting a VM would lose memory"
    )]
    SelfTest {
        /// The running kernel.
        release: String,
        /// What was tested.
        case: &'static str,
        /// What was seen.
        reason: String,
    },
    /// A system call failed.
    #[error("cannot {action} memory {:#x}-{:#x} of process {pid}: {source}", range.start, range.end())]
    System {
        /// What was tried.
        action: &'static str,
        /// The target.
        pid: u32,
        /// The memory.
        range: Range,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The target could not be made to create a userfaultfd.
    #[error(transparent)]
    Inject(InjectError),
    /// The target could not be reached.
    #[error(transparent)]
    Process(ProcessError),
    /// The target's mappings could not be listed.
    #[error(transparent)]
    Memory(ProcessMemoryError),
}

impl TrackerError {
    pub(super) fn system(action: &'static str, pid: u32, range: Range, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::ESRCH) => Self::Gone { pid },
            _ => Self::System { action, pid, range, source },
        }
    }
}

impl From<InjectError> for TrackerError {
    fn from(error: InjectError) -> Self {
        match error {
            InjectError::Gone { pid } => Self::Gone { pid },
            other => Self::Inject(other),
        }
    }
}

impl From<ProcessMemoryError> for TrackerError {
    fn from(error: ProcessMemoryError) -> Self {
        match error {
            ProcessMemoryError::Gone { pid } => Self::Gone { pid },
            other => Self::Memory(other),
        }
    }
}

impl From<ProcessError> for TrackerError {
    fn from(error: ProcessError) -> Self {
        match error {
            ProcessError::Gone { pid } => Self::Gone { pid },
            other => Self::Process(other),
        }
    }
}
