//! Owns the model guest: memory of some dozen pages, devices, a disk, a console and a server that stores increments.
//!
//! Page 0 holds the server's state (next write expected), pages 1 and 2 the cells that the writes add to; the
//! rest is scratch memory that every step dirties. The guest reads the time at every step, so two copies that
//! go on separately differ at once, in what they hold and in what they say. What it says depends on what it reads
//! from its disk.

use crate::guest_disk::{DiskPort, stored_on};
use crate::rng::mix;
use crate::storage::{Disk, Sector};
use protocol::wire::pages::PAGE;
use std::rc::Rc;

pub(crate) type Page = Rc<[u8; PAGE]>;

/// One execution of the VM: from its start, or its promotion, on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Life(pub(crate) u64);

const CELLS: u64 = 700;
const WORDS: usize = PAGE / 8;
const SCRATCH: usize = 3;
/// Words that are written of a scratch page: few, so that it can be compressed.
const SPOTS: u64 = 24;
const CONSOLE_EVERY: u64 = 3;
const BEACON_EVERY: u64 = 5;
/// Bytes of a device state frame.
const DEVICE_LEN: usize = 56;

/// What a device-state stream holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Devices {
    pub(crate) step: u64,
    pub(crate) digest: u64,
    pub(crate) console_at: u64,
    pub(crate) sent: u64,
    pub(crate) shut_down: bool,
}

impl Devices {
    pub(crate) fn encode(&self) -> [u8; DEVICE_LEN] {
        let mut out = [0; DEVICE_LEN];
        let words = [
            self.step,
            self.digest,
            self.console_at,
            self.sent,
            u64::from(self.shut_down),
            mix(self.digest),
            0,
        ];
        for (chunk, word) in out.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *chunk = word.to_le_bytes();
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let words = bytes.as_chunks::<8>().0;
        let word = |at: usize| u64::from_le_bytes(words[at]);
        (bytes.len() == DEVICE_LEN && word(5) == mix(word(1))).then(|| Self {
            step: word(0),
            digest: word(1),
            console_at: word(2),
            sent: word(3),
            shut_down: word(4) != 0,
        })
    }
}

/// The write that a client makes at a place of its stream: which cell, and what is added.
pub(crate) fn write_of(number: u64) -> (u64, u64) {
    (mix(number) % CELLS, mix(number ^ 0xadd) & 0xffff)
}

/// Something that the guest says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    /// A packet: its number, a digest of the state that it comes from, and how many writes are stored.
    Packet { number: u64, digest: u64, stored: u64 },
    /// A word on the console, at an offset of its stream.
    Console { at: u64, word: u64 },
}

/// What the guest says, and where it comes from: for the checkers, which see what no client can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) life: Life,
    pub(crate) step: u64,
    pub(crate) said: Said,
}

/// State at one moment, as the simulator keeps it for comparison.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) life: Life,
    pub(crate) pages: Vec<Page>,
    pub(crate) devices: Devices,
    pub(crate) disk: Vec<Sector>,
}

#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) life: Life,
    pub(crate) pages: Vec<Page>,
    pub(crate) devices: Devices,
    /// One bit a page.
    dirty: u64,
}

impl Guest {
    /// Starts with what is on the disk, if anything is.
    pub(crate) fn boot(life: Life, pages: usize, disk: &Disk) -> Self {
        assert!((SCRATCH + 1..64).contains(&pages));
        let zero = Rc::new([0; PAGE]);
        let mut pages = vec![zero; pages];
        // Some pages can be compressed, most cannot.
        for page in (SCRATCH..pages.len()).filter(|page| page % 4 != 0) {
            let words = Rc::make_mut(&mut pages[page]).as_chunks_mut::<8>().0;
            words.iter_mut().zip(0..).for_each(|(word, at)| *word = mix(at ^ page as u64).to_le_bytes());
        }
        let mut guest = Self { life, pages, devices: Devices::default(), dirty: u64::MAX };
        guest.put(0, 0, stored_on(disk));
        for (sum, cell) in cells_after(guest.stored()).into_iter().zip(0..) {
            let (page, word) = place(cell);
            guest.put(page, word, sum);
        }
        guest
    }

    pub(crate) fn restore(life: Life, pages: Vec<Page>, devices: Devices) -> Self {
        Self { life, pages, devices, dirty: u64::MAX }
    }

