//! Owns doing again what was recorded: the same inputs at the same instruction counts, compared with what was noted,
//! and going on live from there.

mod moment;

pub(crate) use moment::Moments;

use crate::digest::Digest;
use crate::disks::{DiskError, Image};
use crate::live::{Live, LiveError};
use crate::log::{Event, LogError, Reader};
use crate::medium::carry_out;
use crate::saved::{Saved, SavedError};
use crate::setup::{Parts, Setup, SetupError};
use crate::terminal::Screen;
use crate::world::World;
use rv::{Answer, Hotness, Input, Machine, Output, Request, SnapshotError, Stop, Stops};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::PathBuf;

/// Why a recording could not be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The machine cannot be made.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// A disk image for what is written cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The snapshot that it shall begin at cannot be used.
    #[error(transparent)]
    Saved(#[from] SavedError),
    /// The recording ends before the snapshot.
    #[error("the recording ends before the snapshot that the replay shall begin at")]
    EndsBefore,
    /// Not the number of disks.
    #[error("the recorded machine has {has} disks, and {given} images are given for what it writes")]
    Disks {
        /// Of the machine.
        has: usize,
        /// Given.
        given: usize,
    },
    /// A disk image cannot be written.
    #[error("cannot write to disk {disk} what was written when it was recorded")]
    Write {
        /// The disk.
        disk: u8,
    },
    /// The console cannot be shown.
    #[error("cannot show the guest's console: {0}")]
    Show(#[source] io::Error),
    /// An earlier moment cannot be taken up.
    #[error("cannot go back in the recording: {0}")]
    Snapshot(#[source] SnapshotError),
    /// The machine did something else.
    #[error(
        "the replay differs from the recording: at instruction {at} of boot {boot}, {what} is {found:016x}, and was \
         {recorded:016x}; was it recorded by another version of the machine?"
    )]
    Differs {
        /// Instructions of that boot.
        at: u64,
        /// The boot, from 1.
        boot: u64,
        /// What differs.
        what: &'static str,
        /// Now.
        found: u64,
        /// Then.
        recorded: u64,
    },
}

/// Where a replay stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// At the recording's end.
    End,
    /// The recording breaks off: whoever wrote it died.
    BrokenOff,
    /// At the count that was asked for.
    Until,
}

/// Why a replay stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    Reached(Reached),
    /// At a stop that was set.
    Halted,
    /// Somebody wants to be heard.
    Interrupted,
}

/// What a replay was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Where it stopped.
    pub reached: Reached,
    /// Instructions, all boots together.
    pub instructions: u64,
    /// How often the guest began anew.
    pub reboots: u64,
    /// How often what left, or the state, was compared with the recording.
    pub compared: u64,
    /// Bytes that devices delivered: frames, what was read and typed, random numbers.
    pub delivered: u64,
    /// The hash of the state.
    pub state: u64,
    /// The digest of everything that left.
    pub outputs: u64,
}

/// A replay.
#[derive(Debug)]
pub struct Replay<R> {
    reader: Reader<R>,
    /// The next entry, read but not done yet.
    next: Option<(u64, Event)>,
    parts: Parts,
    machine: Machine,
    digest: Digest,
    /// Requests that left and were not answered.
    open: BTreeMap<(u8, u64), Output>,
    screen: Screen,
    /// Bytes that the console said so far, and how many of them were shown: what is done once more is not.
    said: u64,
    shown: u64,
    disks: Vec<Image>,
    stops: Stops,
    before: u64,
    reboots: u64,
    compared: u64,
    delivered: u64,
}

/// Entropy's place among the disks in the list of open requests.
const ENTROPY: u8 = u8::MAX;

impl<R: Read> Replay<R> {
    /// Begins. `correct` may change where the kernel and the initial file system are; `disks`, if there are any, are
    /// images as they were when the recording began: what was written is written there.
    ///
    /// # Errors
    /// The recording cannot be read, the kernel is not there or another one, or the disks do not fit.
    pub fn begin(
        log: R,
        correct: impl FnOnce(&mut Setup),
        screen: Screen,
        disks: &[PathBuf],
    ) -> Result<Replay<R>, ReplayError> {
        let reader = Reader::open(log)?;
        let mut setup = reader.setup().clone();
        correct(&mut setup);
        let (has, given) = (setup.disks.len(), disks.len());
        if given != 0 && has != given {
            return Err(ReplayError::Disks { has, given });
        }
        let disks =
            disks.iter().zip(&setup.disks).map(|(path, (_, read_only))| Image::open(path, *read_only));
        let disks = disks.collect::<Result<_, _>>()?;
        let parts = setup.load()?;
        let machine = parts.first()?;
        Ok(Replay {
            reader,
            next: None,
            parts,
            machine,
            digest: Digest::default(),
            open: BTreeMap::new(),
            screen,
            said: 0,
            shown: 0,
            disks,
            stops: Stops::default(),
            before: 0,
            reboots: 0,
            compared: 0,
            delivered: 0,
        })
    }

