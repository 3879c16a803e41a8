//! Owns the agent's local API: HTTP and JSON over a unix socket that only root may open.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/host` | [`types::HostStatus`] |
//! | `POST /v1/host/drain`, `/undrain` | `{}` |
//! | `POST /v1/host/doctor` with a [`types::DoctorRequest`] | [`types::DoctorReport`], after some seconds |
//! | `GET /v1/vms` | list of [`types::VmStatus`] |
//! | `POST /v1/vms` with a [`types::StartRequest`] | [`types::VmStatus`] |
//! | `GET /v1/vms/NAME` | [`types::VmStatus`] |
//! | `POST /v1/vms/NAME/protect` with a [`types::ProtectRequest`] | `{}` once the request is accepted |
//! | `POST /v1/vms/NAME/migrate` with a [`migration::MigrateRequest`] | `{}` once the request is accepted |
//! | `POST /v1/vms/NAME/migrate/cancel` | `{}` |
//! | `POST /v1/vms/NAME/unprotect`, `/stop`, `/failover` | `{}` |
//! | `GET /v1/vms/NAME/epochs?since_at_us=T` | list of [`types::EpochRecord`] |
//! | `GET /v1/events?after=N&follow=true` | [`types::EventRecord`]s: a list, or with `follow` one JSON line each, without end |
//! | `GET /metrics` | Prometheus text |
//!
//! Whatever fails is answered by a [`types::ApiError`] as JSON, with the HTTP status of its code.
//!
//! [`server`] speaks it, [`client`] asks it; the engine stands behind [`Control`].

pub mod client;
pub mod doctor;
mod metrics;
pub mod migration;
mod peer;
pub mod repair;
pub mod server;
mod socket;
pub mod types;

use migration::MigrateRequest;
use protocol::VmName;
use std::time::Duration;
use types::{
    ApiError, DoctorReport, DoctorRequest, EpochRecord, EventRecord, HostStatus, ProtectRequest,
    StartRequest, VmStatus,
};

/// What the API asks of the engine. Every call may block; the server runs each on a thread that may wait.
pub trait Control: Send + Sync + 'static {
    /// About this host.
    fn host_status(&self) -> HostStatus;

    /// Begins to drain this host, or ends it; returns once that is decided, not when its VMs are gone.
    ///
    /// # Errors
    /// If it cannot be written down.
    fn drain(&self, on: bool) -> Result<(), ApiError>;

    /// Looks at this host, and at another one with it, before they are needed.
    ///
    /// # Errors
    /// If there is no such VM here, or this host runs none. What is amiss is no error.
    fn doctor(&self, request: &DoctorRequest) -> Result<DoctorReport, ApiError>;

    /// Every VM that this host runs or stands by for.
    fn vms(&self) -> Vec<VmStatus>;

    /// One of them.
    ///
    /// # Errors
    /// If there is no such VM here.
    fn vm(&self, name: &VmName) -> Result<VmStatus, ApiError>;

    /// Starts a VM here and returns once it runs.
    ///
    /// # Errors
    /// If the VM file is not right, the VM cannot be protected or is owned elsewhere, or QEMU does not start.
    fn start(&self, request: StartRequest) -> Result<VmStatus, ApiError>;

    /// Begins to protect a VM; returns once the request is accepted. How it goes on is in the VM's status.
    ///
    /// # Errors
    /// If there is no such VM, it does not run here, the backup is unknown, or it is protected already.
    fn protect(&self, name: &VmName, request: ProtectRequest) -> Result<(), ApiError>;

    /// Ends a VM's protection; the VM runs on.
    ///
    /// # Errors
    /// If there is no such VM, or it is not protected from here.
    fn unprotect(&self, name: &VmName) -> Result<(), ApiError>;

    /// Ends a VM, here and at its backup.
    ///
    /// # Errors
    /// If there is no such VM, or it does not run here.
    fn stop(&self, name: &VmName) -> Result<(), ApiError>;

    /// Hands a protected VM over to its backup.
    ///
    /// # Errors
    /// If there is no such VM, or it is not protected from here.
    fn failover(&self, name: &VmName) -> Result<(), ApiError>;

    /// Begins to bring a VM to another host; returns once the request is accepted. How it goes on is in the VM's status.
    ///
    /// # Errors
    /// If there is no such VM, it does not run here, the destination is unknown, or something else is under way.
    fn migrate(&self, name: &VmName, request: MigrateRequest) -> Result<(), ApiError>;

    /// Ends a VM's migration: it stays.
    ///
    /// # Errors
    /// If there is no such VM, it is not being migrated, or it is too late.
    fn cancel_migration(&self, name: &VmName) -> Result<(), ApiError>;

    /// The checkpoints of a VM that were cut at or after `since_at_us` (microseconds since 1970), as far as the
    /// agent keeps them.
    ///
    /// # Errors
    /// If there is no such VM here.
    fn epochs(&self, name: &VmName, since_at_us: u64) -> Result<Vec<EpochRecord>, ApiError>;

    /// The events with a number above `after`, oldest first, as far as the agent keeps them.
    fn events(&self, after_seq: u64) -> Vec<EventRecord>;

    /// Like [`Control::events`], but waits until there is one, at most for `timeout`; empty if none came.
    fn wait_events(&self, after_seq: u64, timeout: Duration) -> Vec<EventRecord>;
}