    pub(crate) fn snapshot(&self, disk: &Disk) -> Snapshot {
        let disk = disk.sectors().to_vec();
        Snapshot { life: self.life, pages: self.pages.clone(), devices: self.devices, disk }
    }

    /// Takes the dirty bits and clears them.
    pub(crate) fn take_dirty(&mut self) -> u64 {
        let all = (1 << self.pages.len()) - 1;
        core::mem::take(&mut self.dirty) & all
    }

    /// Whether nothing was written since they were taken last.
    pub(crate) fn is_clean(&self) -> bool {
        self.dirty == 0
    }

    pub(crate) fn give_back_dirty(&mut self, dirty: u64) {
        self.dirty |= dirty;
    }

    /// Writes that the server has stored: the next one expected.
    pub(crate) fn stored(&self) -> u64 {
        self.word(0, 0)
    }

    /// Runs one step with the packets that came, and says what it says.
    pub(crate) fn step(
        &mut self,
        time: u64,
        input: &mut Vec<u64>,
        disk: &mut DiskPort<'_>,
        said: &mut Vec<Output>,
    ) {
        if self.devices.shut_down {
            return;
        }
        self.devices.step += 1;
        let step = self.devices.step;
        self.devices.digest = mix(self.devices.digest ^ time).wrapping_add(step);
        for write in input.drain(..) {
            self.serve(write, disk, said);
        }
        let read = disk.use_scratch(self.devices.digest);
        self.devices.digest ^= mix(read);
        let digest = self.devices.digest;
        let spots = 1 + digest % 3;
        for spot in 0..spots {
            let at = mix(digest ^ spot);
            let scratch = (self.pages.len() - SCRATCH) as u64;
            let page = SCRATCH + usize::try_from(at % scratch).unwrap_or(0);
            self.put(page, usize::try_from((at >> 32) % SPOTS).unwrap_or(0), digest ^ step);
        }
        if step.is_multiple_of(CONSOLE_EVERY) {
            let at = self.devices.console_at;
            self.devices.console_at += 1;
            said.push(self.output(Said::Console { at, word: digest }));
        }
        if step.is_multiple_of(BEACON_EVERY) {
            self.send(disk, said);
        }
    }

    /// The server: exactly the next write is stored, anything else is answered with what is stored.
    fn serve(&mut self, write: u64, disk: &mut DiskPort<'_>, said: &mut Vec<Output>) {
        self.devices.digest = mix(self.devices.digest ^ write);
        if write == self.stored() {
            let (cell, add) = write_of(write);
            let (page, word) = place(cell);
            self.put(page, word, self.word(page, word).wrapping_add(add));
            self.put(0, 0, write + 1);
            disk.store(write);
        }
        self.send(disk, said);
    }

    fn send(&mut self, disk: &DiskPort<'_>, said: &mut Vec<Output>) {
        let number = self.devices.sent;
        self.devices.sent += 1;
        let stored = disk.read_back(self.stored());
        said.push(self.output(Said::Packet { number, digest: self.devices.digest, stored }));
    }

    fn output(&self, said: Said) -> Output {
        Output { life: self.life, step: self.devices.step, said }
    }

    fn word(&self, page: usize, word: usize) -> u64 {
        u64::from_le_bytes(self.pages[page].as_chunks::<8>().0[word])
    }

    fn put(&mut self, page: usize, word: usize, value: u64) {
        self.dirty |= 1 << page;
        Rc::make_mut(&mut self.pages[page]).as_chunks_mut::<8>().0[word] = value.to_le_bytes();
    }

    /// The first cell that does not hold what the stored writes add up to.
    pub(crate) fn wrong_cell(&self) -> Option<u64> {
        cells_after(self.stored()).iter().zip(0..).find_map(|(&sum, cell)| {
            let (page, word) = place(cell);
            (self.word(page, word) != sum).then_some(cell)
        })
    }
}

/// What the cells hold after so many stored writes.
fn cells_after(stored: u64) -> Vec<u64> {
    let mut cells = vec![0; usize::try_from(CELLS).unwrap_or(0)];
    for write in 0..stored {
        let (cell, add) = write_of(write);
        cells[usize::try_from(cell).unwrap_or(0)] += add;
    }
    cells
}

fn place(cell: u64) -> (usize, usize) {
    let at = usize::try_from(cell).unwrap_or(0);
    (1 + at / WORDS, at % WORDS)
}
