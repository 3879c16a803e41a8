//! Owns single instructions by chance, one function for each class.

use crate::asm::*;
use crate::draw::Draw;
use crate::units::{Mode, Piece};

/// A register that a unit may write.
fn rd(draw: &mut Draw) -> u32 {
    draw.below(26)
}

fn rs(draw: &mut Draw) -> u32 {
    draw.below(26)
}

/// Arithmetic of I and M that always succeeds.
fn arithmetic(draw: &mut Draw) -> u32 {
    let rd = rd(draw);
    arithmetic_to(draw, rd)
}

/// The same, two registers not written.
pub fn arithmetic_but(draw: &mut Draw, first: u32, second: u32) -> u32 {
    let mut to = rd(draw);
    while to == first || to == second {
        to = rd(draw);
    }
    arithmetic_to(draw, to)
}

fn arithmetic_to(draw: &mut Draw, rd: u32) -> u32 {
    let (rs1, rs2, word) = (rs(draw), rs(draw), draw.word() as u32);
    let funct3 = word & 7;
    let amount = draw.below(64) as i32;
    match draw.below(8) {
        0 | 1 => r(0x33, funct3, draw.one_of(&[0, 1, 1]), rd, rs1, rs2),
        2 => r(0x33, draw.one_of(&[0, 5]), 0x20, rd, rs1, rs2),
        3 => match draw.below(2) {
            0 => r(0x3b, draw.one_of(&[0, 4, 5, 6, 7]), 1, rd, rs1, rs2),
            _ => r(0x3b, draw.one_of(&[0, 5]), draw.one_of(&[0, 0x20]), rd, rs1, rs2),
        },
        4 => match funct3 {
            1 => i(0x13, 1, rd, rs1, amount),
            5 => i(0x13, 5, rd, rs1, amount | draw.one_of(&[0, 0x400])),
            _ => i(0x13, funct3, rd, rs1, (word as i32) >> 20),
        },
        5 => match draw.below(3) {
            0 => i(0x1b, 0, rd, rs1, (word as i32) >> 20),
            1 => i(0x1b, 1, rd, rs1, amount & 31),
            _ => i(0x1b, 5, rd, rs1, amount & 31 | draw.one_of(&[0, 0x400])),
        },
        6 => lui(rd, word >> 12),
        _ => r(0x3b, 1, 0, rd, rs1, rs2),
    }
}

/// A compressed instruction of arithmetic, reserved forms too; none that jumps, traps or touches memory.
fn compressed(draw: &mut Draw) -> u16 {
    let word = draw.word() as u16;
    let to = rd(draw) as u16;
    match draw.below(6) {
        // C.ADDI4SPN, C.ADDI, C.ADDIW, C.LI, C.LUI and C.ADDI16SP, arithmetic on the short registers.
        0 => word & 0x1ffc,
        1 => (word & 0x107c) | to << 7 | 1 | draw.one_of(&[0, 2, 3]) << 13,
        2 => (word & 0x107c) | to << 7 | 1 | 1 << 13,
        3 => (word & 0x1ffc) | 1 | 4 << 13,
        // C.SLLI, C.MV and C.ADD.
        4 => (word & 0x107c) | to << 7 | 2,
        _ => (word & 0x1000) | to << 7 | ((1 + rs(draw) as u16 % 25) << 2) | 2 | 4 << 13,
    }
}

pub fn integer(draw: &mut Draw, pieces: &mut Vec<Piece>, count: usize) {
    let to = pieces.len() + 1 + draw.below(4) as usize;
    match draw.below(10) {
        0 if to <= count => {
            let funct3 = draw.one_of(&[0, 1, 4, 5, 6, 7]);
            pieces.push(Piece::Jump { funct3: Some(funct3), rs1: rs(draw), rs2: rs(draw), to });
        }
        1 if to <= count => {
            let rd = rd(draw);
            pieces.push(Piece::Jump { funct3: None, rs1: rd, rs2: 0, to });
        }
        2 => pieces.push(Piece::Word(auipc(rd(draw), draw.word() as u32 >> 12))),
        3..7 => pieces.push(Piece::Half(compressed(draw))),
        _ => pieces.push(Piece::Word(arithmetic(draw))),
    }
}

