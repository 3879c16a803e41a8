//! Owns what the API says: the JSON of requests, answers, statuses and events.

pub use crate::doctor::{Bandwidth, DoctorReport, DoctorRequest, DoctorVm};
pub use crate::repair::{CandidateStatus, RepairRequest, RepairStatus};
pub use crate::summary::Summary;
use protocol::detector::Listening;
use protocol::pacing::{Follow, Pacing, PacingView};
use protocol::{HostName, Micros, VmName};
use qemu::spec::DiskFormat;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Ask for a VM to be started here.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StartRequest {
    /// The VM file's text (TOML).
    pub spec: String,
    /// Folder that relative paths in it start from.
    pub base_dir: PathBuf,
    /// Start although the last owner did not stop the VM cleanly. If that owner still runs, two copies live.
    #[serde(default)]
    pub last_owner_is_dead: bool,
    /// The disks here may be older than those at another host: what was written there since is lost.
    #[serde(default)]
    pub accept_older_disk: bool,
}

/// Ask for a VM to be protected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtectRequest {
    /// The backup host, as named among the peers in the configuration.
    pub to: HostName,
    /// From the start of one checkpoint to the next, in microseconds; the most of it if they follow the output.
    pub interval_us: u64,
    /// Checkpoints follow the output, within these bounds. Without it they are even.
    #[serde(default)]
    pub follow: Option<FollowOutput>,
    /// Checkpoints taken and not yet acknowledged; past it the guest stands still. Default 4.
    #[serde(default)]
    pub max_in_flight: Option<u32>,
    /// Most of its time that a guest may lose that writes faster than the backup can follow, in percent, at most 90; 0: it is
    /// only stopped when too many checkpoints are in flight. Default 80.
    #[serde(default)]
    pub max_slowdown: Option<u8>,
    /// Most bytes a second of the first copy, of disks and memory. Default: the host's configuration. Checkpoints are
    /// not limited.
    #[serde(default)]
    pub copy_rate: Option<u64>,
    /// Frames that the guest is given go to the backup too, and to the guest again if it goes on there. Without it they
    /// cost the link nothing, and clients wait for their own retransmissions. Default: they do.
    #[serde(default = "usually")]
    pub input_replay: bool,
    /// What follows when the backup, or the VM's host, is lost.
    #[serde(default)]
    pub repair: RepairRequest,
}

fn usually() -> bool {
    true
}

impl ProtectRequest {
    /// On this host, with a checkpoint each interval, and nothing by itself after a loss.
    #[must_use]
    pub fn even(to: HostName, interval_us: u64) -> Self {
        Self {
            to,
            interval_us,
            follow: None,
            max_in_flight: None,
            max_slowdown: None,
            copy_rate: None,
            input_replay: usually(),
            repair: RepairRequest::by_hand(),
        }
    }

    /// On this host, with checkpoints that follow the output within the usual bounds.
    #[must_use]
    pub fn following(to: HostName) -> Self {
        Self { follow: Some(FollowOutput::default()), ..Self::even(to, FollowOutput::LONGEST_US) }
    }
}

/// Bounds for checkpoints that follow the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowOutput {
    /// Most of the VM's time that checkpoints may take, in percent.
    pub max_overhead_percent: u8,
    /// Output waits no longer than this for the next checkpoint to begin, in microseconds.
    pub max_latency_us: u64,
}

impl Default for FollowOutput {
    fn default() -> Self {
        let Follow { max_overhead, max_latency } = Follow::default();
        Self { max_overhead_percent: max_overhead, max_latency_us: max_latency.0 }
    }
}

impl FollowOutput {
    /// The usual longest epoch, in microseconds: while nobody waits.
    pub const LONGEST_US: u64 = 250_000;

    /// The bounds in a session's times.
    #[must_use]
    pub fn of(pacing: Pacing) -> Option<Self> {
        let Pacing::Follow(Follow { max_overhead, max_latency }) = pacing else { return None };
        Some(Self { max_overhead_percent: max_overhead, max_latency_us: max_latency.0 })
    }
}

impl From<FollowOutput> for Follow {
    fn from(bounds: FollowOutput) -> Self {
        Self { max_overhead: bounds.max_overhead_percent, max_latency: Micros(bounds.max_latency_us) }
    }
}

