//! Everything that needs `unsafe` or is Linux's own, and nothing about VMs or replication.
//!
//! The heart is the [`tracker`]: it finds the pages that another, unmodified process has written, with
//! userfaultfd and `PAGEMAP_SCAN`, without that process's help. Around it: memory that is shared with a child
//! ([`memfd`]), memory of another process ([`process_memory`]), children that die with us ([`process`]), system
//! calls run inside another process ([`inject`], [`heap`]), and network devices and namespaces ([`tap`], [`netns`]).
//!
//! All other crates forbid `unsafe`; here every block states why it is sound.

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!(
    "crate `os` speaks to Linux on x86-64 only: registers, ioctl numbers and structures are its own"
);

pub mod block;
pub mod clock;
pub mod facts;
pub mod heap;
pub mod inject;
pub mod kvm_clock;
pub mod memfd;
pub mod netns;
pub mod process;
pub mod process_memory;
pub mod range;
pub mod sched;
pub mod staging;
pub mod tap;
pub mod tcp;
pub mod thread_time;
pub mod tracker;

pub use memfd::Memory;
pub use process::{Child, PidFd, Spawn};
pub use range::{PAGE_SIZE, Range};
pub use staging::PageBuffer;
pub use tracker::{Tracker, TrackerError};
