//! Owns what a live machine is connected to: carrying out what leaves it, collecting what comes in; and one that is of
//! images, TAP devices and a terminal.

use crate::disks::{DiskError, Image};
use crate::medium::carry_out;
use crate::network::Cable;
use crate::saved::{Blocks, Saved, SavedError, before};
use crate::setup::Setup;
use crate::terminal::{Keys, Screen};
use net::framing::FramingError;
use os::tap::TapError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rv::{Answer, Input, Output, Request};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// So many frames of a card are taken between two slices: the guest has room for no more.
pub(crate) const FRAMES: usize = 128;

/// Why the world failed.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// A disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A TAP device.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The terminal or a device.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A snapshot.
    #[error(transparent)]
    Saved(#[from] SavedError),
    /// What is given is not what the machine has.
    #[error("the machine has {has} {what}, and {given} are given")]
    Number {
        /// Disks or network cards.
        what: &'static str,
        /// Of the machine.
        has: usize,
        /// Given.
        given: usize,
    },
    /// A disk that the guest may write and the medium not, or the other way round.
    #[error("disk {disk} of the machine is {}, and the medium that is given is not", kind(*.machine))]
    ReadOnly {
        /// The disk, from 0.
        disk: usize,
        /// Whether it is read-only in the machine.
        machine: bool,
    },
    /// The other end of a socket is gone.
    #[error("the other end of {end} was closed")]
    Closed {
        /// Which end.
        end: String,
    },
    /// What comes from the other end is not what it should be.
    #[error("what comes to {end} cannot be understood: {source}")]
    OutOfStep {
        /// Which end.
        end: String,
        /// Why.
        source: FramingError,
    },
}

fn kind(read_only: bool) -> &'static str {
    if read_only { "read-only" } else { "writable" }
}

pub(crate) fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> WorldError {
    move |source| WorldError::System { what, source: source.into() }
}

/// What came in.
#[derive(Debug, Default)]
pub(crate) struct Arrived {
    pub inputs: Vec<Input>,
    /// The keys that end the machine.
    pub quit: bool,
    /// Somebody wants to be heard who will not wait: the guest's clock goes on to here, whatever it waits for.
    pub called: bool,
}

/// What a live machine is connected to.
pub(crate) trait Outside {
    /// Shows what the console says.
    fn show(&mut self, bytes: &[u8]) -> Result<(), WorldError>;

    /// Sends a card's frame.
    fn send(&mut self, card: u8, frame: &[u8]) -> Result<(), WorldError>;

    /// Has a disk carry out a request; none if there is no such disk.
    fn ask(&mut self, disk: u8, request: &Request) -> Result<Option<Answer>, WorldError>;

    /// Waits until something comes in, at most so long (for ever without a time), and takes it.
    fn collect(&mut self, timeout: Option<Duration>) -> Result<Arrived, WorldError>;

    /// Carries out what left the machine; what is answered at once comes back.
    fn carry_out(&mut self, outputs: &[Output]) -> Result<Vec<Input>, WorldError> {
        let mut answers = Vec::new();
        let mut shown = Vec::new();
        for output in outputs {
            match output {
                Output::Console(byte) => shown.push(*byte),
                Output::Terminal(bytes) => shown.extend(bytes),
                Output::Frame { card, frame } => self.send(*card, frame)?,
                Output::Disk { disk, number, request } => {
                    if let Some(answer) = self.ask(*disk, request)? {
                        answers.push(Input::Disk { disk: *disk, number: *number, answer });
                    }
                }
                Output::Entropy { number, length } => {
                    let bytes = random(*length as usize).map_err(system("get random numbers"))?;
                    answers.push(Input::Entropy { number: *number, bytes });
                }
            }
        }
        if !shown.is_empty() {
            self.show(&shown)?;
        }
        self.hand_over()?;
        Ok(answers)
    }

    /// Hands over what was kept of what left, as far as it is taken.
    fn hand_over(&mut self) -> Result<(), WorldError> {
        Ok(())
    }
}

