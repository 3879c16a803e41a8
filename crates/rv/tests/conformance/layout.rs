//! Owns the map of a program: what lies where in RAM, and the frame around the units (its beginning, the handlers of
//! traps, the routine that puts the registers down).
//!
//! Registers x0 to x25 belong to the units. x26 and x27 are the frame's, x28 points at constants, x29 at the end of the
//! unit, x30 at what the unit's loads and stores touch, x31 at the end of the log.

use crate::asm::*;
use crate::draw::Draw;

pub const RAM: u64 = 0x8000_0000;
pub const SIZE: usize = 32 << 20;
/// What is compared; the reference keeps its device tree behind it.
pub const COMPARED: usize = 28 << 20;
pub const TABLES: usize = 0x1_0000;
pub const CONSTANTS: usize = 0x2_0000;
/// Two pages of breakpoints.
pub const CALLS: usize = 0x2_1000;
pub const DATA: usize = 0x3_0000;
pub const DATA_PAGES: u64 = 16;
pub const CODE: usize = 0x10_0000;
pub const LOG: usize = 0x80_0000;
pub const LOG_END: usize = 0x180_0000;
/// The second view of RAM, for user mode, begins so much higher.
pub const ALIAS: u64 = 0x1_0000_0000;
/// Where page tables map pages by chance.
pub const WINDOW: u64 = 0x2_0000_0000;

const HANDLER: usize = 0x800;
const SUPERVISOR_HANDLER: usize = 0x900;
/// Puts down the integer registers.
pub const PUT_DOWN: usize = 0xa00;
/// Puts down the floating-point registers too.
pub const PUT_DOWN_ALL: usize = 0xc00;

/// `mstatus` between units: machine mode, floating point on.
pub const STATUS: i32 = 0x7800;

// Places among the constants.
pub const NUMBERS: (u32, u32) = (16, 200);
pub const INTEGERS: (u32, u32) = (200, 340);
pub const POINTERS: (u32, u32) = (340, 420);
pub const ENTRIES: (u32, u32) = (420, 500);
pub const SATP: u32 = 2;
pub const ALIAS_DISTANCE: u32 = 8;
const VECTOR: u32 = 0;
const SUPERVISOR_VECTOR: u32 = 1;
const BEYOND: u32 = 9;
pub const DELEGATION: (u32, u32) = (10, 16);

/// Loads a constant.
pub fn constant(rd: u32, place: u32) -> u32 {
    ld(rd, 28, place as i32 * 8 - 2048)
}

pub fn put(ram: &mut [u8], at: usize, words: &[u32]) {
    for (place, word) in words.iter().enumerate() {
        ram[at + 4 * place..][..4].copy_from_slice(&word.to_le_bytes());
    }
}

pub fn put_word(ram: &mut [u8], at: usize, word: u64) {
    ram[at..at + 8].copy_from_slice(&word.to_le_bytes());
}

/// RAM with everything but the units.
pub fn frame(draw: &mut Draw) -> Vec<u8> {
    let mut ram = vec![0; SIZE];
    begin(&mut ram);
    handlers(&mut ram);
    let put_down = routine(&[]);
    put(&mut ram, PUT_DOWN, &put_down);
    let numbers: Vec<u32> = (0..32).map(|f| fsd(f, 31, 256 + 8 * f as i32)).collect();
    let put_down_all = routine(&numbers);
    put(&mut ram, PUT_DOWN_ALL, &put_down_all);
    constants(&mut ram, draw);
    tables(&mut ram, draw);
    for half in 0..0x1000 {
        ram[CALLS + 2 * half..][..2].copy_from_slice(&0x9002_u16.to_le_bytes());
    }
    // Between the two pages stands one instruction that does nothing.
    put(&mut ram, CALLS + 0xffe, &[NOP]);
    for at in (DATA..DATA + (DATA_PAGES as usize) * 0x1000).step_by(8) {
        let word = draw.corner();
        put_word(&mut ram, at, word);
    }
    ram
}

