//! Owns the units of a program: some instructions of one kind by chance, in one mode, which come to their end whatever
//! happens to them.

use crate::asm::*;
use crate::draw::Draw;
use crate::instructions as kinds;
use crate::layout::*;

/// What a unit is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Integer,
    Memory,
    Floating,
    Atomic,
    Csr,
    Words,
    SelfModifying,
    Interrupt,
    Fetch,
    Return,
}

const KINDS: [Kind; 18] = [
    Kind::Integer,
    Kind::Integer,
    Kind::Integer,
    Kind::Memory,
    Kind::Memory,
    Kind::Memory,
    Kind::Floating,
    Kind::Floating,
    Kind::Floating,
    Kind::Floating,
    Kind::Atomic,
    Kind::Atomic,
    Kind::Csr,
    Kind::Words,
    Kind::SelfModifying,
    Kind::Interrupt,
    Kind::Fetch,
    Kind::Return,
];

/// The mode that a unit's instructions run in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// 0 user, 1 supervisor, 3 machine.
    pub level: u32,
    pub translated: bool,
}

/// An instruction of a unit.
#[derive(Clone, Copy, Debug)]
pub enum Piece {
    Half(u16),
    Word(u32),
    /// Goes to the piece with this number, if the condition holds; `JAL` with no registers of its own.
    Jump {
        funct3: Option<u32>,
        rs1: u32,
        rs2: u32,
        to: usize,
    },
    /// Address of the piece with this number.
    Address {
        rd: u32,
        to: usize,
    },
}

impl Piece {
    fn length(self) -> usize {
        match self {
            Piece::Half(_) => 2,
            Piece::Word(_) | Piece::Jump { .. } => 4,
            Piece::Address { .. } => 8,
        }
    }
}

/// One unit.
pub struct Unit {
    pub kind: Kind,
    pub mode: Mode,
    pub bytes: Vec<u8>,
}

pub fn unit(draw: &mut Draw) -> Unit {
    let kind = draw.one_of(&KINDS);
    let level = match kind {
        Kind::SelfModifying => 3,
        _ => draw.one_of(&[3, 3, 1, 1, 0, 0]),
    };
    let mode = Mode { level, translated: level < 3 && !draw.once_in(4) };
    let pointer = pointer(draw, kind, mode);
    let mut words = before(draw, kind, mode, pointer);
    let body = body(draw, kind, mode, leads_nowhere(pointer));
    let body = encode(&body);
    words.extend(enter(draw, kind, mode));
    // The first two find the end of the unit.
    let end = 8 + 4 * words.len() + body.len();
    let end = end.next_multiple_of(4);
    let mut bytes: Vec<u8> = [auipc(29, 0), addi(29, 29, end as i32)]
        .iter()
        .chain(&words)
        .flat_map(|word| word.to_le_bytes())
        .collect();
    bytes.extend(body);
    if bytes.len() < end {
        bytes.extend(1_u16.to_le_bytes());
    }
    assert!(end < 2000 && bytes.len() == end, "a unit is too long");
    Unit { kind, mode, bytes }
}

/// A place among the pointers.
fn pointer(draw: &mut Draw, kind: Kind, mode: Mode) -> u32 {
    if mode.translated && draw.once_in(2) {
        return 40 + draw.below(40);
    }
    let alias = mode == Mode { level: 0, translated: true };
    draw.below(if kind == Kind::Atomic { 16 } else { 20 }) + if alias { 20 } else { 0 }
}

