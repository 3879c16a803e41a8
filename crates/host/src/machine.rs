//! Owns a VM's process with everything around it: RAM, gate, TAPs, console log; as primary and as standby.

use crate::agent::Shared;
use crate::link::Outbox;
use crate::ram::{ApplyError, GuestRam};
use crate::vm::Facts;
use crossbeam_channel::{Receiver, Sender, unbounded};
use net::{ConsoleLog, Gate, GateEvent, GateLimits, PortConfig};
use os::Memory;
use os::process_memory::ProcessMemoryError;
use os::tap::{Tap, TapError};
use protocol::{RunPermit, VmName};
use qemu::fingerprint::{self, Fingerprint};
use qemu::{Channels, DeviceState, Installation, Qemu, ResolvedSpec, Role};
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Why a VM's process could not be had or used.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// This host's QEMU.
    #[error(transparent)]
    Install(#[from] qemu::install::InstallError),
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
    Process(#[from] ProcessMemoryError),
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
    /// The tracker's self-test.
    #[error("this host cannot track dirty pages: {0}")]
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

/// Something that a VM's process does by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineEvent {
    /// The guest shut down; the process is still there, paused.
    GuestShutdown,
    /// The process is gone.
    Died(String),
    /// Something that an operator should know.
    Warning(String),
}

/// What travels to the backup in the Hello.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    resolved: ResolvedSpec,
    fingerprint: Fingerprint,
    arbiter: String,
}

type Console = Arc<Mutex<ConsoleLog>>;

/// A VM that runs, or is about to.
pub struct Machine {
    /// Its process.
    pub qemu: Arc<Qemu>,
    /// Its memory.
    pub ram: GuestRam,
    /// Its way out.
    pub gate: Gate,
    /// What it does by itself.
    pub events: Receiver<MachineEvent>,
    installation: Installation,
    taps: Vec<String>,
}

/// A standby.
pub struct StandbyMachine {
    standby: qemu::Standby,
    installation: Installation,
    channels: Channels,
    taps: Vec<(String, OwnedFd)>,
    ram: GuestRam,
    page_counts: Vec<u64>,
    console: Arc<Mutex<Option<ConsoleLog>>>,
    console_path: PathBuf,
    events: Receiver<MachineEvent>,
}

/// What the applier writes to.
pub struct Image {
    ram: GuestRam,
    page_counts: Vec<u64>,
    console: Arc<Mutex<Option<ConsoleLog>>>,
    console_path: PathBuf,
}

impl Machine {
    /// Starts a VM, stopped.
    ///
    /// # Errors
    /// If it cannot be started as described.
    pub fn launch(shared: &Shared, name: &VmName, spec: qemu::VmSpec) -> Result<Self, MachineError> {
        let installation = Installation::probe(Path::new(qemu::install::DEFAULT_BINARY))?;
        let resolved = installation.resolve(spec)?;
        check_bridges(&resolved)?;
        let memory = Arc::new(Memory::create(name.as_str(), resolved.spec.memory.0)?);
        let (qemu, channels) = Qemu::launch(&installation, &resolved, Role::Primary, memory)?;
        let log = ConsoleLog::create(&console_path(shared, name)?, 0)?;
        let taps = open_taps(name, &resolved)?;
        Self::assemble(name, installation, qemu, channels, taps, log)
    }

