//! Owns what every part of an agent may use: its configuration, its arbiter, its event log, its
//! door to other hosts, its room for standbys.

use crate::config::HostConfig;
use crate::door::Door;
use crate::drain::Drain;
use crate::events::EventLog;
use crate::incident::Incident;
use crate::loops::now;
use crate::room::Room;
use arbiter::Arbiter;
use os::Memory;
use protocol::detector::{Gaps, Links};
use protocol::notice::Notice;
use protocol::{HostName, VmName};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What all loops of an agent share.
pub struct Context {
    /// The configuration.
    pub config: HostConfig,
    /// Who decides on ownership.
    pub arbiter: Arc<dyn Arbiter>,
    /// The event log.
    pub events: Arc<EventLog>,
    /// The way to other hosts.
    pub door: Arc<Door>,
    /// What there is for standbys.
    pub room: Arc<Room>,
    /// What is known of the links to other hosts.
    pub links: Mutex<Links>,
    /// Whether this host is being drained.
    pub drain: Drain,
}

impl Context {
    /// What a session has learnt of its link.
    pub fn note_link(&self, host: &HostName, gaps: &Gaps) {
        self.lock_links().note(now(), host, gaps);
    }

    /// What is known of the link to this host.
    #[must_use]
    pub fn known_link(&self, host: &HostName) -> Option<Gaps> {
        self.lock_links().of(host)
    }

    /// A VM's process ends here, or is about to: its memory is kept for a copy that comes back, if one may.
    pub fn keep_remnant(&self, vm: &VmName, memory: Option<Arc<Memory>>) {
        if !self.drain.on() {
            self.room.keep_remnant(vm, memory);
        }
    }

    fn lock_links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs what the protocol tells.
    pub fn notice(&self, vm: &VmName, notice: &Notice, incident: &mut Incident) {
        let (what, text) = incident.tell(now(), vm, notice);
        self.events.log(vm, &what, text);
    }
}
