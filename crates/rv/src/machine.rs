//! Owns the machine: its whole state, running it to an instruction count, what goes in and what comes out.

use crate::code::Code;
use crate::csr::Csrs;
use crate::debug::Debugged;
use crate::devices::{Devices, Hardware, surroundings};
use crate::dirty::Dirty;
use crate::fast::Ending;
use crate::plic::Plic;
use crate::tlb::Tlb;
use crate::uart::Uart;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

/// Where RAM begins.
pub const RAM: u64 = 0x8000_0000;
/// Instructions to one tick of the guest's clock.
const PER_TICK: u64 = 10;
/// Nanoseconds that an instruction takes.
const NANOSECONDS: u64 = 10;
/// Ticks in a second of the guest: an instruction takes 10 ns.
pub const TICKS: u32 = 10_000_000;
/// So many instructions pass at most until an interrupt is taken.
pub(crate) const STRIDE: u64 = 64;

/// A timer set later than this, some 2,900 years, counts as none: the guest's clock never overflows.
pub(crate) const LATEST: u64 = u64::MAX / PER_TICK / 2;

/// A privilege mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Mode {
    /// Programs.
    User = 0,
    /// The kernel.
    Supervisor = 1,
    /// Firmware.
    Machine = 3,
}

impl Mode {
    pub(crate) fn from_bits(bits: u64) -> Mode {
        match bits & 3 {
            0 => Mode::User,
            1 => Mode::Supervisor,
            _ => Mode::Machine,
        }
    }
}

/// Everything that enters from outside, each at an instruction count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// Bytes typed at the serial port.
    Console(Vec<u8>),
    /// The wall clock, in nanoseconds since 1970.
    Wall(u64),
    /// The guest waits, and its clock (see [`Machine::clock`]) went on to here while it did.
    Waited(u64),
    /// Bytes typed at the virtio console.
    Terminal(Vec<u8>),
    /// An Ethernet frame for a card.
    Frame {
        /// The card, counted from 0.
        card: u8,
        /// The frame, without checksum.
        frame: Vec<u8>,
    },
    /// A disk has carried out a request.
    Disk {
        /// The disk, counted from 0.
        disk: u8,
        /// The request's number.
        number: u64,
        /// What came of it.
        answer: Answer,
    },
    /// Random bytes that were asked for.
    Entropy {
        /// The request's number.
        number: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
}

/// What came of a request to a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// What was read.
    Data(Vec<u8>),
    /// Written, or durable.
    Done,
    /// The disk could not do it.
    Failed,
}

/// What a guest asks of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// So many bytes, from a sector of 512 bytes on.
    Read {
        /// The first sector.
        sector: u64,
        /// Bytes, a multiple of 512.
        length: u32,
    },
    /// Bytes to be written.
    Write {
        /// The first sector.
        sector: u64,
        /// The bytes, a multiple of 512.
        data: Vec<u8>,
    },
    /// Make all durable that was answered before.
    Flush,
}

/// Everything that leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// A byte for the console.
    Console(u8),
    /// Bytes for the virtio console.
    Terminal(Vec<u8>),
    /// An Ethernet frame from a card.
    Frame {
        /// The card, counted from 0.
        card: u8,
        /// The frame, without checksum.
        frame: Vec<u8>,
    },
    /// A request to a disk, to be answered by [`Input::Disk`].
    Disk {
        /// The disk, counted from 0.
        disk: u8,
        /// The request's number, for its answer.
        number: u64,
        /// What is asked.
        request: Request,
    },
    /// Random bytes are wanted, to be given by [`Input::Entropy`].
    Entropy {
        /// The request's number, for its answer.
        number: u64,
        /// How many.
        length: u32,
    },
}

/// Why [`Machine::run`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stop {
    /// The instruction count was reached.
    Reached,
    /// The guest waits, and no timer is set that its clock may be moved to: see [`Machine::due`].
    Idle,
    /// The guest switched itself off.
    PowerOff,
    /// The guest asked to be started again.
    Reboot,
    /// A debugger's stop: see [`Machine::halt`].
    Halted,
}

