//! Owns the instructions of F and D: registers, boxes around single numbers, and which operation is meant.

use crate::csr::FS;
use crate::float::{self, DOUBLE, Format, Rounding, SINGLE};
use crate::integer::sign_extend;
use crate::machine::Machine;
use crate::trap::{ILLEGAL, Trap};

const BOX: u64 = 0xffff_ffff_0000_0000;

impl Machine {
    /// Carries out an instruction of F or D.
    pub(crate) fn floating(&mut self, i: u32) -> Result<(), Trap> {
        let illegal = Trap { cause: ILLEGAL, value: i.into() };
        if self.csr.mstatus & FS == 0 {
            return Err(illegal);
        }
        let (rd, rs1, funct3) = ((i >> 7 & 31) as usize, (i >> 15 & 31) as usize, i >> 12 & 7);
        let rs2 = (i >> 20 & 31) as usize;
        match i & 0x7f {
            0x07 => {
                let address = self.x[rs1].wrapping_add(((i as i32) >> 20) as u64);
                let value = match funct3 {
                    2 => self.load(address, 4)? | BOX,
                    3 => self.load(address, 8)?,
                    _ => return Err(illegal),
                };
                self.set_f(rd, value);
            }
            0x27 => {
                let offset = ((i & 0xfe00_0000) as i32 >> 20) as u64 | rd as u64;
                if funct3 & !1 != 2 {
                    return Err(illegal);
                }
                self.store(self.x[rs1].wrapping_add(offset), 1 << funct3, self.f[rs2])?;
            }
            0x53 => self.operate_on_numbers(i).ok_or(illegal)?,
            _ => self.multiply_and_add(i).ok_or(illegal)?,
        }
        Ok(())
    }

    fn set_f(&mut self, register: usize, value: u64) {
        self.f[register] = value;
        self.csr.mstatus |= FS;
    }

    /// The number in a register; a single one that is not boxed counts as a NaN.
    fn number(&self, format: Format, register: u32) -> u64 {
        let bits = self.f[(register & 31) as usize];
        match format {
            SINGLE if bits & BOX != BOX => SINGLE.nan(),
            SINGLE => bits & !BOX,
            _ => bits,
        }
    }

    fn set_number(&mut self, format: Format, register: usize, bits: u64) {
        self.set_f(register, if format == SINGLE { bits | BOX } else { bits });
    }

    fn rounding(&self, i: u32) -> Option<Rounding> {
        let field = u64::from(i >> 12 & 7);
        Rounding::from_bits(if field == 7 { self.csr.frm } else { field })
    }

    fn raise(&mut self, flags: u64) {
        if flags != 0 {
            self.csr.fflags |= flags;
            self.csr.mstatus |= FS;
        }
    }

    fn multiply_and_add(&mut self, i: u32) -> Option<()> {
        let format = format(i)?;
        let mode = self.rounding(i)?;
        let sign = format.sign();
        let product = if i & 8 != 0 { sign } else { 0 };
        let addend = if matches!(i & 0x7f, 0x47 | 0x4f) { sign } else { 0 };
        let mut flags = 0;
        let [a, b, c] = [i >> 15, i >> 20, i >> 27].map(|register| self.number(format, register));
        let result = float::fma(format, a ^ product, b, c ^ addend, mode, &mut flags);
        self.raise(flags);
        self.set_number(format, (i >> 7 & 31) as usize, result);
        Some(())
    }

    fn operate_on_numbers(&mut self, i: u32) -> Option<()> {
        let format = format(i)?;
        let (rd, funct3, rs2) = ((i >> 7 & 31) as usize, i >> 12 & 7, i >> 20 & 31);
        let (a, b) = (self.number(format, i >> 15), self.number(format, i >> 20));
        let mut flags = 0;
        let result = match i >> 27 {
            0 => float::add(format, a, b, self.rounding(i)?, &mut flags),
            1 => float::add(format, a, b ^ format.sign(), self.rounding(i)?, &mut flags),
            2 => float::mul(format, a, b, self.rounding(i)?, &mut flags),
            3 => float::div(format, a, b, self.rounding(i)?, &mut flags),
            11 if rs2 == 0 => float::sqrt(format, a, self.rounding(i)?, &mut flags),
            4 => {
                let sign = match funct3 {
                    0 => b,
                    1 => !b,
                    2 => a ^ b,
                    _ => return None,
                };
                (a & !format.sign()) | (sign & format.sign())
            }
            5 if funct3 == 0 => float::min(format, a, b, &mut flags),
            5 if funct3 == 1 => float::max(format, a, b, &mut flags),
            8 => {
                let from = if rs2 == 0 { SINGLE } else { DOUBLE };
                if rs2 > 1 || from == format {
                    return None;
                }
                let bits = self.number(from, i >> 15);
                float::resize(from, format, bits, self.rounding(i)?, &mut flags)
            }
            26 => float::from_integer(
                format,
                integer_of(self.x[(i >> 15 & 31) as usize], rs2)?,
                self.rounding(i)?,
                &mut flags,
            ),
            30 if rs2 == 0 && funct3 == 0 => {
                self.x[(i >> 15 & 31) as usize] & (format.sign() | (format.sign() - 1))
            }
            20 | 24 | 28 => {
                self.x[rd] = self.to_integer_register(i, format, a, b, &mut flags)?;
                self.raise(flags);
                return Some(());
            }
            _ => return None,
        };
        self.raise(flags);
        self.set_number(format, rd, result);
        Some(())
    }

    fn to_integer_register(&self, i: u32, format: Format, a: u64, b: u64, flags: &mut u64) -> Option<u64> {
        let (funct3, rs2) = (i >> 12 & 7, i >> 20 & 31);
        Some(match (i >> 27, funct3) {
            (20, 0) => float::less_or_equal(format, a, b, flags).into(),
            (20, 1) => float::less(format, a, b, flags).into(),
            (20, 2) => float::equal(format, a, b, flags).into(),
            (28, 0) if rs2 == 0 => {
                let bits = self.f[(i >> 15 & 31) as usize];
                if format == SINGLE { sign_extend(bits as u32) } else { bits }
            }
            (28, 1) if rs2 == 0 => float::class(format, a),
            (24, _) => {
                let bounds = match rs2 {
                    0 => (i32::MIN.into(), i32::MAX.into()),
                    1 => (0, u32::MAX.into()),
                    2 => (i64::MIN.into(), i64::MAX.into()),
                    3 => (0, u64::MAX.into()),
                    _ => return None,
                };
                let value = float::to_integer(format, a, bounds, self.rounding(i)?, flags) as u64;
                if rs2 < 2 { sign_extend(value as u32) } else { value }
            }
            _ => return None,
        })
    }
}

fn format(i: u32) -> Option<Format> {
    match i >> 25 & 3 {
        0 => Some(SINGLE),
        1 => Some(DOUBLE),
        _ => None,
    }
}

fn integer_of(register: u64, kind: u32) -> Option<i128> {
    Some(match kind {
        0 => (register as i32).into(),
        1 => (register as u32).into(),
        2 => (register as i64).into(),
        3 => register.into(),
        _ => return None,
    })
}
