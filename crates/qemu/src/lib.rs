//! Stock QEMU, driven from outside: starting it, talking to it, taking its device state and putting it back.
//!
//! The way of a VM through the modules: a [`spec`] file says what it is; [`install`] asks the local QEMU what it
//! can do and resolves the spec; [`launch`] starts the process and gives a [`Qemu`]; [`ram`] finds its memory;
//! [`saver`] takes checkpoints of its devices ([`device_state`]); a [`Standby`] is the second process, elsewhere, that waits to
//! go on from one. [`fingerprint`] says whether two hosts are alike enough for that.
//!
//! Nothing here knows why a checkpoint is taken or who may run a VM. Everything blocks; QMP has one reader thread.

#![forbid(unsafe_code)]

pub mod accel;
pub mod device_state;
pub mod fingerprint;
pub mod install;
pub mod launch;
pub mod qmp;
pub mod ram;
pub mod saver;
pub mod spec;
pub mod stamp;
pub mod standby;

pub use accel::Accel;
pub use device_state::DeviceState;
pub use fingerprint::Fingerprint;
pub use install::{Installation, ResolvedSpec};
pub use launch::{Channels, Qemu, Role};
pub use qmp::{Event, Qmp};
pub use ram::{RamLayout, RamMap};
pub use saver::{DeviceSaver, Then};
pub use spec::{Refusal, VmSpec};
pub use standby::Standby;
