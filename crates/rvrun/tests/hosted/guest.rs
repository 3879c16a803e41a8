//! The guests of these tests: without an operating system, small enough to be looked through.

use crate::assemble::*;

/// Where a program's first instruction is in the file; the data begin so much behind it.
const FIRST: usize = 0x40;
const DATA: usize = 0x1_0000;
/// Where the data are in RAM.
pub const DATA_AT: u64 = rv::RAM + 0x20_0000 + (FIRST + DATA) as u64;
/// The longest frame that is written to the disk whole.
pub const LONGEST: usize = 500;

const UART: i32 = 0x1000_0000;
const DISK: i32 = 0x1000_1000;
const CARD: i32 = 0x1000_2000;

/// Offsets from the data's beginning: rings (descriptors, then what is offered, then what was used) and buffers.
const RECEIVED: i32 = 0;
const SENT: i32 = 0x200;
const ASKED: i32 = 0x400;
const HEADER: i32 = 0x600;
const STATUS: i32 = 0x610;
const BUFFERS: u64 = 0x1000;
const READ_BACK: u64 = 0x6000;
const OFFERED: i32 = 0x100;
const USED: i32 = 0x180;

/// A kernel's image of a program with data behind it.
fn image(program: Program, data: &[u8]) -> Vec<u8> {
    let mut image = vec![0; FIRST];
    // To behind the header.
    image[..4].copy_from_slice(&0x0400_006f_u32.to_le_bytes());
    image[0x38..0x3c].copy_from_slice(b"RSC\x05");
    image.extend(program.bytes());
    assert!(image.len() < FIRST + DATA);
    image.resize(FIRST + DATA, 0);
    image.extend(data);
    image
}

/// Has one disk and one card. Writes each frame that comes to the next sector of the disk, reads that again, and sends what it
/// read. Answers each byte typed with the next one, but `!` by beginning anew and `.` by switching itself off. Says `#` when it
/// begins, and `E` when the disk fails.
pub fn echo() -> Vec<u8> {
    let mut program = Program::default();
    let p = &mut program;
    p.here(S1, (DATA >> 12) as u32);
    for (register, address) in [(S2, UART), (S3, DISK), (S4, CARD)] {
        p.set(register, address);
    }
    hear_devices(p);
    begin_device(p, S3, &[(0, ASKED)]);
    begin_device(p, S4, &[(0, RECEIVED), (1, SENT)]);
    p.set(S7, 8);
    p.set(T0, i32::from(b'#'));
    p.store(BYTE, T0, S2, 0);
    p.jump(ZERO, "again");
    p.name("loop");
    p.wait();
    p.name("again");
    p.set(T0, 3);
    p.store(WORD, T0, S3, 0x64);
    p.store(WORD, T0, S4, 0x64);
    answer_typed(p);
    answer_frame(p);
    ask_disk(p);
    for (name, kind) in [("off", 0), ("reboot", 1)] {
        p.name(name);
        p.set(A0, kind);
        p.set(A1, 0);
        p.call(0x5352_5354, 0);
    }
    image(program, &rings())
}

/// The serial port, the disk and the card interrupt: at the port, at the controller, in the hart, which is not disturbed.
fn hear_devices(p: &mut Program) {
    p.set(T0, 1);
    p.store(BYTE, T0, S2, 1);
    p.set(T1, 0xc00_0000);
    for source in [1, 2, 10] {
        p.store(WORD, T0, T1, 4 * source);
    }
    p.set(T1, 0xc00_2000);
    p.set(T0, 1 << 1 | 1 << 2 | 1 << 10);
    p.store(WORD, T0, T1, 0x80);
    p.set(T0, 0x200);
    p.write_csr(0x104, T0);
}

fn begin_device(p: &mut Program, device: u32, queues: &[(i32, i32)]) {
    let put = |p: &mut Program, offset: i32, value: i32| {
        p.set(T0, value);
        p.store(WORD, T0, device, offset);
    };
    put(p, 0x70, 3);
    // The standard as of 1.0, and nothing else.
    put(p, 0x24, 1);
    put(p, 0x20, 1);
    put(p, 0x70, 11);
    for &(queue, ring) in queues {
        put(p, 0x30, queue);
        put(p, 0x38, 8);
        for (register, offset) in [(0x80, ring), (0x90, ring + OFFERED), (0xa0, ring + USED)] {
            p.add_to(T0, S1, offset);
            p.store(WORD, T0, device, register);
            p.right(T0, T0, 32);
            p.store(WORD, T0, device, register + 4);
        }
        put(p, 0x44, 1);
    }
    put(p, 0x70, 15);
}

fn answer_typed(p: &mut Program) {
    p.load(BYTE, T0, S2, 5);
    p.and(T0, T0, 1);
    p.branch(true, T0, ZERO, "nothing typed");
    p.load(BYTE, T1, S2, 0);
    for (byte, name) in [(b'.', "off"), (b'!', "reboot")] {
        p.set(T2, byte.into());
        p.branch(true, T1, T2, name);
    }
    p.add_to(T1, T1, 1);
    p.store(BYTE, T1, S2, 0);
    p.jump(ZERO, "again");
    p.name("nothing typed");
}

