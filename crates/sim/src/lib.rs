//! The whole protocol in one process, in virtual time: the state machines of `protocol`, the very ones that the
//! engine runs, on three hosts, over a network that loses and cuts, with an arbiter, a model guest, a client and an
//! operator. A VM has a disk, on each host a copy of it. A seed decides everything; the same commit and seed give
//! the same run.
//!
//! A run has two phases. In the *safety* phase faults are injected ([`Count`] lists them; what may happen is
//! written where it is injected: `network`, `host`, `owner`, `standby`, `storage`, `world`). Then they stop, and in the
//! *liveness* phase the VM must be protected, and its client served, within a bound. Checkers look at what left
//! the hosts and at what goes on where (`checks`); the first broken promise ends the run with its [`Class`].

#![forbid(unsafe_code)]

mod arbiter;
mod checks;
mod client;
mod event;
mod failure;
mod gate;
mod guest;
mod guest_disk;
mod host;
mod nemesis;
mod network;
mod operator;
mod owner;
mod persist;
mod plan;
mod recovery;
mod report;
mod resync;
mod rng;
mod standby;
mod storage;
mod trace;
mod world;

pub use failure::{Class, Failure};
pub use plan::{Options, Stalls, Trial};
#[cfg(feature = "planted")]
pub use protocol::Planted;
pub use report::{Count, Report, Summary};

use std::panic::{AssertUnwindSafe, catch_unwind};
use world::World;

/// Runs a seed.
///
/// # Errors
/// The first broken promise, with the last lines of its trace.
pub fn run(seed: u64, options: &Options) -> Result<Report, Box<Failure>> {
    match run_once(seed, options, 0) {
        Ok(report) => Ok(report),
        // A trace costs more than the run: only a seed that failed is run again with one.
        Err(_) if options.trace_lines > 0 => run_once(seed, options, options.trace_lines),
        Err(failure) => Err(failure),
    }
}

fn run_once(seed: u64, options: &Options, trace_lines: usize) -> Result<Report, Box<Failure>> {
    let mut world = World::new(seed, options, trace_lines);
    let end = catch_unwind(AssertUnwindSafe(|| world.run()));
    if let Err(panic) = end {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or(panic.downcast_ref::<&str>().map(ToString::to_string));
        world.fail(Class::Panic, text.unwrap_or_else(|| "no message".into()));
    }
    match world.failure.take() {
        Some(failure) => Err(Box::new(failure)),
        None => Ok(world.report),
    }
}
