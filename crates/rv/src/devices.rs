//! Owns what the machine has beside hart, RAM and serial port: which devices, and who gets an access or an input.

use crate::code::Code;
use crate::dirty::Dirty;
use crate::machine::{Input, Output};
use crate::rtc::Rtc;
use crate::virtio::block::Block;
use crate::virtio::entropy::Entropy;
use crate::virtio::net::Net;
use crate::virtio::terminal::Terminal;
use crate::virtio::{Kind, Surroundings, Virtio};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// The real-time clock's interrupt, as a bit.
const CLOCK_LINE: u32 = 1 << 11;
/// Bytes of registers of one virtio device.
pub(crate) const STRIDE: u64 = 0x1000;
/// Places for virtio devices.
pub(crate) const PLACES: usize = 8;

/// A disk to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its size, in sectors of 512 bytes.
    pub sectors: u64,
    /// Whether the guest may only read it.
    pub read_only: bool,
}

/// What devices a machine has, apart from those that every machine has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hardware {
    /// Disks, in the order in which the guest names them.
    pub disks: Vec<Disk>,
    /// Network cards, by their addresses.
    pub cards: Vec<[u8; 6]>,
    /// A virtio console beside the serial port.
    pub terminal: bool,
    /// A source of entropy.
    pub entropy: bool,
    /// What the kernel's generator of random numbers begins with.
    pub seed: Vec<u8>,
}

impl Hardware {
    fn kinds(&self) -> Vec<Kind> {
        let mut kinds = Vec::new();
        for (number, disk) in (0..).zip(&self.disks) {
            kinds.push(Kind::Block(Block::new(number, disk.sectors, disk.read_only)));
        }
        for (number, &address) in (0..).zip(&self.cards) {
            kinds.push(Kind::Net(Net::new(number, address)));
        }
        if self.terminal {
            kinds.push(Kind::Terminal(Terminal::default()));
        }
        if self.entropy {
            kinds.push(Kind::Entropy(Entropy::default()));
        }
        kinds
    }

    /// How many virtio devices that makes.
    pub(crate) fn count(&self) -> usize {
        self.disks.len() + self.cards.len() + usize::from(self.terminal) + usize::from(self.entropy)
    }
}

/// The devices.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Devices {
    pub rtc: Rtc,
    virtio: Vec<Virtio>,
    /// The virtio devices' interrupts, as bits: kept, since it is asked for often.
    lines: u32,
}

impl Devices {
    pub fn new(hardware: &Hardware) -> Devices {
        let virtio = hardware.kinds().into_iter().map(Virtio::new).collect();
        Devices { virtio, ..Devices::default() }
    }

    /// The interrupts that are raised, as bits, when the guest's clock says so many nanoseconds.
    pub fn raised(&self, clock: u64) -> u32 {
        self.lines | if self.rtc.raised(clock) { CLOCK_LINE } else { 0 }
    }

    fn update(&mut self) {
        let raised = (1..).zip(&self.virtio).filter(|(_, device)| device.raised());
        self.lines = raised.fold(0, |lines, (line, _)| lines | 1 << line);
    }

    pub fn read(&self, offset: u64, size: u64) -> Option<u64> {
        let device = self.virtio.get((offset / STRIDE) as usize)?;
        device.read(offset % STRIDE, size)
    }

    pub fn write(&mut self, offset: u64, value: u32, all: &mut Surroundings<'_>) -> Option<()> {
        let device = self.virtio.get_mut((offset / STRIDE) as usize)?;
        device.write(offset % STRIDE, value, all);
        self.update();
        Some(())
    }

    /// Leads what comes from outside to its device. What no device waits for is dropped.
    pub fn input(&mut self, input: &Input, all: &mut Surroundings<'_>) {
        for device in &mut self.virtio {
            device.receive(
                |kind, queues, all| match (kind, input) {
                    (Kind::Block(block), Input::Disk { disk, number, answer }) if block.is(*disk) => {
                        block.complete(*number, answer, queues, all)
                    }
                    (Kind::Net(net), Input::Frame { card, frame }) if net.is(*card) => {
                        net.receive(frame, queues, all)
                    }
                    (Kind::Terminal(terminal), Input::Terminal(bytes)) => {
                        terminal.receive(bytes, queues, all)
                    }
                    (Kind::Entropy(entropy), Input::Entropy { number, bytes }) => {
                        entropy.complete(*number, bytes, queues, all)
                    }
                    _ => Ok(()),
                },
                all,
            );
        }
        self.update();
    }

    /// Whether the devices can be what they are here: what a snapshot says of them may be anything.
    pub fn is_possible(&self) -> bool {
        let mut again = self.clone();
        again.update();
        self.virtio.len() <= PLACES
            && self.virtio.iter().all(Virtio::is_possible)
            && again.lines == self.lines
    }

    /// The state, word by word.
    pub fn words(&self, word: &mut dyn FnMut(u64)) {
        self.rtc.words().into_iter().for_each(&mut *word);
        self.virtio.iter().for_each(|device| device.words(word));
    }
}

/// What devices touch: RAM and what leaves.
pub(crate) fn surroundings<'a>(
    ram: &'a mut [u8],
    code: &'a mut Code,
    dirty: &'a mut Dirty,
    outputs: &'a mut Vec<Output>,
) -> Surroundings<'a> {
    Surroundings { memory: crate::dma::Memory { ram, code, dirty }, outputs }
}
