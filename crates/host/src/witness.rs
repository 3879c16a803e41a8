//! Owns a host that is a witness: it keeps the records of terms for others, and runs no VMs.
//!
//! A host that ran VMs and decided on them would take both with it when it dies. So a witness refuses them.

use crate::agent::{AgentError, open_door};
use crate::config::WitnessConfig;
use crate::control::Control;
use crate::door::Door;
use crate::events::EventLog;
use api::migration::MigrateRequest;
use api::types::{
    ApiError, DoctorReport, DoctorRequest, EpochRecord, ErrorCode, EventRecord, HostStatus, ProtectRequest,
    StartRequest, VmStatus,
};
use arbiter::Arbiter;
use arbiter::directory::{self, DirectoryArbiter};
use arbiter::witness::server::{Doorkeeper, Server};
use protocol::{HostName, VmName};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};
use trust::{Connection, HandshakeError, Purpose, Wanted};

/// A running witness.
pub struct Witness {
    config: WitnessConfig,
    store: DirectoryArbiter,
    server: Server,
    events: Arc<EventLog>,
}

/// Any host may ask that is trusted here.
impl Doorkeeper for Door {
    fn let_in(&self, socket: TcpStream, until: Instant) -> Result<Connection, HandshakeError> {
        Self::let_in(self, socket, Wanted::Anyone, &[Purpose::Witness], until)
    }

    fn refused(&self, address: SocketAddr, host: &HostName, why: &str) {
        Self::refused(self, address, Some(host), "wrong_name", why);
    }
}

/// Makes the host a witness, once: the records have a place from now on. One that is a witness already stays as it is.
///
/// # Errors
/// If the state directory cannot be written.
pub fn init(config: &WitnessConfig) -> Result<DirectoryArbiter, AgentError> {
    let path = config.store();
    std::fs::create_dir_all(&path).map_err(|source| AgentError::StateDir { path: path.clone(), source })?;
    Ok(directory::init(&path)?)
}

impl Witness {
    /// Begins to answer hosts.
    ///
    /// # Errors
    /// If the host was never made a witness, or lost its records: it does not begin anew by itself, for it would grant
    /// terms a second time. If it has no identity, or the port cannot be used.
    pub fn start(config: WitnessConfig) -> Result<Self, AgentError> {
        let store = DirectoryArbiter::new(&config.store());
        store.identity().map_err(|source| AgentError::NoRecords { name: config.name.clone(), source })?;
        let events = EventLog::open(config.name.clone(), &config.state_dir);
        let no_log = |source| AgentError::StateDir { path: config.state_dir.clone(), source };
        let events = Arc::new(events.map_err(no_log)?);
        let door = open_door(&config.trust(), &events)?;
        let address = config.witness.listen;
        let listener = TcpListener::bind(address);
        let server = listener.and_then(|listener| Server::start(listener, store.clone(), door));
        let server = server.map_err(|source| AgentError::Listen { address, source })?;
        Ok(Self { config, store, server, events })
    }

    fn no_vm(&self, name: &VmName) -> ApiError {
        let here = &self.config.name;
        ApiError::new(
            ErrorCode::NotFound,
            format!("no VM {name} at host {here}, which is a witness and runs none"),
        )
    }
}

impl Control for Witness {
    fn host_status(&self) -> HostStatus {
        HostStatus {
            name: self.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            listen: self.server.address().to_string(),
            peers: Vec::new(),
            arbiter: format!("this host, a witness; its records are in the {}", self.store.describe()),
            arbiter_error: self.store.identity().err().map(|error| error.to_string()),
            draining: false,
            vms: Vec::new(),
            room: None,
            places: Vec::new(),
            links: Vec::new(),
        }
    }

    fn drain(&self, _: bool) -> Result<(), ApiError> {
        let message = format!("host {} is a witness: there are no VMs to drain", self.config.name);
        Err(ApiError::new(ErrorCode::Refused, message))
    }

    fn doctor(&self, _: &DoctorRequest) -> Result<DoctorReport, ApiError> {
        let message = format!(
            "host {} is a witness: look at the hosts that use it, whose doctor says whether it answers them",
            self.config.name
        );
        Err(ApiError::new(ErrorCode::Refused, message))
    }

    fn vms(&self) -> Vec<VmStatus> {
        Vec::new()
    }

    fn vm(&self, name: &VmName) -> Result<VmStatus, ApiError> {
        Err(self.no_vm(name))
    }

    fn start(&self, _: StartRequest) -> Result<VmStatus, ApiError> {
        let message = format!(
            "host {} is a witness and runs no VMs: what decides on a VM must not die with it",
            self.config.name
        );
        Err(ApiError::new(ErrorCode::Refused, message))
    }