    fn assemble(
        name: &VmName,
        installation: Installation,
        qemu: Qemu,
        channels: Channels,
        taps: Vec<(String, OwnedFd)>,
        log: ConsoleLog,
    ) -> Result<Self, MachineError> {
        let names = taps.iter().map(|(name, _)| name.clone()).collect();
        let (events_tx, events) = unbounded();
        watch(&qemu, events_tx.clone());
        let start = log.end();
        let sink: Console = Arc::new(Mutex::new(log));
        let write = move |offset: u64, bytes: &[u8]| {
            let mut log = sink.lock().unwrap_or_else(PoisonError::into_inner);
            log.append(offset, bytes).map_err(std::io::Error::other)
        };
        let mut ports = vec![PortConfig::console("console", channels.console, start, Box::new(write))];
        for (at, (guest, (_, tap))) in channels.nics.into_iter().zip(taps).enumerate() {
            ports.push(PortConfig::nic(&nic_port(at), guest, tap));
        }
        let (gate, gate_events) = Gate::spawn(name.as_str(), ports, GateLimits::default())?;
        gate.pause_input();
        forward(gate_events, events_tx);
        let ram = GuestRam::of(&qemu)?;
        Ok(Self { qemu: Arc::new(qemu), ram, gate, events, installation, taps: names })
    }

    /// Lets the VM run and speak, in the term of the permit: the only way in which a VM begins to run at a host.
    ///
    /// # Errors
    /// If a TAP cannot be set up; after that nothing fails but the death of the process.
    pub fn go_live(&self, permit: RunPermit, announce: &[Duration]) -> Result<(), MachineError> {
        for tap in &self.taps {
            os::tap::set_up(tap)?;
        }
        self.gate.open()?;
        if !announce.is_empty() {
            self.gate.announce(announce)?;
        }
        self.gate.resume_input();
        tracing::debug!(term = %permit.term(), "the guest runs");
        self.qemu.cont()?;
        Ok(())
    }

    /// From now on the backup hears of every frame that the guest is given while its output is held.
    pub fn share_input(&self, outbox: Outbox) {
        let ports: Vec<String> = (0..self.taps.len()).map(nic_port).collect();
        self.gate.observe_input(Some(Box::new(move |frame| {
            let nic = ports.iter().position(|port| port == frame.port).and_then(|at| u8::try_from(at).ok());
            if let Some(nic) = nic {
                outbox.input(frame.epoch, nic, frame.bytes);
            }
        })));
    }

    /// Gives frames to the guest that its dead primary was given and it does not remember. Each begins with the
    /// number of its NIC.
    pub fn replay_input(&self, frames: Vec<Vec<u8>>) {
        for at in 0..self.taps.len() {
            let mine = frames.iter().filter(|frame| frame.first().is_some_and(|&nic| usize::from(nic) == at));
            self.gate.inject(&nic_port(at), mine.map(|frame| frame[1..].to_vec()));
        }
    }

    /// Refuses what cannot be protected, before anything begins.
    ///
    /// # Errors
    /// What and why.
    pub fn check_protectable(&self) -> Result<(), MachineError> {
        os::tracker::self_test()?;
        self.qemu.check_migratable()?;
        Ok(())
    }

    /// The machine's description for a backup.
    ///
    /// # Errors
    /// If a file of it cannot be read any more.
    pub fn describe(&self, arbiter: &str) -> Result<Vec<u8>, MachineError> {
        let resolved = self.qemu.resolved().clone();
        let fingerprint = Fingerprint::take(&self.installation, &resolved, Some(self.qemu.ram().layout()))?;
        Ok(serde_json::to_vec(&Description { resolved, fingerprint, arbiter: arbiter.to_owned() })?)
    }

    /// What does not change while it lives.
    #[must_use]
    pub fn facts(&self) -> Facts {
        facts(&self.qemu)
    }

    /// Ends the process and waits for it.
    pub fn end(self) {
        self.gate.discard();
        match Arc::try_unwrap(self.qemu) {
            Ok(qemu) => {
                if let Err(error) = qemu.kill() {
                    tracing::warn!(%error, "QEMU could not be ended");
                }
            }
            // Dropping the last reference, in another thread, kills it.
            Err(_still_used) => tracing::debug!("QEMU is ended by its last user"),
        }
    }
}

