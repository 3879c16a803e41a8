//! Owns the agent: its configuration, its VMs, its listener, and what operators ask of it.

use crate::config::HostConfig;
use crate::context::Context;
use crate::control::Control;
use crate::door::Door;
use crate::drain::Drain;
use crate::events::EventLog;
use crate::primary::Request;
use crate::room::Room;
use crate::table::{Entry, Table};
use crate::vm::VmHandle;
use crate::watch::ArbiterWatch;
use api::migration::MigrateRequest;
use api::types::{
    ApiError, DoctorReport, DoctorRequest, EpochRecord, ErrorCode, EventRecord, HostStatus, LinkStatus,
    ProtectRequest, Role, StartRequest, VmStatus,
};
use arbiter::Arbiter;
use arbiter::memory::Remembering;
use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use protocol::VmName;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Events of a VM that its status tells.
const LATELY: usize = 8;
/// A VM's loop answers a request within milliseconds; when it has not by then, who asked is told so.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

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
    /// Its identity, or whom it trusts.
    #[error("host {name} cannot speak to other hosts: {source}")]
    Trust {
        /// The host.
        name: protocol::HostName,
        /// What is wrong.
        source: trust::TrustError,
    },
    /// The arbiter, or this host's memory of it.
    #[error(transparent)]
    Arbiter(#[from] arbiter::ArbiterError),
    /// A witness without records.
    #[error(
        "host {name} has no records to be a witness with: {source}. If it never was one, make it one with `undying arbiter init CONFIG`; if it was, bring its records back"
    )]
    NoRecords {
        /// The host.
        name: protocol::HostName,
        /// What is missing.
        source: arbiter::ArbiterError,
    },
    /// The system has no thread left.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// A running agent.
#[derive(Clone)]
pub struct Agent {
    context: Arc<Context>,
    table: Arc<Table>,
    watch: Arc<ArbiterWatch>,
}

impl Agent {
    /// Starts the agent: listens for other hosts.
    ///
    /// # Errors
    /// If the state directory or the port cannot be used, the host has no identity or others may read it, or the
    /// configured arbiter makes no sense.
    pub fn start(config: HostConfig) -> Result<Self, AgentError> {
        #[cfg(feature = "ablation")]
        config.ablation.begin();
        let state_dir = config.state_dir.clone();
        let events = std::fs::create_dir_all(&state_dir)
            .and_then(|()| EventLog::open(config.name.clone(), &state_dir))
            .map_err(|source| AgentError::StateDir { path: state_dir.clone(), source })?;
        let trust = config.trust();
        let door = open_door(&trust, &Arc::new(events))?;
        let drain = Drain::open(&state_dir);
        // It may be away and come back; until then nothing can be started, protected or taken over here.
        let client = config.arbiter.client(&trust)?;
        let arbiter: Arc<dyn Arbiter> = Arc::new(Remembering::new(client, &config.arbiter_memory())?);
        let table = Arc::new(Table::default());
        let watch = ArbiterWatch::start(&arbiter, &table).map_err(AgentError::Thread)?;
        let room = Room::of(&config);
        room.watch_remnants().map_err(AgentError::Thread)?;
        let has = room.status();
        let from = if has.configured { "as configured" } else { "what is available now without a reserve" };
        tracing::info!("standbys may use {} MiB of memory: {from}", has.memory_bytes >> 20);
        let events = Arc::clone(door.events());
        let context =
            Arc::new(Context { config, arbiter, events, door, room, links: Mutex::default(), drain });
        crate::listener::start(&context, &table)
            .map_err(|(address, source)| AgentError::Listen { address, source })?;
        Ok(Self { context, table, watch })
    }

    fn entry(&self, name: &VmName) -> Result<Entry, ApiError> {
        self.table.vms().get(name).cloned().ok_or_else(|| {
            let here = &self.context.config.name;
            ApiError::new(
                ErrorCode::NotFound,
                format!("no VM {name} at host {here}; `undying vm list` shows them"),
            )
        })
    }

    fn links(&self) -> Vec<LinkStatus> {
        let handles: Vec<_> = self.table.vms().values().map(|entry| Arc::clone(&entry.handle)).collect();
        handles.iter().filter_map(|handle| handle.link()).collect()
    }

    fn status(&self, handle: &VmHandle) -> VmStatus {
        let mut status = handle.status();
        status.lately = self.context.events.lately(handle.name(), LATELY);
        status.warnings.extend(self.watch.warning(handle.name()));
        status
    }

