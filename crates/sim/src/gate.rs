//! Owns the model of the gate: output waits in epochs, passes when open, and is thrown away when fenced.

use crate::guest::{Output, Said};
use protocol::Epoch;
use std::collections::VecDeque;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Open,
    Holding,
    Fenced,
}

#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) mode: Mode,
    /// With the epoch that closed it, if one did, and the time of its arrival.
    queue: VecDeque<(Option<Epoch>, u64, Output)>,
    /// The epoch that is open, and whether a packet of it waits.
    open: (Epoch, bool),
}

impl Gate {
    pub(crate) fn new(mode: Mode) -> Self {
        Self { mode, queue: VecDeque::new(), open: (Epoch(1), false) }
    }

    /// Takes output. Tells of the first packet of an epoch that waits.
    pub(crate) fn push(&mut self, now: u64, output: Output) -> Option<Epoch> {
        if self.mode == Mode::Fenced {
            return None;
        }
        let waits = self.mode == Mode::Holding && matches!(output.said, Said::Packet { .. });
        self.queue.push_back((None, now, output));
        let first = waits && !self.open.1;
        self.open.1 |= waits;
        first.then_some(self.open.0)
    }

    /// Closes an epoch. If output passed until now, what is here still passes: it comes from before the cut.
    pub(crate) fn cut(&mut self, epoch: Epoch) -> Vec<Output> {
        let passed = if self.mode == Mode::Open { self.take_all() } else { Vec::new() };
        if self.mode != Mode::Fenced {
            self.mode = Mode::Holding;
            self.open = (epoch.next(), false);
        }
        for (cut, ..) in self.queue.iter_mut().filter(|(cut, ..)| cut.is_none()) {
            *cut = Some(epoch);
        }
        passed
    }

    /// Holds everything; epochs cut before belong to a session that is over.
    pub(crate) fn hold(&mut self) {
        if self.mode != Mode::Fenced {
            self.mode = Mode::Holding;
            self.open = (Epoch(1), false);
            self.queue.iter_mut().for_each(|(cut, ..)| *cut = None);
        }
    }

    pub(crate) fn release(&mut self, up_to: Epoch) -> Vec<Output> {
        let ready = |&&(cut, ..): &&(Option<Epoch>, u64, Output)| cut.is_some_and(|cut| cut <= up_to);
        let count = self.queue.iter().take_while(ready).count();
        self.queue.drain(..count).map(|(.., output)| output).collect()
    }

    pub(crate) fn open(&mut self) -> Vec<Output> {
        if self.mode == Mode::Fenced {
            return Vec::new();
        }
        self.mode = Mode::Open;
        self.take_all()
    }

    pub(crate) fn fence(&mut self) {
        self.mode = Mode::Fenced;
        self.queue.clear();
    }

    pub(crate) fn take_all(&mut self) -> Vec<Output> {
        self.queue.drain(..).map(|(.., output)| output).collect()
    }

    /// The console words of an epoch that was cut.
    pub(crate) fn console_of(&self, epoch: Epoch) -> Vec<(u64, u64)> {
        let of_epoch = self.queue.iter().filter(|(cut, ..)| *cut == Some(epoch));
        of_epoch
            .filter_map(|(.., output)| match output.said {
                Said::Console { at, word } => Some((at, word)),
                Said::Packet { .. } => None,
            })
            .collect()
    }

    /// Since when the oldest output waits.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.queue.front().map(|&(_, at, _)| at)
    }
}
