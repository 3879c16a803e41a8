//! Owns what the two loops have in common: their clock, their channels, the priority of threads.

use crossbeam_channel::{Receiver, Sender};
use protocol::detector::Gaps;
use protocol::{Epoch, HostName, Instant, Micros};
use std::time::Duration;

/// Both ends: threads beside a loop get clones of the first.
pub type Channel<T> = (Sender<T>, Receiver<T>);

/// The engine's clock.
#[must_use]
pub fn now() -> Instant {
    Instant(os::clock::now_us())
}

/// A length of time as the protocol counts it.
#[must_use]
pub fn micros(time: Duration) -> Micros {
    Micros(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

/// So often a VM's loop tells the host what it has learnt of its link.
const NOTE_LINK: Duration = Duration::from_secs(1);

/// When a VM's loop tells the host what it has learnt of its link: others listen on it, or will. Once a second and at the
/// end, and nothing twice: who does not listen any more learns nothing, and what he once knew shall grow old.
#[derive(Debug, Default)]
pub struct LinkNotes {
    looked: Option<std::time::Instant>,
    told: Option<(HostName, Gaps)>,
}

impl LinkNotes {
    /// What is to be told now.
    pub fn news(&mut self, learnt: Option<(&HostName, &Gaps)>, ends: bool) -> Option<&(HostName, Gaps)> {
        if !ends && self.looked.is_some_and(|looked| looked.elapsed() < NOTE_LINK) {
            return None;
        }
        self.looked = Some(std::time::Instant::now());
        let (host, gaps) = learnt?;
        if self.told.as_ref().is_some_and(|told| (&told.0, &told.1) == (host, gaps)) {
            return None;
        }
        self.told = Some((host.clone(), gaps.clone()));
        self.told.as_ref()
    }
}

/// The name of a phase as the API says it.
#[must_use]
pub fn name_of(phase: &impl serde::Serialize) -> String {
    serde_json::to_value(phase).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

/// So long a VM's loop may wait for something without a word.
const LONG: Duration = Duration::from_secs(1);

/// Does what a VM's loop has to wait for, and tells the log if that took long: nothing else was done for the VM meanwhile.
pub fn waited_for<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = std::time::Instant::now();
    let result = work();
    let took = start.elapsed();
    if took > LONG {
        tracing::warn!(what, took_ms = took.as_millis(), "a VM's loop had to wait");
    }
    result
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

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Micros;

    #[test]
    fn what_a_loop_has_learnt_is_told_once_and_what_it_learns_then_again() {
        let (beta, heartbeat) = (HostName::new("beta").unwrap(), Micros::from_millis(30));
        let mut gaps = Gaps::new(Instant(0), heartbeat);
        let mut notes = LinkNotes::default();
        assert_eq!(notes.news(None, true), None);
        assert!(notes.news(Some((&beta, &gaps)), true).is_some());
        assert_eq!(notes.news(Some((&beta, &gaps)), true), None, "its session is over");
        gaps.add(Instant(400_000), Micros::from_millis(400));
        assert_eq!(notes.news(Some((&beta, &gaps)), false), None, "not yet");
        assert_eq!(notes.news(Some((&beta, &gaps)), true), Some(&(beta, gaps)));
    }
}
