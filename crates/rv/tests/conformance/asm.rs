//! Owns encodings of the instructions that the programs' frames are made of.

pub const ECALL: u32 = 0x73;
pub const MRET: u32 = 0x3020_0073;
pub const FENCE_I: u32 = 0x100f;
pub const NOP: u32 = 0x13;

pub fn i(opcode: u32, funct3: u32, rd: u32, rs1: u32, immediate: i32) -> u32 {
    (immediate as u32) << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode
}

pub fn r(opcode: u32, funct3: u32, funct7: u32, rd: u32, rs1: u32, rs2: u32) -> u32 {
    funct7 << 25 | rs2 << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode
}

pub fn s(opcode: u32, funct3: u32, rs1: u32, rs2: u32, immediate: i32) -> u32 {
    let immediate = immediate as u32;
    (immediate >> 5 & 0x7f) << 25 | rs2 << 20 | rs1 << 15 | funct3 << 12 | (immediate & 31) << 7 | opcode
}

pub fn branch(funct3: u32, rs1: u32, rs2: u32, distance: i32) -> u32 {
    let d = distance as u32;
    (d >> 12 & 1) << 31
        | (d >> 5 & 0x3f) << 25
        | rs2 << 20
        | rs1 << 15
        | funct3 << 12
        | (d >> 1 & 15) << 8
        | (d >> 11 & 1) << 7
        | 0x63
}

pub fn jal(rd: u32, distance: i32) -> u32 {
    let d = distance as u32;
    (d >> 20 & 1) << 31
        | (d >> 1 & 0x3ff) << 21
        | (d >> 11 & 1) << 20
        | (d >> 12 & 0xff) << 12
        | rd << 7
        | 0x6f
}

pub fn addi(rd: u32, rs1: u32, immediate: i32) -> u32 {
    i(0x13, 0, rd, rs1, immediate)
}

pub fn jalr(rd: u32, rs1: u32, immediate: i32) -> u32 {
    i(0x67, 0, rd, rs1, immediate)
}

pub fn auipc(rd: u32, upper: u32) -> u32 {
    upper << 12 | rd << 7 | 0x17
}

pub fn lui(rd: u32, upper: u32) -> u32 {
    upper << 12 | rd << 7 | 0x37
}

pub fn ld(rd: u32, rs1: u32, immediate: i32) -> u32 {
    i(0x03, 3, rd, rs1, immediate)
}

pub fn sd(rs2: u32, rs1: u32, immediate: i32) -> u32 {
    s(0x23, 3, rs1, rs2, immediate)
}

pub fn fld(rd: u32, rs1: u32, immediate: i32) -> u32 {
    i(0x07, 3, rd, rs1, immediate)
}

pub fn fsd(rs2: u32, rs1: u32, immediate: i32) -> u32 {
    s(0x27, 3, rs1, rs2, immediate)
}

/// `funct3`: 1 write, 2 set, 3 clear, with 4 more the immediate forms.
pub fn csr(funct3: u32, rd: u32, number: u32, source: u32) -> u32 {
    number << 20 | source << 15 | funct3 << 12 | rd << 7 | 0x73
}

pub fn csrw(number: u32, source: u32) -> u32 {
    csr(1, 0, number, source)
}

pub fn csrr(rd: u32, number: u32) -> u32 {
    csr(2, rd, number, 0)
}

/// Loads any 32-bit constant, extended by its sign.
pub fn li(rd: u32, value: i32) -> [u32; 2] {
    let low = value << 20 >> 20;
    let upper = (value.wrapping_sub(low) as u32) >> 12;
    // ADDIW: the sum of both halves can carry out of 32 bits.
    [lui(rd, upper), i(0x1b, 0, rd, rd, low)]
}
