//! Every behaviour of the ownership protocol within bounds, checked by the model checker `stateright`.
//!
//! This crate owns a finite world around `protocol`'s own state machines: two hosts, the connections between them, an
//! arbiter and a guest that only counts. The machines are not modelled: a state holds clones of [`protocol::primary::Primary`] and
//! [`protocol::backup::Backup`] themselves. Whatever the world may choose, an order, a loss, a death, the time, is a step; the checker
//! takes them all. What is promised is in [`Promise`].
//!
//! It stands beside `sim`, not in it: the simulator draws choices from a seed in the middle of its work, and carries
//! real frames, pages and disks, which is what makes it thorough and its states beyond counting.

#![forbid(unsafe_code)]

mod arbiter;
mod bounds;
mod check;
mod gate;
mod judge;
mod network;
mod owner;
mod standby;
mod steps;
mod world;

pub use bounds::{Begin, Bounds, Clocks, UNIT};
pub use check::{Outcome, Promise, check};
pub use steps::{Ask, Fault, Step};
pub use world::{HostId, World};

#[cfg(feature = "planted")]
pub use protocol::Planted;