pub fn memory(draw: &mut Draw, mode: Mode, pieces: &mut Vec<Piece>, aligned: bool) {
    if mode.level == 1 && draw.once_in(5) {
        // What may be touched changes between two accesses: SUM or MXR.
        let change = draw.one_of(&[2, 3]);
        pieces.extend([lui(26, draw.one_of(&[0x40, 0x80])), csr(change, 0, 0x100, 26)].map(Piece::Word));
    }
    let word = draw.word();
    // Aligned, near, or anywhere within reach.
    let near = match draw.below(if aligned { 1 } else { 3 }) {
        0 => (word as i32 & 31) * 8,
        1 => word as i32 & 63,
        _ => (word as i32) << 20 >> 20,
    };
    match draw.below(8) {
        0..3 => pieces.push(Piece::Word(i(0x03, draw.below(8), rd(draw), 30, near))),
        3..5 => pieces.push(Piece::Word(s(0x23, draw.below(5), 30, rs(draw), near))),
        5 => {
            let number = draw.one_of(&[2, 3, 2, 3, 1]);
            let any = draw.below(32);
            pieces.push(Piece::Word(match draw.below(2) {
                0 => i(0x07, number, any, 30, near),
                _ => s(0x27, number, 30, any, near),
            }));
        }
        6 => {
            // Quadrant 0, all six of its loads and stores.
            let base = draw.below(8);
            pieces.push(Piece::Word(addi(8 + base, 30, 0)));
            let form = draw.one_of(&[1, 2, 3, 5, 6, 7]) << 13;
            pieces.push(Piece::Half((word as u16 & 0x1c7c) | form | (base as u16) << 7));
        }
        _ => {
            pieces.push(Piece::Word(addi(2, 30, 0)));
            let form = draw.one_of(&[1, 2, 3, 5, 6, 7]);
            let to = rd(draw) as u16;
            let fields = if form < 4 { (word as u16 & 0x107c) | to << 7 } else { word as u16 & 0x1ffc };
            pieces.push(Piece::Half(fields | form << 13 | 2));
        }
    }
}

pub fn floating(draw: &mut Draw, pieces: &mut Vec<Piece>) {
    let (to, a, b, c) = (draw.below(32), draw.below(32), draw.below(32), draw.below(32));
    let mode = draw.one_of(&[0, 1, 2, 3, 4, 7, 7, 7, 7, 7, 7, 7, 5, 6]);
    let format = draw.below(2);
    let integer = rd(draw);
    let op = |funct5: u32, funct3: u32, rd: u32, rs1: u32, rs2: u32| {
        r(0x53, funct3, funct5 << 2 | format, rd, rs1, rs2)
    };
    let kind = draw.below(4);
    pieces.push(Piece::Word(match draw.below(16) {
        0..3 => op(draw.below(2), mode, to, a, b),
        3 => op(2, mode, to, a, b),
        4 => op(3, mode, to, a, b),
        5 => op(11, mode, to, a, draw.one_of(&[0, 0, 0, 0, 0, 0, 0, 1])),
        6 | 7 => {
            c << 27
                | format << 25
                | b << 20
                | a << 15
                | mode << 12
                | to << 7
                | draw.one_of(&[0x43, 0x47, 0x4b, 0x4f])
        }
        8 => op(4, draw.below(4), to, a, b),
        9 => op(5, draw.one_of(&[0, 1, 0, 1, 0, 1, 2]), to, a, b),
        10 => op(20, draw.below(4), integer, a, b),
        11 => op(24, mode, integer, a, kind),
        12 => op(26, mode, to, rs(draw), kind),
        13 => r(0x53, mode, 8 << 2 | format, to, a, draw.one_of(&[0, 1, 1 - format, 1 - format, 2])),
        14 => op(28, draw.below(3), integer, a, 0),
        _ => op(30, 0, to, rs(draw), 0),
    }));
    if draw.once_in(4) {
        pieces.push(Piece::Word(csrr(integer, draw.one_of(&[1, 3, 1, 0x100]))));
    }
}

/// `size` is one for the whole unit: a reservation of the other size holds here, not in QEMU.
pub fn atomic(draw: &mut Draw, pieces: &mut Vec<Piece>, size: u32) {
    let base = 1 + draw.below(24);
    // Mostly aligned; for QEMU a misaligned SC only fails.
    let reserves = draw.once_in(3);
    let and = if !reserves && draw.once_in(6) { -1 } else { -8 };
    pieces.push(Piece::Word(addi(base, 30, draw.below(2000) as i32)));
    pieces.push(Piece::Word(i(0x13, 7, base, base, and)));
    let order = draw.below(4);
    let op = |funct5: u32, to: u32, rs2: u32| r(0x2f, size, funct5 << 2 | order, to, base, rs2);
    let mut to = rd(draw);
    while to == base {
        to = rd(draw);
    }
    let value = rs(draw);
    if reserves {
        // A reservation and its use, sometimes without one.
        if !draw.once_in(3) {
            pieces.push(Piece::Word(op(2, to, 0)));
        }
        pieces.push(Piece::Word(arithmetic_but(draw, base, 0)));
        pieces.push(Piece::Word(op(3, rd(draw), value)));
    } else {
        let funct5 = draw.one_of(&[0, 1, 4, 8, 12, 16, 20, 24, 28, 28, 5, 2]);
        let value = if funct5 == 2 { 0 } else { value };
        pieces.push(Piece::Word(op(funct5, rd(draw), value)));
    }
}

/// What a machine may hold differently: counters, identities, what only the reference has, protection of memory, which
/// exceptions can be delegated (QEMU has bits for calls of machine mode and of guests).
fn is_left_out(number: u32) -> bool {
    matches!(number, 0xb00..=0xbff | 0xc00..=0xcff | 0x320..=0x33f | 0x3a0..=0x3ef | 0x7a0..=0x7bf | 0xf11..=0xf15 | 0x30a | 0x10a | 0x301 | 0x302)
}

