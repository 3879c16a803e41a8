//! Owns a hosted machine's thread: beats while it shall run, and comes to stand when it shall not.

use super::ends::Ends;
use super::shared::{Goal, Shared};
use super::{Listener, Told};
use crate::beat::{Alive, Beat, beat, wall_clock};
use crate::live::LiveError;
use crate::pace::Pace;
use crate::setup::Parts;
use crate::world::Outside;
use rv::{Input, Machine};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A guest that was stopped for less makes up for it: it would fall behind a little with each checkpoint.
const LONG: Duration = Duration::from_secs(1);

/// What a machine's thread has.
pub(super) struct Runner {
    parts: Parts,
    ends: Ends,
    shared: Arc<Shared>,
    told: Listener,
    pace: Pace,
}

/// Tells the end of a machine also if its thread dies.
struct Leaving(Runner);

impl Drop for Leaving {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end("its thread died, which is an error in this program");
        }
    }
}

impl Runner {
    pub fn new(parts: Parts, ends: Ends, shared: Arc<Shared>, told: Listener) -> Runner {
        Runner { parts, ends, shared, told, pace: Pace::begin(0, Instant::now()) }
    }

    /// Runs to the machine's end.
    pub fn run(self) {
        let mut this = Leaving(self);
        let why = match this.0.live() {
            Ok(()) => "it was ended".to_owned(),
            Err(error) => error.to_string(),
        };
        this.0.end(&why);
    }

    fn end(&self, why: &str) {
        if self.shared.ended(why) {
            (self.told)(Told::Failed(why.to_owned()));
        }
    }

    fn live(&mut self) -> Result<(), LiveError> {
        // It may have been told to run before this thread was there.
        self.stand()?;
        loop {
            let (goal, is_off) = {
                let core = self.shared.lock();
                (core.goal(), core.is_off)
            };
            match goal {
                Goal::End => return Ok(()),
                Goal::Stand => self.stand()?,
                // Until somebody calls; what comes in is for nobody.
                Goal::Run if is_off => drop(self.ends.collect(None)?),
                Goal::Run if self.ends.is_full() => self.await_room()?,
                Goal::Run => self.beat()?,
            }
        }
    }

    fn beat(&mut self) -> Result<(), LiveError> {
        match beat(self, u64::MAX)? {
            // There is neither a debugger nor a keyboard.
            Beat::Done | Beat::Halted | Beat::Quit => {}
            Beat::PowerOff => {
                self.shared.lock().is_off = true;
                (self.told)(Told::PowerOff);
            }
            Beat::Reboot => {
                self.restart()?;
                (self.told)(Told::Reboot);
            }
        }
        Ok(())
    }

    /// Lets everything arrive that left, and stands until it shall do something else.
    fn stand(&mut self) -> Result<(), LiveError> {
        while !self.ends.has_sent_all() {
            self.ends.await_room()?;
            if self.shared.lock().goal() == Goal::End {
                return Ok(());
            }
        }
        let since = Instant::now();
        let unsaid = self.ends.take_unsaid();
        let mut core = self.shared.stand(&unsaid);
        let unsaid = std::mem::take(&mut core.unsaid);
        self.ends.show(&unsaid)?;
        if std::mem::take(&mut core.is_fresh) {
            core.machine.input(wall_clock());
            self.pace = Pace::begin(core.machine.clock(), Instant::now());
        } else if since.elapsed() >= LONG {
            self.pace.stood_still(since.elapsed());
        }
        Ok(())
    }

    /// So much waits for the other ends that the guest must.
    fn await_room(&mut self) -> Result<(), LiveError> {
        let since = Instant::now();
        self.ends.await_room()?;
        self.pace.stood_still(since.elapsed());
        Ok(())
    }

    /// A new machine in the place of one that asked for a reboot.
    fn restart(&mut self) -> Result<(), LiveError> {
        let mut machine = self.parts.machine()?;
        machine.mark_all();
        machine.set_horizon(0);
        machine.input(wall_clock());
        self.pace = Pace::begin(machine.clock(), Instant::now());
        let old = std::mem::replace(&mut self.shared.lock().machine, machine);
        drop(old);
        Ok(())
    }
}

impl Alive for Runner {
    type Error = LiveError;
    type Outside = Ends;

    fn machine<R>(&mut self, act: impl FnOnce(&mut Machine) -> R) -> R {
        act(&mut self.shared.lock().machine)
    }

    fn outside(&mut self) -> &mut Ends {
        &mut self.ends
    }

    fn pace(&self) -> &Pace {
        &self.pace
    }

    fn deliver(&mut self, inputs: Vec<Input>) -> Result<(), LiveError> {
        if !inputs.is_empty() {
            let mut core = self.shared.lock();
            inputs.into_iter().for_each(|input| core.machine.input(input));
        }
        Ok(())
    }
}
