//! Owns going through a recording in both directions: forwards by replaying, backwards by taking up an earlier moment and
//! replaying from there.
//!
//! A moment is kept every so many instructions. If all together take more memory than they may, every second one is
//! forgotten and the distance doubled; the first one stays. One more lies just before where the replay was last brought
//! back to, so that steps back in a row are short.
//!
//! A position is an instruction count over all boots. The replay stands there with everything done that was recorded at
//! it, and with the interrupt taken that comes before the next instruction: each position has one state.

use super::subject::{Subject, SubjectError, Way, Why};
use crate::replay::{Moments, Pause, Reached, Replay, ReplayError, Summary};
use rv::{Halt, Machine, Stops};
use std::io::{Read, Seek};

/// Instructions between two moments, in the beginning.
const DISTANCE: u64 = 20_000_000;
/// Where the nearest moment lies before a place that was gone back to.
const NEAR: u64 = 20_000;
/// Bytes of RAM that all moments together may keep.
const ROOM: usize = 1 << 30;

/// A recording with its past.
#[derive(Debug)]
pub struct Timeline<R> {
    replay: Replay<R>,
    /// Its first position: not 0 if it goes on from a snapshot.
    begin: u64,
    stops: Stops,
    moments: Moments,
    /// The position of the moment before what was last gone back to.
    near: Option<u64>,
    distance: u64,
    room: usize,
}

impl<R: Read + Seek> Timeline<R> {
    /// Begins at the recording's first instruction.
    ///
    /// # Errors
    /// The recording cannot be read, or the machine does something else than then.
    pub fn begin(replay: Replay<R>) -> Result<Timeline<R>, ReplayError> {
        Timeline::with_moments(replay, DISTANCE, ROOM)
    }

    /// The same, with another distance between moments, and room for so many bytes of them.
    ///
    /// # Errors
    /// The recording cannot be read, or the machine does something else than then.
    pub fn with_moments(
        mut replay: Replay<R>,
        distance: u64,
        room: usize,
    ) -> Result<Timeline<R>, ReplayError> {
        let moments = Moments::begin(&mut replay);
        let begin = replay.position();
        replay.travel(begin, &mut || false)?;
        replay.machine_mut().settle();
        Ok(Timeline { replay, begin, stops: Stops::default(), moments, near: None, distance, room })
    }

    /// Where it stands.
    pub fn position(&self) -> u64 {
        self.replay.position()
    }

    /// Replays to a position, or to the end if that comes first.
    ///
    /// # Errors
    /// The recording is damaged, or the machine does something else than then.
    pub fn forward_to(&mut self, position: u64) -> Result<(), ReplayError> {
        self.replay.set_stops(&Stops::default());
        let arrived = self.forward(position, &mut || false);
        self.settle();
        arrived.map(drop)
    }

    /// Replays what is left, and tells what it was.
    ///
    /// # Errors
    /// The recording is damaged, or the machine does something else than then.
    pub fn finish(mut self) -> Result<Summary, ReplayError> {
        self.replay.set_stops(&Stops::default());
        self.replay.run(None)
    }

    /// The summary of a replay that ends here.
    pub fn summary(&self) -> Summary {
        self.replay.summary(Reached::Until)
    }

    fn settle(&mut self) {
        self.replay.set_stops(&self.stops);
        self.replay.machine_mut().settle();
    }

    /// Keeps the present, and makes room.
    fn keep(&mut self) -> Result<(), ReplayError> {
        self.moments.keep(&mut self.replay)?;
        while self.moments.bytes() > self.room && self.moments.count() > 2 && self.distance < u64::MAX / 2 {
            self.distance *= 2;
            let distance = self.distance;
            self.moments.retain(|position| position.is_multiple_of(distance));
        }
        Ok(())
    }

    /// Replays, and keeps moments on the way.
    fn forward(&mut self, until: u64, interrupted: &mut dyn FnMut() -> bool) -> Result<Pause, ReplayError> {
        loop {
            let position = self.position();
            let regular = (position / self.distance).saturating_add(1).saturating_mul(self.distance);
            let next = self.near.filter(|&near| near > position).map_or(regular, |near| near.min(regular));
            let pause = self.replay.travel(until.min(next), interrupted)?;
            if pause != Pause::Reached(Reached::Until) || next > until {
                return Ok(pause);
            }
            self.keep()?;
        }
    }

