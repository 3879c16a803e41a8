//! Owns the client side of the API: one blocking call per request, over the agent's unix socket.

use crate::migration::MigrateRequest;
use crate::types::{
    ApiError, DoctorReport, DoctorRequest, EpochRecord, EventRecord, HostStatus, ProtectRequest,
    StartRequest, VmStatus,
};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use protocol::VmName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is there.
    #[error("no agent answers at {socket} ({source}); start one with `undying host --config FILE`")]
    NoAgent {
        /// The socket.
        socket: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Not for this user.
    #[error("the agent's socket {socket} may not be opened: {source}; only root may control this host's VMs")]
    Denied {
        /// The socket.
        socket: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The agent said no.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The connection ended before the answer did. The request may or may not have been carried out.
    #[error(
        "the agent at {socket} went away before it answered {request}: {source}; look at `undying vm list`"
    )]
    Lost {
        /// The socket.
        socket: PathBuf,
        /// What was asked.
        request: String,
        /// How it ended.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The answer is no answer of an agent, or of a much different version of it.
    #[error("the answer from {socket} to {request} makes no sense: {why}; is it an agent of this version?")]
    Nonsense {
        /// The socket.
        socket: PathBuf,
        /// What was asked.
        request: String,
        /// What is wrong with it.
        why: String,
    },
    /// The runtime cannot be started.
    #[error("cannot start the client's runtime: {0}")]
    Runtime(io::Error),
}

/// Asks an agent. Every call connects anew and blocks until the answer is there.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    runtime: Runtime,
}

impl Client {
    /// A client of the agent at `socket`; connects only when asked something.
    ///
    /// # Errors
    /// If the system gives no event queue.
    pub fn new(socket: &Path) -> Result<Self, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ClientError::Runtime)?;
        Ok(Self { socket: socket.to_path_buf(), runtime })
    }

    /// About the host.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn host_status(&self) -> Result<HostStatus, ClientError> {
        self.get("/v1/host")
    }

    /// Begins to drain the host, or ends it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn drain(&self, on: bool) -> Result<(), ClientError> {
        self.post(if on { "/v1/host/drain" } else { "/v1/host/undrain" }, &()).map(|Done {}| ())
    }

    /// Looks at the host, and at a pair of hosts.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn doctor(&self, request: &DoctorRequest) -> Result<DoctorReport, ClientError> {
        self.post("/v1/host/doctor", request)
    }

    /// Every VM that the host runs or stands by for.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn vms(&self) -> Result<Vec<VmStatus>, ClientError> {
        self.get("/v1/vms")
    }

    /// One VM.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn vm(&self, name: &VmName) -> Result<VmStatus, ClientError> {
        self.get(&format!("/v1/vms/{name}"))
    }

    /// Starts a VM.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn start(&self, request: &StartRequest) -> Result<VmStatus, ClientError> {
        self.post("/v1/vms", request)
    }

    /// Begins to protect a VM; returns once the agent accepted it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn protect(&self, name: &VmName, request: &ProtectRequest) -> Result<(), ClientError> {
        self.post(&format!("/v1/vms/{name}/protect"), request).map(|Done {}| ())
    }

    /// Ends a VM's protection.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn unprotect(&self, name: &VmName) -> Result<(), ClientError> {
        self.act(name, "unprotect")
    }

    /// Ends a VM.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn stop(&self, name: &VmName) -> Result<(), ClientError> {
        self.act(name, "stop")
    }

    /// Hands a VM over to its backup.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn failover(&self, name: &VmName) -> Result<(), ClientError> {
        self.act(name, "failover")
    }

    /// Begins to bring a VM to another host; returns once the agent accepted it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn migrate(&self, name: &VmName, request: &MigrateRequest) -> Result<(), ClientError> {
        self.post(&format!("/v1/vms/{name}/migrate"), request).map(|Done {}| ())
    }

    /// Ends a VM's migration: it stays.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn cancel_migration(&self, name: &VmName) -> Result<(), ClientError> {
        self.act(name, "migrate/cancel")
    }

    /// The checkpoints of a VM that were cut at or after `since_at_us`, microseconds since 1970.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn epochs(&self, name: &VmName, since_at_us: u64) -> Result<Vec<EpochRecord>, ClientError> {
        self.get(&format!("/v1/vms/{name}/epochs?since_at_us={since_at_us}"))
    }

    /// The events with a number above `after`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn events(&self, after: u64) -> Result<Vec<EventRecord>, ClientError> {
        self.get(&format!("/v1/events?after={after}"))
    }

    /// The events with a number above `after`, and then each as it happens.
    ///
    /// # Errors
    /// See [`ClientError`]; the iterator's errors are the same.
    pub fn follow(&self, after: u64) -> Result<Follow<'_>, ClientError> {
        let call = Call::get(format!("/v1/events?after={after}&follow=true"));
        let body = self.runtime.block_on(async {
            let (status, body) = self.send(&call).await?;
            if status.is_success() { Ok(body) } else { Err(self.refusal(&call, status, body).await) }
        })?;
        Ok(Follow { client: self, call, body: Some(body), pending: Vec::new() })
    }

    /// The metrics, as Prometheus text.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn metrics(&self) -> Result<String, ClientError> {
        let call = Call::get("/metrics".into());
        let bytes = self.runtime.block_on(self.ask(&call))?;
        String::from_utf8(bytes.into()).map_err(|error| self.nonsense(&call, error.to_string()))
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.json(&Call::get(path.to_string()))
    }

    fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).expect("requests are JSON: their maps have text as keys");
        self.json(&Call { method: Method::POST, path: path.to_string(), body: body.into() })
    }

    fn act(&self, name: &VmName, verb: &str) -> Result<(), ClientError> {
        self.post(&format!("/v1/vms/{name}/{verb}"), &()).map(|Done {}| ())
    }

    fn json<T: DeserializeOwned>(&self, call: &Call) -> Result<T, ClientError> {
        let bytes = self.runtime.block_on(self.ask(call))?;
        serde_json::from_slice(&bytes).map_err(|error| self.nonsense(call, error.to_string()))
    }

    /// The whole body of a good answer.
    async fn ask(&self, call: &Call) -> Result<Bytes, ClientError> {
        let (status, body) = self.send(call).await?;
        if !status.is_success() {
            return Err(self.refusal(call, status, body).await);
        }
        Ok(body.collect().await.map_err(|error| self.lost(call, error))?.to_bytes())
    }

    async fn send(&self, call: &Call) -> Result<(StatusCode, Incoming), ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(error))?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.lost(call, error))?;
        // It ends when the answer has been read or dropped; its errors reach us through the answer.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(call.method.clone())
            .uri(&call.path)
            .header(header::HOST, "agent")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(call.body.clone()))
            .expect("checked names and numbers make a valid address");
        let answer = sender.send_request(request).await.map_err(|error| self.lost(call, error))?;
        Ok((answer.status(), answer.into_body()))
    }

    /// The error that an answer with a bad status carries.
    async fn refusal(&self, call: &Call, status: StatusCode, body: Incoming) -> ClientError {
        match body.collect().await {
            Err(error) => self.lost(call, error),
            Ok(body) => match serde_json::from_slice::<ApiError>(&body.to_bytes()) {
                Ok(error) => ClientError::Api(error),
                Err(_) => self.nonsense(call, format!("HTTP status {status} without an error of ours")),
            },
        }
    }

    fn unreachable(&self, source: io::Error) -> ClientError {
        let socket = self.socket.clone();
        match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Denied { socket, source },
            _ => ClientError::NoAgent { socket, source },
        }
    }

    fn lost(&self, call: &Call, source: impl Error + Send + Sync + 'static) -> ClientError {
        ClientError::Lost { socket: self.socket.clone(), request: call.name(), source: Box::new(source) }
    }

    fn nonsense(&self, call: &Call, why: String) -> ClientError {
        ClientError::Nonsense { socket: self.socket.clone(), request: call.name(), why }
    }
}