fn begin(ram: &mut [u8]) {
    // The reference has a second hart, which waits for good: alone, QEMU does atomics as loads with stores.
    let mut program = vec![csrr(5, 0xf14), branch(0, 5, 0, 12), 0x1050_0073, jal(0, -4)];
    // Constants begin 2 KiB before x28.
    program.extend([auipc(28, (CONSTANTS >> 12) as u32), addi(28, 28, 0x7ff), addi(28, 28, -15)]);
    program.extend([auipc(31, (LOG >> 12) as u32), addi(31, 31, -28)]);
    program.extend([constant(26, VECTOR), csrw(0x305, 26), constant(26, SUPERVISOR_VECTOR), csrw(0x105, 26)]);
    // No timer.
    program.extend([lui(26, 0x2004), addi(27, 0, -1), sd(27, 26, 0)]);
    // All memory for all modes.
    program.extend([constant(26, BEYOND), csrw(0x3b0, 26), addi(26, 0, 0x1f), csrw(0x3a0, 26)]);
    program.extend([0x302, 0x303, 0x304, 0x344, 0x180, 0x306, 0x106].map(|number| csrw(number, 0)));
    program.extend([0x340, 0x341, 0x342, 0x343, 0x140, 0x141, 0x142, 0x143].map(|number| csrw(number, 0)));
    program.extend(li(26, STATUS));
    program.extend([csrw(0x300, 26), csrw(3, 0)]);
    for f in 0..32 {
        program.push(fld(f, 28, (NUMBERS.0 + f) as i32 * 8 - 2048));
    }
    program.extend((1..26).map(|rd| addi(rd, 0, 0)));
    program.extend([addi(29, 0, 0), addi(30, 0, 0)]);
    program.push(jal(0, CODE as i32 - 4 * program.len() as i32));
    assert!(program.len() * 4 < HANDLER);
    put(ram, 0, &program);
}

fn handlers(ram: &mut [u8]) {
    let mut program = put_down_trap([0x342, 0x341, 0x343, 0x300]);
    program.extend([csrw(0x341, 29), csrw(0x304, 0)]);
    program.extend(li(26, STATUS));
    program.extend([csrw(0x300, 26), MRET]);
    put(ram, HANDLER, &program);
    let mut program = put_down_trap([0x142, 0x141, 0x143, 0x100]);
    program.push(ECALL);
    put(ram, SUPERVISOR_HANDLER, &program);
}

/// Puts down cause, address, value and status of a trap. A breakpoint's value is its address, or zero: either is allowed.
fn put_down_trap([cause, address, value, status]: [u32; 4]) -> Vec<u32> {
    let mut program =
        vec![csrr(26, cause), sd(26, 31, 0), csrr(27, value), addi(26, 26, -3), branch(1, 26, 0, 8)];
    program.extend([
        addi(27, 0, 0),
        csrw(value, 27),
        sd(27, 31, 16),
        csrr(26, address),
        sd(26, 31, 8),
        csrr(26, status),
    ]);
    program.extend([sd(26, 31, 24), addi(31, 31, 64)]);
    program
}

/// Puts registers down, and makes everything ready for the next unit.
fn routine(numbers: &[u32]) -> Vec<u32> {
    let mut program = vec![csrr(26, 0x300), sd(26, 31, 0)];
    program.extend((1..26).map(|rs2| sd(rs2, 31, 8 * rs2 as i32)));
    program.extend([csrr(26, 0x344), sd(26, 31, 8 * 26), csrr(26, 0x304), sd(26, 31, 8 * 27)]);
    program.extend([0x304, 0x344, 0x303, 0x302, 0x180].map(|number| csrw(number, 0)));
    program.extend([constant(26, VECTOR), csrw(0x305, 26), constant(26, SUPERVISOR_VECTOR), csrw(0x105, 26)]);
    program.extend(li(26, STATUS));
    program.extend([csrw(0x300, 26), csrr(26, 3), sd(26, 31, 8 * 28), sd(29, 31, 8 * 29)]);
    for (place, number) in [0x141, 0x142].into_iter().enumerate() {
        program.extend([csrr(26, number), sd(26, 31, 8 * (30 + place as i32))]);
    }
    program.extend(numbers);
    let length = if numbers.is_empty() { 256 } else { 512 };
    program.extend([addi(31, 31, length), jalr(0, 27, 0)]);
    program
}

/// The end of a program: what is left in `mtvec` stays put, and the reference is told to end.
pub fn ending() -> Vec<u32> {
    let mut program = vec![auipc(26, 0), addi(26, 26, 28), csrw(0x305, 26), lui(26, 0x100), lui(27, 5)];
    program.extend([addi(27, 27, 0x555), i(0x23, 2, 0, 26, 0) | 27 << 20, jal(0, 0)]);
    program
}

