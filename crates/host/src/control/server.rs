//! Owns the server side of the API: routes, who may ask, and how errors become HTTP.
//!
//! The server runs on a thread of its own with a small runtime; every call into the engine goes to a thread that
//! may block. Followers of events are bounded, each keeps one such thread.

use super::peer::PeerUser;
use super::socket::Socket;
use super::{Control, metrics};
use api::migration::MigrateRequest;
use api::types::{
    ApiError, DoctorReport, DoctorRequest, ErrorCode, EventRecord, ProtectRequest, StartRequest,
};
use axum::body::{Body, Bytes};
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{ConnectInfo, Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::stream;
use protocol::VmName;
use serde::Deserialize;
use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::spawn_blocking;

/// Followers of the event log at a time.
const MAX_FOLLOWERS: usize = 32;
/// Threads that wait for the engine: followers and calls.
const MAX_BLOCKING: usize = MAX_FOLLOWERS + 32;
/// How often a follower looks whether the server ends.
const FOLLOW_POLL: Duration = Duration::from_millis(500);
/// Calls that run when the server is stopped may take so long to finish.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// The user that may ask.
const ROOT: u32 = 0;

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another agent has the socket.
    #[error("an agent already runs: it answers on {path}; stop it first, or set another api_socket")]
    AgentRuns {
        /// The socket.
        path: PathBuf,
    },
    /// The socket cannot be had.
    #[error("cannot {action} the API socket {path}: {source}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// Somebody else could put another socket in its place.
    #[error(
        "the API socket {path} lies in a directory that other users may change (mode {mode:04o}): whoever does could pass for          the agent. Mend it with `chmod go-w {}`, or set another api_socket", .directory.display()
    )]
    OpenDirectory {
        /// The socket.
        path: PathBuf,
        /// Where it lies.
        directory: PathBuf,
        /// The directory's mode.
        mode: u32,
    },
    /// The runtime or its thread cannot be started.
    #[error("cannot start the API's threads: {0}")]
    Threads(io::Error),
}

/// A running server. Dropping it stops the server and removes the socket.
#[derive(Debug)]
pub struct ServerHandle {
    socket: Socket,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl ServerHandle {
    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        self.socket.path()
    }

    /// Stops the server: calls under way have two seconds to finish, followers are ended.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the server's thread was printed by it; there is nothing left to save here.
            let _ = thread.join();
        }
    }
}

/// Serves the API of `control` on a unix socket at `path`, until the handle is dropped.
///
/// # Errors
/// If an agent answers on the socket already, or it cannot be made.
pub fn serve(path: &std::path::Path, control: Arc<dyn Control>) -> Result<ServerHandle, ServeError> {
    serve_user(path, control, ROOT)
}

/// [`serve`], for another user than root; tests run as whoever they run as.
fn serve_user(
    path: &std::path::Path,
    control: Arc<dyn Control>,
    user: u32,
) -> Result<ServerHandle, ServeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(MAX_BLOCKING)
        .thread_name("api")
        .enable_all()
        .build()
        .map_err(ServeError::Threads)?;
    let (socket, listener) = Socket::listen(path)?;
    let listener = {
        let _inside = runtime.enter();
        tokio::net::UnixListener::from_std(listener).map_err(ServeError::Threads)?
    };
    let (stop, stopped) = oneshot::channel();
    let run = move || run(runtime, listener, control, user, stopped);
    let thread = thread::Builder::new().name("api-main".into()).spawn(run).map_err(ServeError::Threads)?;
    Ok(ServerHandle { socket, stop: Some(stop), thread: Some(thread) })
}

fn run(
    runtime: Runtime,
    listener: tokio::net::UnixListener,
    control: Arc<dyn Control>,
    user: u32,
    stopped: oneshot::Receiver<()>,
) {
    let (ending, ends) = watch::channel(false);
    let followers = Arc::new(Semaphore::new(MAX_FOLLOWERS));
    let router = router(Api { control, ends, followers }, user);
    runtime.block_on(async {
        let service = router.into_make_service_with_connect_info::<PeerUser>();
        let mut rest = ending.subscribe();
        let graceful = async move {
            let _ = rest.wait_for(|&ended| ended).await;
        };
        let server = axum::serve(listener, service).with_graceful_shutdown(graceful).into_future();
        let mut server = tokio::spawn(server);
        let _ = stopped.await;
        ending.send_replace(true);
        let _ = tokio::time::timeout(STOP_GRACE, &mut server).await;
    });
    runtime.shutdown_background();
}