/// S5 frames were taken, S7 buffers offered, S8 frames sent; S9 is the sector, S10 the buffer, S11 its length.
fn answer_frame(p: &mut Program) {
    p.load(HALF, T0, S1, RECEIVED + USED + 2);
    p.branch(true, T0, S5, "loop");
    p.and(T1, S5, 7);
    p.left(T1, T1, 3);
    p.add(T1, T1, S1);
    p.load(WORD, S10, T1, RECEIVED + USED + 4);
    p.load(WORD, S11, T1, RECEIVED + USED + 8);
    p.left(A1, S10, 11);
    p.add(A1, A1, S1);
    p.set(T0, BUFFERS as i32);
    p.add(A1, A1, T0);
    p.set(A0, 1);
    p.set(A2, 1);
    p.jump(RA, "ask the disk");
    p.set(T0, READ_BACK as i32);
    p.add(A1, S1, T0);
    p.set(A0, 0);
    p.set(A2, 3);
    p.jump(RA, "ask the disk");
    p.store(WORD, S11, S1, SENT + 8);
    p.add_to(S8, S8, 1);
    p.store(HALF, S8, S1, SENT + OFFERED + 2);
    p.set(T0, 1);
    p.store(WORD, T0, S4, 0x50);
    p.and(T1, S7, 7);
    p.left(T1, T1, 1);
    p.add(T1, T1, S1);
    p.store(HALF, S10, T1, RECEIVED + OFFERED + 4);
    p.add_to(S7, S7, 1);
    p.store(HALF, S7, S1, RECEIVED + OFFERED + 2);
    p.store(WORD, ZERO, S4, 0x50);
    p.add_to(S5, S5, 1);
    p.left(S5, S5, 48);
    p.right(S5, S5, 48);
    p.add_to(S9, S9, 1);
    p.and(S9, S9, 1023);
    p.jump(ZERO, "again");
}

/// Writes (A0 is 1, A2 too) or reads (0 and 3) one sector at A1, and waits for it. S6 requests were made.
fn ask_disk(p: &mut Program) {
    p.name("ask the disk");
    p.store(WORD, A0, S1, HEADER);
    p.store(DOUBLE, S9, S1, HEADER + 8);
    p.store(DOUBLE, A1, S1, ASKED + 16);
    p.store(HALF, A2, S1, ASKED + 16 + 12);
    p.add_to(S6, S6, 1);
    p.store(HALF, S6, S1, ASKED + OFFERED + 2);
    p.store(WORD, ZERO, S3, 0x50);
    p.name("wait for the disk");
    p.load(HALF, T0, S1, ASKED + USED + 2);
    p.left(T1, S6, 48);
    p.right(T1, T1, 48);
    p.branch(true, T0, T1, "the disk answered");
    p.wait();
    p.set(T0, 3);
    p.store(WORD, T0, S3, 0x64);
    p.jump(ZERO, "wait for the disk");
    p.name("the disk answered");
    p.load(BYTE, T0, S1, STATUS);
    p.branch(true, T0, ZERO, "the disk did it");
    p.set(T0, i32::from(b'E'));
    p.store(BYTE, T0, S2, 0);
    p.name("the disk did it");
    p.back();
}

/// Rings of 8: all buffers are offered to the card; one descriptor sends; three ask the disk.
fn rings() -> Vec<u8> {
    const NEXT: u64 = 1;
    const WRITABLE: u64 = 2;
    let mut data = vec![0; 0x7000];
    let mut descriptor = |ring: i32, number: usize, address: u64, length: u64, flags: u64| {
        let at = ring as usize + 16 * number;
        let next = number as u64 + 1;
        data[at..at + 8].copy_from_slice(&address.to_le_bytes());
        data[at + 8..at + 16].copy_from_slice(&(length | flags << 32 | next << 48).to_le_bytes());
    };
    for number in 0..8 {
        descriptor(RECEIVED, number, DATA_AT + BUFFERS + 0x800 * number as u64, 0x800, WRITABLE);
    }
    descriptor(SENT, 0, DATA_AT + READ_BACK, 0, 0);
    descriptor(ASKED, 0, DATA_AT + HEADER as u64, 16, NEXT);
    descriptor(ASKED, 1, 0, 512, NEXT);
    descriptor(ASKED, 2, DATA_AT + STATUS as u64, 1, WRITABLE);
    let mut half = |at: i32, value: u16| data[at as usize..][..2].copy_from_slice(&value.to_le_bytes());
    half(RECEIVED + OFFERED + 2, 8);
    for number in 0..8 {
        half(RECEIVED + OFFERED + 4 + 2 * i32::from(number), number);
    }
    // Nobody has to be told that a frame was sent.
    half(SENT + OFFERED, 1);
    data
}

/// Says `t` each 20 ms of its time.
pub fn clock() -> Vec<u8> {
    let mut program = Program::default();
    let p = &mut program;
    p.set(S2, UART);
    p.set(T0, 0x20);
    p.write_csr(0x104, T0);
    p.name("again");
    p.read_csr(A0, 0xc01);
    p.set(T0, 200_000);
    p.add(A0, A0, T0);
    p.call(0x5449_4d45, 0);
    p.wait();
    p.set(T0, i32::from(b't'));
    p.store(BYTE, T0, S2, 0);
    p.jump(ZERO, "again");
    image(program, &[])
}

/// Counts, at the beginning of its data, and never waits.
pub fn busy() -> Vec<u8> {
    let mut program = Program::default();
    let p = &mut program;
    p.here(S1, (DATA >> 12) as u32);
    p.name("again");
    p.add_to(T0, T0, 1);
    p.store(DOUBLE, T0, S1, 0);
    p.jump(ZERO, "again");
    image(program, &[0; 8])
}