/// Whether so many cards, and disks of so many sectors, are what a machine was made with.
pub(crate) fn fit(
    setup: &Setup,
    cards: usize,
    disks: impl ExactSizeIterator<Item = u64>,
) -> Result<(), WorldError> {
    let number = |what, has, given| match has == given {
        true => Ok(()),
        false => Err(WorldError::Number { what, has, given }),
    };
    number("disks", setup.disks.len(), disks.len())?;
    number("network cards", setup.cards.len(), cards)?;
    for (disk, (&(has, _), given)) in setup.disks.iter().zip(disks).enumerate() {
        if has != given {
            return Err(SavedError::Disk { disk, has, given }.into());
        }
    }
    Ok(())
}

/// Whether any of these is ready, after at most so long (for ever without a time).
pub(crate) fn await_any(watched: &mut [PollFd<'_>], timeout: Option<Duration>) -> Result<bool, WorldError> {
    let timeout = timeout
        .map(|timeout| Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 }));
    match poll(watched, timeout.as_ref()) {
        Ok(0) | Err(rustix::io::Errno::INTR) => Ok(false),
        Ok(_) => Ok(true),
        Err(error) => Err(system("wait for input")(error)),
    }
}

/// Everything that a machine is connected to.
#[derive(Debug)]
pub struct World {
    disks: Vec<Image>,
    /// Where is put down what the disks held, if there is a snapshot that may need it.
    before: Option<File>,
    cables: Vec<Cable>,
    screen: Screen,
    keyboard: Option<OwnedFd>,
    keys: Keys,
    /// What is typed goes to the virtio console, not to the serial port.
    terminal: bool,
    /// What comes here ends a wait, and is not taken.
    listener: Option<OwnedFd>,
}

impl World {
    /// Disks (each a raw image, and whether it is read-only), TAP devices by name, where the console is shown and
    /// from where it is typed.
    ///
    /// # Errors
    /// A disk cannot be opened or is in use, a TAP device not be made.
    pub fn open(
        disks: &[(PathBuf, bool)],
        taps: &[String],
        screen: Screen,
        keyboard: Option<OwnedFd>,
    ) -> Result<World, WorldError> {
        let disks = disks.iter().map(|(path, read_only)| Image::open(path, *read_only));
        Ok(World {
            disks: disks.collect::<Result<_, _>>()?,
            before: None,
            cables: taps.iter().map(|name| Cable::open(name)).collect::<Result<_, _>>()?,
            screen,
            keyboard,
            keys: Keys::default(),
            terminal: false,
            listener: None,
        })
    }

