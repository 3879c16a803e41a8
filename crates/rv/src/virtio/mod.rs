//! Owns a virtio device behind memory-mapped registers (virtio 1.2, section 4.2): what all kinds have in common.

pub(crate) mod block;
pub(crate) mod entropy;
pub(crate) mod net;
pub(crate) mod queue;
pub(crate) mod terminal;
#[cfg(test)]
mod tests;

use crate::dma::Memory;
use crate::machine::Output;
use alloc::vec::Vec;
use queue::{Broken, LONGEST, Queue, gather};
use serde::{Deserialize, Serialize};

/// "virt"
const MAGIC: u32 = 0x7472_6976;
/// "undy"
const VENDOR: u32 = 0x7964_6e75;
/// The device follows version 1 of the standard.
const VERSION_1: u64 = 1 << 32;
const FEATURES_OK: u32 = 8;
const DRIVER_OK: u32 = 4;
const NEEDS_RESET: u32 = 0x40;

/// What a device touches when it works.
pub(crate) struct Surroundings<'a> {
    pub memory: Memory<'a>,
    pub outputs: &'a mut Vec<Output>,
}

/// Rings of a device that gives and takes: what it gives, what it takes.
pub(crate) const RECEIVE: usize = 0;
pub(crate) const SEND: usize = 1;

/// A device's rings, and whether it has something to tell.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Queues {
    list: Vec<Queue>,
    /// Bits of `InterruptStatus`.
    interrupt: u32,
}

impl Queues {
    /// The next chain of a ring.
    pub fn take(&mut self, queue: usize, memory: &Memory<'_>) -> Result<Option<queue::Chain>, Broken> {
        self.list[queue].take(memory)
    }

    /// Gives a chain back.
    pub fn finish(
        &mut self,
        queue: usize,
        memory: &mut Memory<'_>,
        head: u16,
        written: u32,
    ) -> Result<(), Broken> {
        if self.list[queue].give_back(memory, head, written)? {
            self.interrupt |= 1;
        }
        Ok(())
    }

    /// Takes all that the guest sends. What is made of the bytes of a chain leaves; a chain longer than `most` is lost.
    pub fn send(
        &mut self,
        all: &mut Surroundings<'_>,
        most: u64,
        output: impl Fn(Vec<u8>) -> Option<Output>,
    ) -> Result<(), Broken> {
        while let Some(chain) = self.take(SEND, &all.memory)? {
            let bytes = gather(&all.memory, &chain.readable, most)?;
            all.outputs.extend(bytes.and_then(&output));
            self.finish(SEND, &mut all.memory, chain.head, 0)?;
        }
        Ok(())
    }
}

/// What a device is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Kind {
    Block(block::Block),
    Net(net::Net),
    Terminal(terminal::Terminal),
    Entropy(entropy::Entropy),
}

impl Kind {
    fn id(&self) -> u32 {
        match self {
            Kind::Net(_) => 1,
            Kind::Block(_) => 2,
            Kind::Terminal(_) => 3,
            Kind::Entropy(_) => 4,
        }
    }

    fn queues(&self) -> usize {
        match self {
            Kind::Block(_) | Kind::Entropy(_) => 1,
            Kind::Net(_) | Kind::Terminal(_) => 2,
        }
    }

    fn features(&self) -> u64 {
        VERSION_1
            | match self {
                Kind::Block(block) => block.features(),
                Kind::Net(_) => net::FEATURES,
                Kind::Terminal(_) | Kind::Entropy(_) => 0,
            }
    }

    fn configuration(&self) -> Vec<u8> {
        match self {
            Kind::Block(block) => block.configuration(),
            Kind::Net(net) => net.configuration(),
            Kind::Terminal(_) | Kind::Entropy(_) => Vec::new(),
        }
    }

    fn serve(&mut self, queue: usize, queues: &mut Queues, all: &mut Surroundings<'_>) -> Result<(), Broken> {
        match self {
            Kind::Block(block) => block.serve(queues, all),
            Kind::Net(net) => net.serve(queue, queues, all),
            Kind::Terminal(terminal) => terminal.serve(queue, queues, all),
            Kind::Entropy(entropy) => entropy.serve(queues, all),
        }
    }

    fn reset(&mut self) {
        match self {
            Kind::Block(block) => block.reset(),
            Kind::Net(net) => net.reset(),
            Kind::Terminal(terminal) => terminal.reset(),
            Kind::Entropy(entropy) => entropy.reset(),
        }
    }

    fn words(&self, word: &mut dyn FnMut(u64)) {
        match self {
            Kind::Block(block) => block.words(word),
            Kind::Net(net) => net.words(word),
            Kind::Terminal(terminal) => terminal.words(word),
            Kind::Entropy(entropy) => entropy.words(word),
        }
    }
}

/// A device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Virtio {
    pub kind: Kind,
    queues: Queues,
    status: u32,
    /// Which half of the features is shown, and which is set.
    halves: [u32; 2],
    accepted: u64,
    selected: u32,
}

impl Virtio {
    pub fn new(kind: Kind) -> Virtio {
        let queues = Queues { list: alloc::vec![Queue::default(); kind.queues()], interrupt: 0 };
        Virtio { kind, queues, status: 0, halves: [0; 2], accepted: 0, selected: 0 }
    }

    /// Whether its interrupt is raised.
    pub fn raised(&self) -> bool {
        self.queues.interrupt != 0
    }

    /// Whether the guest's driver has the device at work.
    fn works(&self) -> bool {
        self.status & DRIVER_OK != 0 && self.status & NEEDS_RESET == 0
    }

