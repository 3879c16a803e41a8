//! Owns what every part of an agent may use: its configuration, its arbiter, its event log, its
//! door to other hosts, its room for standbys.

use crate::config::HostConfig;
use crate::door::Door;
use crate::drain::Drain;
use crate::events::EventLog;
use crate::room::Room;
use arbiter::Arbiter;
use protocol::VmName;
use protocol::notice::Notice;
use std::sync::Arc;

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
    /// Whether this host is being drained.
    pub drain: Drain,
}

impl Context {
    /// Logs what the protocol tells.
    pub fn notice(&self, vm: &VmName, notice: &Notice) {
        self.events.log(vm, notice, crate::words::of(vm, notice));
    }
}