    /// Goes to a position that was passed.
    fn back_to(&mut self, position: u64) -> Result<(), ReplayError> {
        self.replay.set_stops(&Stops::default());
        let number = self.moments.last_before(position);
        self.moments.take_up(&mut self.replay, number)?;
        if position - self.position() > 2 * self.nearness() {
            let near = position - self.nearness();
            self.replay.travel(near, &mut || false)?;
            self.moments.keep(&mut self.replay)?;
            let (distance, before) = (self.distance, self.near.replace(near));
            self.moments.retain(|at| Some(at) != before || at.is_multiple_of(distance));
        }
        self.replay.travel(position, &mut || false)?;
        self.settle();
        Ok(())
    }

    /// How far before a position that was gone back to a moment is kept.
    fn nearness(&self) -> u64 {
        NEAR.min(self.distance / 8)
    }

    fn step(&mut self) -> Result<Why, ReplayError> {
        let from = self.position();
        self.replay.machine_mut().leave_breakpoint();
        let pause = self.forward(from + 1, &mut || false)?;
        self.settle();
        Ok(match self.why(pause) {
            // The last instruction was carried out, too.
            Why::Asked | Why::End if self.position() > from => Why::Stepped,
            why => why,
        })
    }

    fn go_on(&mut self, interrupted: &mut dyn FnMut() -> bool) -> Result<Why, ReplayError> {
        self.replay.machine_mut().leave_breakpoint();
        let pause = self.forward(u64::MAX, interrupted)?;
        self.settle();
        Ok(self.why(pause))
    }

    fn step_back(&mut self) -> Result<Why, ReplayError> {
        if self.position() <= self.begin {
            return Ok(Why::Begin);
        }
        self.back_to(self.position() - 1)?;
        Ok(Why::Stepped)
    }

    /// Goes to the last stop before the present: looks for it from one moment to the next, backwards.
    fn go_back(&mut self, interrupted: &mut dyn FnMut() -> bool) -> Result<Why, ReplayError> {
        let mut end = self.position();
        while end > self.begin {
            let number = self.moments.last_before(end - 1);
            self.replay.set_stops(&self.stops);
            self.moments.take_up(&mut self.replay, number)?;
            let from = self.position();
            match self.last_stop(end, interrupted)? {
                Found::Stop(position, why) => {
                    self.back_to(position)?;
                    return Ok(why);
                }
                Found::Interrupted => {
                    self.settle();
                    return Ok(Why::Interrupted);
                }
                Found::None => end = from,
            }
        }
        self.back_to(self.begin)?;
        Ok(Why::Begin)
    }

    /// The last stop from here on and before `end`.
    fn last_stop(&mut self, end: u64, interrupted: &mut dyn FnMut() -> bool) -> Result<Found, ReplayError> {
        let mut found = Found::None;
        loop {
            match self.replay.travel(end, interrupted)? {
                Pause::Interrupted => return Ok(Found::Interrupted),
                Pause::Reached(_) => return Ok(found),
                Pause::Halted => {}
            }
            match self.replay.machine().halt() {
                // Going back, what was touched has to be seen as it was before.
                Some(Halt::Watched(watch)) => {
                    found = Found::Stop(self.position() - 1, Why::Watched(watch));
                }
                _ => {
                    found = Found::Stop(self.position(), Why::Breakpoint);
                    self.replay.machine_mut().leave_breakpoint();
                }
            }
        }
    }

    fn why(&self, pause: Pause) -> Why {
        match (pause, self.replay.machine().halt()) {
            (Pause::Halted, Some(Halt::Watched(watch))) => Why::Watched(watch),
            (Pause::Halted, _) => Why::Breakpoint,
            (Pause::Interrupted, _) => Why::Interrupted,
            (Pause::Reached(Reached::Until), _) => Why::Asked,
            (Pause::Reached(_), _) => Why::End,
        }
    }
}

/// What a search came to.
enum Found {
    None,
    Stop(u64, Why),
    Interrupted,
}

impl<R: Read + Seek> Subject for Timeline<R> {
    fn machine(&self) -> &Machine {
        self.replay.machine()
    }

    fn position(&self) -> u64 {
        self.position()
    }

    fn set_stops(&mut self, stops: &Stops) {
        self.stops.clone_from(stops);
        self.replay.set_stops(stops);
    }

    fn go(&mut self, way: Way, interrupted: &mut dyn FnMut() -> bool) -> Result<Why, SubjectError> {
        Ok(match way {
            Way::Step => self.step(),
            Way::On => self.go_on(interrupted),
            Way::StepBack => self.step_back(),
            Way::Back => self.go_back(interrupted),
        }?)
    }

    fn goes_back(&self) -> bool {
        true
    }
}