    pub fn read(&self, offset: u64, size: u64) -> Option<u64> {
        if offset >= 0x100 {
            let configuration = self.kind.configuration();
            let from = offset as usize - 0x100;
            let byte = |at: usize| configuration.get(at).copied().unwrap_or(0);
            return Some(
                (0..size as usize).rev().fold(0, |value, at| value << 8 | u64::from(byte(from + at))),
            );
        }
        (size == 4).then(|| self.read_register(offset).into())
    }

    fn read_register(&self, offset: u64) -> u32 {
        let half = |features: u64, half: u32| match half {
            0 => features as u32,
            1 => (features >> 32) as u32,
            _ => 0,
        };
        let queue = self.queues.list.get(self.selected as usize);
        match offset {
            0 => MAGIC,
            4 => 2,
            8 => self.kind.id(),
            0xc => VENDOR,
            0x10 => half(self.kind.features(), self.halves[0]),
            0x34 => queue.map_or(0, |_| LONGEST.into()),
            0x44 => queue.map_or(0, |queue| queue.ready.into()),
            0x60 => self.queues.interrupt,
            0x70 => self.status,
            // No shared memory: length and base are all ones.
            0xb0..=0xbc => u32::MAX,
            _ => 0,
        }
    }

    pub fn write(&mut self, offset: u64, value: u32, all: &mut Surroundings<'_>) {
        match offset {
            0x14 => self.halves[0] = value,
            0x20 if self.status & FEATURES_OK == 0 => {
                let shift = match self.halves[1] {
                    0 => 0,
                    1 => 32,
                    _ => return,
                };
                self.accepted = (self.accepted & !(0xffff_ffff << shift)) | u64::from(value) << shift;
            }
            0x24 => self.halves[1] = value,
            0x30 => self.selected = value,
            0x50 => self.serve(value as usize, all),
            0x64 => self.queues.interrupt &= !value,
            0x70 => self.set_status(value),
            _ => self.write_queue(offset, value),
        }
    }

    fn write_queue(&mut self, offset: u64, value: u32) {
        let Some(queue) = self.queues.list.get_mut(self.selected as usize) else { return };
        if offset == 0x44 {
            queue.ready = value & 1 != 0 && Queue::allows(queue.size);
            return;
        }
        // A ring at work stays where it is.
        if queue.ready {
            return;
        }
        let low = |old: u64| (old & !0xffff_ffff) | u64::from(value);
        let high = |old: u64| (old & 0xffff_ffff) | u64::from(value) << 32;
        match offset {
            0x38 => queue.size = u16::try_from(value).unwrap_or(0),
            0x80 => queue.descriptors = low(queue.descriptors),
            0x84 => queue.descriptors = high(queue.descriptors),
            0x90 => queue.available = low(queue.available),
            0x94 => queue.available = high(queue.available),
            0xa0 => queue.used = low(queue.used),
            0xa4 => queue.used = high(queue.used),
            _ => {}
        }
    }

    fn set_status(&mut self, value: u32) {
        if value == 0 {
            self.kind.reset();
            let kind = self.kind.clone();
            *self = Virtio::new(kind);
            return;
        }
        let mut next = value & 0xff & !NEEDS_RESET | self.status & NEEDS_RESET;
        // Features that were not offered, or the old standard, are refused by leaving the bit clear.
        let refused = self.accepted & !self.kind.features() != 0 || self.accepted & VERSION_1 == 0;
        if refused {
            next &= !FEATURES_OK;
        }
        self.status = next;
    }

    /// The guest says that a ring has something new.
    fn serve(&mut self, queue: usize, all: &mut Surroundings<'_>) {
        if self.works() && queue < self.queues.list.len() {
            let done = self.kind.serve(queue, &mut self.queues, all);
            self.after(done);
        }
    }

    /// Something came from outside.
    pub fn receive(
        &mut self,
        take: impl FnOnce(&mut Kind, &mut Queues, &mut Surroundings<'_>) -> Result<(), Broken>,
        all: &mut Surroundings<'_>,
    ) {
        if self.works() {
            let done = take(&mut self.kind, &mut self.queues, all);
            self.after(done);
        }
    }

    fn after(&mut self, done: Result<(), Broken>) {
        if done == Err(Broken) {
            self.status |= NEEDS_RESET;
            self.queues.interrupt |= 2;
        }
    }

    /// Whether it can be what it is here.
    pub fn is_possible(&self) -> bool {
        let queues = &self.queues.list;
        queues.len() == self.kind.queues()
            && queues.iter().all(Queue::is_possible)
            && match &self.kind {
                Kind::Block(block) => block.is_possible(),
                Kind::Net(net) => net.is_possible(),
                Kind::Terminal(terminal) => terminal.is_possible(),
                Kind::Entropy(entropy) => entropy.is_possible(),
            }
    }

    /// The state, word by word.
    pub fn words(&self, word: &mut dyn FnMut(u64)) {
        let [shown, set] = self.halves.map(u64::from);
        [self.status.into(), shown, set, self.accepted, self.selected.into(), self.queues.interrupt.into()]
            .into_iter()
            .for_each(&mut *word);
        self.queues.list.iter().flat_map(Queue::words).for_each(&mut *word);
        self.kind.words(word);
    }
}

/// Puts bytes into the state hash, with their number.
fn hash_bytes(bytes: impl ExactSizeIterator<Item = u8>, word: &mut dyn FnMut(u64)) {
    word(bytes.len() as u64);
    bytes.for_each(|byte| word(byte.into()));
}

/// Whether requests under way have numbers that were used already, and so few that none is ever used twice.
fn numbered<T>(next: u64, flights: &alloc::collections::BTreeMap<u64, T>) -> bool {
    next < u64::MAX / 2 && flights.last_key_value().is_none_or(|(&last, _)| last < next)
}

/// Whether a chain can have so many pieces.
fn pieces(pieces: &[queue::Piece]) -> bool {
    pieces.len() <= LONGEST.into()
}
