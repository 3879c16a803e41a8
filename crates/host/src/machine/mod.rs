//! Owns a VM's process with everything around it: RAM, disks, gate, TAPs, console log; as primary and (`standby`) as standby.

mod standby;
mod surroundings;

pub use crate::computer::{MachineError, MachineEvent};
pub use standby::{Image, StandbyMachine, StandingMachine};

use crate::computer::{Blueprint, Computer, Described};
use crate::context::Context;
use crate::disks::{Disks, Placeholders, Proofs, SharedImage};
use crate::link::Outbox;
use crate::plan::Plan;
use crate::vm::Facts;
use crossbeam_channel::{Receiver, unbounded};
use net::{ConsoleLog, Gate, GateEvent, GateLimits, PortConfig};
use protocol::{Epoch, RunPermit, VmName};
use qemu::Channels;
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use surroundings::{check_bridges, console_path, open_taps};

/// What travels to the backup in the Hello.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    #[serde(flatten)]
    computer: Described,
    arbiter: String,
    disk_sizes: Vec<u64>,
    /// None in what agents of versions say that know raw disks only.
    #[serde(default)]
    placeholders: Placeholders,
    /// None in what agents say that know no shared disks.
    #[serde(default)]
    shared: Vec<SharedImage>,
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
    let spec = description.computer.resolved.spec();
    let images = spec.copied_disks().map(|disk| disk.image.clone());
    Ok((spec.memory.0, images.zip(description.disk_sizes).collect()))
}

/// A VM that runs, or is about to.
pub struct Machine {
    /// What runs it.
    pub computer: Arc<dyn Computer>,
    /// Its disks.
    pub disks: Arc<Disks>,
    /// Its way out.
    pub gate: Gate,
    /// What that says.
    pub gate_events: Receiver<GateEvent>,
    /// What it does by itself.
    pub events: Receiver<MachineEvent>,
    taps: Vec<String>,
}

impl Machine {
    /// Starts a VM, stopped.
    ///
    /// # Errors
    /// If it cannot be started as described.
    pub fn launch(context: &Context, name: &VmName, spec: qemu::VmSpec) -> Result<Self, MachineError> {
        let blueprint = Blueprint::of(spec)?;
        check_bridges(blueprint.spec())?;
        let disks = Arc::new(Disks::open(&context.config, name, blueprint.spec())?);
        let nics = blueprint.spec().nics.clone();
        let (computer, channels) = blueprint.launch(name, &disks)?;
        let log = ConsoleLog::create(&console_path(context, name)?, 0)?;
        let taps = open_taps(name, &nics)?;
        Self::assemble(name, computer, disks, channels, taps, log)
    }

    fn assemble(
        name: &VmName,
        computer: Arc<dyn Computer>,
        disks: Arc<Disks>,
        channels: Channels,
        taps: Vec<(String, OwnedFd)>,
        log: ConsoleLog,
    ) -> Result<Self, MachineError> {
        let names = taps.iter().map(|(name, _)| name.clone()).collect();
        let (events_tx, events) = unbounded();
        computer.watch(events_tx);
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
        Ok(Self { computer, disks, gate, gate_events, events, taps: names })
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
        self.computer.cont()
    }

    /// From now on the backup hears of every frame that the guest is given while its output is held.
    pub fn share_input(&self, outbox: Outbox, before: u64) {
        let ports: Vec<String> = (0..self.taps.len()).map(nic_port).collect();
        self.gate.observe_input(Some(Box::new(move |frame| {
            let nic = ports.iter().position(|port| port == frame.port).and_then(|at| u8::try_from(at).ok());
            if let Some(nic) = nic {
                outbox.input(Epoch(frame.epoch.0.saturating_sub(before)), nic, frame.bytes);
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

    /// Refuses what cannot go on at another host, before anything begins.
    ///
    /// # Errors
    /// What and why.
    pub fn check_protectable(&self) -> Result<(), MachineError> {
        self.computer.check_protectable()
    }

    /// The machine's description for another host, and what shows that one the shared disks for as long as it looks for them.
    ///
    /// # Errors
    /// If a file of it cannot be read any more, or a shared disk cannot be shown.
    pub fn describe(&self, arbiter: &str, plan: Option<&Plan>) -> Result<(Vec<u8>, Proofs), MachineError> {
        let (shared, proofs) = self.disks.show_shared()?;
        let description = serde_json::to_vec(&Description {
            computer: self.computer.describe()?,
            arbiter: arbiter.to_owned(),
            disk_sizes: self.disks.sizes(),
            placeholders: self.disks.placeholders(),
            shared,
            plan: plan.cloned(),
        })?;
        Ok((description, proofs))
    }

    /// What does not change while it lives.
    #[must_use]
    pub fn facts(&self) -> Facts {
        self.computer.facts()
    }

    /// Ends it. Who uses it still, in another thread, does so with the last reference.
    pub fn end(self) {
        self.gate.discard();
    }
}

/// Name of the gate's port of a NIC.
fn nic_port(at: usize) -> String {
    format!("nic{at}")
}
