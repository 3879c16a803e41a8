//! Owns the gate as the model sees it: output waits in epochs, passes when open, and is thrown away when fenced.

use protocol::Epoch;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Mode {
    Open,
    Holding,
    Fenced,
}

/// Output is named by the step of the guest that said it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Gate {
    pub(crate) mode: Mode,
    /// With the epoch that closed it, if one did.
    queue: Vec<(Option<Epoch>, u8)>,
}

impl Gate {
    pub(crate) fn open_one() -> Self {
        Self { mode: Mode::Open, queue: Vec::new() }
    }

    /// The guest says something; what passes at once is returned.
    pub(crate) fn push(&mut self, step: u8) -> Option<u8> {
        match self.mode {
            Mode::Open => Some(step),
            Mode::Fenced => None,
            Mode::Holding => {
                self.queue.push((None, step));
                None
            }
        }
    }

    /// Closes an epoch.
    pub(crate) fn cut(&mut self, epoch: Epoch) {
        if self.mode != Mode::Fenced {
            self.mode = Mode::Holding;
        }
        for (cut, _) in self.queue.iter_mut().filter(|(cut, _)| cut.is_none()) {
            *cut = Some(epoch);
        }
    }

    /// Holds everything; epochs cut before belong to a session that is over.
    pub(crate) fn hold(&mut self) {
        if self.mode != Mode::Fenced {
            self.mode = Mode::Holding;
            self.queue.iter_mut().for_each(|(cut, _)| *cut = None);
        }
    }

    pub(crate) fn release(&mut self, up_to: Epoch) -> Vec<u8> {
        let ready = |(cut, _): &&(Option<Epoch>, u8)| cut.is_some_and(|cut| cut <= up_to);
        let count = self.queue.iter().take_while(ready).count();
        self.queue.drain(..count).map(|(_, step)| step).collect()
    }

    pub(crate) fn open(&mut self) -> Vec<u8> {
        if self.mode == Mode::Fenced {
            return Vec::new();
        }
        self.mode = Mode::Open;
        self.queue.drain(..).map(|(_, step)| step).collect()
    }

    pub(crate) fn fence(&mut self) {
        self.mode = Mode::Fenced;
        self.queue.clear();
    }
}