/// How checkpoints follow the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacingStatus {
    /// The bounds.
    #[serde(flatten)]
    pub bounds: FollowOutput,
    /// How long a checkpoint stops the VM at present, in microseconds.
    pub pause_us: u64,
    /// What the guest would have done in that time, as busy as it is, in microseconds.
    #[serde(default)]
    pub loss_us: u64,
    /// Checkpoints are at least so far apart while output waits, in microseconds.
    pub rest_us: u64,
    /// And so far while none does.
    pub stretch_us: u64,
}

impl PacingStatus {
    /// Of these bounds and what is decided.
    #[must_use]
    pub fn of(bounds: FollowOutput, view: PacingView) -> Self {
        let PacingView { pause, loss, rest, stretch } = view;
        Self { bounds, pause_us: pause.0, loss_us: loss.0, rest_us: rest.0, stretch_us: stretch.0 }
    }
}

/// When this host suspects the other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetectionStatus {
    /// After so much silence, in microseconds: what it goes by now.
    pub timeout_us: u64,
    /// What was learnt of the link; none where the time-out is fixed.
    pub learnt: Option<LearntStatus>,
}

/// What was learnt of a link: the longest silences in periods of one heartbeat, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearntStatus {
    /// Their mean.
    pub mean_us: u64,
    /// One in a hundred was as long, or longer.
    pub p99_us: u64,
    /// The longest of late; it fades over minutes.
    pub peak_us: u64,
}

impl From<Listening> for DetectionStatus {
    fn from(listening: Listening) -> Self {
        let learnt = listening.learnt.map(|gaps| LearntStatus {
            mean_us: gaps.mean.0,
            p99_us: gaps.p99.0,
            peak_us: gaps.peak.0,
        });
        Self { timeout_us: listening.timeout.0, learnt }
    }
}

/// What a host does for a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It runs here.
    Primary,
    /// This host stands by for it.
    Backup,
}

/// How the first copy goes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CopyProgress {
    /// Round of the memory, from 1; 0: the disks.
    pub round: u32,
    /// Bytes of memory sent in all rounds; in round 0 bytes of the disks that were looked at.
    pub copied_bytes: u64,
    /// Bytes left in this round.
    pub remaining_bytes: u64,
}

/// What the primary measured since protection began.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Default)]
pub struct Measured {
    /// The VM stood still for a checkpoint, by QEMU's own STOP and RESUME events, ms.
    pub pause_ms: Summary,
    /// Dirty pages a checkpoint.
    pub dirty_pages: Summary,
    /// From the cut to the acknowledgement, ms.
    pub ack_ms: Summary,
    /// Frames waited in the gate, ms.
    pub hold_ms: Summary,
    /// Bytes on the wire for checkpoints.
    pub wire_bytes: u64,
    /// Dirty pages of checkpoints.
    pub pages: u64,
    /// Of them sent as what changed.
    #[serde(default)]
    pub delta_pages: u64,
    /// Of them not sent: the guest wrote what was there.
    #[serde(default)]
    pub unchanged_pages: u64,
}

/// What the gate counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct GateStatus {
    /// Frames that wait now.
    pub waiting_frames: u64,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// Frames released in all.
    pub released_frames: u64,
    /// Frames dropped because the queue was full.
    pub dropped_frames: u64,
    /// Frames that went in.
    pub input_frames: u64,
}