/// The whole machine.
#[derive(Clone, Debug)]
pub struct Machine {
    pub(crate) x: [u64; 32],
    pub(crate) f: [u64; 32],
    pub(crate) pc: u64,
    pub(crate) mode: Mode,
    pub(crate) csr: Csrs,
    pub(crate) reservation: Option<u64>,
    pub(crate) waits: bool,
    pub(crate) instructions: u64,
    /// What `wfi` skipped, in instructions.
    pub(crate) idle: u64,
    pub(crate) timer: u64,
    pub(crate) software_interrupt: bool,
    pub(crate) plic: Plic,
    pub(crate) uart: Uart,
    pub(crate) devices: Devices,
    pub(crate) ram: Vec<u8>,
    pub(crate) serves_sbi: bool,
    pub(crate) stop: Option<Stop>,
    pub(crate) outputs: Vec<Output>,
    pub(crate) check: bool,
    pub(crate) tlb: Tlb,
    pub(crate) code: Code,
    pub(crate) dirty: Dirty,
    /// The snapshot since which pages are counted as dirty.
    pub(crate) saved: Option<u64>,
    pub(crate) plain: bool,
    pub(crate) debugged: Debugged,
    /// How far waiting may move the guest's clock. A wish of who runs the machine, no part of its state.
    pub(crate) horizon: u64,
}

impl Machine {
    /// A machine at reset, with so many bytes of RAM, all zero, that begins in machine mode at the start of RAM.
    pub fn new(ram: usize) -> Machine {
        Machine {
            x: [0; 32],
            f: [0; 32],
            pc: RAM,
            mode: Mode::Machine,
            csr: Csrs::default(),
            reservation: None,
            waits: false,
            instructions: 0,
            idle: 0,
            timer: u64::MAX,
            software_interrupt: false,
            plic: Plic::default(),
            uart: Uart::default(),
            devices: Devices::default(),
            ram: alloc::vec![0; ram],
            serves_sbi: false,
            stop: None,
            outputs: Vec::new(),
            check: false,
            tlb: Tlb::default(),
            code: Code::new(ram),
            dirty: Dirty::new(ram),
            saved: None,
            plain: false,
            debugged: Debugged::default(),
            horizon: u64::MAX,
        }
    }

    /// Gives the machine its devices.
    pub(crate) fn equip(&mut self, hardware: &Hardware) {
        self.devices = Devices::new(hardware);
    }

    /// Lets the machine be the firmware: a kernel begins in supervisor mode and calls the machine's SBI.
    pub(crate) fn begin_kernel(&mut self, entry: u64, device_tree: u64) {
        self.serves_sbi = true;
        self.mode = Mode::Supervisor;
        self.pc = entry;
        self.x[10] = 0;
        self.x[11] = device_tree;
        self.csr.medeleg = 0xb1ff;
        self.csr.mideleg = crate::csr::S_INTERRUPTS;
        self.csr.mcounteren = 7;
        // Programs read the clock themselves, Redis for one: firmware allows it, the kernel does not ask.
        self.csr.scounteren = 7;
    }

    /// Puts bytes into RAM; false if they do not fit.
    #[must_use]
    pub fn put(&mut self, address: u64, bytes: &[u8]) -> bool {
        let Some(start) = address.checked_sub(RAM).and_then(|at| usize::try_from(at).ok()) else {
            return false;
        };
        let Some(place) = start.checked_add(bytes.len()).and_then(|end| self.ram.get_mut(start..end)) else {
            return false;
        };
        place.copy_from_slice(bytes);
        self.code.wrote_range(start, bytes.len());
        self.dirty.mark_range(start, bytes.len());
        true
    }

    /// Lets every instruction be read from memory and decoded each time: what the cache of decoded instructions must
    /// not be told apart from.
    pub fn run_plainly(&mut self) {
        self.plain = true;
    }

    /// All of RAM, from address [`RAM`] on.
    pub fn ram(&self) -> &[u8] {
        &self.ram
    }

    /// Instructions carried out since reset.
    pub fn instructions(&self) -> u64 {
        self.instructions
    }

    /// The guest's clock, in ticks.
    pub(crate) fn time(&self) -> u64 {
        (self.instructions + self.idle) / PER_TICK
    }

    /// The guest's clock, in units of 10 ns: instructions and what was waited.
    pub fn clock(&self) -> u64 {
        self.instructions + self.idle
    }

    /// The guest's clock, in nanoseconds.
    pub(crate) fn nanoseconds(&self) -> u64 {
        self.clock().wrapping_mul(NANOSECONDS)
    }

    /// Whether the guest waits for an interrupt.
    pub fn waits(&self) -> bool {
        self.waits
    }

    /// The first instant of [`Machine::clock`] at which a timer ends the guest's waiting, if one is set.
    pub fn due(&self) -> Option<u64> {
        let line = if self.serves_sbi { 1 << 5 } else { 1 << 7 };
        let timer = (self.timer <= LATEST && self.csr.mie & line != 0).then(|| self.timer * PER_TICK);
        let alarm = self.alarm().filter(|&due| due >= self.clock());
        timer.into_iter().chain(alarm).min()
    }

