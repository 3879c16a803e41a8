//! Sessions of a small guest, recorded and replayed: it says `#` when it begins, answers each byte typed with the next
//! one, waits with a timer in between, reboots on `!` and switches itself off on `.`.

#![forbid(unsafe_code)]

#[path = "session/bisect.rs"]
mod bisect;
#[path = "session/snapshots.rs"]
mod snapshots;

use rv::Hotness;
use rvrun::live::{End, Live, Recorder, Summary};
use rvrun::log::{Event, Reader, Writer};
use rvrun::replay::{Reached, Replay, ReplayError};
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

const ECALL: u32 = 0x73;
const WFI: u32 = 0x1050_0073;

/// The guest as a kernel's image.
fn kernel() -> Vec<u8> {
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
    program.extend([addi(6, 6, 1), store(0, 6, 5, 0)]);
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
struct Text(Arc<Mutex<Vec<u8>>>);

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
    fn seen(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    /// Waits until the guest has said so much.
    fn await_length(&self, length: usize) {
        while self.seen().len() < length {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

struct Session {
    directory: tempfile::TempDir,
    text: Text,
    summary: Summary,
}

impl Session {
    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    fn open(&self) -> std::fs::File {
        std::fs::File::open(self.log()).unwrap()
    }
}

/// Nearly everything is compiled that is executed twice.
const EAGER: Option<Hotness> = Some(Hotness { between: 1, seen: 1 });

fn begin(directory: &Path, text: &Text, keyboard: PipeReader, hotness: Option<Hotness>) -> Live {
    let kernel_file = directory.join("kernel");
    std::fs::write(&kernel_file, kernel()).unwrap();
    let mut setup = Setup::new(4 << 20, "", &kernel_file, None).unwrap();
    let world = World::open(&[], &[], Screen::new(text.clone()), Some(OwnedFd::from(keyboard))).unwrap();
    world.describe(&mut setup).unwrap();
    let mut parts = setup.load().unwrap();
    parts.set_hotness(hotness);
    let recorder = Recorder::create(&directory.join("log"), &parts).unwrap();
    Live::begin(parts, world, Some(recorder)).unwrap()
}

/// Types each part once the guest has said so much.
fn type_in(mut keyboard: PipeWriter, text: &Text, parts: &[(usize, &str)]) {
    for (said, part) in parts {
        text.await_length(*said);
        keyboard.write_all(part.as_bytes()).unwrap();
    }
}

fn session(parts: &[(usize, &str)]) -> Session {
    session_with(None, parts)
}

fn session_with(hotness: Option<Hotness>, parts: &[(usize, &str)]) -> Session {
    let directory = tempfile::tempdir().unwrap();
    let text = Text::default();
    let (reader, writer) = io::pipe().unwrap();
    let mut live = begin(directory.path(), &text, reader, hotness);
    let summary = std::thread::scope(|scope| {
        scope.spawn(|| type_in(writer, &text, parts));
        live.run(&AtomicBool::new(false)).unwrap()
    });
    Session { directory, text, summary }
}

#[test]
fn what_was_typed_is_done_again() {
    let session = session(&[(1, "a"), (2, "bcd"), (5, "!"), (6, "xy"), (8, ".")]);
    assert_eq!((session.summary.end, session.summary.reboots), (End::PowerOff, 1));
    assert_eq!(session.text.seen(), "#bcde#yz");
    let again = Text::default();
    let mut replay = Replay::begin(session.open(), |_| {}, Screen::new(again.clone()), &[]).unwrap();
    let summary = replay.run(None).unwrap();
    assert_eq!(again.seen(), "#bcde#yz");
    assert_eq!(summary.reached, Reached::End);
    assert!(summary.compared >= 3, "{summary:?}");
    let Summary { instructions, reboots, state, outputs, .. } = session.summary;
    assert_eq!(
        (summary.instructions, summary.reboots, summary.state, summary.outputs),
        (instructions, reboots, state, outputs)
    );
}

#[test]
fn what_was_recorded_compiled_is_replayed_interpreted_and_the_other_way_round() {
    for (recorded, replayed) in [(EAGER, None), (None, EAGER)] {
        let session = session_with(recorded, &[(1, "abc"), (4, "!"), (5, "defghi"), (11, ".")]);
        let mut replay = Replay::begin(session.open(), |_| {}, Screen::new(io::sink()), &[]).unwrap();
        replay.set_hotness(replayed);
        let summary = replay.run(None).unwrap();
        assert_eq!((summary.reached, summary.state), (Reached::End, session.summary.state));
    }
}

#[test]
fn a_replay_stops_where_it_is_asked_to_and_at_a_log_s_break() {
    let session = session(&[(1, "abc"), (4, "def"), (7, ".")]);
    let half = session.summary.instructions / 2;
    let replay = |log: &[u8], until| {
        Replay::begin(log, |_| {}, Screen::new(io::sink()), &[]).unwrap().run(until).unwrap()
    };
    let log = std::fs::read(session.log()).unwrap();
    let [one, two] = [replay(&log, Some(half)), replay(&log, Some(half))];
    assert_eq!((one, one.reached, one.instructions), (two, Reached::Until, half));
    let broken = replay(&log[..log.len() - 1], None);
    assert_eq!(broken.reached, Reached::BrokenOff);
    assert!(broken.instructions <= session.summary.instructions);
}

#[test]
fn an_input_that_differs_is_found() {
    let session = session(&[(1, "abc"), (4, ".")]);
    let mut reader = Reader::open(session.open()).unwrap();
    let mut changed = Vec::new();
    let mut writer = Writer::begin(&mut changed, reader.setup()).unwrap();
    while let Some((at, mut event)) = reader.next().unwrap() {
        if let Event::Input(rv::Input::Console(bytes)) = &mut event
            && bytes.starts_with(b"a")
        {
            bytes[0] = b'q';
        }
        writer.add(at, event).unwrap();
    }
    writer.flush().unwrap();
    let mut replay = Replay::begin(&changed[..], |_| {}, Screen::new(io::sink()), &[]).unwrap();
    assert!(matches!(replay.run(None), Err(ReplayError::Differs { boot: 1, .. })));
}

#[test]
fn a_replay_goes_on_live() {
    let session = session(&[(1, "abc"), (4, "\u{1}x")]);
    assert_eq!(session.summary.end, End::Quit);
    let text = Text::default();
    let mut replay = Replay::begin(session.open(), |_| {}, Screen::new(text.clone()), &[]).unwrap();
    replay.run(None).unwrap();
    let (reader, mut writer) = io::pipe().unwrap();
    let mut live =
        replay.go_live(|screen| Ok(World::open(&[], &[], screen, Some(OwnedFd::from(reader)))?)).unwrap();
    writer.write_all(b"mno.").unwrap();
    let summary = live.run(&AtomicBool::new(false)).unwrap();
    assert_eq!((summary.end, text.seen().as_str()), (End::PowerOff, "#bcdnop"));
    assert!(summary.instructions > session.summary.instructions);
}
