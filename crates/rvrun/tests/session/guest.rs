//! The guest of these tests, and sessions with it: it says `#` when it begins, answers each byte typed with the next one,
//! which it also notes in memory, waits with a timer in between, reboots on `!` and switches itself off on `.`.

use rv::Hotness;
use rvrun::live::{Live, Recorder, Summary};
use rvrun::setup::Setup;
use rvrun::{Screen, World};
use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

fn i_type(opcode: u32, rd: u32, funct3: u32, rs1: u32, immediate: i32) -> u32 {
    (immediate as u32) << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode
}

fn addi(rd: u32, rs1: u32, immediate: i32) -> u32 {
    i_type(0x13, rd, 0, rs1, immediate)
}

fn lui(rd: u32, upper: u32) -> u32 {
    upper << 12 | rd << 7 | 0x37
}

fn store(size: u32, rs2: u32, rs1: u32, offset: u32) -> u32 {
    (offset >> 5) << 25 | rs2 << 20 | rs1 << 15 | size << 12 | (offset & 31) << 7 | 0x23
}

/// A branch (`beq`, or `bne` with `funct3` 1) by so many instructions.
fn branch(funct3: u32, rs1: u32, rs2: u32, by: i32) -> u32 {
    let distance = (4 * by) as u32;
    (distance >> 12 & 1) << 31
        | (distance >> 5 & 63) << 25
        | rs2 << 20
        | rs1 << 15
        | funct3 << 12
        | (distance >> 1 & 15) << 8
        | (distance >> 11 & 1) << 7
        | 0x63
}

/// Where the guest's first instruction is.
pub const FIRST: u64 = rv::RAM + 0x20_0040;
const NOTE_DISTANCE: u32 = 0x1000;
/// Where it keeps the last byte that it said.
pub const NOTE: u64 = FIRST + NOTE_DISTANCE as u64;

const ECALL: u32 = 0x73;
const WFI: u32 = 0x1050_0073;

/// Floating point, a product, an atomic, 200 times: what a build might do otherwise than another.
fn work() -> Vec<u32> {
    let r_type = |opcode: u32, rd: u32, funct3: u32, rs1: u32, rs2: u32, funct7: u32| {
        funct7 << 25 | rs2 << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode
    };
    let mut program = vec![
        // The floating-point unit is on.
        lui(6, 6),
        i_type(0x73, 0, 2, 6, 0x100),
        addi(13, 0, 200),
        addi(9, 8, 8),
    ];
    let again = program.len();
    program.extend([
        // fcvt.d.l, fsqrt.d, fdiv.d, fmadd.d (rounded up), fcvt.s.d, fmv.x.d
        r_type(0x53, 1, 7, 13, 2, 0x69),
        r_type(0x53, 2, 0, 1, 0, 0x2d),
        r_type(0x53, 3, 1, 2, 1, 0x0d),
        r_type(0x43, 4, 3, 3, 2, 4 << 2 | 1),
        r_type(0x53, 5, 0, 4, 1, 0x20),
        r_type(0x53, 14, 0, 4, 0, 0x71),
        // mulhu, amoxor.d, c.addi and c.nop
        r_type(0x33, 15, 3, 14, 14, 1),
        r_type(0x2f, 14, 3, 9, 15, 4 << 2),
        0x0001_16fd,
    ]);
    program.push(branch(1, 13, 0, again as i32 - program.len() as i32));
    program
}

/// The guest as a kernel's image.
pub fn kernel() -> Vec<u8> {
    image(&[])
}

/// The same guest, that works before it begins.
pub fn hard_working_kernel() -> Vec<u8> {
    image(&work())
}

