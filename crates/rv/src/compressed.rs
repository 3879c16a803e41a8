//! Owns the C extension: each 16-bit form as the 32-bit instruction that it stands for.

/// The 32-bit instruction for a 16-bit one; none if it is illegal.
pub fn expand(c: u16) -> Option<u32> {
    let c = u32::from(c);
    match c & 3 {
        0 => quadrant0(c),
        1 => quadrant1(c),
        _ => quadrant2(c),
    }
}

/// Bits `high..=low` of `c`, moved to begin at bit `to`.
fn bits(c: u32, high: u32, low: u32, to: u32) -> u32 {
    ((c >> low) & ((1 << (high - low + 1)) - 1)) << to
}

/// `value`, whose sign stands in bit `sign`, extended.
fn extend(value: u32, sign: u32) -> u32 {
    let by = 31 - sign;
    (((value << by) as i32) >> by) as u32
}

fn i_type(imm: u32, rs1: u32, funct3: u32, rd: u32, opcode: u32) -> u32 {
    (imm & 0xfff) << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode
}

fn s_type(imm: u32, rs2: u32, rs1: u32, funct3: u32, opcode: u32) -> u32 {
    ((imm >> 5) & 0x7f) << 25 | rs2 << 20 | rs1 << 15 | funct3 << 12 | (imm & 0x1f) << 7 | opcode
}

fn r_type(funct7: u32, rs2: u32, rs1: u32, funct3: u32, rd: u32, opcode: u32) -> u32 {
    funct7 << 25 | rs2 << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode
}

fn branch(imm: u32, rs1: u32, funct3: u32) -> u32 {
    bits(imm, 12, 12, 31)
        | bits(imm, 10, 5, 25)
        | rs1 << 15
        | funct3 << 12
        | bits(imm, 4, 1, 8)
        | bits(imm, 11, 11, 7)
        | 0x63
}

fn jump(imm: u32, rd: u32) -> u32 {
    bits(imm, 20, 20, 31)
        | bits(imm, 10, 1, 21)
        | bits(imm, 11, 11, 20)
        | bits(imm, 19, 12, 12)
        | rd << 7
        | 0x6f
}

fn quadrant0(c: u32) -> Option<u32> {
    let (rd, rs1) = (bits(c, 4, 2, 0) + 8, bits(c, 9, 7, 0) + 8);
    let word = bits(c, 12, 10, 3) | bits(c, 6, 6, 2) | bits(c, 5, 5, 6);
    let double = bits(c, 12, 10, 3) | bits(c, 6, 5, 6);
    Some(match c >> 13 {
        0 => {
            let imm = bits(c, 12, 11, 4) | bits(c, 10, 7, 6) | bits(c, 6, 6, 2) | bits(c, 5, 5, 3);
            if imm == 0 {
                return None;
            }
            i_type(imm, 2, 0, rd, 0x13)
        }
        1 => i_type(double, rs1, 3, rd, 0x07),
        2 => i_type(word, rs1, 2, rd, 0x03),
        3 => i_type(double, rs1, 3, rd, 0x03),
        5 => s_type(double, rd, rs1, 3, 0x27),
        6 => s_type(word, rd, rs1, 2, 0x23),
        7 => s_type(double, rd, rs1, 3, 0x23),
        _ => return None,
    })
}

fn quadrant1(c: u32) -> Option<u32> {
    let rd = bits(c, 11, 7, 0);
    let short = bits(c, 9, 7, 0) + 8;
    let imm = extend(bits(c, 12, 12, 5) | bits(c, 6, 2, 0), 5);
    let far = extend(
        bits(c, 12, 12, 11)
            | bits(c, 11, 11, 4)
            | bits(c, 10, 9, 8)
            | bits(c, 8, 8, 10)
            | bits(c, 7, 7, 6)
            | bits(c, 6, 6, 7)
            | bits(c, 5, 3, 1)
            | bits(c, 2, 2, 5),
        11,
    );
    let near = extend(
        bits(c, 12, 12, 8) | bits(c, 11, 10, 3) | bits(c, 6, 5, 6) | bits(c, 4, 3, 1) | bits(c, 2, 2, 5),
        8,
    );
    Some(match c >> 13 {
        0 => i_type(imm, rd, 0, rd, 0x13),
        1 if rd != 0 => i_type(imm, rd, 0, rd, 0x1b),
        2 => i_type(imm, 0, 0, rd, 0x13),
        3 if rd == 2 => {
            let imm = bits(c, 12, 12, 9)
                | bits(c, 6, 6, 4)
                | bits(c, 5, 5, 6)
                | bits(c, 4, 3, 7)
                | bits(c, 2, 2, 5);
            if imm == 0 {
                return None;
            }
            i_type(extend(imm, 9), 2, 0, 2, 0x13)
        }
        3 if imm != 0 => (imm << 12) | rd << 7 | 0x37,
        4 => return arithmetic(c, short, imm),
        5 => jump(far, 0),
        6 => branch(near, short, 0),
        7 => branch(near, short, 1),
        _ => return None,
    })
}