#[derive(Clone)]
struct Api {
    control: Arc<dyn Control>,
    /// Becomes true when the server ends.
    ends: watch::Receiver<bool>,
    followers: Arc<Semaphore>,
}

impl Api {
    /// Runs a call into the engine where it may block, and answers with its result.
    async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn Control) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let control = Arc::clone(&self.control);
        let result = spawn_blocking(move || call(&*control)).await;
        result.map_err(|error| failure(ErrorCode::Failed, format!("a defect in the agent: {error}")))
    }
}

fn router(api: Api, user: u32) -> Router {
    Router::new()
        .route("/v1/host", get(host))
        .route("/v1/host/drain", post(drain))
        .route("/v1/host/undrain", post(undrain))
        .route("/v1/host/doctor", post(doctor))
        .route("/v1/vms", get(vms).post(start))
        .route("/v1/vms/{name}", get(vm))
        .route("/v1/vms/{name}/protect", post(protect))
        .route("/v1/vms/{name}/unprotect", post(unprotect))
        .route("/v1/vms/{name}/stop", post(stop))
        .route("/v1/vms/{name}/failover", post(failover))
        .route("/v1/vms/{name}/migrate", post(migrate))
        .route("/v1/vms/{name}/migrate/cancel", post(cancel_migration))
        .route("/v1/vms/{name}/epochs", get(epochs))
        .route("/v1/events", get(events))
        .route("/metrics", get(prometheus))
        .method_not_allowed_fallback(wrong_method)
        .fallback(no_route)
        .layer(middleware::from_fn(move |request, next| only(user, request, next)))
        .with_state(api)
}

