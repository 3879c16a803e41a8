//! Owns the deterministic machine behind the traits of all machines.

use super::driver::{Driver, RvSaver};
use super::memory::{RvTracker, ram_of};
use super::{RvDecided, RvPrint};
use crate::computer::{
    Built, ClockKeeper, Computer, Decided, Described, MachineError, MachineEvent, PageTracker, Print,
    Standby, StateSaver,
};
use crate::ram::GuestRam;
use crate::vm::Facts;
use crossbeam_channel::Sender;
use os::thread_time::ThreadTime;
use std::sync::Arc;

/// The machine, standing by or with its guest.
pub struct RvComputer {
    decided: RvDecided,
    driver: Arc<Driver>,
    ram: GuestRam,
}

impl RvComputer {
    pub fn new(decided: RvDecided, driver: Arc<Driver>) -> Self {
        let ram = ram_of(&driver);
        Self { decided, driver, ram }
    }
}

impl Built for RvComputer {
    fn facts(&self) -> Facts {
        let spec = self.decided.spec();
        Facts {
            pid: None,
            machine: spec.machine_or_default().to_owned(),
            accel: "none: the agent carries out its instructions".into(),
            cpus: spec.cpus,
            memory_bytes: spec.memory.0,
            resolved: Some(Arc::new(Decided::Rv(self.decided.clone()))),
        }
    }

    fn ram(&self) -> &GuestRam {
        &self.ram
    }

    fn watch(&self, events: Sender<MachineEvent>) {
        self.driver.watch(events);
    }
}

impl Computer for RvComputer {
    fn describe(&self) -> Result<Described, MachineError> {
        let fingerprint = Print::Rv(RvPrint::take(&self.decided)?);
        Ok(Described { resolved: Decided::Rv(self.decided.clone()), fingerprint })
    }

    /// What it writes is known exactly, and all of its state can be saved.
    fn check_protectable(&self) -> Result<(), MachineError> {
        Ok(())
    }

    fn cont(&self) -> Result<(), MachineError> {
        self.driver.cont()
    }

    fn stop(&self) -> Result<(), MachineError> {
        self.driver.stop()
    }

    fn go_on(&self) -> Result<(), MachineError> {
        self.driver.go_on()
    }

    fn last_pause(&self) -> Option<(u64, u64)> {
        self.driver.last_pause()
    }

    fn track(&self) -> Result<Box<dyn PageTracker>, MachineError> {
        Ok(Box::new(RvTracker::attach(&self.driver)?))
    }

    fn saver(&self) -> Result<Box<dyn StateSaver>, MachineError> {
        Ok(Box::new(RvSaver(Arc::clone(&self.driver))))
    }

    /// It counts instructions, and makes up for a pause while its guest waits.
    fn clock(&self) -> Result<Option<ClockKeeper>, MachineError> {
        Ok(None)
    }

    fn processors(&self) -> Result<Vec<ThreadTime>, MachineError> {
        let thread = ThreadTime::open(std::process::id(), self.driver.hosted.thread().cast_unsigned());
        Ok(vec![thread.map_err(MachineError::Processors)?])
    }
}

impl Standby for RvComputer {
    fn load(self: Box<Self>, device: Vec<u8>) -> Result<Arc<dyn Computer>, MachineError> {
        self.driver.hosted.load(&device)?;
        Ok(Arc::new(*self))
    }
}
