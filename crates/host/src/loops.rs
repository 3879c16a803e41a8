//! Owns what the two loops have in common: their clock, their channels, their priority.

use crossbeam_channel::{Receiver, Sender};
use protocol::Instant;

/// Both ends: threads beside a loop get clones of the first.
pub type Channel<T> = (Sender<T>, Receiver<T>);

/// The engine's clock.
#[must_use]
pub fn now() -> Instant {
    Instant(os::clock::now_us())
}

/// The name of a phase as the API says it.
#[must_use]
pub fn name_of(phase: &impl serde::Serialize) -> String {
    serde_json::to_value(phase).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Lets the current thread run before ordinary ones: it guards a pause or a heartbeat, and its work is short.
pub fn prefer_this_thread() {
    if let Err(error) = os::sched::raise_current_thread() {
        tracing::debug!(%error, "the engine's threads run at ordinary priority");
    }
}

/// A random number, to tell this life of the agent from another.
#[must_use]
pub fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library seeds each process's hashers from the system's random numbers.
    std::collections::hash_map::RandomState::new().build_hasher().finish() ^ os::clock::realtime_us()
}