pub fn csrs(draw: &mut Draw, mode: Mode, pieces: &mut Vec<Piece>) {
    const OWN: [u32; 28] = [
        0x300, 0x100, 0x303, 0x304, 0x305, 0x306, 0x340, 0x341, 0x342, 0x343, 0x344, 0x100, 0x104, 0x105,
        0x106, 0x140, 0x141, 0x142, 0x143, 0x144, 0x180, 1, 2, 3, 0x300, 0x100, 0x180, 0x344,
    ];
    let number = if draw.once_in(6) { draw.below(0x1000) } else { draw.one_of(&OWN) };
    let (to, from) = (rd(draw), rs(draw));
    if (0xc00..0xc03).contains(&number) || draw.once_in(12) {
        // Whether a counter may be read; what it says is no matter.
        pieces.push(Piece::Word(csrr(0, 0xc00 + draw.below(3))));
        return;
    }
    if is_left_out(number) {
        return;
    }
    if mode.level == 1 && number == 0x180 {
        pieces.push(Piece::Word(csrr(to, number)));
        return;
    }
    let (counters, addresses) = (matches!(number, 0x106 | 0x306), matches!(number, 0x141 | 0x341));
    let interrupts = matches!(number, 0x303 | 0x304 | 0x344 | 0x104 | 0x144);
    let narrow = interrupts || counters || addresses;
    let funct3 = draw.one_of(match number {
        0x304 | 0x104 => &[1][..],
        // Where no bit is set or cleared QEMU does not write, so that the floating-point unit stays clean.
        1..=3 => &[1, 5],
        0x300 => &[1, 2, 5, 6, 7],
        _ if narrow => &[1, 2, 3],
        _ => &[1, 2, 3, 5, 6, 7],
    });
    if addresses {
        // QEMU keeps the lowest bit.
        pieces.push(Piece::Word(i(0x13, 7, from, from, -2)));
    }
    if number == 0x180 {
        // QEMU has Sv57.
        let clear =
            [addi(26, 0, 1), i(0x13, 1, 26, 26, 61), i(0x13, 4, 26, 26, -1), r(0x33, 7, 0, from, from, 26)];
        pieces.extend(clear.map(Piece::Word));
    }
    if counters {
        // QEMU keeps bits of counters that there are not.
        pieces.push(Piece::Word(i(0x13, 7, from, from, 7)));
    }
    if interrupts {
        // QEMU keeps interrupts of guests even where there are none, and takes several in the order of their numbers.
        let bits = if matches!(number, 0x304 | 0x104) { draw.one_of(&[0, 2, 0x20, 0x200]) } else { 0x2aa };
        pieces.push(Piece::Word(i(0x13, 7, from, from, bits)));
    }
    if matches!(number, 0x100 | 0x300) {
        // QEMU keeps the state of the vector unit and of guests even where there are none, and lets widths be changed.
        let low = [i(0x13, 1, from, from, 33), i(0x13, 5, from, from, 33), i(0x13, 7, from, from, !0x600)];
        pieces.extend(low.map(Piece::Word));
        // Neither a mode before the trap that there is not.
        pieces.extend([lui(26, 1), i(0x13, 4, 26, 26, -1), r(0x33, 7, 0, from, from, 26)].map(Piece::Word));
    }
    pieces.push(Piece::Word(csr(funct3, to, number, from)));
    pieces.push(Piece::Word(csrr(rd(draw), number)));
    // Before anything can trap what leads to the handlers is put right again.
    match number {
        0x305 => pieces.extend([crate::layout::constant(26, 0), csrw(number, 26)].map(Piece::Word)),
        0x105 => pieces.extend([crate::layout::constant(26, 1), csrw(number, 26)].map(Piece::Word)),
        0x180 => pieces.push(Piece::Word(csrw(number, 0))),
        0x300 => {
            pieces.extend(li(26, crate::layout::STATUS).map(Piece::Word));
            pieces.push(Piece::Word(csrw(number, 26)));
        }
        _ => {}
    }
}

/// Anything that does not jump, store or change a control register; most of it is illegal.
pub fn words(draw: &mut Draw, pieces: &mut Vec<Piece>) {
    let word = draw.word() as u32;
    let to = rd(draw);
    match draw.below(6) {
        0 => pieces.push(Piece::Half(compressed(draw))),
        1 => pieces.push(Piece::Word(draw.one_of(&[0x0010_0073, ECALL, 0, 0xffff_ffff, 0x7013_0000 | 0x13]))),
        // System instructions without a register; waiting is left out where it would wait.
        2 => {
            let word = word & 0xfff0_0000 | 0x73;
            if word >> 20 != 0x105 && word >> 20 != 0x102 && word >> 20 != 0x302 {
                pieces.push(Piece::Word(word));
            }
        }
        _ => {
            let opcode = draw.one_of(&[
                0x0b, 0x2b, 0x5b, 0x6b, 0x77, 0x57, 0x1f, 0x3f, 0x33, 0x13, 0x3b, 0x1b, 0x53, 0x0f, 0x37,
            ]);
            pieces.push(Piece::Word(word & !0xfff | to << 7 | opcode));
        }
    }
}