/// Registers get values, page tables entries.
fn before(draw: &mut Draw, kind: Kind, mode: Mode, pointer: u32) -> Vec<u32> {
    let mut words = Vec::new();
    for _ in 0..draw.below(5) {
        let place = INTEGERS.0 + draw.below(INTEGERS.1 - INTEGERS.0);
        words.push(constant(1 + draw.below(25), place));
    }
    if kind == Kind::Floating {
        for _ in 0..4 + draw.below(6) {
            let place = NUMBERS.0 + draw.below(NUMBERS.1 - NUMBERS.0);
            words.push(fld(draw.below(32), 28, place as i32 * 8 - 2048));
        }
        words.push(csr(5, 0, 2, draw.one_of(&[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 7])));
        if draw.once_in(3) {
            words.push(csr(5, 0, 1, 0));
        }
    }
    words.push(constant(30, POINTERS.0 + pointer));
    if mode.translated && draw.once_in(3) {
        let table = (TABLES + 0x2000 + 8 * (0x30 + draw.below(16) as usize)) as i32;
        words.extend(li(26, table));
        // RAM's address: one bit.
        words.extend([addi(27, 0, 1), i(0x13, 1, 27, 27, 31), r(0x33, 6, 0, 26, 26, 27)]);
        words.push(constant(27, ENTRIES.0 + draw.below(ENTRIES.1 - ENTRIES.0)));
        words.push(sd(27, 26, 0));
        words.push(0x1200_0073);
    }
    words
}

/// Goes to the mode.
fn enter(draw: &mut Draw, kind: Kind, mode: Mode) -> Vec<u32> {
    if mode.level == 3 && kind != Kind::Interrupt {
        return Vec::new();
    }
    // QEMU leaves the floating-point unit clean where an operation only raises flags, or no bit is set.
    let fs = draw.one_of(if matches!(kind, Kind::Floating | Kind::Csr | Kind::Words) {
        &[3, 3, 3, 3, 0]
    } else {
        &[3, 1, 2, 0]
    });
    let chance = draw.word() as i32;
    // SUM, MXR; seldom TVM, TW, TSR; SPP, SPIE.
    let mut status = (mode.level << 11 | fs << 13) as i32 | chance & 0xc_0120;
    if draw.once_in(6) {
        status |= chance & 0x70_0000;
    }
    if kind == Kind::Interrupt {
        status |= chance & 0x82;
    }
    let mut words = Vec::new();
    if mode.translated {
        words.extend([constant(26, SATP + draw.below(4)), csrw(0x180, 26)]);
    }
    words.extend([constant(26, DELEGATION.0 + draw.below(DELEGATION.1 - DELEGATION.0)), csrw(0x302, 26)]);
    words.extend(li(26, draw.word() as i32 & 7));
    words.push(csrw(0x306, 26));
    words.push(csr(5, 0, 0x106, draw.below(8)));
    if kind == Kind::Interrupt {
        for number in [0x303, 0x304, 0x344] {
            // One interrupt that is allowed: of several QEMU takes that with the lowest number first.
            let bits =
                if number == 0x304 { draw.one_of(&[2, 0x20, 0x200]) } else { draw.word() as i32 & 0x222 };
            words.extend(li(26, bits));
            words.push(csrw(number, 26));
        }
    }
    words.extend(li(26, status));
    words.push(csrw(0x300, 26));
    let alias = mode.level == 0 && mode.translated;
    words.extend([auipc(26, 0), addi(26, 26, if alias { 24 } else { 16 })]);
    if alias {
        words.extend([constant(27, ALIAS_DISTANCE), r(0x33, 0, 0, 26, 26, 27)]);
    }
    words.extend([csrw(0x341, 26), MRET]);
    words
}

fn body(draw: &mut Draw, kind: Kind, mode: Mode, aligned: bool) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let size = draw.one_of(&[2, 3]);
    let count = 4 + draw.below(10) as usize;
    match kind {
        Kind::SelfModifying => self_modifying(draw, &mut pieces),
        Kind::Fetch => fetch(draw, mode, &mut pieces),
        Kind::Return => give_back(draw, &mut pieces),
        Kind::Interrupt => pieces.extend([Piece::Word(NOP); 3]),
        _ => {
            while pieces.len() < count {
                match kind {
                    Kind::Integer => kinds::integer(draw, &mut pieces, count),
                    Kind::Memory => kinds::memory(draw, mode, &mut pieces, aligned),
                    Kind::Floating => kinds::floating(draw, &mut pieces),
                    Kind::Atomic => kinds::atomic(draw, &mut pieces, size),
                    Kind::Csr => kinds::csrs(draw, mode, &mut pieces),
                    _ => kinds::words(draw, &mut pieces),
                }
            }
        }
    }
    if mode.level < 3 || kind == Kind::Interrupt {
        pieces.push(Piece::Word(ECALL));
    }
    pieces
}