/// Everything about one VM at one host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VmStatus {
    /// The VM.
    pub name: VmName,
    /// The host that says this.
    pub host: HostName,
    /// What the host does for it.
    pub role: Role,
    /// Phase of the protocol's machine, as in `docs/protocol/replication.md`.
    pub phase: String,
    /// The term.
    pub term: u64,
    /// The other host, if there is one.
    pub peer: Option<HostName>,
    /// The host that is being brought up as the backup in its place.
    #[serde(default)]
    pub successor: Option<HostName>,
    /// Newest epoch sent (primary) or committed (backup).
    pub epoch: u64,
    /// Newest epoch acknowledged (primary).
    pub acked_epoch: u64,
    /// Checkpoints in flight.
    pub in_flight: u32,
    /// Checkpoint interval in microseconds; the most of it if checkpoints follow the output.
    pub interval_us: u64,
    /// How they follow the output (primary), if they do.
    #[serde(default)]
    pub pacing: Option<PacingStatus>,
    /// The guest stands still now because the backup is too slow.
    pub throttled: bool,
    /// It stood still for so long in all, ms.
    pub throttled_ms: f64,
    /// It loses so many percent of its time because it writes faster than the backup can follow.
    #[serde(default)]
    pub slowed_percent: u8,
    /// Process id of its QEMU.
    pub pid: Option<u32>,
    /// Exact machine type.
    pub machine: String,
    /// Accelerator, and why it was chosen.
    pub accel: String,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// The first copy, while it runs.
    pub copy: Option<CopyProgress>,
    /// Bytes a second of it in the last seconds; none while it is too young to tell.
    #[serde(default)]
    pub copy_speed: Option<u64>,
    /// Measurements since protection began (primary).
    pub measured: Measured,
    /// The gate (primary).
    pub gate: GateStatus,
    /// When the other host is suspected; none while there is none to listen to.
    #[serde(default)]
    pub detection: Option<DetectionStatus>,
    /// The connections to the other host, if its configuration or ours names several.
    #[serde(default)]
    pub paths: Vec<PathStatus>,
    /// Memory that the agent holds for this VM beside the guest's own RAM, bytes.
    pub agent_bytes: u64,
    /// Its disks, in the order of the VM file.
    #[serde(default)]
    pub disks: Vec<DiskStatus>,
    /// The journal of their changes (backup).
    #[serde(default)]
    pub journal: Option<JournalStatus>,
    /// Most bytes a second of a first copy or resynchronisation; none: as fast as it goes.
    #[serde(default)]
    pub copy_rate: Option<u64>,
    /// Who protects it after a loss (primary).
    #[serde(default)]
    pub repair: RepairStatus,
    /// How it is being brought to another host (primary).
    #[serde(default)]
    pub migration: Option<crate::migration::MigrationStatus>,
    /// What happened to it here, the newest last.
    #[serde(default)]
    pub lately: Vec<Happened>,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// An event of a VM, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happened {
    /// Microseconds since 1970.
    pub at_us: u64,
    /// What.
    pub text: String,
}

/// One of several connections of a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PathStatus {
    /// The other host's address.
    pub address: String,
    /// The other host is heard over it.
    pub up: bool,
    /// It carries the checkpoints; small frames go by every path.
    pub active: bool,
    /// For so long nothing was heard, if it is silent, ms.
    pub silent_ms: Option<f64>,
    /// Bytes sent by it in this session.
    pub sent_bytes: u64,
    /// Bytes that came by it.
    pub received_bytes: u64,
}

/// A disk of a VM at a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// Its image here.
    pub image: PathBuf,
    /// Bytes of the disk that the guest sees.
    pub size: u64,
    /// How the image holds it.
    #[serde(default)]
    pub format: DiskFormat,
    /// Bytes of the image: more than the guest sees if it is not raw. Most of them may be holes.
    #[serde(default)]
    pub image_size: Option<u64>,
    /// Whether the guest may only read it.
    pub read_only: bool,
    /// Whether the VM's hosts share its image: it is handed over, not copied.
    #[serde(default)]
    pub shared: bool,
    /// What QEMU asked of it since it is here.
    pub served: disk::Stats,
    /// How its newest first copy or resynchronisation went, or goes (primary).
    #[serde(default)]
    pub copy: Option<DiskCopy>,
    /// Bytes that the guest changed and the backup has not acknowledged (primary, while there is a session).
    #[serde(default)]
    pub unacknowledged_bytes: u64,
    /// Bytes of the blocks in which it may differ from the bases (primary).
    #[serde(default)]
    pub differing_bytes: Option<u64>,
    /// The sessions whose committed state it differs from only there; none: a copy that comes back is compared whole.
    #[serde(default)]
    pub bases: Vec<BaseStatus>,
}

/// A state that two copies of the disks had in common: the newest committed one of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseStatus {
    /// The owner's term.
    pub term: u64,
    /// Its session.
    pub session: u64,
}

impl From<&protocol::resync::Base> for BaseStatus {
    fn from(base: &protocol::resync::Base) -> Self {
        Self { term: base.term.0, session: base.session.0 }
    }
}

/// How a backup's copies became the primary's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyKind {
    /// All data were sent: there was no copy before.
    Full,
    /// All was compared and what differs was sent: nothing was known of the copy.
    Comparison,
    /// What may differ was compared, and what does was sent.
    Difference,
}

/// How the copy of a disk goes, or went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskCopy {
    /// How.
    pub kind: CopyKind,
    /// Bytes that were looked at.
    pub done_bytes: u64,
    /// Bytes that are still to be.
    pub remaining_bytes: u64,
    /// Of those looked at, bytes that were sent.
    pub sent_bytes: u64,
}

