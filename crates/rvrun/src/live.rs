//! Owns a live machine: one that is recorded, of which snapshots are taken, that a debugger may stop.

use crate::beat::{Alive, Beat, beat, wall_clock};
use crate::digest::Digest;
use crate::log::{Event, Writer};
use crate::pace::Pace;
use crate::saved::{SavedError, Taker, Where};
use crate::setup::{Parts, SetupError};
use crate::world::{Outside, World, WorldError};
use rv::{Input, Machine, Output, Stops};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A recording is handed to the system at least so often.
const FLUSH: Duration = Duration::from_millis(100);
/// Instructions between two hashes of the state in a recording.
const STATE: u64 = 1 << 32;

/// Why a live machine ended badly.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// What it is connected to failed.
    #[error(transparent)]
    World(#[from] WorldError),
    /// It could not begin again after a reboot.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// A snapshot cannot be written.
    #[error(transparent)]
    Saved(#[from] SavedError),
    /// The recording cannot be written.
    #[error("cannot write the recording {path}: {source}")]
    Record {
        /// The recording.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// How a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest switched itself off.
    PowerOff,
    /// Somebody ended it.
    Quit,
}

/// What came of one slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// There may be more.
    Done,
    /// At a stop that was set.
    Halted,
    /// The guest switched itself off, or the keys were typed.
    Ended(End),
}

impl Turn {
    pub(crate) fn ended(self) -> Option<End> {
        match self {
            Turn::Ended(end) => Some(end),
            Turn::Done | Turn::Halted => None,
        }
    }
}

/// What a run was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// How it ended.
    pub end: End,
    /// Instructions, all boots together.
    pub instructions: u64,
    /// How often the guest began anew.
    pub reboots: u64,
    /// The hash of the state at the end.
    pub state: u64,
    /// The digest of everything that left.
    pub outputs: u64,
}

/// A recording under way.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    writer: Writer<File>,
    flushed: Instant,
    told: u64,
    next_state: u64,
    /// How many there are in it.
    entries: u64,
}

impl Recorder {
    /// Begins a recording in a new file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(path: &Path, parts: &Parts) -> Result<Recorder, LiveError> {
        let failed = |source| LiveError::Record { path: path.to_owned(), source };
        let file = File::create(path).map_err(failed)?;
        let writer = Writer::begin(file, parts.setup()).map_err(failed)?;
        let path = path.to_owned();
        Ok(Recorder { path, writer, flushed: Instant::now(), told: 0, next_state: STATE, entries: 0 })
    }

    fn add(&mut self, at: u64, event: Event) -> Result<(), LiveError> {
        self.entries += 1;
        self.writer.add(at, event).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> LiveError {
        LiveError::Record { path: self.path.clone(), source }
    }

    /// Notes what left so far, and hands everything to the system.
    fn flush(&mut self, at: u64, outputs: u64) -> Result<(), LiveError> {
        self.flushed = Instant::now();
        if outputs != self.told {
            self.told = outputs;
            self.add(at, Event::Outputs(outputs))?;
        }
        self.writer.flush().map_err(|source| self.failed(source))
    }
}

/// A live machine.
#[derive(Debug)]
pub struct Live {
    parts: Parts,
    machine: Machine,
    world: World,
    digest: Digest,
    recorder: Option<Recorder>,
    taker: Option<Taker>,
    pace: Pace,
    stops: Stops,
    /// Instructions of boots before this one.
    before: u64,
    reboots: u64,
}

impl Live {
    /// A machine where its run begins: at its first instruction, or at a snapshot.
    ///
    /// # Errors
    /// It cannot be made, or the recording not be written.
    pub fn begin(parts: Parts, world: World, recorder: Option<Recorder>) -> Result<Live, LiveError> {
        let machine = parts.first()?;
        Live::go_on(parts, machine, Digest::default(), &[], world, recorder)
    }

    /// A machine that goes on from where it is. `open` is what left it and waits for an answer.
    pub(crate) fn go_on(
        parts: Parts,
        machine: Machine,
        digest: Digest,
        open: &[Output],
        mut world: World,
        recorder: Option<Recorder>,
    ) -> Result<Live, LiveError> {
        world.connect(parts.setup())?;
        let pace = Pace::begin(machine.clock(), Instant::now());
        let mut live = Live {
            parts,
            machine,
            world,
            digest,
            recorder,
            taker: None,
            pace,
            stops: Stops::default(),
            before: 0,
            reboots: 0,
        };
        live.machine.set_horizon(0);
        live.deliver(vec![wall_clock()])?;
        let answers = live.world.carry_out(open)?;
        live.deliver(answers)?;
        Ok(live)
    }

    /// From now on snapshots are taken.
    pub fn take_snapshots(&mut self, taker: Taker) {
        self.world.track();
        self.taker = Some(taker);
    }

    /// Runs until the guest switches itself off, the keys are typed, or `quit` is set (looked at between slices).
    ///
    /// # Errors
    /// The world or the recording failed: the machine is lost.
    pub fn run(&mut self, quit: &AtomicBool) -> Result<Summary, LiveError> {
        loop {
            let turn = self.turn(u64::MAX)?;
            let quit = quit.load(Ordering::Relaxed);
            if let Some(end) = turn.ended().or(quit.then_some(End::Quit)) {
                return self.finish(end);
            }
        }
    }

