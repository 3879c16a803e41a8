//! Owns the standby's machine and its image.

use super::surroundings::{check_bridges, console_path, open_taps};
use super::{Description, Machine, MachineError, MachineEvent};
use crate::computer::{Blueprint, Computer, Standby};
use crate::context::Context;
use crate::disks::{self, Described, DiskError, Disks, Replicas};
use crate::plan::Plan;
use crate::ram::{ApplyError, GuestRam};
use crate::vm::Facts;
use crossbeam_channel::{Receiver, unbounded};
use disk::Image as DiskImage;
use net::ConsoleLog;
use os::Memory;
use protocol::resync::{MemoryOffer, Offer};
use protocol::{Session, Term, VmName};
use qemu::Channels;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// A standby.
pub struct StandbyMachine {
    standby: Box<dyn Standby>,
    channels: Channels,
    taps: Vec<(String, OwnedFd)>,
    page_counts: Vec<u64>,
    disks: Arc<Disks>,
    plan: Option<Plan>,
    offer: Offer,
    console: Arc<Mutex<Option<ConsoleLog>>>,
    console_path: PathBuf,
    events: Receiver<MachineEvent>,
}

/// A machine that stands where a checkpoint was taken. It may not run yet, and has no way out.
pub struct StandingMachine {
    computer: Arc<dyn Computer>,
    channels: Channels,
    taps: Vec<(String, OwnedFd)>,
    disks: Arc<Disks>,
    log: ConsoleLog,
}

/// What the applier writes to.
pub struct Image {
    ram: GuestRam,
    page_counts: Vec<u64>,
    disks: Vec<Arc<DiskImage>>,
    console: Arc<Mutex<Option<ConsoleLog>>>,
    console_path: PathBuf,
}

impl StandbyMachine {
    /// Starts a standby for what a primary described.
    ///
    /// # Errors
    /// If this host cannot run it exactly as the other does.
    pub fn launch(
        context: &Context,
        name: &VmName,
        session: (Term, Session),
        description: &[u8],
    ) -> Result<Self, MachineError> {
        let description: Description = serde_json::from_slice(description)?;
        let ours = context.arbiter.identity().map_err(|error| MachineError::Differs(error.to_string()))?;
        if ours != description.arbiter {
            return Err(MachineError::Arbiter { theirs: description.arbiter, ours });
        }
        check_bridges(description.computer.resolved.spec())?;
        let blueprint = Blueprint::like(description.computer)?;
        let spec = blueprint.spec().clone();
        let described = Described {
            spec: &spec,
            sizes: &description.disk_sizes,
            placeholders: &description.placeholders,
            shared: &description.shared,
        };
        let Replicas { disks, offer } = Disks::make_replicas(&context.config, name, &described, session)?;
        let remnant = context.room.take_remnant(name, spec.memory.0);
        let memory = if remnant.is_some() { MemoryOffer::Remnant } else { MemoryOffer::Blank };
        let (standby, channels) = blueprint.stand_by(name, &disks, remnant)?;
        let (events_tx, events) = unbounded();
        standby.watch(events_tx);
        Ok(Self {
            page_counts: standby.ram().page_counts(),
            disks: Arc::new(disks),
            plan: description.plan,
            offer: Offer { disks: offer, memory },
            taps: open_taps(name, &spec.nics)?,
            console_path: console_path(context, name)?,
            console: Arc::default(),
            standby,
            channels,
            events,
        })
    }

    /// Pages of each RAM block, to check page records against.
    #[must_use]
    pub fn page_counts(&self) -> &[u64] {
        &self.page_counts
    }

    /// Its disks.
    #[must_use]
    pub fn disks(&self) -> &Arc<Disks> {
        &self.disks
    }

    /// What the operator asked of the primary, as far as it told.
    #[must_use]
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// What the primary is told of what is left of an earlier copy.
    #[must_use]
    pub fn offer(&self) -> &Offer {
        &self.offer
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
            ram: self.standby.ram().clone(),
            page_counts: self.page_counts.clone(),
            disks: self.disks.images(),
            console: Arc::clone(&self.console),
            console_path: self.console_path.clone(),
        }
    }

    /// The guest's memory.
    #[must_use]
    pub fn ram(&self) -> &GuestRam {
        self.standby.ram()
    }

    /// Its main memory, if that outlives it.
    #[must_use]
    pub fn memory(&self) -> Option<Arc<Memory>> {
        self.standby.memory().cloned()
    }

    /// What does not change while it lives.
    #[must_use]
    pub fn facts(&self) -> Facts {
        self.standby.facts()
    }

    /// Gives the device state to the machine, which then stands where the checkpoint was taken, stopped.
    ///
    /// # Errors
    /// If it does not accept it.
    pub fn load(self, device: Vec<u8>) -> Result<StandingMachine, MachineError> {
        let log = self.console.lock().unwrap_or_else(PoisonError::into_inner).take();
        let log = match log {
            Some(log) => log,
            None => ConsoleLog::create(&self.console_path, 0)?,
        };
        let computer = self.standby.load(device)?;
        let Self { channels, taps, disks, .. } = self;
        Ok(StandingMachine { computer, channels, taps, disks, log })
    }

    /// Ends the standby process.
    pub fn end(self) {
        drop(self.standby);
    }
}

impl StandingMachine {
    /// Gives it a gate.
    ///
    /// # Errors
    /// If there is no thread for it.
    pub fn assemble(self, name: &VmName) -> Result<Machine, MachineError> {
        Machine::assemble(name, self.computer, self.disks, self.channels, self.taps, self.log)
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

    /// Applies an unpacked batch of disk changes.
    ///
    /// # Errors
    /// If a medium fails.
    pub fn disks(&self, records: &[u8]) -> Result<(), DiskError> {
        disks::apply(&self.disks, records)
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
