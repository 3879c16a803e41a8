//! Owns what the agent knows of a VM from outside its loop: the handle, its snapshot, its status.

use crate::computer::Decided;
use crate::disks::Disks;
use crate::doctor::Asked;
use crate::link::paths::Bundle;
use crate::measure::Measurements;
use crate::speed::CopySpeed;
use api::migration::MigrationStatus;
use api::types::{
    CopyProgress, DetectionStatus, FollowOutput, GateStatus, LinkStatus, Measured, PacingStatus, PathStatus,
    RepairStatus, Role, Summary, VmStatus,
};
use protocol::detector::Listening;
use protocol::pacing::PacingView;
use protocol::{HostName, Micros, Term, VmId, VmName};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Why a VM's loop ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The VM was stopped or shut itself down, under this term.
    Stopped(Term),
    /// Another host owns it.
    Fenced,
    /// The agent ends.
    Agent,
    /// The standby was thrown away.
    Discarded,
}

/// What a loop says of itself after each event.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// Phase of the protocol's machine.
    pub phase: String,
    /// The term.
    pub term: Term,
    /// The other host.
    pub peer: Option<HostName>,
    /// The host that shall be the backup in its place.
    pub successor: Option<HostName>,
    /// Newest epoch sent (primary) or committed (backup).
    pub epoch: protocol::Epoch,
    /// Newest acknowledged.
    pub acked: protocol::Epoch,
    /// Checkpoints in flight.
    pub in_flight: u32,
    /// The guest stands still because the backup is slow.
    pub throttled: bool,
    /// For so long in all.
    pub throttled_total: Micros,
    /// The guest loses so many percent of its time because it writes faster than the link carries.
    pub slowed: u8,
    /// What the times of checkpoints are decided by.
    pub pacing: PacingView,
    /// Memory of the agent for this VM.
    pub agent_bytes: u64,
    /// How it listens to the other host.
    pub listening: Option<Listening>,
}

/// What does not change while a process of the VM lives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Process id of QEMU; none where there is none.
    pub pid: Option<u32>,
    /// Exact machine type.
    pub machine: String,
    /// Accelerator and why.
    pub accel: String,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// What it is, everything decided.
    pub resolved: Option<Arc<Decided>>,
}

struct State {
    role: Role,
    snapshot: Snapshot,
    facts: Facts,
    copy: Option<CopyProgress>,
    speed: CopySpeed,
    interval: Micros,
    follow: Option<FollowOutput>,
    copy_rate: Option<u64>,
    repair: RepairStatus,
    migration: Option<MigrationStatus>,
    warnings: Vec<String>,
    /// Why the last request for protection came to nothing.
    not_protected: Option<String>,
    measurements: Option<Arc<Mutex<Measurements>>>,
    gate: Option<net::Gate>,
    disks: Option<Arc<Disks>>,
    /// The session's paths, if it has several.
    paths: Weak<Bundle>,
}

/// A VM at this agent, seen from outside its loop.
pub struct VmHandle {
    name: VmName,
    host: HostName,
    state: Mutex<State>,
}

