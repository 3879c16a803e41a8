//! Owns the form in which instructions are kept once they were read: what to do, with which registers, in 8 bytes.

use crate::compressed::expand;

/// Names what an instruction does: before the bar what has a compressed form, with a name for each length (the second
/// is 4 bytes long), behind it what has none.
macro_rules! kinds {
    ($($short:ident/$long:ident),* ; $($only:ident),*) => {
        /// What an instruction does. Only what is frequent and cannot trap by itself has a kind of its own.
        ///
        /// The length is a part of it: where the next instruction stands is known to the processor as soon as it has
        /// guessed the kind.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        #[allow(missing_docs)]
        pub enum Kind {
            /// Not looked at yet.
            Undecoded,
            /// Left to the interpreter that knows all of them.
            Slow,
            /// Behind the last instruction of a page.
            PageEnd,
            /// Machine code begins here: see [`Compiler`](crate::Compiler).
            Compiled,
            $($short, $long,)*
            $($only,)*
        }

        impl Kind {
            /// The kind of the same instruction with 4 bytes.
            pub fn long(self) -> Kind {
                match self {
                    $(Kind::$short => Kind::$long,)*
                    other => other,
                }
            }

            /// Whether there are 2 bytes of it.
            pub fn is_short(self) -> bool {
                matches!(self, $(Kind::$short)|*)
            }
        }
    };
}

// Branches and jumps within the page hold the place that they go to, the far ones the distance. `rd` is never 0 where
// a register is written.
kinds! {
    Nop/Nop4, Li/Li4, Mv/Mv4, Addi/Addi4, Andi/Andi4, Slli/Slli4, Srli/Srli4, Srai/Srai4, Addiw/Addiw4,
    Add/Add4, Sub/Sub4, Xor/Xor4, Or/Or4, And/And4, Addw/Addw4, Subw/Subw4,
    Beq/Beq4, Bne/Bne4, BranchFar/BranchFar4, J/J4, JFar/JFar4, Jr/Jr4, Jalr/Jalr4,
    Lw/Lw4, Ld/Ld4, Sw/Sw4, Sd/Sd4;
    Auipc, Slti, Sltiu, Xori, Ori, Slliw, Srliw, Sraiw, Sll, Slt, Sltu, Srl, Sra, Sllw, Srlw, Sraw,
    Mul, Mulw, Multiply, MultiplyWord, Blt, Bge, Bltu, Bgeu, Jal, JalFar,
    Lb, Lh, Lbu, Lhu, Lwu, Sb, Sh
}

/// One instruction.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    /// What it does.
    pub kind: Kind,
    /// The register that is written. [`Kind::BranchFar`]: which branch it is.
    pub rd: u8,
    /// The first register that is read.
    pub rs1: u8,
    /// The second one.
    pub rs2: u8,
    /// A number, a distance in bytes, or the place in the page that is jumped to. [`Kind::Multiply`]: which operation.
    pub immediate: i32,
}

impl Op {
    pub(crate) const UNDECODED: Op = Op::bare(Kind::Undecoded);
    /// Left to [`Machine::step`](crate::Machine).
    pub(crate) const SLOW: Op = Op::bare(Kind::Slow);
    pub(crate) const PAGE_END: Op = Op::bare(Kind::PageEnd);
    pub(crate) const COMPILED: Op = Op::bare(Kind::Compiled);

    const fn bare(kind: Kind) -> Op {
        Op { kind, rd: 0, rs1: 0, rs2: 0, immediate: 0 }
    }
}

