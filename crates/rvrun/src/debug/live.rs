//! Owns a live machine under a debugger: while it stands still, time stands still for the guest.

use super::subject::{Subject, SubjectError, Way, Why};
use crate::live::{End, Live, LiveError, Summary, Turn};
use rv::{Halt, Machine, Stops};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A live machine that stops where it is told to.
#[derive(Debug)]
pub struct LiveSubject {
    live: Live,
    quit: Arc<AtomicBool>,
    over: Option<Summary>,
}

impl LiveSubject {
    /// `debugger` is what the debugger is heard by: it ends the guest's waiting. `quit` ends the machine.
    pub fn new(mut live: Live, debugger: OwnedFd, quit: Arc<AtomicBool>) -> LiveSubject {
        live.listen_to(debugger);
        LiveSubject { live, quit, over: None }
    }

    /// Lets it run to its end without a debugger.
    ///
    /// # Errors
    /// The world or the recording failed.
    pub fn finish(mut self) -> Result<Summary, LiveError> {
        match self.over {
            Some(summary) => Ok(summary),
            None => {
                self.live.set_stops(&Stops::default());
                self.live.listen_no_more();
                self.live.run(&self.quit)
            }
        }
    }

    /// Ends it here.
    ///
    /// # Errors
    /// The recording failed.
    pub fn end(mut self) -> Result<Summary, LiveError> {
        self.over.map_or_else(|| self.live.finish(End::Quit), Ok)
    }
}

impl Subject for LiveSubject {
    fn machine(&self) -> &Machine {
        self.live.machine()
    }

    fn position(&self) -> u64 {
        self.live.position()
    }

    fn set_stops(&mut self, stops: &Stops) {
        self.live.set_stops(stops);
    }

    fn go(&mut self, way: Way, interrupted: &mut dyn FnMut() -> bool) -> Result<Why, SubjectError> {
        if self.over.is_some() {
            return Ok(Why::Over);
        }
        self.live.set_out();
        let last = if way == Way::Step { self.position() + 1 } else { u64::MAX };
        loop {
            let turn = self.live.turn(last)?;
            if turn == Turn::Halted {
                return Ok(match self.machine().halt() {
                    Some(Halt::Watched(watch)) => Why::Watched(watch),
                    _ => Why::Breakpoint,
                });
            }
            let quit = self.quit.load(Ordering::Relaxed);
            if let Some(end) = turn.ended().or(quit.then_some(End::Quit)) {
                self.over = Some(self.live.finish(end)?);
                return Ok(Why::Over);
            }
            if self.position() >= last {
                return Ok(Why::Stepped);
            }
            if interrupted() {
                return Ok(Why::Interrupted);
            }
        }
    }

    fn goes_back(&self) -> bool {
        false
    }
}
