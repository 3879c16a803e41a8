//! Owns `cargo xtask bench failover`: what clients see of many deaths of hosts, with and without input replay, what
//! several links cost and save, what a change of backup is, and how soon a VM that moved is protected again.

pub mod again;
pub mod change;
pub mod deaths;
mod journey;
pub mod kill;
mod kinds;
pub mod links;

/// When hosts suspect each other.
pub fn detection() -> (&'static str, String) {
    let timing = protocol::Timing::default();
    let text = format!(
        "the defaults: heartbeats every {} ms; a host is suspected after {} ms of silence at the earliest",
        timing.heartbeat.0 / 1_000,
        timing.timeout.0 / 1_000
    );
    ("Failure detection", text)
}