    /// Hands a request to a VM's loop and waits for its answer.
    fn ask(
        &self,
        name: &VmName,
        request: impl FnOnce(Sender<Result<(), ApiError>>) -> Request,
    ) -> Result<(), ApiError> {
        let entry = self.entry(name)?;
        let here = &self.context.config.name;
        if entry.handle.role() == Role::Backup {
            let message = format!("host {here} only stands by for VM {name}; ask the host it runs at");
            return Err(ApiError::new(ErrorCode::Refused, message));
        }
        let (reply, answer) = bounded(1);
        let gone = || ApiError::new(ErrorCode::Refused, format!("VM {name} at host {here} is ending"));
        entry.requests.send(request(reply)).map_err(|_| gone())?;
        answer.recv_timeout(ANSWER_WITHIN).map_err(|error| match error {
            RecvTimeoutError::Disconnected => gone(),
            RecvTimeoutError::Timeout => {
                let seconds = ANSWER_WITHIN.as_secs();
                let message = format!(
                    "VM {name} at host {here} did not answer for {seconds} s: the request may still be carried out (`undying vm status {name}`); what it waits for is in the agent's log"
                );
                ApiError::new(ErrorCode::Failed, message)
            }
        })?
    }
}

/// Opens the door of a host whose files of trust are right, and says what will not be so for long.
pub(crate) fn open_door(trust: &trust::Store, events: &Arc<EventLog>) -> Result<Arc<Door>, AgentError> {
    let wrong = |source| AgentError::Trust { name: trust.host().clone(), source };
    trust.check().map_err(wrong)?;
    for text in crate::door::soon_expired(trust).map_err(wrong)? {
        events.log_host(&serde_json::json!({"event": "certificate_expires"}), text);
    }
    Door::start(trust.clone(), Arc::clone(events)).map_err(AgentError::Thread)
}

impl Control for Agent {
    fn host_status(&self) -> HostStatus {
        let config = &self.context.config;
        // Before the table is locked for the names.
        let links = self.links();
        HostStatus {
            name: config.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            listen: config.listen.to_string(),
            peers: config
                .peers
                .iter()
                .map(|(name, peer)| (name.clone(), peer.addresses.to_string()))
                .collect(),
            arbiter: self.context.arbiter.describe(),
            arbiter_error: self.watch.error(),
            draining: self.context.drain.on(),
            vms: self.table.vms().keys().cloned().collect(),
            room: Some(self.context.room.status()),
            places: crate::room::places(config),
            links,
        }
    }

    fn drain(&self, on: bool) -> Result<(), ApiError> {
        let here = &self.context.config.name;
        self.context.drain.set(on).map_err(|error| {
            let message = format!("host {here} cannot write down that it is being drained or not: {error}");
            ApiError::new(ErrorCode::Failed, message)
        })?;
        tracing::info!("host {here} {}", if on { "is being drained" } else { "takes VMs again" });
        Ok(())
    }

    fn doctor(&self, request: &DoctorRequest) -> Result<DoctorReport, ApiError> {
        crate::doctor::at_agent(&self.context, &self.table, request)
    }

    fn vms(&self) -> Vec<VmStatus> {
        let handles: Vec<_> = self.table.vms().values().map(|entry| Arc::clone(&entry.handle)).collect();
        handles.iter().map(|handle| self.status(handle)).collect()
    }

    fn vm(&self, name: &VmName) -> Result<VmStatus, ApiError> {
        Ok(self.status(&self.entry(name)?.handle))
    }

    fn start(&self, request: StartRequest) -> Result<VmStatus, ApiError> {
        crate::start::start(&self.context, &self.table, &request)
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
        if let Err(error) = self.context.arbiter.identity() {
            return Err(ApiError::new(ErrorCode::Refused, format!("no planned failover now: {error}")));
        }
        self.ask(name, Request::Failover)
    }

    fn migrate(&self, name: &VmName, request: MigrateRequest) -> Result<(), ApiError> {
        // As for a planned failover: without an arbiter the VM would be stopped for nothing.
        if let Err(error) = self.context.arbiter.identity() {
            return Err(ApiError::new(ErrorCode::Refused, format!("no migration now: {error}")));
        }
        self.ask(name, |reply| Request::Migrate(request, reply))
    }

    fn cancel_migration(&self, name: &VmName) -> Result<(), ApiError> {
        self.ask(name, Request::CancelMigration)
    }

    fn epochs(&self, name: &VmName, since_at_us: u64) -> Result<Vec<EpochRecord>, ApiError> {
        let measurements = self.entry(name)?.handle.measurements();
        Ok(measurements.map_or_else(Vec::new, |measurements| {
            measurements.lock().unwrap_or_else(PoisonError::into_inner).since(since_at_us)
        }))
    }

    fn events(&self, after_seq: u64) -> Vec<EventRecord> {
        self.context.events.after(after_seq)
    }

    fn wait_events(&self, after_seq: u64, timeout: Duration) -> Vec<EventRecord> {
        self.context.events.wait_after(after_seq, timeout)
    }
}