/// What a backup's journal of disk changes holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalStatus {
    /// Bytes of changes that are durable in it, or about to be, and not in the replicas yet.
    pub unapplied_bytes: u64,
    /// Its bytes in use.
    pub used_bytes: u64,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// One checkpoint, for reports.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// The term it was taken in.
    pub term: u64,
    /// Its number.
    pub epoch: u64,
    /// When the VM was stopped, microseconds since 1970.
    pub at_us: u64,
    /// How long it stood still, microseconds.
    pub pause_us: u64,
    /// Dirty pages.
    pub dirty_pages: u64,
    /// Of them copied before the VM was stopped.
    #[serde(default)]
    pub ahead_pages: u64,
    /// Bytes on the wire.
    pub wire_bytes: u64,
    /// From the cut to the acknowledgement, microseconds; 0 while it is not there.
    pub ack_us: u64,
}

/// About the host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostStatus {
    /// Its name.
    pub name: HostName,
    /// Version of the program.
    pub version: String,
    /// Where it listens for other hosts.
    pub listen: String,
    /// Its peers and their addresses.
    pub peers: Vec<(HostName, String)>,
    /// The arbiter, in words.
    pub arbiter: String,
    /// Whether the arbiter answers now, and if not, why.
    pub arbiter_error: Option<String>,
    /// It is being drained: it takes no VMs, and gives away those that it has.
    #[serde(default)]
    pub draining: bool,
    /// Names of the VMs here.
    pub vms: Vec<VmName>,
    /// What it has for standbys; none at a witness.
    #[serde(default)]
    pub room: Option<RoomStatus>,
    /// Where disks, journals and logs lie, and what is left there.
    #[serde(default)]
    pub places: Vec<PlaceStatus>,
    /// Its sessions with other hosts.
    #[serde(default)]
    pub links: Vec<LinkStatus>,
}

/// A directory of a host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PlaceStatus {
    /// What lies there.
    pub what: String,
    /// The directory.
    pub path: PathBuf,
    /// Bytes left on its file system.
    pub free: u64,
}

/// A session with another host, for one VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// The other host.
    pub peer: HostName,
    /// The VM.
    pub vm: VmName,
    /// What this host does for the VM.
    pub role: Role,
    /// Phase of the protocol's machine.
    pub phase: String,
    /// Its connections, if it has several.
    pub paths: Vec<PathStatus>,
}

/// What a host has for standbys of other hosts' VMs, and for VMs that took over here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomStatus {
    /// Most bytes of guest memory and buffers.
    pub memory_bytes: u64,
    /// Bytes of them that are left.
    pub memory_left_bytes: u64,
    /// Whether the configuration says so; otherwise it is what was available at the agent's start, without a reserve,
    /// and VMs that were started here take of it too.
    pub configured: bool,
    /// Most VMs.
    pub vms: Option<u32>,
    /// Bytes that VMs left here which may come back; given up when they are wanted, or after some minutes.
    pub remnant_bytes: u64,
    /// Who takes of it.
    pub tenants: Vec<RoomTenant>,
}

/// A VM that takes of a host's room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomTenant {
    /// The VM.
    pub vm: VmName,
    /// Whether it stands by here; otherwise it runs here.
    pub standby: bool,
    /// Its memory, with its buffers while it stands by.
    pub memory_bytes: u64,
}

/// One line of the event log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EventRecord {
    /// Number of the event at this agent, from 1.
    pub seq: u64,
    /// Microseconds since 1970.
    pub at_us: u64,
    /// The host.
    pub host: HostName,
    /// The VM; none if it is about the host.
    pub vm: Option<VmName>,
    /// What happened, as a value: a `protocol::notice::Notice` or an engine's own event.
    pub what: serde_json::Value,
    /// The same for people.
    pub text: String,
}

/// An error, as JSON and with its HTTP status.
#[derive(Debug, Clone, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Kind of error, for programs; decides HTTP status and exit code.
    pub code: ErrorCode,
    /// What failed, on which VM and host, why, what to do.
    pub message: String,
}

/// Kinds of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// No such VM here. HTTP 404, exit 5.
    NotFound,
    /// The request makes no sense. HTTP 400, exit 2.
    Invalid,
    /// It would be wrong now, or this VM cannot be protected. HTTP 409, exit 4.
    Refused,
    /// It failed. HTTP 500, exit 1.
    Failed,
}

impl ApiError {
    /// An error of this kind.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}