/// A loop whose instruction is another one the second time.
fn self_modifying(draw: &mut Draw, pieces: &mut Vec<Piece>) {
    let new = kinds::arithmetic_but(draw, 5, 6);
    pieces.extend([Piece::Word(addi(5, 0, 2)), Piece::Address { rd: 6, to: 2 }]);
    pieces.push(Piece::Word(kinds::arithmetic_but(draw, 5, 6)));
    let [upper, lower] = li(7, new as i32);
    pieces.extend([Piece::Word(upper), Piece::Word(lower)]);
    // As a word, or half by half.
    if draw.once_in(2) {
        pieces.push(Piece::Word(s(0x23, 2, 6, 7, 0)));
    } else {
        pieces.extend([s(0x23, 1, 6, 7, 0), i(0x13, 5, 7, 7, 16), s(0x23, 1, 6, 7, 2)].map(Piece::Word));
    }
    pieces.push(Piece::Word(if draw.once_in(2) { FENCE_I } else { NOP }));
    pieces.push(Piece::Word(addi(26, 26, 0)));
    pieces.push(Piece::Word(addi(5, 5, -1)));
    pieces.push(Piece::Jump { funct3: Some(1), rs1: 5, rs2: 0, to: 2 });
}

/// Jumps into the window, to breakpoints if there is anything.
fn fetch(draw: &mut Draw, mode: Mode, pieces: &mut Vec<Piece>) {
    let place =
        draw.below(12) * 0x20_0000 + CALLS as u32 + draw.one_of(&[0, 2, 4, 0xffc, 0xffe, 0x1000, 0x1002]);
    let root = if mode.translated { 1 } else { draw.below(2) as i32 };
    pieces.extend([Piece::Word(addi(5, 0, root)), Piece::Word(i(0x13, 1, 5, 5, 33))]);
    pieces.extend(li(6, place as i32).map(Piece::Word));
    pieces.push(Piece::Word(r(0x33, 0, 0, 5, 5, 6)));
    pieces.push(Piece::Word(jalr(draw.below(3), 5, draw.one_of(&[0, 1]))));
}

/// `sret` or `mret` to the next instruction.
fn give_back(draw: &mut Draw, pieces: &mut Vec<Piece>) {
    let to = if draw.once_in(3) { MRET } else { 0x1020_0073 };
    let number = if to == MRET { 0x341 } else { 0x141 };
    pieces.push(Piece::Address { rd: 5, to: 3 });
    pieces.extend([csrw(number, 5), to, csrr(6, 0x100), ECALL].map(Piece::Word));
}

fn encode(pieces: &[Piece]) -> Vec<u8> {
    let mut places = vec![0];
    for piece in pieces {
        places.push(places[places.len() - 1] + piece.length());
    }
    let mut bytes = Vec::new();
    for (piece, &at) in pieces.iter().zip(&places) {
        let distance = |to: usize| places[to] as i32 - at as i32;
        match *piece {
            Piece::Half(half) => bytes.extend(half.to_le_bytes()),
            Piece::Word(word) => bytes.extend(word.to_le_bytes()),
            Piece::Jump { funct3: Some(funct3), rs1, rs2, to } => {
                bytes.extend(branch(funct3, rs1, rs2, distance(to)).to_le_bytes());
            }
            Piece::Jump { funct3: None, rs1, to, .. } => bytes.extend(jal(rs1, distance(to)).to_le_bytes()),
            Piece::Address { rd, to } => {
                bytes.extend(auipc(rd, 0).to_le_bytes());
                bytes.extend(addi(rd, rd, distance(to)).to_le_bytes());
            }
        }
    }
    bytes
}
