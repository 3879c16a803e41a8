//! Owns the table of the VMs at this agent, and what follows when a VM's loop ends.

use crate::backup::BackupInput;
use crate::context::Context;
use crate::primary::Request;
use crate::vm::{Ended, VmHandle};
use crossbeam_channel::Sender;
use protocol::{VmId, VmName};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A VM's place in the table. The senders of the role that it does not have are of no use, but always there: the
/// role changes at a promotion, within the same loop's thread.
#[derive(Clone)]
pub struct Entry {
    /// Seen from outside.
    pub handle: Arc<VmHandle>,
    /// To its loop while it is primary.
    pub requests: Sender<Request>,
    /// To its loop while it is backup.
    pub inputs: Sender<BackupInput>,
}

/// The VMs that run at this agent or have a standby here.
#[derive(Default)]
pub struct Table {
    vms: Mutex<BTreeMap<VmName, Entry>>,
}

impl Table {
    /// The entries; nothing else happens to the table while they are held.
    pub fn vms(&self) -> MutexGuard<'_, BTreeMap<VmName, Entry>> {
        self.vms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds the VM that a frame names.
    pub fn find(&self, id: VmId) -> Option<Entry> {
        self.vms().values().find(|entry| entry.handle.id() == id).cloned()
    }

    /// A loop ended: its VM leaves the table, and a clean stop is made known to the arbiter.
    pub fn end(&self, context: &Context, handle: &Arc<VmHandle>, ended: &Ended) {
        if let Ended::Stopped(term) = ended
            && let Err(error) = context.arbiter.mark_stopped(handle.name(), *term, &context.config.name)
        {
            let text = format!("VM {} is stopped, but the arbiter was not told: {error}", handle.name());
            context.events.log(handle.name(), &serde_json::json!({"event": "not_marked_stopped"}), text);
        }
        self.remove(handle);
    }

    /// Takes a VM out of the table.
    pub fn remove(&self, handle: &Arc<VmHandle>) {
        handle.detach();
        let mut vms = self.vms();
        if vms.get(handle.name()).is_some_and(|entry| Arc::ptr_eq(&entry.handle, handle)) {
            vms.remove(handle.name());
        }
    }
}