fn constants(ram: &mut [u8], draw: &mut Draw) {
    let mut place = |at: u32, word: u64| put_word(ram, CONSTANTS + 8 * at as usize, word);
    place(VECTOR, RAM + HANDLER as u64);
    place(SUPERVISOR_VECTOR, RAM + SUPERVISOR_HANDLER as u64);
    let root = (RAM + TABLES as u64) >> 12;
    // Two identifiers of address spaces for each kind of table.
    for (at, mode, page) in [(0, 8, root), (1, 8, root), (2, 9, root + 3), (3, 9, root + 3)] {
        place(SATP + at, mode << 60 | (u64::from(at) * 77) << 44 | page);
    }
    place(ALIAS_DISTANCE, ALIAS);
    place(BEYOND, u64::MAX >> 10);
    for at in DELEGATION.0..DELEGATION.1 {
        place(at, if at == DELEGATION.0 { 0 } else { draw.word() & 0xb1ff });
    }
    for at in NUMBERS.0..NUMBERS.1 {
        place(at, draw.number());
    }
    for at in INTEGERS.0..INTEGERS.1 {
        place(at, draw.corner());
    }
    for at in POINTERS.0..POINTERS.1 {
        place(at, pointer(at - POINTERS.0, draw));
    }
    for at in ENTRIES.0..ENTRIES.1 {
        place(at, entry(draw, false));
    }
}

/// Whether there is nothing where the pointer at this place leads. QEMU reports what is misaligned there by the address
/// of an aligned access that it did instead, and an atomic one as a load; this machine by the one that was asked for.
pub fn leads_nowhere(place: u32) -> bool {
    matches!(place, 16..20)
}

/// By its place: the first 20 for machine and supervisor mode, the next 20 for user mode, the rest into the window.
fn pointer(place: u32, draw: &mut Draw) -> u64 {
    let page = 1 + u64::from(draw.below(DATA_PAGES as u32 - 2));
    let within = match draw.below(3) {
        0 => 0,
        1 => draw.word() & 0xff8,
        _ => draw.word() & 0xfff,
    };
    let data = RAM + DATA as u64 + page * 0x1000 + within;
    match place {
        0..16 => data,
        // Nothing is there.
        16 => RAM + SIZE as u64 + 0x1000,
        17 => 0x800,
        18 => 1 << 40,
        19 => RAM + SIZE as u64,
        20..38 => data + ALIAS,
        38 => 1 << 39 | data,
        39 => 1 << 63 | data,
        _ => {
            let window = draw.one_of(&[WINDOW, WINDOW, WINDOW, 0xffff_ffff_c000_0000]);
            window + u64::from(draw.below(12)) * 0x20_0000 + (data - RAM)
        }
    }
}

/// An entry of the lowest table; the page of breakpoints, or one of data.
fn entry(draw: &mut Draw, calls: bool) -> u64 {
    let page = if calls { CALLS as u64 } else { DATA as u64 + 0x1000 * (1 + u64::from(draw.below(14))) };
    let target = RAM + page;
    let mut flags = draw.word() & 0xff | 1;
    if draw.once_in(2) {
        flags |= 0xc2;
    }
    if draw.once_in(25) {
        flags &= !1;
    }
    let reserved = if draw.once_in(25) { 1 << (54 + draw.below(10)) } else { 0 };
    target >> 12 << 10 | flags | reserved | u64::from(draw.below(4)) << 8
}

/// Four tables: the root of Sv39, one level below it, the lowest, and the root of Sv48, which leads to the first.
fn tables(ram: &mut [u8], draw: &mut Draw) {
    let table = |number: usize| TABLES + 0x1000 * number;
    let pointer = |number: usize| (RAM + table(number) as u64) >> 12 << 10 | 1;
    let mut place = |number: usize, at: usize, entry: u64| put_word(ram, table(number) + 8 * at, entry);
    let giant = RAM >> 12 << 10;
    place(0, 2, giant | 0xcf);
    place(0, 6, giant | 0xdf);
    place(0, 8, pointer(1));
    place(0, 511, pointer(1));
    place(3, 0, pointer(0));
    place(3, 511, pointer(0));
    for at in 0..12 {
        let large = RAM >> 12 << 10 | draw.word() & 0xff | 1 | if draw.once_in(4) { 1 << 12 } else { 0 };
        // Always a leaf: no table is there.
        let readable = if large & 0xe == 0 { 2 } else { 0 };
        place(1, at, if at < 6 { pointer(2) } else { large | readable });
    }
    // A pointer with bits that only leaves may have.
    place(1, 5, pointer(2) | draw.one_of(&[0, 0x10, 0x40, 0x80, 1 << 54]));
    for at in 0x20..0x48 {
        let calls = at == CALLS >> 12 || at == (CALLS >> 12) + 1;
        let entry = entry(draw, calls);
        let second = if at == (CALLS >> 12) + 1 { 1 << 10 } else { 0 };
        place(2, at, entry + second);
    }
}