/// The answer to a request that is done once it is accepted.
#[derive(serde::Deserialize)]
struct Done {}

#[derive(Debug)]
struct Call {
    method: Method,
    path: String,
    body: Bytes,
}

impl Call {
    fn get(path: String) -> Self {
        Self { method: Method::GET, path, body: Bytes::new() }
    }

    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// Events as they happen. Ends when the agent ends.
#[derive(Debug)]
pub struct Follow<'a> {
    client: &'a Client,
    call: Call,
    /// None once the stream ended or failed.
    body: Option<Incoming>,
    /// The beginning of a line whose end has not come.
    pending: Vec<u8>,
}

impl Follow<'_> {
    /// A whole line, if there is one.
    fn line(&mut self) -> Option<Vec<u8>> {
        let end = self.pending.iter().position(|&byte| byte == b'\n')?;
        let rest = self.pending.split_off(end + 1);
        Some(std::mem::replace(&mut self.pending, rest))
    }

    /// Reads on; false at the end of the stream.
    fn read(&mut self) -> Result<bool, ClientError> {
        let Some(body) = &mut self.body else { return Ok(false) };
        match self.client.runtime.block_on(body.frame()) {
            Some(Ok(frame)) => {
                self.pending.extend(frame.into_data().unwrap_or_default());
                Ok(true)
            }
            Some(Err(error)) => {
                self.body = None;
                Err(self.client.lost(&self.call, error))
            }
            None => {
                self.body = None;
                Ok(false)
            }
        }
    }
}

impl Iterator for Follow<'_> {
    type Item = Result<EventRecord, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(line) = self.line() {
                let event = serde_json::from_slice(&line);
                return Some(event.map_err(|error| self.client.nonsense(&self.call, error.to_string())));
            }
            match self.read() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
