//! What the demo, the whole-system tests, the torture and the benchmarks share: guest images made from Debian
//! packages, hosts and a client in network namespaces, clients that measure, and the report.
//!
//! | module | owns |
//! |---|---|
//! | [`packages`] | which Debian packages are needed here, and installing them |
//! | [`guest`] | guest images, built once and cached; talking to the program inside the guest |
//! | [`topology`] | [`Lab`]: hosts, switch and client, their links, and the processes that run in them |
//! | [`cluster`] | agents on a lab's hosts, their VMs, waiting for what they do |
//! | [`arbiters`] | the cluster's arbiter: a directory, three etcd members, a witness |
//! | [`plain`] | a guest in a QEMU without an agent |
//! | [`client`] | clients that write, ask and verify, and note what they saw |
//! | [`history`] | what clients asked of registers and were told, and whether it is linearizable |
//! | [`nemesis`] | what is done to the host of a VM, and how it is made well again; chance by seed |
//! | [`report`] | `result.json` and `report.html` |
//! | [`command`] | running other programs |
#![forbid(unsafe_code)]

pub mod arbiters;
pub mod client;
pub mod cluster;
pub mod command;
pub mod guest;
pub mod history;
pub mod nemesis;
pub mod packages;
pub mod plain;
pub mod report;
pub mod topology;

pub use topology::Lab;