    /// Goes to a snapshot that was taken when the recording was made. Disks that are given are brought to what they held
    /// there.
    ///
    /// # Errors
    /// It was taken of another run, or the recording or the disks do not go with it.
    pub fn go_to(&mut self, saved: Saved) -> Result<(), ReplayError> {
        let other = || SavedError::OtherRun { path: saved.path.clone() };
        let entries =
            saved.head.entries.filter(|_| saved.head.setup == *self.reader.setup()).ok_or_else(other)?;
        if !self.disks.is_empty() {
            for (disk, (image, blocks)) in (0..).zip(self.disks.iter().zip(saved.disks()?)) {
                image.restore(&blocks).map_err(|_| ReplayError::Write { disk })?;
            }
        }
        for _ in 0..entries {
            self.reader.next()?.ok_or(ReplayError::EndsBefore)?;
        }
        self.machine = saved.machine;
        self.parts.let_compile(&mut self.machine);
        self.digest = Digest::from_value(saved.head.outputs);
        (self.before, self.reboots) = (saved.head.before, saved.head.reboots);
        Ok(())
    }

    /// When instructions are compiled from now on; none if all are interpreted. A replay is the same either way.
    pub fn set_hotness(&mut self, hotness: Option<Hotness>) {
        self.parts.set_hotness(hotness);
        self.parts.let_compile(&mut self.machine);
    }

    /// Replays to the end, or to an instruction count over all boots.
    ///
    /// # Errors
    /// The recording is damaged, or the machine does something else than then.
    pub fn run(&mut self, until: Option<u64>) -> Result<Summary, ReplayError> {
        let until = until.unwrap_or(u64::MAX);
        let reached = loop {
            if let Pause::Reached(reached) = self.travel(until, &mut || false)? {
                break reached;
            }
        };
        Ok(self.summary(reached))
    }

    /// What it was, if it stops here.
    pub(crate) fn summary(&self, reached: Reached) -> Summary {
        Summary {
            reached,
            instructions: self.position(),
            reboots: self.reboots,
            compared: self.compared,
            delivered: self.delivered,
            state: self.machine.hash(),
            outputs: self.digest.value(),
        }
    }