    /// One slice of instructions, at most to a count over all boots, and what the world has to do with it.
    pub(crate) fn turn(&mut self, last: u64) -> Result<Turn, LiveError> {
        let mut bound = last.saturating_sub(self.before);
        if let Some(recorder) = &self.recorder {
            bound = bound.min(recorder.next_state);
        }
        match beat(self, bound)? {
            Beat::Done => {}
            Beat::Halted => return Ok(Turn::Halted),
            Beat::PowerOff => return Ok(Turn::Ended(End::PowerOff)),
            Beat::Quit => return Ok(Turn::Ended(End::Quit)),
            Beat::Reboot => self.restart()?,
        }
        self.note()?;
        Ok(Turn::Done)
    }

    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Instructions so far, over all boots.
    pub(crate) fn position(&self) -> u64 {
        self.before + self.machine.instructions()
    }

    /// From now on it stops there, in every boot.
    pub(crate) fn set_stops(&mut self, stops: &Stops) {
        self.stops.clone_from(stops);
        self.machine.set_stops(stops);
    }

    /// What comes here ends the guest's waiting.
    pub(crate) fn listen_to(&mut self, debugger: OwnedFd) {
        self.world.listen_to(Some(debugger));
    }

    pub(crate) fn listen_no_more(&mut self) {
        self.world.listen_to(None);
    }

    /// Goes on after it stood still: the guest's clock does not have to make up for it.
    pub(crate) fn set_out(&mut self) {
        self.machine.leave_breakpoint();
        self.pace = Pace::begin(self.machine.clock(), Instant::now());
    }

    /// A new machine in the place of one that asked for a reboot.
    fn restart(&mut self) -> Result<(), LiveError> {
        let at = self.machine.instructions();
        if let Some(recorder) = &mut self.recorder {
            recorder.add(at, Event::Restart)?;
            recorder.next_state = STATE;
        }
        self.before += at;
        self.reboots += 1;
        self.machine = self.parts.machine()?;
        self.machine.set_stops(&self.stops);
        self.machine.set_horizon(0);
        self.pace = Pace::begin(self.machine.clock(), Instant::now());
        self.deliver(vec![wall_clock()])
    }

    /// What snapshots and a recording note between slices.
    fn note(&mut self) -> Result<(), LiveError> {
        if self.taker.as_ref().is_some_and(Taker::is_due) {
            self.take_snapshot()?;
        }
        let at = self.machine.instructions();
        let Some(recorder) = &mut self.recorder else { return Ok(()) };
        if at >= recorder.next_state {
            recorder.next_state = at + STATE;
            recorder.add(at, Event::State(self.machine.hash()))?;
        }
        if recorder.flushed.elapsed() >= FLUSH { self.flush() } else { Ok(()) }
    }

    /// Everything that left was carried out by now, and answered: see [`World::carry_out`].
    fn take_snapshot(&mut self) -> Result<(), LiveError> {
        self.flush()?;
        let Live { parts, machine, world, digest, recorder, taker, before, reboots, .. } = self;
        let Some(taker) = taker else { return Ok(()) };
        let entries = recorder.as_ref().map(|recorder| recorder.entries);
        let at = Where { setup: parts.setup(), before: *before, reboots: *reboots, digest, entries };
        taker.take(machine, &at, |all, directory, number| Ok(world.changes(all, directory, number)?))
    }

    fn flush(&mut self) -> Result<(), LiveError> {
        let (at, outputs) = (self.machine.instructions(), self.digest.value());
        self.recorder.as_mut().map_or(Ok(()), |recorder| recorder.flush(at, outputs))
    }

    /// Ends it here: the recording is complete.
    pub(crate) fn finish(&mut self, end: End) -> Result<Summary, LiveError> {
        let (at, state, outputs) = (self.machine.instructions(), self.machine.hash(), self.digest.value());
        if let Some(recorder) = &mut self.recorder {
            recorder.add(at, Event::Outputs(outputs))?;
            recorder.add(at, Event::State(state))?;
            recorder.add(at, Event::End)?;
            recorder.flush(at, outputs)?;
        }
        if let Some(taker) = &mut self.taker {
            taker.finish()?;
        }
        Ok(Summary { end, instructions: self.before + at, reboots: self.reboots, state, outputs })
    }
}

impl Alive for Live {
    type Error = LiveError;
    type Outside = World;

    fn machine<R>(&mut self, act: impl FnOnce(&mut Machine) -> R) -> R {
        act(&mut self.machine)
    }

    fn outside(&mut self) -> &mut World {
        &mut self.world
    }

    fn pace(&self) -> &Pace {
        &self.pace
    }

    /// To the recording, too.
    fn deliver(&mut self, inputs: Vec<Input>) -> Result<(), LiveError> {
        for input in inputs {
            if let Some(recorder) = &mut self.recorder {
                recorder.add(self.machine.instructions(), Event::Input(input.clone()))?;
            }
            self.machine.input(input);
        }
        Ok(())
    }

    fn leaves(&mut self, outputs: &[Output]) {
        outputs.iter().for_each(|output| self.digest.add(output));
    }

    fn rests(&mut self) -> Result<(), LiveError> {
        self.flush()
    }
}
