//! Owns the reasons why a VM's machine cannot be had or used.

use os::tap::TapError;
use std::path::PathBuf;

/// Why a VM's machine could not be had or used.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// This host's QEMU.
    #[error(transparent)]
    Install(#[from] qemu::install::InstallError),
    /// There is none, for a VM that needs it.
    #[error("there is no QEMU to ask: {0}")]
    NoQemu(String),
    /// Starting it.
    #[error(transparent)]
    Launch(#[from] qemu::launch::LaunchError),
    /// The standby.
    #[error(transparent)]
    Standby(#[from] qemu::standby::StandbyError),
    /// A file of the VM.
    #[error(transparent)]
    Fingerprint(#[from] qemu::fingerprint::FingerprintError),
    /// Its memory.
    #[error(transparent)]
    Memory(#[from] os::memfd::MemoryError),
    /// The memory of its process.
    #[error(transparent)]
    Ram(#[from] crate::ram::RamError),
    /// The deterministic machine.
    #[error(transparent)]
    Hosted(#[from] rvrun::hosted::HostedError),
    /// What the deterministic machine is made of.
    #[error(transparent)]
    Setup(#[from] rvrun::setup::SetupError),
    /// Its channels.
    #[error("the system gives no sockets for the machine: {0}")]
    Sockets(std::io::Error),
    /// What its kernel's generator of random numbers begins with.
    #[error("the system gives no random numbers for the machine: {0}")]
    Random(std::io::Error),
    /// Its clock.
    #[error(transparent)]
    Clock(#[from] os::kvm_clock::KvmClockError),
    /// The threads of its processors.
    #[error("how busy its processors are cannot be read: {0}")]
    Processors(std::io::Error),
    /// A disk.
    #[error(transparent)]
    Disk(#[from] crate::disks::DiskError),
    /// A network device.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The gate.
    #[error(transparent)]
    Gate(#[from] net::GateError),
    /// The console's log.
    #[error(transparent)]
    Console(#[from] net::ConsoleLogError),
    /// The checkpoint's device state.
    #[error(transparent)]
    Device(#[from] qemu::device_state::DeviceStateError),
    /// The control connection.
    #[error(transparent)]
    Qmp(#[from] qemu::qmp::QmpError),
    /// This host failed the tracker's self-test.
    #[error("this host cannot track dirty pages: {0}")]
    SelfTest(os::tracker::TrackerError),
    /// The tracker.
    #[error(transparent)]
    Tracker(#[from] os::tracker::TrackerError),
    /// The two hosts differ.
    #[error("the hosts are not alike enough: {0}")]
    Differs(String),
    /// The two hosts do not have the same arbiter.
    #[error("the hosts have different arbiters ({theirs} there, {ours} here): two owners would be possible")]
    Arbiter {
        /// The other host's.
        theirs: String,
        /// This host's.
        ours: String,
    },
    /// What the primary sent cannot be read.
    #[error("the primary's description of the machine cannot be read: {0}")]
    Description(#[from] serde_json::Error),
    /// Applying the last epoch.
    #[error("the last epoch could not be applied: {0}")]
    Apply(String),
    /// A bridge that is not there.
    #[error(
        "there is no bridge {bridge} on this host, which a network card of VM {vm} needs; make it with `ip link add {bridge} type bridge`"
    )]
    Bridge {
        /// The bridge.
        bridge: String,
        /// The VM.
        vm: String,
    },
    /// The disk.
    #[error("cannot use {path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}