    /// The instant of [`Machine::clock`] to which the real-time clock's alarm is set.
    fn alarm(&self) -> Option<u64> {
        let alarm = self.devices.rtc.due().map(|due| due.div_ceil(NANOSECONDS));
        alarm.filter(|&due| due < LATEST)
    }

    /// From now on waiting moves the guest's clock to timers up to this instant of [`Machine::clock`] only; a guest
    /// that waits for a later one ends the run with [`Stop::Idle`]. What the guest does is the same at any horizon.
    pub fn set_horizon(&mut self, clock: u64) {
        self.horizon = clock;
    }

    /// An integer register; the program counter is `x(32)`.
    pub fn x(&self, register: usize) -> u64 {
        self.x.get(register).copied().unwrap_or(self.pc)
    }

    /// Delivers an input, now.
    pub fn input(&mut self, input: Input) {
        match input {
            Input::Console(bytes) => self.uart.receive(&bytes),
            Input::Wall(wall) => {
                let clock = self.nanoseconds();
                self.devices.rtc.set(wall, clock);
            }
            Input::Waited(clock) if self.waits && clock <= LATEST => {
                self.idle = self.idle.max(clock.saturating_sub(self.instructions));
            }
            Input::Waited(_) => {}
            other => {
                let Machine { ram, code, dirty, outputs, .. } = self;
                self.devices.input(&other, &mut surroundings(ram, code, dirty, outputs));
            }
        }
        self.check = true;
    }

    /// Takes what left since the last call.
    pub fn outputs(&mut self) -> Vec<Output> {
        core::mem::take(&mut self.outputs)
    }

    /// The interrupts that devices raise, as bits.
    pub(crate) fn raised(&self) -> u32 {
        self.uart.interrupts() | self.devices.raised(self.nanoseconds())
    }

    /// Interrupts that are raised, as `mip` shows them.
    pub(crate) fn pending(&self) -> u64 {
        let lines = self.plic.lines(self.raised());
        let due = self.time() >= self.timer;
        let timer = match (due, self.serves_sbi) {
            (false, _) => 0,
            (true, true) => 1 << 5,
            (true, false) => 1 << 7,
        };
        self.csr.mip
            | timer
            | u64::from(self.software_interrupt) << 3
            | u64::from(lines[0]) << 11
            | u64::from(lines[1]) << 9
    }

    /// Runs until so many instructions were carried out since reset, or until something stops the guest.
    pub fn run(&mut self, until: u64) -> Stop {
        while self.instructions < until {
            if let Some(stop) = self.settle() {
                return stop;
            }
            let end = until.min(self.next_look());
            if self.plain || self.run_hot(end) == Ending::Slow {
                if self.halts_before() {
                    return Stop::Halted;
                }
                self.step();
                self.instructions += 1;
                self.code.hot.begin(self.pc);
                if self.halts_after() {
                    return Stop::Halted;
                }
            }
        }
        self.stop.unwrap_or(Stop::Reached)
    }

    /// The count at which interrupts have to be looked for next if nothing but time can raise one.
    fn next_look(&self) -> u64 {
        let timer = (self.timer <= LATEST).then(|| self.timer * PER_TICK);
        let looks = timer.into_iter().chain(self.alarm()).map(|due| {
            let due = due.saturating_sub(self.idle);
            due.next_multiple_of(STRIDE)
        });
        // What was due before the last multiple was seen there.
        looks.filter(|&look| look > self.instructions).min().unwrap_or(u64::MAX)
    }

    /// Ends a `wfi`: at once, or by going to the next timer; false if nothing will come.
    pub(crate) fn wake(&mut self) -> bool {
        if self.pending() & self.csr.mie == 0 {
            let Some(due) = self.due().filter(|&due| due <= self.horizon) else { return false };
            self.idle = self.idle.max(due.saturating_sub(self.instructions));
        }
        self.waits = false;
        self.check = true;
        true
    }

    /// A hash over the whole state: registers, devices, RAM. The cache of translations is no part of it.
    pub fn hash(&self) -> u64 {
        let mut hash = Xxh3::new();
        let mut word = |value: u64| hash.update(&value.to_le_bytes());
        self.x.iter().chain(&self.f).copied().for_each(&mut word);
        self.csr.words().into_iter().for_each(&mut word);
        let held = self.reservation.map_or(u64::MAX, |address| address);
        let bits =
            u64::from(self.waits) | u64::from(self.software_interrupt) << 1 | u64::from(self.check) << 2;
        [self.pc, self.mode as u64, held, bits, self.instructions, self.idle, self.timer]
            .into_iter()
            .for_each(&mut word);
        self.plic.words().for_each(&mut word);
        self.uart.words().for_each(&mut word);
        self.devices.words(&mut word);
        hash.update(&self.ram);
        hash.digest()
    }
}
