//! Owns one of two runs that are compared: its machine, and the way back to where both were equal last.

use super::BisectError;
use crate::digest::Digest;
use crate::log::{Event, Reader};
use crate::setup::{Parts, Setup};
use rv::{Input, Machine};
use std::io::Read;

/// A run.
pub(super) struct Side<R> {
    reader: Reader<R>,
    parts: Parts,
    machine: Machine,
    /// The machine where both were equal last: it follows, and is not run.
    mark: Machine,
    marked: (Boots, Digest),
    boots: Boots,
    /// What entered and what left.
    passed: Digest,
    /// What was read of the recording since the mark.
    entries: Vec<(u64, Event)>,
    /// How many of them have happened.
    happened: usize,
    /// The recording has no more.
    over: bool,
    /// The guest waits for what does not come.
    stuck: bool,
    plainly: bool,
}

/// What happened before this boot.
#[derive(Clone, Copy, Default)]
struct Boots {
    instructions: u64,
    number: u64,
}

impl<R: Read> Side<R> {
    pub fn begin(
        reader: Reader<R>,
        correct: impl Fn(&mut Setup),
        plainly: bool,
    ) -> Result<Side<R>, BisectError> {
        let mut setup = reader.setup().clone();
        correct(&mut setup);
        let mut parts = setup.load()?;
        if plainly {
            parts.set_hotness(None);
        }
        let mut machine = parts.first()?;
        let mark = machine.save().machine()?;
        if plainly {
            machine.run_plainly();
        }
        let (marked, boots, passed) = Default::default();
        let (entries, happened, over, stuck) = (Vec::new(), 0, false, false);
        Ok(Side {
            reader,
            parts,
            machine,
            mark,
            marked,
            boots,
            passed,
            entries,
            happened,
            over,
            stuck,
            plainly,
        })
    }

    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The digest of what entered and what left so far.
    pub fn passed(&self) -> &Digest {
        &self.passed
    }

    pub fn reboots(&self) -> u64 {
        self.boots.number
    }

    /// Runs until so many instructions were carried out, over all boots, and delivers what came behind the last of them;
    /// not as far if the recording ends before, or the guest waits for what does not come.
    pub fn advance(&mut self, total: u64) -> Result<(), BisectError> {
        self.go(total, true)
    }

    /// The same without what came behind the last instruction.
    pub fn advance_before(&mut self, total: u64) -> Result<(), BisectError> {
        self.go(total, false)
    }

    fn go(&mut self, total: u64, deliver: bool) -> Result<(), BisectError> {
        loop {
            let Some(&(at, _)) = self.next()? else { return Ok(()) };
            let here = self.boots.instructions.saturating_add(at);
            if here > total || (here == total && !deliver) {
                self.stuck = !self.run(total - self.boots.instructions);
                return Ok(());
            }
            self.stuck = !self.run(at);
            if self.stuck {
                return Ok(());
            }
            self.happen()?;
        }
    }

    /// The next entry of the recording.
    fn next(&mut self) -> Result<Option<&(u64, Event)>, BisectError> {
        if self.happened == self.entries.len() && !self.over {
            let entry = self.reader.next()?;
            self.over = entry.is_none();
            self.entries.extend(entry);
        }
        Ok(self.entries.get(self.happened))
    }

    /// Runs to a count of this boot; false if the guest does not come so far.
    fn run(&mut self, at: u64) -> bool {
        while self.machine.instructions() < at {
            let before = self.machine.instructions();
            self.machine.run(at);
            self.machine.outputs().iter().for_each(|output| self.passed.add(output));
            if self.machine.instructions() == before {
                return false;
            }
        }
        true
    }

    fn happen(&mut self) -> Result<(), BisectError> {
        match &self.entries[self.happened].1 {
            Event::Input(input) => {
                self.passed.add_input(self.machine.instructions(), input);
                self.machine.input(input.clone());
            }
            Event::Restart => {
                self.boots.instructions += self.machine.instructions();
                self.boots.number += 1;
                self.machine = self.parts.machine()?;
                if self.plainly {
                    self.machine.run_plainly();
                }
            }
            Event::Outputs(_) | Event::State(_) | Event::End => {}
        }
        self.happened += 1;
        Ok(())
    }

    /// Where the recording ended, if all of it has happened.
    pub fn end(&self) -> Option<u64> {
        let ended = self.over && self.happened == self.entries.len();
        ended.then(|| self.boots.instructions + self.machine.instructions())
    }

    /// Instructions at which the guest began to wait for what does not come.
    pub fn stuck(&self) -> Option<u64> {
        self.stuck.then(|| self.boots.instructions + self.machine.instructions())
    }

    /// The inputs that are delivered behind so many instructions, from what has not happened yet.
    pub fn inputs(&self, total: u64) -> Vec<Input> {
        let mut before = self.boots.instructions;
        let mut inputs = Vec::new();
        for (at, event) in &self.entries[self.happened..] {
            if before + at == total
                && let Event::Input(input) = event
            {
                inputs.push(input.clone());
            }
            if *event == Event::Restart {
                before += at;
            }
        }
        inputs
    }

    pub fn look_ahead(&mut self) -> Option<u32> {
        self.machine.look_ahead()
    }

    /// From here it can be gone back to.
    pub fn mark(&mut self) -> Result<(), BisectError> {
        let changes = self.machine.save_changes();
        match changes.base() {
            Some(_) => self.mark.follow(&changes)?,
            None => self.mark = changes.machine()?,
        }
        self.entries.drain(..self.happened);
        self.happened = 0;
        self.marked = (self.boots, self.passed.clone());
        Ok(())
    }

    /// Back to the mark.
    pub fn back(&mut self) -> Result<(), BisectError> {
        let (boots, passed) = self.marked.clone();
        if self.boots.number == boots.number {
            self.machine.go_back(&self.mark)?;
        } else {
            self.machine = self.mark.clone();
            self.parts.let_compile(&mut self.machine);
            if self.plainly {
                self.machine.run_plainly();
            }
        }
        (self.boots, self.passed, self.happened) = (boots, passed, 0);
        Ok(())
    }
}