/// An error on its way out.
struct Failure(StatusCode, ApiError);

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let status = match error.code {
            ErrorCode::NotFound => StatusCode::NOT_FOUND,
            ErrorCode::Invalid => StatusCode::BAD_REQUEST,
            ErrorCode::Refused => StatusCode::CONFLICT,
            ErrorCode::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

fn failure(code: ErrorCode, message: impl Into<String>) -> Failure {
    ApiError::new(code, message).into()
}

type Answer<T> = Result<Json<T>, Failure>;

/// The answer to a request that is done once it is accepted.
#[derive(serde::Serialize)]
struct Done {}

async fn only(user: u32, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<PeerUser>>().and_then(|info| info.0.0);
    if peer == Some(user) {
        return next.run(request).await;
    }
    let who = peer.map_or("an unknown user".into(), |uid| format!("user {uid}"));
    let message = format!("{who} may not control this host's VMs; only root may");
    Failure(StatusCode::FORBIDDEN, ApiError::new(ErrorCode::Refused, message)).into_response()
}

async fn no_route(request: Request) -> Failure {
    failure(ErrorCode::NotFound, format!("the API has no {}", request.uri().path()))
}

async fn wrong_method(request: Request) -> Failure {
    let message = format!("{} is no method of {}", request.method(), request.uri().path());
    Failure(StatusCode::METHOD_NOT_ALLOWED, ApiError::new(ErrorCode::Invalid, message))
}

fn vm_name(name: &str) -> Result<VmName, Failure> {
    VmName::new(name).map_err(|error| failure(ErrorCode::Invalid, error.to_string()))
}

fn body<T>(body: Result<Json<T>, JsonRejection>) -> Result<T, Failure> {
    body.map(|Json(body)| body).map_err(|error| failure(ErrorCode::Invalid, error.body_text()))
}

fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Failure> {
    query.map(|Query(query)| query).map_err(|error| failure(ErrorCode::Invalid, error.body_text()))
}

async fn host(State(api): State<Api>) -> Answer<api::types::HostStatus> {
    Ok(Json(api.call(|control| control.host_status()).await?))
}

async fn drain(State(api): State<Api>) -> Answer<Done> {
    api.call(|control| control.drain(true)).await??;
    Ok(Json(Done {}))
}

async fn undrain(State(api): State<Api>) -> Answer<Done> {
    api.call(|control| control.drain(false)).await??;
    Ok(Json(Done {}))
}

async fn doctor(
    State(api): State<Api>,
    request: Result<Json<DoctorRequest>, JsonRejection>,
) -> Answer<DoctorReport> {
    let request = body(request)?;
    Ok(Json(api.call(move |control| control.doctor(&request)).await??))
}

async fn vms(State(api): State<Api>) -> Answer<Vec<api::types::VmStatus>> {
    Ok(Json(api.call(|control| control.vms()).await?))
}

async fn vm(State(api): State<Api>, Path(name): Path<String>) -> Answer<api::types::VmStatus> {
    let name = vm_name(&name)?;
    Ok(Json(api.call(move |control| control.vm(&name)).await??))
}

async fn start(
    State(api): State<Api>,
    request: Result<Json<StartRequest>, JsonRejection>,
) -> Answer<api::types::VmStatus> {
    let request = body(request)?;
    Ok(Json(api.call(move |control| control.start(request)).await??))
}

async fn protect(
    State(api): State<Api>,
    Path(name): Path<String>,
    request: Result<Json<ProtectRequest>, JsonRejection>,
) -> Answer<Done> {
    let (name, request) = (vm_name(&name)?, body(request)?);
    api.call(move |control| control.protect(&name, request)).await??;
    Ok(Json(Done {}))
}

async fn unprotect(State(api): State<Api>, Path(name): Path<String>) -> Answer<Done> {
    let name = vm_name(&name)?;
    api.call(move |control| control.unprotect(&name)).await??;
    Ok(Json(Done {}))
}

async fn stop(State(api): State<Api>, Path(name): Path<String>) -> Answer<Done> {
    let name = vm_name(&name)?;
    api.call(move |control| control.stop(&name)).await??;
    Ok(Json(Done {}))
}

async fn failover(State(api): State<Api>, Path(name): Path<String>) -> Answer<Done> {
    let name = vm_name(&name)?;
    api.call(move |control| control.failover(&name)).await??;
    Ok(Json(Done {}))
}

async fn migrate(
    State(api): State<Api>,
    Path(name): Path<String>,
    request: Result<Json<MigrateRequest>, JsonRejection>,
) -> Answer<Done> {
    let (name, request) = (vm_name(&name)?, body(request)?);
    api.call(move |control| control.migrate(&name, request)).await??;
    Ok(Json(Done {}))
}

async fn cancel_migration(State(api): State<Api>, Path(name): Path<String>) -> Answer<Done> {
    let name = vm_name(&name)?;
    api.call(move |control| control.cancel_migration(&name)).await??;
    Ok(Json(Done {}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EpochsQuery {
    #[serde(default)]
    since_at_us: u64,
}

async fn epochs(
    State(api): State<Api>,
    Path(name): Path<String>,
    asked: Result<Query<EpochsQuery>, QueryRejection>,
) -> Answer<Vec<api::types::EpochRecord>> {
    let (name, asked) = (vm_name(&name)?, query(asked)?);
    Ok(Json(api.call(move |control| control.epochs(&name, asked.since_at_us)).await??))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsQuery {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    follow: bool,
}

async fn events(
    State(api): State<Api>,
    asked: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Response, Failure> {
    let asked = query(asked)?;
    if !asked.follow {
        return Ok(Json(api.call(move |control| control.events(asked.after)).await?).into_response());
    }
    let permit = Arc::clone(&api.followers).try_acquire_owned().map_err(|_| {
        failure(ErrorCode::Refused, format!("{MAX_FOLLOWERS} clients follow the events already; end one"))
    })?;
    let lines = stream::unfold(Follower { api, after: asked.after, _permit: permit }, Follower::next);
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

struct Follower {
    api: Api,
    after: u64,
    _permit: OwnedSemaphorePermit,
}

impl Follower {
    /// The next lines; `None` when the server ends.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        loop {
            if *self.api.ends.borrow() {
                return None;
            }
            let after = self.after;
            let events = self.api.call(move |control| control.wait_events(after, FOLLOW_POLL)).await.ok()?;
            if let Some(last) = events.last() {
                self.after = last.seq;
                return Some((Ok(lines(&events)), self));
            }
        }
    }
}

fn lines(events: &[EventRecord]) -> Bytes {
    let mut text = Vec::new();
    for event in events {
        serde_json::to_writer(&mut text, event).expect("an event is JSON: its maps have text as keys");
        text.push(b'\n');
    }
    text.into()
}

async fn prometheus(State(api): State<Api>) -> Result<Response, Failure> {
    let text = api.call(|control| metrics::text(&control.host_status(), &control.vms())).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}