impl StandbyMachine {
    /// Starts a standby for what a primary described.
    ///
    /// # Errors
    /// If this host cannot run it exactly as the other does.
    pub fn launch(shared: &Shared, name: &VmName, description: &[u8]) -> Result<Self, MachineError> {
        let description: Description = serde_json::from_slice(description)?;
        let ours = shared.arbiter.identity().map_err(|error| MachineError::Differs(error.to_string()))?;
        if ours != description.arbiter {
            return Err(MachineError::Arbiter { theirs: description.arbiter, ours });
        }
        let resolved = description.resolved;
        let installation = Installation::probe(Path::new(qemu::install::DEFAULT_BINARY))?;
        check_bridges(&resolved)?;
        alike(
            &description.fingerprint,
            &Fingerprint::take(&installation, &resolved, description.fingerprint.ram.as_ref())?,
        )?;
        let memory = Arc::new(Memory::create(name.as_str(), resolved.spec.memory.0)?);
        let (standby, channels) = qemu::Standby::start(&installation, &resolved, memory)?;
        let layout = standby.qemu().ram().layout();
        alike(&description.fingerprint, &Fingerprint::take(&installation, &resolved, Some(layout))?)?;
        let (events_tx, events) = unbounded();
        watch(standby.qemu(), events_tx);
        let ram = GuestRam::of(standby.qemu())?;
        Ok(Self {
            page_counts: ram.page_counts(),
            taps: open_taps(name, &resolved)?,
            console_path: console_path(shared, name)?,
            console: Arc::default(),
            standby,
            installation,
            channels,
            ram,
            events,
        })
    }

    /// Pages of each RAM block, to check page records against.
    #[must_use]
    pub fn page_counts(&self) -> &[u64] {
        &self.page_counts
    }

    /// What the standby process does by itself.
    #[must_use]
    pub fn events(&self) -> Receiver<MachineEvent> {
        self.events.clone()
    }

    /// What the applier writes to.
    #[must_use]
    pub fn image(&self) -> Image {
        Image {
            ram: self.ram.clone(),
            page_counts: self.page_counts.clone(),
            console: Arc::clone(&self.console),
            console_path: self.console_path.clone(),
        }
    }

    /// What does not change while it lives.
    #[must_use]
    pub fn facts(&self) -> Facts {
        facts(self.standby.qemu())
    }

    /// Gives the device state to QEMU, which then stands where the checkpoint was taken, stopped.
    ///
    /// # Errors
    /// If QEMU does not accept it.
    pub fn load(self, name: &VmName, device: Vec<u8>) -> Result<Machine, MachineError> {
        let state = DeviceState::from_bytes(device)?;
        let log = self.console.lock().unwrap_or_else(PoisonError::into_inner).take();
        let log = match log {
            Some(log) => log,
            None => ConsoleLog::create(&self.console_path, 0)?,
        };
        let qemu = self.standby.load(&state)?;
        Machine::assemble(name, self.installation, qemu, self.channels, self.taps, log)
    }

    /// Ends the standby process.
    pub fn end(self) {
        drop(self.standby);
    }
}

impl Image {
    /// Applies a batch of page records.
    ///
    /// # Errors
    /// If the standby process is gone.
    pub fn apply(&self, body: &[u8]) -> Result<(), ApplyError> {
        self.ram.apply(body, &self.page_counts)
    }

    /// Adds committed console bytes to the log. A full disk costs the log, not the standby.
    pub fn console(&self, body: &[u8]) {
        let Some((offset, bytes)) = body.split_first_chunk::<8>() else { return };
        let offset = u64::from_le_bytes(*offset);
        let mut console = self.console.lock().unwrap_or_else(PoisonError::into_inner);
        let log = match console.take() {
            Some(log) => Ok(log),
            None => ConsoleLog::create(&self.console_path, offset),
        };
        match log.and_then(|mut log| log.append(offset, bytes).map(|()| log)) {
            Ok(log) => *console = Some(log),
            Err(error) => tracing::warn!(%error, "committed console output is not logged"),
        }
    }
}

/// Name of the gate's port of a NIC.
fn nic_port(at: usize) -> String {
    format!("nic{at}")
}