    /// Puts devices for all this into a setup: cards with addresses of their own, and a seed of random numbers.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn describe(&self, setup: &mut Setup) -> Result<(), WorldError> {
        setup.disks = self.disks.iter().map(Image::disk).map(|disk| (disk.sectors, disk.read_only)).collect();
        setup.draw_seed().map_err(system("get random numbers"))?;
        setup.cards = Vec::new();
        for _ in &self.cables {
            let bytes = random(5).map_err(system("get random numbers"))?;
            let mut address = [2; 6];
            address[1..].copy_from_slice(&bytes);
            setup.cards.push(address);
        }
        Ok(())
    }

    /// From now on a wait ends when something comes here.
    pub(crate) fn listen_to(&mut self, listener: Option<OwnedFd>) {
        self.listener = listener;
    }

    /// Connects it to a machine that was made so: what is typed goes to its virtio console if it has one.
    ///
    /// # Errors
    /// The machine has other devices than are here.
    pub(crate) fn connect(&mut self, setup: &Setup) -> Result<(), WorldError> {
        self.terminal = setup.terminal;
        self.fits(setup)
    }

    /// Whether this is what a machine was made with.
    ///
    /// # Errors
    /// It is not.
    pub fn fits(&self, setup: &Setup) -> Result<(), WorldError> {
        fit(setup, self.cables.len(), self.disks.iter().map(|image| image.disk().sectors))
    }

    /// Brings the disks to what they held at a snapshot. Each is either as the snapshot's run left it, or as it was when
    /// that run began.
    ///
    /// # Errors
    /// They are not the machine's disks, cannot be written, or the snapshot not be read.
    pub fn restore(&mut self, saved: &Saved) -> Result<(), WorldError> {
        self.fits(&saved.head().setup)?;
        for (image, blocks) in self.disks.iter().zip(saved.disks()?) {
            image.restore(&blocks).map_err(system("bring a disk to what it was at the snapshot"))?;
        }
        Ok(())
    }

    /// From now on it is known what is written to the disks.
    pub(crate) fn track(&mut self) {
        (0..).zip(&mut self.disks).for_each(|(number, image)| image.track(number));
    }

    /// What the disks hold where they were written: ever, or since it was asked last. What is written over for the first time
    /// from now on is put down beside the snapshot of this number.
    pub(crate) fn changes(
        &mut self,
        all: bool,
        directory: &Path,
        number: u64,
    ) -> Result<Vec<Blocks>, WorldError> {
        if !self.disks.is_empty() {
            self.before = Some(before::begin(directory, number)?);
        }
        let changes = self.disks.iter_mut().map(|image| image.changes(all));
        changes.collect::<io::Result<_>>().map_err(system("read what was written to a disk"))
    }

    fn take_keys(&mut self, arrived: &mut Arrived) -> Result<(), WorldError> {
        let Some(keyboard) = &self.keyboard else { return Ok(()) };
        let mut typed = [0; 1024];
        match rustix::io::read(keyboard, &mut typed) {
            // Nobody types any more.
            Ok(0) => self.keyboard = None,
            Ok(count) => {
                let typed = self.keys.take(&typed[..count]);
                arrived.quit = typed.quit;
                if !typed.bytes.is_empty() {
                    arrived.inputs.push(typed_at(self.terminal, typed.bytes));
                }
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(error) => return Err(system("read what is typed")(error)),
        }
        Ok(())
    }
}

impl Outside for World {
    fn show(&mut self, bytes: &[u8]) -> Result<(), WorldError> {
        self.screen.show(bytes).map_err(system("show the guest's console"))
    }

    fn send(&mut self, card: u8, frame: &[u8]) -> Result<(), WorldError> {
        if let Some(cable) = self.cables.get(usize::from(card)) {
            cable.send(frame);
        }
        Ok(())
    }

    fn ask(&mut self, disk: u8, request: &Request) -> Result<Option<Answer>, WorldError> {
        let Some(image) = self.disks.get_mut(usize::from(disk)) else { return Ok(None) };
        let before = self.before.as_ref();
        image.prepare(request, before).map_err(system("put down what a disk held, for snapshots"))?;
        Ok(Some(carry_out(image, request)))
    }

    fn collect(&mut self, timeout: Option<Duration>) -> Result<Arrived, WorldError> {
        let people = self.keyboard.iter().chain(&self.listener);
        let sources = self.cables.iter().map(AsFd::as_fd).chain(people.map(AsFd::as_fd));
        let mut watched: Vec<PollFd<'_>> =
            sources.map(|source| PollFd::from_borrowed_fd(source, PollFlags::IN)).collect();
        let mut arrived = Arrived::default();
        if !await_any(&mut watched, timeout)? {
            return Ok(arrived);
        }
        let ready: Vec<bool> = watched.iter().map(|source| !source.revents().is_empty()).collect();
        for ((card, cable), _) in (0..).zip(&self.cables).zip(&ready).filter(|(_, ready)| **ready) {
            for _ in 0..FRAMES {
                let Some(frame) = cable.receive().map_err(system("receive a frame from a TAP device"))?
                else {
                    break;
                };
                arrived.inputs.push(Input::Frame { card, frame });
            }
        }
        if self.keyboard.is_some() && ready.get(self.cables.len()) == Some(&true) {
            self.take_keys(&mut arrived)?;
        }
        Ok(arrived)
    }
}

/// What is typed, for the virtio console or for the serial port.
pub(crate) fn typed_at(terminal: bool, bytes: Vec<u8>) -> Input {
    if terminal { Input::Terminal(bytes) } else { Input::Console(bytes) }
}

/// Random bytes of the system.
pub(crate) fn random(length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut at = 0;
    while at < length {
        at += rustix::rand::getrandom(&mut bytes[at..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(bytes)
}
