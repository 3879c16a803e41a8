//! Owns the agent's side of its local API, whose requests and answers `api` describes.
//!
//! [`server`] speaks it, on a unix socket that only root may open (`socket`, `peer`); the engine stands behind [`Control`].

mod metrics;
mod peer;
pub mod server;
mod socket;

use api::migration::MigrateRequest;
use api::types::{
    ApiError, DoctorReport, DoctorRequest, EpochRecord, EventRecord, HostStatus, ProtectRequest,
    StartRequest, VmStatus,
};
use protocol::VmName;
use std::time::Duration;

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
