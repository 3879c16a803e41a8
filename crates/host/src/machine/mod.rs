//! Owns a VM's process with everything around it: RAM, disks, gate, TAPs, console log; as primary and (`standby`) as standby.

mod error;
mod events;
mod standby;
mod surroundings;

pub use error::MachineError;
pub use events::MachineEvent;
pub use standby::{Image, StandbyMachine};

use crate::context::Context;
use crate::disks::{Disks, Placeholders};
use crate::link::Outbox;
use crate::plan::Plan;
use crate::ram::GuestRam;
use crate::vm::Facts;
use crossbeam_channel::{Receiver, unbounded};
use events::watch;
use net::{ConsoleLog, Gate, GateEvent, GateLimits, PortConfig};
use os::Memory;
use protocol::{RunPermit, VmName};
use qemu::fingerprint::Fingerprint;
use qemu::{Channels, Installation, Qemu, ResolvedSpec, Role};
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use surroundings::{check_bridges, console_path, open_taps};

/// What travels to the backup in the Hello.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    resolved: ResolvedSpec,
    fingerprint: Fingerprint,
    arbiter: String,
    disk_sizes: Vec<u64>,
    /// None in what agents of versions say that know raw disks only.
    #[serde(default)]
    placeholders: Placeholders,
    /// What the operator asked, for whoever owns the VM next; none from agents that know no repair.
    #[serde(default)]
    plan: Option<Plan>,
}

/// What a standby of a described machine is given: memory in bytes, and its disks' images with their sizes.
///
/// # Errors
/// If the description cannot be read.
pub fn asked_for(description: &[u8]) -> Result<(u64, Vec<(PathBuf, u64)>), MachineError> {
    let description: Description = serde_json::from_slice(description)?;
    let spec = &description.resolved.spec;
    let images = spec.disks.iter().map(|disk| disk.image.clone());
    Ok((spec.memory.0, images.zip(description.disk_sizes).collect()))
}

/// A VM that runs, or is about to.
pub struct Machine {
    /// Its process.
    pub qemu: Arc<Qemu>,
    /// Its memory.
    pub ram: GuestRam,
    /// Its disks.
    pub disks: Arc<Disks>,
    /// Its way out.
    pub gate: Gate,
    /// What that says.
    pub gate_events: Receiver<GateEvent>,
    /// What it does by itself.
    pub events: Receiver<MachineEvent>,
    installation: Installation,
    taps: Vec<String>,
}

impl Machine {
    /// Starts a VM, stopped.
    ///
    /// # Errors
    /// If it cannot be started as described.
    pub fn launch(context: &Context, name: &VmName, spec: qemu::VmSpec) -> Result<Self, MachineError> {
        let installation = Installation::probe(Path::new(qemu::install::DEFAULT_BINARY))?;
        let resolved = installation.resolve(spec)?;
        check_bridges(&resolved)?;
        let disks = Arc::new(Disks::open(&context.config, name, &resolved.spec)?);
        let memory = Arc::new(Memory::create(name.as_str(), resolved.spec.memory.0)?);
        let (qemu, channels) =
            Qemu::launch(&installation, &resolved, Role::Primary, memory, disks.connect()?)?;
        let log = ConsoleLog::create(&console_path(context, name)?, 0)?;
        let taps = open_taps(name, &resolved)?;
        Self::assemble(name, installation, qemu, disks, channels, taps, log)
    }

    fn assemble(
        name: &VmName,
        installation: Installation,
        qemu: Qemu,
        disks: Arc<Disks>,
        channels: Channels,
        taps: Vec<(String, OwnedFd)>,
        log: ConsoleLog,
    ) -> Result<Self, MachineError> {
        let names = taps.iter().map(|(name, _)| name.clone()).collect();
        let (events_tx, events) = unbounded();
        watch(&qemu, events_tx);
        let start = log.end();
        let sink = Arc::new(Mutex::new(log));
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
        let ram = GuestRam::of(&qemu)?;
        Ok(Self { qemu: Arc::new(qemu), ram, disks, gate, gate_events, events, installation, taps: names })
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
    pub fn describe(&self, arbiter: &str, plan: Option<&Plan>) -> Result<Vec<u8>, MachineError> {
        let resolved = self.qemu.resolved().clone();
        let fingerprint = Fingerprint::take(&self.installation, &resolved, Some(self.qemu.ram().layout()))?;
        Ok(serde_json::to_vec(&Description {
            resolved,
            fingerprint,
            arbiter: arbiter.to_owned(),
            disk_sizes: self.disks.sizes(),
            placeholders: self.disks.placeholders(),
            plan: plan.cloned(),
        })?)
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

/// Name of the gate's port of a NIC.
fn nic_port(at: usize) -> String {
    format!("nic{at}")
}

fn facts(qemu: &Qemu) -> Facts {
    let resolved = qemu.resolved();
    Facts {
        pid: Some(qemu.pid()),
        machine: resolved.machine.clone(),
        accel: format!("{}: {}", resolved.accel.as_str(), resolved.accel_why),
        cpus: resolved.spec.cpus,
        memory_bytes: resolved.spec.memory.0,
        resolved: Some(Arc::new(resolved.clone())),
    }
}