    /// Instructions so far, over all boots.
    pub(crate) fn position(&self) -> u64 {
        self.before + self.machine.instructions()
    }

    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    pub(crate) fn machine_mut(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// From now on it pauses there, in every boot.
    pub(crate) fn set_stops(&mut self, stops: &Stops) {
        self.stops.clone_from(stops);
        self.machine.set_stops(stops);
    }

    /// Replays to an instruction count over all boots, with all that happened at it; pauses where it is told to.
    pub(crate) fn travel(
        &mut self,
        until: u64,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Pause, ReplayError> {
        loop {
            if self.next.is_none() {
                self.next = self.reader.next()?;
            }
            let Some((at, event)) = &self.next else { return Ok(Pause::Reached(Reached::BrokenOff)) };
            let (at, ends) = (*at, *event == Event::End);
            if let Some(pause) = self.advance(at.min(until.saturating_sub(self.before)), interrupted)? {
                return Ok(pause);
            }
            if self.before.saturating_add(at) > until {
                return Ok(Pause::Reached(Reached::Until));
            }
            if ends {
                return Ok(Pause::Reached(Reached::End));
            }
            if let Some((at, event)) = self.next.take() {
                self.happen(at, event)?;
            }
        }
    }

    fn happen(&mut self, at: u64, event: Event) -> Result<(), ReplayError> {
        match event {
            Event::Input(input) => self.deliver(input),
            Event::Outputs(recorded) => {
                self.compare("the digest of what left", self.digest.value(), recorded)
            }
            Event::State(recorded) => self.compare("the hash of the state", self.machine.hash(), recorded),
            Event::Restart => {
                self.before += at;
                self.reboots += 1;
                self.open.clear();
                self.machine = self.parts.machine()?;
                self.machine.set_stops(&self.stops);
                Ok(())
            }
            Event::End => Ok(()),
        }
    }

    /// Goes on from here as a live machine. The disks must be those of [`Replay::begin`], or others that hold the same.
    ///
    /// # Errors
    /// The world does not fit the machine.
    pub fn go_live(
        mut self,
        world: impl FnOnce(Screen) -> Result<World, LiveError>,
    ) -> Result<Live, LiveError> {
        // They are opened once more, by the world.
        self.disks.clear();
        let world = world(self.screen)?;
        let open: Vec<Output> = self.open.into_values().collect();
        Live::go_on(self.parts, self.machine, self.digest, &open, world, None)
    }

    /// Runs to an instruction count of this boot, if nothing makes it pause before.
    fn advance(
        &mut self,
        at: u64,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Pause>, ReplayError> {
        while self.machine.instructions() < at {
            let before = self.machine.instructions();
            let stop = self.machine.run(at.min(before + SLICE));
            self.show()?;
            if stop == Stop::Halted {
                return Ok(Some(Pause::Halted));
            }
            if self.machine.instructions() == before {
                return self.differ("the count at which it stopped", before, at);
            }
            if interrupted() {
                return Ok(Some(Pause::Interrupted));
            }
        }
        Ok(None)
    }

    fn deliver(&mut self, input: Input) -> Result<(), ReplayError> {
        match &input {
            Input::Disk { disk, number, answer } => {
                let asked = self.open.remove(&(*disk, *number));
                if let (Some(Output::Disk { request, .. }), Answer::Done) = (asked, answer) {
                    self.write(*disk, &request)?;
                }
            }
            Input::Entropy { number, .. } => drop(self.open.remove(&(ENTROPY, *number))),
            _ => {}
        }
        self.delivered += bytes_of(&input);
        self.machine.input(input);
        self.show()
    }

    fn write(&mut self, disk: u8, request: &Request) -> Result<(), ReplayError> {
        let Some(image) = self.disks.get_mut(usize::from(disk)) else { return Ok(()) };
        match carry_out(image, request) {
            Answer::Failed => Err(ReplayError::Write { disk }),
            _ => Ok(()),
        }
    }

    /// Takes what left: the console is shown, requests wait for their answers.
    fn show(&mut self) -> Result<(), ReplayError> {
        let mut shown = Vec::new();
        for output in self.machine.outputs() {
            self.digest.add(&output);
            match output {
                Output::Console(byte) => shown.push(byte),
                Output::Disk { disk, number, .. } => drop(self.open.insert((disk, number), output)),
                Output::Entropy { number, .. } => drop(self.open.insert((ENTROPY, number), output)),
                Output::Terminal(bytes) => shown.extend(bytes),
                Output::Frame { .. } => {}
            }
        }
        let again = usize::try_from(self.shown - self.said).unwrap_or(usize::MAX).min(shown.len());
        self.said += shown.len() as u64;
        self.shown = self.shown.max(self.said);
        if again == shown.len() {
            Ok(())
        } else {
            self.screen.show(&shown[again..]).map_err(ReplayError::Show)
        }
    }

    fn compare(&mut self, what: &'static str, found: u64, recorded: u64) -> Result<(), ReplayError> {
        self.compared += 1;
        if found == recorded { Ok(()) } else { self.differ(what, found, recorded) }
    }

    fn differ<T>(&self, what: &'static str, found: u64, recorded: u64) -> Result<T, ReplayError> {
        let (at, boot) = (self.machine.instructions(), self.reboots + 1);
        Err(ReplayError::Differs { at, boot, what, found, recorded })
    }
}

/// Bytes of the world in an input.
fn bytes_of(input: &Input) -> u64 {
    let bytes = match input {
        Input::Console(bytes) | Input::Terminal(bytes) | Input::Entropy { bytes, .. } => bytes.len(),
        Input::Frame { frame, .. } => frame.len(),
        Input::Disk { answer: Answer::Data(data), .. } => data.len(),
        Input::Disk { .. } | Input::Wall(_) | Input::Waited(_) => 0,
    };
    bytes as u64
}

/// Instructions between two looks at what left.
const SLICE: u64 = 1_000_000;