fn arithmetic(c: u32, rd: u32, imm: u32) -> Option<u32> {
    let rs2 = bits(c, 4, 2, 0) + 8;
    Some(match (bits(c, 11, 10, 0), bits(c, 12, 12, 0), bits(c, 6, 5, 0)) {
        (0, _, _) => i_type(imm & 0x3f, rd, 5, rd, 0x13),
        (1, _, _) => i_type(imm & 0x3f | 0x400, rd, 5, rd, 0x13),
        (2, _, _) => i_type(imm, rd, 7, rd, 0x13),
        (_, 0, 0) => r_type(0x20, rs2, rd, 0, rd, 0x33),
        (_, 0, 1) => r_type(0, rs2, rd, 4, rd, 0x33),
        (_, 0, 2) => r_type(0, rs2, rd, 6, rd, 0x33),
        (_, 0, _) => r_type(0, rs2, rd, 7, rd, 0x33),
        (_, _, 0) => r_type(0x20, rs2, rd, 0, rd, 0x3b),
        (_, _, 1) => r_type(0, rs2, rd, 0, rd, 0x3b),
        _ => return None,
    })
}

fn quadrant2(c: u32) -> Option<u32> {
    let (rd, rs2) = (bits(c, 11, 7, 0), bits(c, 6, 2, 0));
    let word = bits(c, 12, 12, 5) | bits(c, 6, 4, 2) | bits(c, 3, 2, 6);
    let double = bits(c, 12, 12, 5) | bits(c, 6, 5, 3) | bits(c, 4, 2, 6);
    let to_double = bits(c, 12, 10, 3) | bits(c, 9, 7, 6);
    Some(match c >> 13 {
        0 => i_type(bits(c, 12, 12, 5) | rs2, rd, 1, rd, 0x13),
        1 => i_type(double, 2, 3, rd, 0x07),
        2 if rd != 0 => i_type(word, 2, 2, rd, 0x03),
        3 if rd != 0 => i_type(double, 2, 3, rd, 0x03),
        4 => match (bits(c, 12, 12, 0), rd, rs2) {
            (0, 0, 0) => return None,
            (0, _, 0) => i_type(0, rd, 0, 0, 0x67),
            (0, _, _) => r_type(0, rs2, 0, 0, rd, 0x33),
            (_, 0, 0) => 0x0010_0073,
            (_, _, 0) => i_type(0, rd, 0, 1, 0x67),
            _ => r_type(0, rs2, rd, 0, rd, 0x33),
        },
        5 => s_type(to_double, rs2, 2, 3, 0x27),
        6 => s_type(bits(c, 12, 9, 2) | bits(c, 8, 7, 6), rs2, 2, 2, 0x23),
        7 => s_type(to_double, rs2, 2, 3, 0x23),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_those_of_the_assembler() {
        for (short, long) in [
            (0x4501, Some(0x0000_0513)), // li a0, 0
            (0x8082, Some(0x0000_8067)), // ret
            (0x1141, Some(0xff01_0113)), // addi sp, sp, -16
            (0xe406, Some(0x0011_3423)), // sd ra, 8(sp)
            (0x60a2, Some(0x0081_3083)), // ld ra, 8(sp)
            (0x9002, Some(0x0010_0073)), // ebreak
            (0xa001, Some(0x0000_006f)), // j .
            (0x0000, None),
        ] {
            assert_eq!(expand(short), long, "{short:04x}");
        }
    }

    #[test]
    fn any_form_expands_to_a_full_instruction_or_none() {
        for short in 0..=u16::MAX {
            if short & 3 != 3
                && let Some(long) = expand(short)
            {
                assert_eq!(long & 3, 3, "{short:04x}");
            }
        }
    }
}
