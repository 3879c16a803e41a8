//! Owns what a hosted machine is connected to: the sockets of its console and its cards, the media of its disks, and the
//! bell by which its host calls.

use super::line::{Card, Line};
use super::{Bell, Wires};
use crate::medium::{Medium, SECTOR, carry_out};
use crate::setup::Setup;
use crate::world::{Arrived, FRAMES, Outside, WorldError, await_any, fit, typed_at};
use rustix::event::{PollFd, PollFlags};
use rv::{Answer, Input, Request};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

/// So many bytes of the console wait for the other end; then the machine does.
const CONSOLE: usize = 64 << 10;
/// The same of frames, for each card.
const CARD: usize = 1 << 20;
/// So much of what is typed is taken between two slices.
const TYPED: usize = 4096;

/// Everything that a hosted machine is connected to.
pub(super) struct Ends {
    console: Line,
    cards: Vec<Card>,
    disks: Vec<Box<dyn Medium>>,
    /// What is typed goes to the virtio console.
    terminal: bool,
    bell: Arc<Bell>,
}

impl Ends {
    /// Connects it to a machine that is made so.
    ///
    /// # Errors
    /// The machine has other devices than are here.
    pub fn new(wires: Wires, setup: &Setup, bell: Arc<Bell>) -> Result<Ends, WorldError> {
        let Wires { console, nics, disks } = wires;
        fit(setup, nics.len(), disks.iter().map(|disk| disk.size() / SECTOR))?;
        for (disk, (&(_, machine), medium)) in setup.disks.iter().zip(&disks).enumerate() {
            if machine != medium.is_read_only() {
                return Err(WorldError::ReadOnly { disk, machine });
            }
        }
        let card = |(number, socket)| Ok(Card::new(Line::new(format!("network card {number}"), socket)?));
        Ok(Ends {
            console: Line::new("the console".to_owned(), console)?,
            cards: nics.into_iter().enumerate().map(card).collect::<Result<_, WorldError>>()?,
            disks,
            terminal: setup.terminal,
            bell,
        })
    }

    /// Whether so much waits for the other ends that the machine must not go on.
    pub fn is_full(&self) -> bool {
        self.console.waiting() >= CONSOLE || self.cards.iter().any(|card| card.line.waiting() >= CARD)
    }

    /// Whether all frames that left are with the other ends.
    pub fn has_sent_all(&self) -> bool {
        self.cards.iter().all(|card| card.line.waiting() == 0)
    }

    /// Waits until some of what left and is kept can leave, or the bell is rung, and lets it leave.
    pub fn await_room(&mut self) -> Result<(), WorldError> {
        let lines = [&self.console].into_iter().chain(self.cards.iter().map(|card| &card.line));
        let waiting = lines.filter(|line| line.waiting() > 0);
        let mut watched: Vec<PollFd<'_>> =
            waiting.map(|line| PollFd::from_borrowed_fd(line.as_fd(), PollFlags::OUT)).collect();
        watched.push(PollFd::from_borrowed_fd(self.bell.as_fd(), PollFlags::IN));
        await_any(&mut watched, None)?;
        self.bell.take();
        self.hand_over()
    }

    /// What the console said that the other end has not taken.
    pub fn take_unsaid(&mut self) -> Vec<u8> {
        self.console.take_kept()
    }

    /// What each line is ready for: the console's, then the cards', and whether the bell was rung.
    fn await_lines(&self, timeout: Option<Duration>) -> Result<(Vec<PollFlags>, bool), WorldError> {
        let lines = [&self.console].into_iter().chain(self.cards.iter().map(|card| &card.line));
        let wanted = |line: &Line| match line.waiting() {
            0 => PollFlags::IN,
            _ => PollFlags::IN | PollFlags::OUT,
        };
        let mut watched: Vec<PollFd<'_>> =
            lines.map(|line| PollFd::from_borrowed_fd(line.as_fd(), wanted(line))).collect();
        watched.push(PollFd::from_borrowed_fd(self.bell.as_fd(), PollFlags::IN));
        let any = await_any(&mut watched, timeout)?;
        let mut ready: Vec<PollFlags> = watched.iter().map(PollFd::revents).collect();
        let rung = ready.pop().is_some_and(|bell| any && !bell.is_empty());
        if !any {
            ready.fill(PollFlags::empty());
        }
        Ok((ready, rung))
    }
}

impl Outside for Ends {
    fn show(&mut self, bytes: &[u8]) -> Result<(), WorldError> {
        self.console.keep(bytes);
        Ok(())
    }

    fn send(&mut self, card: u8, frame: &[u8]) -> Result<(), WorldError> {
        if let Some(card) = self.cards.get_mut(usize::from(card)) {
            card.send(frame);
        }
        Ok(())
    }

    fn ask(&mut self, disk: u8, request: &Request) -> Result<Option<Answer>, WorldError> {
        Ok(self.disks.get_mut(usize::from(disk)).map(|disk| carry_out(disk.as_mut(), request)))
    }

    fn hand_over(&mut self) -> Result<(), WorldError> {
        self.console.push()?;
        self.cards.iter_mut().try_for_each(|card| card.line.push())
    }

    fn collect(&mut self, timeout: Option<Duration>) -> Result<Arrived, WorldError> {
        let more = self.cards.iter().any(|card| card.has_more);
        let (ready, rung) = self.await_lines(if more { Some(Duration::ZERO) } else { timeout })?;
        let mut arrived = Arrived::default();
        if rung {
            self.bell.take();
            arrived.called = true;
        }
        if ready.iter().any(|ready| ready.contains(PollFlags::OUT)) {
            self.hand_over()?;
        }
        // An end that is gone is found by reading.
        let readable = |ready: PollFlags| !ready.difference(PollFlags::OUT).is_empty();
        if readable(ready[0]) {
            let mut typed = [0; TYPED];
            let count = self.console.read(&mut typed)?;
            if count > 0 {
                arrived.inputs.push(typed_at(self.terminal, typed[..count].to_vec()));
            }
        }
        for ((number, card), ready) in (0..).zip(&mut self.cards).zip(&ready[1..]) {
            let frames = card.receive(readable(*ready), FRAMES)?;
            arrived.inputs.extend(frames.into_iter().map(|frame| Input::Frame { card: number, frame }));
        }
        Ok(arrived)
    }
}
