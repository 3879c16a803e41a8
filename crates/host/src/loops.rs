//! Owns what the two loops have in common: their clock, their channels, the priority of threads.

use crossbeam_channel::{Receiver, Sender};
use protocol::{Epoch, Instant};
use std::time::Duration;

/// Both ends: threads beside a loop get clones of the first.
pub type Channel<T> = (Sender<T>, Receiver<T>);

/// The engine's clock.
#[must_use]
pub fn now() -> Instant {
    Instant(os::clock::now_us())
}

/// So often a VM's loop tells the host what it has learnt of its link.
pub const NOTE_LINK: Duration = Duration::from_secs(1);

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

/// The priority of a thread that carries a session's data. A first copy is bulk: at the priority of checkpoints its reading,
/// packing and unpacking would keep other VMs' checkpoints from their processors for as long as it lasts.
#[derive(Debug, Default)]
pub struct Haste {
    preferred: Option<bool>,
}

impl Haste {
    /// The thread is about to work for this epoch; 0 is the first copy.
    pub fn suit(&mut self, epoch: Epoch) {
        let prefer = epoch > Epoch(0);
        if self.preferred.replace(prefer) == Some(prefer) {
            return;
        }
        if prefer {
            prefer_this_thread();
        } else if let Err(error) = os::sched::ordinary_current_thread() {
            tracing::debug!(%error, "a first copy runs at the priority of checkpoints");
        }
    }
}

/// A random number, to tell this life of the agent from another.
#[must_use]
pub fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library seeds each process's hashers from the system's random numbers.
    std::collections::hash_map::RandomState::new().build_hasher().finish() ^ os::clock::realtime_us()
}