impl VmHandle {
    /// The handle of a VM whose loop is about to start.
    #[must_use]
    pub fn new(name: VmName, host: HostName, role: Role) -> Arc<Self> {
        let state = State {
            role,
            snapshot: Snapshot { phase: "starting".into(), ..Snapshot::default() },
            facts: Facts::default(),
            copy: None,
            speed: CopySpeed::default(),
            interval: Micros(0),
            follow: None,
            copy_rate: None,
            repair: RepairStatus::default(),
            migration: None,
            warnings: Vec::new(),
            not_protected: None,
            measurements: None,
            gate: None,
            disks: None,
            paths: Weak::new(),
        };
        Arc::new(Self { name, host, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The VM's name.
    #[must_use]
    pub fn name(&self) -> &VmName {
        &self.name
    }

    /// The VM's id in frames.
    #[must_use]
    pub fn id(&self) -> VmId {
        VmId::of(&self.name)
    }

    /// What this host does for the VM.
    #[must_use]
    pub fn role(&self) -> Role {
        self.state().role
    }

    /// The host that this one stands by for, and its term.
    #[must_use]
    pub fn standing_by(&self) -> Option<(HostName, Term)> {
        let state = self.state();
        let peer = state.snapshot.peer.clone().filter(|_| state.role == Role::Backup)?;
        Some((peer, state.snapshot.term))
    }

    /// The newest term that this host knows for the VM.
    #[must_use]
    pub fn term(&self) -> Term {
        self.state().snapshot.term
    }

    /// Whether it runs here and another host stands by for it, or is about to.
    #[must_use]
    pub fn has_session(&self) -> bool {
        let state = self.state();
        state.role == Role::Primary && state.snapshot.peer.is_some()
    }

    /// What a host must have to run it, if its QEMU was started.
    #[must_use]
    pub fn asked(&self) -> Option<Asked> {
        let state = self.state();
        let resolved = state.facts.resolved.as_deref()?.clone();
        let disks = state.disks.as_ref().map(|disks| disks.sizes()).unwrap_or_default();
        Some(Asked { resolved, disk_sizes: disks })
    }

    /// The role changed: a backup was promoted. Its link to the old owner may take a while to end.
    pub fn set_role(&self, role: Role) {
        let mut state = self.state();
        state.role = role;
        state.paths = Weak::new();
        state.warnings.clear();
    }

    /// Its QEMU was started.
    pub fn set_facts(&self, facts: Facts) {
        self.state().facts = facts;
    }

    /// The loop's word on itself.
    pub fn publish(&self, snapshot: Snapshot) {
        self.state().snapshot = snapshot;
    }

    /// The first copy's progress.
    pub fn set_copy(&self, copy: Option<CopyProgress>) {
        let mut state = self.state();
        state.copy = copy;
        match copy {
            Some(progress) => state.speed.saw(os::clock::now_us(), progress),
            None => state.speed = CopySpeed::default(),
        }
    }

    /// The interval asked for, and whether checkpoints follow the output.
    pub fn set_interval(&self, interval: Micros, follow: Option<FollowOutput>) {
        let mut state = self.state();
        (state.interval, state.follow) = (interval, follow);
    }

    /// Most bytes a second of a first copy.
    pub fn set_copy_rate(&self, rate: Option<u64>) {
        self.state().copy_rate = rate;
    }

    /// How repair stands.
    pub fn set_repair(&self, repair: RepairStatus) {
        self.state().repair = repair;
    }

    /// How its migration goes.
    pub fn set_migration(&self, migration: Option<MigrationStatus>) {
        self.state().migration = migration;
    }

    /// Something an operator should know.
    pub fn warn(&self, text: String) {
        tracing::warn!(vm = %self.name, "{text}");
        let mut state = self.state();
        if !state.warnings.contains(&text) && state.warnings.len() < 20 {
            state.warnings.push(text);
        }
    }

    /// Why protection could not begin; none once it is asked for again.
    pub fn set_not_protected(&self, why: Option<String>) {
        self.state().not_protected = why;
    }

    /// Where the measurements are.
    pub fn attach_measurements(&self, measurements: &Arc<Mutex<Measurements>>, gate: &net::Gate) {
        let mut state = self.state();
        if state.measurements.is_none() {
            state.measurements = Some(Arc::clone(measurements));
            state.gate = Some(gate.clone());
        }
    }

    /// Its disks are served here.
    pub fn attach_disks(&self, disks: &Arc<Disks>) {
        self.state().disks = Some(Arc::clone(disks));
    }

    /// A session over several paths begins.
    pub fn attach_paths(&self, paths: &Arc<Bundle>) {
        self.state().paths = Arc::downgrade(paths);
    }

    /// The loop is over: lets go of the gate and the disks.
    pub fn detach(&self) {
        let mut state = self.state();
        state.gate = None;
        state.disks = None;
        state.measurements = None;
    }

    /// The measurements, if it is primary.
    #[must_use]
    pub fn measurements(&self) -> Option<Arc<Mutex<Measurements>>> {
        self.state().measurements.clone()
    }

    /// The link to the other host of its session, if it has one.
    #[must_use]
    pub fn link(&self) -> Option<LinkStatus> {
        let state = self.state();
        let Snapshot { phase, peer, .. } = &state.snapshot;
        Some(LinkStatus {
            peer: peer.clone()?,
            vm: self.name.clone(),
            role: state.role,
            phase: phase.clone(),
            paths: paths(&state),
        })
    }

    /// Everything, for the API.
    #[must_use]
    pub fn status(&self) -> VmStatus {
        let state = self.state();
        let (gate, hold_ms) = state.gate.as_ref().map(gate_status).unwrap_or_default();
        let measured = state.measurements.as_ref().map_or_else(Measured::default, |measurements| {
            measurements.lock().unwrap_or_else(PoisonError::into_inner).measured(hold_ms)
        });
        let snapshot = &state.snapshot;
        VmStatus {
            name: self.name.clone(),
            host: self.host.clone(),
            role: state.role,
            phase: snapshot.phase.clone(),
            term: snapshot.term.0,
            peer: snapshot.peer.clone(),
            successor: snapshot.successor.clone(),
            epoch: snapshot.epoch.0,
            acked_epoch: snapshot.acked.0,
            in_flight: snapshot.in_flight,
            interval_us: state.interval.0,
            pacing: state.follow.map(|follow| PacingStatus::of(follow, snapshot.pacing)),
            throttled: snapshot.throttled,
            slowed_percent: snapshot.slowed,
            throttled_ms: snapshot.throttled_total.as_millis_f64(),
            pid: state.facts.pid,
            machine: state.facts.machine.clone(),
            accel: state.facts.accel.clone(),
            cpus: state.facts.cpus,
            memory_bytes: state.facts.memory_bytes,
            copy: state.copy,
            copy_speed: state.copy.and_then(|_| state.speed.bytes_per_second()),
            measured,
            gate,
            agent_bytes: snapshot.agent_bytes,
            detection: snapshot.listening.map(DetectionStatus::from),
            paths: paths(&state),
            disks: state.disks.as_ref().map(|disks| disks.status()).unwrap_or_default(),
            journal: state.disks.as_ref().and_then(|disks| disks.tap().meter().journal_status()),
            copy_rate: state.copy_rate,
            repair: state.repair.clone(),
            migration: state.migration.clone(),
            lately: Vec::new(),
            warnings: warnings(&state),
        }
    }
}

fn paths(state: &State) -> Vec<PathStatus> {
    state.paths.upgrade().map(|paths| paths.status()).unwrap_or_default()
}

fn warnings(state: &State) -> Vec<String> {
    let mut all = state.warnings.clone();
    let says = match (state.role, state.snapshot.phase.as_str()) {
        (Role::Primary, "unprotected") => "NOT PROTECTED: if this host dies, the VM dies with it",
        (Role::Primary, "opening" | "copying") if state.migration.is_some() => {
            "NOT PROTECTED while it is migrated: if this host dies, the VM dies with it"
        }
        (Role::Primary, "opening" | "copying") => "not protected yet: the first copy is not complete",
        (Role::Primary, "claiming") => "output is held: the arbiter has not yet said who owns the VM",
        _ => "",
    };
    if !says.is_empty() {
        all.insert(0, says.to_owned());
    }
    if let (Some(why), "unprotected") = (&state.not_protected, state.snapshot.phase.as_str()) {
        all.insert(1, why.clone());
    }
    if state.snapshot.slowed > 0 {
        all.push(format!(
            "the guest loses {} % of its time: it writes faster than its backup can follow",
            state.snapshot.slowed
        ));
    }
    if state.snapshot.throttled {
        all.push("the guest stands still: checkpoints are not acknowledged as fast as they are taken".into());
    }
    all
}

#[expect(clippy::cast_precision_loss, reason = "for display")]
fn gate_status(gate: &net::Gate) -> (GateStatus, Summary) {
    let stats = gate.stats();
    let sum = |get: fn(&net::PortStats) -> u64| stats.ports.iter().map(get).sum();
    let status = GateStatus {
        waiting_frames: stats.queued_frames as u64,
        waiting_bytes: stats.queued_bytes as u64,
        released_frames: sum(|port| port.frames_out),
        dropped_frames: sum(|port| port.dropped_full),
        input_frames: sum(|port| port.frames_in),
    };
    let hold = stats.hold_us;
    let ms = |us: u64| us as f64 / 1e3;
    let hold = Summary {
        min: ms(hold.min),
        median: ms(hold.median),
        p99: ms(hold.p99),
        max: ms(hold.max),
        count: hold.count,
    };
    (status, hold)
}