fn alike(theirs: &Fingerprint, ours: &Fingerprint) -> Result<(), MachineError> {
    fingerprint::compare(ours, theirs).map_err(|differences| {
        MachineError::Differs(differences.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    })
}

fn facts(qemu: &Qemu) -> Facts {
    let resolved = qemu.resolved();
    Facts {
        pid: Some(qemu.pid()),
        machine: resolved.machine.clone(),
        accel: format!("{}: {}", resolved.accel.as_str(), resolved.accel_why),
        cpus: resolved.spec.cpus,
        memory_bytes: resolved.spec.memory.0,
    }
}

const NO_DEVICE: i32 = rustix::io::Errno::NODEV.raw_os_error();

fn check_bridges(resolved: &ResolvedSpec) -> Result<(), MachineError> {
    for nic in &resolved.spec.nics {
        let found = match os::tap::is_bridge(&nic.bridge) {
            // That it is not there at all is the usual mistake.
            Err(TapError::System { source, .. }) if source.raw_os_error() == Some(NO_DEVICE) => false,
            other => other?,
        };
        if !found {
            return Err(MachineError::Bridge { bridge: nic.bridge.clone(), vm: resolved.spec.name.clone() });
        }
    }
    Ok(())
}

/// TAPs on their bridges, still down: nothing comes in before the VM runs here.
fn open_taps(vm: &VmName, resolved: &ResolvedSpec) -> Result<Vec<(String, OwnedFd)>, MachineError> {
    let id = protocol::VmId::of(vm).0;
    let mut taps = Vec::new();
    for (at, nic) in resolved.spec.nics.iter().enumerate() {
        // An interface's name has 15 characters at most.
        let name = format!("ud{:08x}n{at}", id & 0xffff_ffff);
        let tap = Tap::open(&name)?;
        os::tap::add_to_bridge(&nic.bridge, &name)?;
        taps.push((name, tap.into_fd()));
    }
    Ok(taps)
}

/// The console's log of this VM; the log of an earlier life here is kept beside it.
fn console_path(shared: &Shared, name: &VmName) -> Result<PathBuf, MachineError> {
    let directory = shared.config.state_dir.join("vms").join(name.as_str());
    let path = directory.join("console.log");
    let io = |source| MachineError::Io { path: directory.clone(), source };
    std::fs::create_dir_all(&directory).map_err(io)?;
    if path.exists() {
        std::fs::rename(&path, directory.join("console.log.1")).map_err(io)?;
    }
    Ok(path)
}

/// Turns QEMU's events into the machine's, on a thread that ends with the process.
fn watch(qemu: &Qemu, events: Sender<MachineEvent>) {
    let incoming = qemu.qmp().subscribe();
    let spawned = std::thread::Builder::new().name("ud-qmp-events".into()).spawn(move || {
        for event in incoming {
            let by_guest = event.data["guest"].as_bool() == Some(true);
            let told = match event.name.as_str() {
                "SHUTDOWN" if by_guest => events.send(MachineEvent::GuestShutdown),
                "GUEST_PANICKED" => events.send(MachineEvent::Warning("the guest's kernel panicked".into())),
                _ => Ok(()),
            };
            if told.is_err() {
                return;
            }
        }
        let _ = events.send(MachineEvent::Died("its process ended".into()));
    });
    if let Err(error) = spawned {
        tracing::error!(%error, "QEMU's events are not watched");
    }
}

fn forward(gate: std::sync::mpsc::Receiver<GateEvent>, events: Sender<MachineEvent>) {
    let spawned = std::thread::Builder::new().name("ud-gate-events".into()).spawn(move || {
        for GateEvent::PortClosed { port, side, reason } in gate {
            let text = format!("the gate's port {port} is closed on its {side:?} side: {reason}");
            if events.send(MachineEvent::Warning(text)).is_err() {
                return;
            }
        }
    });
    if let Err(error) = spawned {
        tracing::error!(%error, "the gate's events are not watched");
    }
}
