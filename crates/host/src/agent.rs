//! Owns the agent: its configuration, its VMs, its listener, and what operators ask of it.

use crate::api::Control;
use crate::api::types::{
    ApiError, EpochRecord, ErrorCode, EventRecord, HostStatus, ProtectRequest, Role, StartRequest, VmStatus,
};
use crate::backup::BackupInput;
use crate::config::HostConfig;
use crate::events::EventLog;
use crate::primary::Request;
use crate::vm::{Ended, VmHandle};
use arbiter::Arbiter;
use crossbeam_channel::{Sender, bounded};
use protocol::notice::Notice;
use protocol::{VmId, VmName};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What all loops of an agent share.
pub struct Shared {
    /// The configuration.
    pub config: HostConfig,
    /// Who decides on ownership.
    pub arbiter: Arc<dyn Arbiter>,
    /// The event log.
    pub events: EventLog,
    vms: Mutex<BTreeMap<VmName, Entry>>,
}

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

/// Why an agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A directory that it needs.
    #[error("cannot use the state directory {path}: {source}")]
    StateDir {
        /// The directory.
        path: std::path::PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The replication port.
    #[error("cannot listen for other hosts on {address}: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// The system's error.
        source: std::io::Error,
    },
}

/// A running agent.
#[derive(Clone)]
pub struct Agent {
    shared: Arc<Shared>,
}

impl Shared {
    pub(crate) fn vms(&self) -> MutexGuard<'_, BTreeMap<VmName, Entry>> {
        self.vms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds the VM that a frame names.
    pub(crate) fn find(&self, id: VmId) -> Option<Entry> {
        self.vms().values().find(|entry| entry.handle.id() == id).cloned()
    }

    /// Logs what the protocol tells.
    pub fn notice(&self, vm: &VmName, notice: &Notice) {
        self.events.log(vm, notice, crate::words::of(vm, notice));
    }

    /// A loop ended: its VM leaves the table.
    pub(crate) fn remove(&self, handle: &Arc<VmHandle>) {
        handle.detach();
        let mut vms = self.vms();
        if vms.get(handle.name()).is_some_and(|entry| Arc::ptr_eq(&entry.handle, handle)) {
            vms.remove(handle.name());
        }
    }

    /// What follows from the end of a primary's loop.
    pub(crate) fn after_primary(&self, handle: &Arc<VmHandle>, ended: &Ended) {
        if let Ended::Stopped(term) = ended
            && let Err(error) = self.arbiter.mark_stopped(handle.name(), *term, &self.config.name)
        {
            let text = format!("VM {} is stopped, but the arbiter was not told: {error}", handle.name());
            self.events.log(handle.name(), &serde_json::json!({"event": "not_marked_stopped"}), text);
        }
        self.remove(handle);
    }
}

impl Agent {
    /// Starts the agent: listens for other hosts.
    ///
    /// # Errors
    /// If the state directory or the port cannot be used.
    pub fn start(config: HostConfig) -> Result<Self, AgentError> {
        let state_dir = config.state_dir.clone();
        let events = std::fs::create_dir_all(&state_dir)
            .and_then(|()| EventLog::open(config.name.clone(), &state_dir))
            .map_err(|source| AgentError::StateDir { path: state_dir, source })?;
        let arbiter: Arc<dyn Arbiter> =
            Arc::new(arbiter::directory::DirectoryArbiter::new(&config.arbiter.directory));
        if let Err(error) = arbiter.identity() {
            // It may come back; until then nothing can be started, protected or taken over here.
            tracing::warn!(%error, "the arbiter does not answer");
        }
        let address = config.listen;
        let shared = Arc::new(Shared { config, arbiter, events, vms: Mutex::default() });
        crate::listener::start(&shared).map_err(|source| AgentError::Listen { address, source })?;
        Ok(Self { shared })
    }

    fn entry(&self, name: &VmName) -> Result<Entry, ApiError> {
        self.shared.vms().get(name).cloned().ok_or_else(|| {
            let here = &self.shared.config.name;
            ApiError::new(
                ErrorCode::NotFound,
                format!("no VM {name} at host {here}; `undying vm list` shows them"),
            )
        })
    }

    /// Hands a request to a VM's loop and waits for its answer.
    fn ask(
        &self,
        name: &VmName,
        request: impl FnOnce(Sender<Result<(), ApiError>>) -> Request,
    ) -> Result<(), ApiError> {
        let entry = self.entry(name)?;
        let here = &self.shared.config.name;
        if entry.handle.role() == Role::Backup {
            let message = format!("host {here} only stands by for VM {name}; ask the host it runs at");
            return Err(ApiError::new(ErrorCode::Refused, message));
        }
        let (reply, answer) = bounded(1);
        let gone = || ApiError::new(ErrorCode::Refused, format!("VM {name} at host {here} is ending"));
        entry.requests.send(request(reply)).map_err(|_| gone())?;
        answer.recv_timeout(Duration::from_secs(30)).map_err(|_| gone())?
    }
}

impl Control for Agent {
    fn host_status(&self) -> HostStatus {
        let config = &self.shared.config;
        HostStatus {
            name: config.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            listen: config.listen.to_string(),
            peers: config.peers.iter().map(|(name, address)| (name.clone(), address.to_string())).collect(),
            arbiter: self.shared.arbiter.describe(),
            arbiter_error: self.shared.arbiter.identity().err().map(|error| error.to_string()),
            vms: self.shared.vms().keys().cloned().collect(),
        }
    }

    fn vms(&self) -> Vec<VmStatus> {
        let handles: Vec<_> = self.shared.vms().values().map(|entry| Arc::clone(&entry.handle)).collect();
        handles.iter().map(|handle| handle.status()).collect()
    }

    fn vm(&self, name: &VmName) -> Result<VmStatus, ApiError> {
        Ok(self.entry(name)?.handle.status())
    }

    fn start(&self, request: StartRequest) -> Result<VmStatus, ApiError> {
        crate::start::start(&self.shared, &request)
    }

    fn protect(&self, name: &VmName, request: ProtectRequest) -> Result<(), ApiError> {
        self.ask(name, |reply| Request::Protect(request, reply))
    }

    fn unprotect(&self, name: &VmName) -> Result<(), ApiError> {
        self.ask(name, Request::Unprotect)
    }

    fn stop(&self, name: &VmName) -> Result<(), ApiError> {
        self.ask(name, Request::Stop)
    }

    fn failover(&self, name: &VmName) -> Result<(), ApiError> {
        // A handover whose backup cannot ask the arbiter would stop the VM for nothing.
        if let Err(error) = self.shared.arbiter.identity() {
            return Err(ApiError::new(ErrorCode::Refused, format!("no planned failover now: {error}")));
        }
        self.ask(name, Request::Failover)
    }

    fn epochs(&self, name: &VmName, since_at_us: u64) -> Result<Vec<EpochRecord>, ApiError> {
        let measurements = self.entry(name)?.handle.measurements();
        Ok(measurements.map_or_else(Vec::new, |measurements| {
            measurements.lock().unwrap_or_else(PoisonError::into_inner).since(since_at_us)
        }))
    }

    fn events(&self, after_seq: u64) -> Vec<EventRecord> {
        self.shared.events.after(after_seq)
    }

    fn wait_events(&self, after_seq: u64, timeout: Duration) -> Vec<EventRecord> {
        self.shared.events.wait_after(after_seq, timeout)
    }
}
