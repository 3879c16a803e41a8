//! Owns stopping the deterministic machine and letting it go on, and what it says by itself.

use crate::computer::{MachineError, MachineEvent, Saving, StateSaver, Then};
use crossbeam_channel::Sender;
use rvrun::hosted::{Hosted, HostedError, Listener, Told};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who hears of what it does by itself: the loop of a standby first, then that of its VM.
type Listeners = Mutex<Option<Sender<MachineEvent>>>;

/// A machine with when it stood still.
pub struct Driver {
    pub hosted: Hosted,
    events: Arc<Listeners>,
    /// When it was stopped last, and when let go, in microseconds since 1970.
    pauses: Mutex<(Option<u64>, Option<u64>)>,
}

impl Driver {
    pub fn new(
        begin: impl FnOnce(Listener) -> Result<Hosted, HostedError>,
    ) -> Result<Arc<Self>, MachineError> {
        let events: Arc<Listeners> = Arc::default();
        let listener = Arc::clone(&events);
        let hosted = begin(Box::new(move |told| tell(&listener, told)))?;
        Ok(Arc::new(Self { hosted, events, pauses: Mutex::default() }))
    }

    pub fn watch(&self, events: Sender<MachineEvent>) {
        *locked(&self.events) = Some(events);
    }

    pub fn stop(&self) -> Result<(), MachineError> {
        self.hosted.stop()?;
        self.pauses().0 = Some(os::clock::realtime_us());
        Ok(())
    }

    pub fn cont(&self) -> Result<(), MachineError> {
        self.hosted.cont()?;
        self.pauses().1 = Some(os::clock::realtime_us());
        Ok(())
    }

    /// One that has switched itself off meanwhile stays off.
    pub fn go_on(&self) -> Result<(), MachineError> {
        self.cont().or_else(|error| if self.hosted.is_off() { Ok(()) } else { Err(error) })
    }

    pub fn last_pause(&self) -> Option<(u64, u64)> {
        let (stopped, resumed) = *self.pauses();
        stopped.zip(resumed)
    }

    fn pauses(&self) -> MutexGuard<'_, (Option<u64>, Option<u64>)> {
        locked(&self.pauses)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Nothing happens before somebody watches: the guest does not run yet.
fn tell(events: &Listeners, told: Told) {
    let event = match told {
        Told::PowerOff => MachineEvent::GuestShutdown,
        Told::Reboot => return tracing::debug!("the guest began anew"),
        Told::Failed(why) => MachineEvent::Died(why),
    };
    if let Some(events) = &*locked(events) {
        let _ = events.send(event);
    }
}

/// Saves its devices, which takes no time of its own.
pub struct RvSaver(pub Arc<Driver>);

impl StateSaver for RvSaver {
    fn begin(&mut self, then: Then) -> Result<Box<dyn Saving + '_>, MachineError> {
        self.0.stop()?;
        Ok(Box::new(RvSaving { driver: &self.0, then }))
    }
}

struct RvSaving<'a> {
    driver: &'a Driver,
    then: Then,
}

impl Saving for RvSaving<'_> {
    fn wait_stopped(&mut self) -> Result<(), MachineError> {
        Ok(())
    }

    fn take(self: Box<Self>) -> Result<Vec<u8>, MachineError> {
        let state = self.driver.hosted.state()?;
        if self.then == Then::GoOn {
            self.driver.go_on()?;
        }
        Ok(state)
    }
}
