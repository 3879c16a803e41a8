//! The engine and the agent: one loop per VM that selects an event, hands it to `protocol` and carries out
//! the actions that come back.
//!
//! Where things go: `agent` answers operators, whose requests `control` takes; `table` holds the VMs; `listener` takes other
//! hosts' connections; `door` lets them in, or not; `primary` is the loop of a VM that runs here, with the thread that takes its checkpoints; `backup` is the
//! loop of one that stands by, with the threads that keep and apply epochs; `link` is the connection between the two;
//! `machine` is a VM with its gate and TAPs, `computer` what runs it (a QEMU process), `disks` what it reads and writes;
//! `doctor` looks at a host and a pair of hosts before they are needed;
//! `arbiters` says who decides on ownership, `claims` asks, `watch` looks whether anybody would answer; `witness` is a host
//! that answers.

#![forbid(unsafe_code)]

mod ablation;
pub mod agent;
pub mod arbiters;
pub mod backup;
mod claims;
mod computer;
pub mod config;
mod context;
pub mod control;
mod disks;
pub mod doctor;
mod door;
mod drain;
mod events;
mod incident;
mod link;
mod listener;
mod loops;
mod machine;
mod measure;
mod peers;
mod plan;
pub mod primary;
mod ram;
mod room;
mod speed;
mod staging;
mod start;
mod table;
mod vm;
mod watch;
pub mod witness;
mod words;

pub use agent::{Agent, AgentError};
pub use config::{Config, HostConfig};