/// The instruction at a place, in halves, of a page.
pub(crate) fn decode(page: &[u8], place: usize) -> Op {
    let half =
        |place: usize| page.get(2 * place..2 * place + 2).map(|half| u16::from_le_bytes([half[0], half[1]]));
    let Some(low) = half(place) else { return Op::bare(Kind::Slow) };
    if low & 3 != 3 {
        return expand(low).and_then(|i| decode_word(i, place)).unwrap_or(Op::bare(Kind::Slow));
    }
    // One that goes on in the next page is translated twice each time.
    let Some(high) = half(place + 1) else { return Op::bare(Kind::Slow) };
    let op = decode_word(u32::from(high) << 16 | u32::from(low), place);
    let op = op.unwrap_or(Op::bare(Kind::Slow));
    Op { kind: op.kind.long(), ..op }
}

fn decode_word(i: u32, place: usize) -> Option<Op> {
    let (rd, rs1, rs2) = ((i >> 7 & 31) as u8, (i >> 15 & 31) as u8, (i >> 20 & 31) as u8);
    let (funct3, funct7) = (i >> 12 & 7, i >> 25);
    let immediate = i as i32 >> 20;
    let op = |kind, immediate| Some(Op { kind, rd, rs1, rs2, immediate });
    // Without a register to write these do nothing.
    let value = |kind, immediate| if rd == 0 { Some(Op::bare(Kind::Nop)) } else { op(kind, immediate) };
    match i & 0x7f {
        0x37 => value(Kind::Li, (i & !0xfff) as i32),
        0x17 => value(Kind::Auipc, (i & !0xfff) as i32),
        0x13 if rs1 == 0 && funct3 == 0 => value(Kind::Li, immediate),
        0x13 => {
            value(immediate_kind(funct3, i >> 26)?, if funct3 & 3 == 1 { immediate & 63 } else { immediate })
        }
        0x1b => {
            let kind = match (funct3, funct7) {
                (0, _) => Kind::Addiw,
                (1, 0) => Kind::Slliw,
                (5, 0) => Kind::Srliw,
                (5, 0x20) => Kind::Sraiw,
                _ => return None,
            };
            value(kind, if funct3 == 0 { immediate } else { immediate & 31 })
        }
        0x33 if rs1 == 0 && funct3 == 0 && funct7 == 0 => value(Kind::Mv, 0),
        0x33 => value(register_kind(funct3, funct7)?, funct3 as i32),
        0x3b => value(word_kind(funct3, funct7)?, funct3 as i32),
        0x0f if funct3 < 2 => Some(Op::bare(Kind::Nop)),
        0x63 => {
            branch(i, place, Op { kind: Kind::BranchFar, rd: 0, rs1, rs2, immediate: branch_distance(i) })
        }
        0x6f => {
            let distance = jump_distance(i);
            Some(match (near(place, distance), rd) {
                (Some(to), 0) => Op { kind: Kind::J, rd, rs1, rs2, immediate: to },
                (Some(to), _) => Op { kind: Kind::Jal, rd, rs1, rs2, immediate: to },
                (None, 0) => Op { kind: Kind::JFar, rd, rs1, rs2, immediate: distance },
                (None, _) => Op { kind: Kind::JalFar, rd, rs1, rs2, immediate: distance },
            })
        }
        0x67 if funct3 == 0 => op(if rd == 0 { Kind::Jr } else { Kind::Jalr }, immediate),
        0x03 if rd != 0 && funct3 < 7 => {
            let kinds = [Kind::Lb, Kind::Lh, Kind::Lw, Kind::Ld, Kind::Lbu, Kind::Lhu, Kind::Lwu];
            op(kinds[funct3 as usize], immediate)
        }
        0x23 if funct3 < 4 => {
            let kind = [Kind::Sb, Kind::Sh, Kind::Sw, Kind::Sd][funct3 as usize];
            Some(Op { kind, rd: 0, rs1, rs2, immediate: (i & 0xfe00_0000) as i32 >> 20 | i32::from(rd) })
        }
        _ => None,
    }
}

/// The place in the page that lies so far from this one.
fn near(place: usize, distance: i32) -> Option<i32> {
    let to = place as i32 + distance / 2;
    (0..crate::pieces::PLACES as i32).contains(&to).then_some(to)
}

