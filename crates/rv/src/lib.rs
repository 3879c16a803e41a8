//! The deterministic machine: a RISC-V computer whose state is a function of its inputs.
//!
//! No clock, no randomness, no host floating point, no threads, no files and no `unsafe`: `no_std` keeps the
//! compiler's eye on it.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod float;

mod boot;
mod bus;
mod code;
mod compare;
mod compressed;
mod csr;
mod debug;
mod decode;
mod device_tree;
mod devices;
mod dirty;
mod dma;
mod execute;
mod fast;
mod floating;
mod hot;
mod integer;
mod machine;
mod mmu;
mod pieces;
mod plic;
mod pmp;
mod rtc;
mod sbi;
mod snapshot;
mod tlb;
mod trap;
mod uart;
mod virtio;

pub use boot::{BootError, Files};
pub use compare::Difference;
pub use debug::{Halt, Stops, Watch};
pub use decode::{Kind, Op};
pub use devices::{Disk, Hardware};
pub use hot::Hotness;
pub use machine::{Answer, Input, Machine, Mode, Output, RAM, Request, Stop, TICKS};
pub use pieces::{Compiler, Made, Ops, Order, PLACES, Parts};
pub use snapshot::{History, STATE_VERSION, Snapshot, SnapshotError};
pub use tlb::{SLOTS, Slot};