    fn protect(&self, name: &VmName, _: ProtectRequest) -> Result<(), ApiError> {
        Err(self.no_vm(name))
    }

    fn unprotect(&self, name: &VmName) -> Result<(), ApiError> {
        Err(self.no_vm(name))
    }

    fn stop(&self, name: &VmName) -> Result<(), ApiError> {
        Err(self.no_vm(name))
    }

    fn failover(&self, name: &VmName) -> Result<(), ApiError> {
        Err(self.no_vm(name))
    }

    fn migrate(&self, name: &VmName, _: MigrateRequest) -> Result<(), ApiError> {
        Err(self.no_vm(name))
    }

    fn cancel_migration(&self, name: &VmName) -> Result<(), ApiError> {
        Err(self.no_vm(name))
    }

    fn epochs(&self, name: &VmName, _: u64) -> Result<Vec<EpochRecord>, ApiError> {
        Err(self.no_vm(name))
    }

    fn events(&self, after_seq: u64) -> Vec<EventRecord> {
        self.events.after(after_seq)
    }

    fn wait_events(&self, after_seq: u64, timeout: Duration) -> Vec<EventRecord> {
        self.events.wait_after(after_seq, timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, WitnessSection};
    use arbiter::witness::WitnessArbiter;
    use protocol::{Claim, Term};
    use std::path::Path;

    fn config(state_dir: &Path) -> WitnessConfig {
        let text = format!(
            "name = 'gamma'\nstate_dir = {state_dir:?}\napi_socket = '/s'\n[witness]\nlisten = '127.0.0.1:0'"
        );
        let Config::Witness(config) = Config::parse(Path::new("w.toml"), &text).unwrap() else {
            panic!("a witness")
        };
        assert_eq!(config.witness, WitnessSection { listen: "127.0.0.1:0".parse().unwrap() });
        config
    }

    /// A host that it trusts, and that trusts it.
    fn alpha(place: &Path, config: &WitnessConfig) -> trust::Store {
        let (alpha, gamma) = (HostName::new("alpha").unwrap(), config.trust());
        let alpha = trust::Store::new(&place.join("alpha"), &alpha);
        for (one, other) in [(&alpha, &gamma), (&gamma, &alpha)] {
            let certificate = one.init(trust::Lifetime::default()).unwrap();
            other.trust(one.host(), &certificate).unwrap();
        }
        alpha
    }

    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn it_answers_hosts_and_refuses_vms_and_never_begins_anew_by_itself() {
        let place = tempfile::tempdir().unwrap();
        let config = config(place.path());
        let error = Witness::start(config.clone()).err().expect("it was never made a witness").to_string();
        assert!(error.contains("arbiter init"), "{error}");
        let identity = init(&config).unwrap().identity().unwrap();
        let error = Witness::start(config.clone()).err().expect("it has no identity").to_string();
        assert!(error.contains("undying host init"), "{error}");
        let alpha = alpha(place.path(), &config);
        let witness = Witness::start(config.clone()).unwrap();
        let client = WitnessArbiter::new(config.name.clone(), witness.server.address(), alpha.clone());
        assert_eq!(client.identity().unwrap(), identity);
        let of_beta = Claim {
            vm: VmName::new("web").unwrap(),
            term: Term(1),
            host: HostName::new("beta").unwrap(),
            nonce: 1,
        };
        let error = client.claim(&of_beta).unwrap_err().to_string();
        assert!(error.contains("in the name of host beta"), "{error}");
        assert_eq!(client.vms().unwrap(), []);
        client.claim(&Claim { host: alpha.host().clone(), ..of_beta.clone() }).unwrap();
        let error = client.mark_stopped(&of_beta.vm, Term(1), &of_beta.host).unwrap_err().to_string();
        assert!(error.contains("in the name of host beta"), "{error}");
        assert_eq!(witness.wait_events(0, PATIENCE).len(), 1, "told, and the second time held back");
        config.trust().distrust(alpha.host(), None).unwrap();
        let error = client.identity().unwrap_err();
        assert!(error.is_unreachable() && error.to_string().contains("revoked"), "{error}");
        // Told behind the answer.
        assert_eq!(witness.wait_events(1, PATIENCE)[0].what["reason"], "revoked");
        let request = StartRequest {
            spec: String::new(),
            base_dir: "/".into(),
            last_owner_is_dead: false,
            accept_older_disk: false,
        };
        assert_eq!(witness.start(request).unwrap_err().code, ErrorCode::Refused);
        assert_eq!(witness.host_status().arbiter_error, None);
        drop(witness);
        assert!(client.identity().unwrap_err().is_unreachable());
        std::fs::remove_dir_all(config.store()).unwrap();
        assert!(Witness::start(config).is_err(), "its records are lost");
    }
}