fn branch(i: u32, place: usize, far: Op) -> Option<Op> {
    let funct3 = (i >> 12 & 7) as usize;
    let kind =
        [Kind::Beq, Kind::Bne, Kind::Slow, Kind::Slow, Kind::Blt, Kind::Bge, Kind::Bltu, Kind::Bgeu][funct3];
    if kind == Kind::Slow {
        return None;
    }
    Some(match near(place, far.immediate) {
        Some(to) => Op { kind, immediate: to, ..far },
        None => Op { rd: funct3 as u8, ..far },
    })
}

fn immediate_kind(funct3: u32, funct6: u32) -> Option<Kind> {
    Some(match (funct3, funct6) {
        (0, _) => Kind::Addi,
        (1, 0) => Kind::Slli,
        (2, _) => Kind::Slti,
        (3, _) => Kind::Sltiu,
        (4, _) => Kind::Xori,
        (5, 0) => Kind::Srli,
        (5, 0x10) => Kind::Srai,
        (6, _) => Kind::Ori,
        (7, _) => Kind::Andi,
        _ => return None,
    })
}

fn register_kind(funct3: u32, funct7: u32) -> Option<Kind> {
    Some(match (funct7, funct3) {
        (0, 0) => Kind::Add,
        (0x20, 0) => Kind::Sub,
        (0, 1) => Kind::Sll,
        (0, 2) => Kind::Slt,
        (0, 3) => Kind::Sltu,
        (0, 4) => Kind::Xor,
        (0, 5) => Kind::Srl,
        (0x20, 5) => Kind::Sra,
        (0, 6) => Kind::Or,
        (0, 7) => Kind::And,
        (1, 0) => Kind::Mul,
        (1, _) => Kind::Multiply,
        _ => return None,
    })
}

fn word_kind(funct3: u32, funct7: u32) -> Option<Kind> {
    Some(match (funct7, funct3) {
        (0, 0) => Kind::Addw,
        (0x20, 0) => Kind::Subw,
        (0, 1) => Kind::Sllw,
        (0, 5) => Kind::Srlw,
        (0x20, 5) => Kind::Sraw,
        (1, 0) => Kind::Mulw,
        (1, 4..=7) => Kind::MultiplyWord,
        _ => return None,
    })
}

/// How far a `jal` jumps.
pub(crate) fn jump_distance(i: u32) -> i32 {
    let distance = (i >> 31) << 20 | (i >> 12 & 0xff) << 12 | (i >> 20 & 1) << 11 | (i >> 21 & 0x3ff) << 1;
    (distance << 11) as i32 >> 11
}

/// How far a branch jumps.
pub(crate) fn branch_distance(i: u32) -> i32 {
    let distance = (i >> 31) << 12 | (i >> 7 & 1) << 11 | (i >> 25 & 0x3f) << 5 | (i >> 8 & 15) << 1;
    (distance << 19) as i32 >> 19
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_word_is_decoded_at_any_place() {
        let mut word = 1_u32;
        for count in 0..2_000_000_u32 {
            word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let bytes = (word ^ count >> 3).to_le_bytes();
            for place in [0, 1] {
                decode(&bytes, place);
            }
        }
        assert_eq!(decode(&[], 0).kind, Kind::Slow);
    }

    #[test]
    fn what_is_compressed_is_short_and_nothing_else() {
        for low in 0..=u16::MAX {
            // As the high half: something valid for most instructions, then anything.
            for high in [0, 0x0010, low.rotate_left(7)] {
                let bytes = [low.to_le_bytes(), high.to_le_bytes()].concat();
                let kind = decode(&bytes, 0).kind;
                let known = !matches!(kind, Kind::Slow | Kind::PageEnd | Kind::Undecoded | Kind::Compiled);
                assert!(!known || kind.is_short() == (low & 3 != 3), "{high:04x}{low:04x}: {kind:?}");
            }
        }
    }
}