fn image(work: &[u32]) -> Vec<u8> {
    let set_timer = [
        i_type(0x73, 10, 2, 0, 0xc01_u32 as i32),
        lui(11, 2),
        0x00b5_0533,
        lui(17, 0x5_4495),
        addi(17, 17, 0xd45 - 0x1000),
        addi(16, 0, 0),
        ECALL,
    ];
    let reset = [lui(17, 0x5_3525), addi(17, 17, 0x354), addi(16, 0, 0), ECALL];
    let mut program = vec![
        // Where it notes what it said last.
        NOTE_DISTANCE | 8 << 7 | 0x17,
        // The serial port interrupts: at the port, at the controller, in the hart.
        lui(5, 0x1_0000),
        addi(6, 0, 1),
        store(0, 6, 5, 1),
        lui(7, 0xc000),
        store(2, 6, 7, 40),
        lui(7, 0xc002),
        addi(6, 0, 1024),
        store(2, 6, 7, 0x80),
        addi(6, 0, 0x220),
        i_type(0x73, 0, 1, 6, 0x104),
        addi(6, 0, i32::from(b'#')),
        store(0, 6, 5, 0),
    ];
    program.extend(work);
    let again = program.len();
    program.extend(set_timer);
    program.extend([WFI, i_type(3, 6, 4, 5, 5), i_type(0x13, 6, 7, 6, 1)]);
    program.push(branch(0, 6, 0, again as i32 - program.len() as i32));
    program.extend([i_type(3, 6, 4, 5, 0), addi(10, 0, i32::from(b'.'))]);
    program.push(branch(1, 6, 10, 6));
    program.push(addi(10, 0, 0));
    program.extend(reset);
    program.push(addi(10, 0, i32::from(b'!')));
    program.push(branch(1, 6, 10, 6));
    program.push(addi(10, 0, 1));
    program.extend(reset);
    program.extend([addi(6, 6, 1), store(3, 6, 8, 0), store(0, 6, 5, 0)]);
    program.push(branch(0, 0, 0, again as i32 - program.len() as i32));
    let mut image = vec![0; 0x40];
    // To behind the header.
    image[..4].copy_from_slice(&0x0400_006f_u32.to_le_bytes());
    image[0x38..0x3c].copy_from_slice(b"RSC\x05");
    image.extend(program.iter().flat_map(|word| word.to_le_bytes()));
    image
}

/// A screen whose text can be looked at.
#[derive(Clone, Default)]
pub struct Text(Arc<Mutex<Vec<u8>>>);

impl Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Text {
    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    /// Waits until the guest has said so much.
    pub fn await_length(&self, length: usize) {
        while self.seen().len() < length {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

pub struct Session {
    pub directory: tempfile::TempDir,
    pub text: Text,
    pub summary: Summary,
}

impl Session {
    pub fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    pub fn open(&self) -> std::fs::File {
        std::fs::File::open(self.log()).unwrap()
    }
}

/// Nearly everything is compiled that is executed twice.
pub const EAGER: Option<Hotness> = Some(Hotness { between: 1, seen: 1 });

pub fn begin(directory: &Path, text: &Text, keyboard: PipeReader) -> Live {
    begin_with(&kernel(), EAGER, directory, text, keyboard)
}

fn begin_with(
    kernel: &[u8],
    hotness: Option<Hotness>,
    directory: &Path,
    text: &Text,
    keyboard: PipeReader,
) -> Live {
    let kernel_file = directory.join("kernel");
    std::fs::write(&kernel_file, kernel).unwrap();
    let mut setup = Setup::new(4 << 20, "", &kernel_file, None).unwrap();
    let world = World::open(&[], &[], Screen::new(text.clone()), Some(OwnedFd::from(keyboard))).unwrap();
    world.describe(&mut setup).unwrap();
    let mut parts = setup.load().unwrap();
    parts.set_hotness(hotness);
    let recorder = Recorder::create(&directory.join("log"), &parts).unwrap();
    Live::begin(parts, world, Some(recorder)).unwrap()
}

/// Types each part once the guest has said so much.
pub fn type_in(mut keyboard: PipeWriter, text: &Text, parts: &[(usize, &str)]) {
    for (said, part) in parts {
        text.await_length(*said);
        keyboard.write_all(part.as_bytes()).unwrap();
    }
}

pub fn session(parts: &[(usize, &str)]) -> Session {
    session_with(&kernel(), None, parts)
}

pub fn session_with(kernel: &[u8], hotness: Option<Hotness>, parts: &[(usize, &str)]) -> Session {
    let directory = tempfile::tempdir().unwrap();
    let text = Text::default();
    let (reader, writer) = io::pipe().unwrap();
    let mut live = begin_with(kernel, hotness, directory.path(), &text, reader);
    let summary = std::thread::scope(|scope| {
        scope.spawn(|| type_in(writer, &text, parts));
        live.run(&AtomicBool::new(false)).unwrap()
    });
    Session { directory, text, summary }
}
