//! Owns carrying out one instruction.

use crate::compressed::expand;
use crate::decode::{branch_distance, jump_distance};
use crate::integer::{operate, operate_word, sign_extend};
use crate::machine::{Machine, Mode};
use crate::mmu::Access;
use crate::trap::*;

/// `value`'s lowest `bits` bits, extended by their sign.
fn signed(value: u32, bits: u32) -> u64 {
    (i64::from((value << (32 - bits)) as i32) >> (32 - bits)) as u64
}

impl Machine {
    /// Carries out the instruction at the program counter.
    pub(crate) fn step(&mut self) {
        if let Err(trap) = self.fetch_and_execute() {
            self.enter(trap);
        }
        self.x[0] = 0;
    }

    fn fetch_and_execute(&mut self) -> Result<(), Trap> {
        let low = match self.fetch_word()? {
            // The whole of it, or a compressed one and what stands behind.
            Some(word) if word & 3 == 3 => return self.execute(word, 4),
            Some(word) => word & 0xffff,
            None => self.fetch_half(self.pc)?,
        };
        if low & 3 == 3 {
            let high = self.fetch_half(self.pc.wrapping_add(2))?;
            return self.execute(high << 16 | low, 4);
        }
        let illegal = Trap { cause: ILLEGAL, value: low.into() };
        let expanded = expand(low as u16).ok_or(illegal)?;
        // A handler is shown the instruction that stands in memory, not what it was expanded to.
        self.execute(expanded, 2).map_err(|trap| if trap.cause == ILLEGAL { illegal } else { trap })
    }

    /// The four bytes at the program counter; none if they do not lie in one page of RAM.
    fn fetch_word(&mut self) -> Result<Option<u32>, Trap> {
        if self.pc & 0xfff > 0xffc {
            return Ok(None);
        }
        let physical = self.translate(self.pc, Access::Fetch)?;
        Ok(self.ram_read(physical, 4).map(|word| word as u32))
    }

    fn fetch_half(&mut self, address: u64) -> Result<u32, Trap> {
        let physical = self.translate(address, Access::Fetch)?;
        let half = self.ram_read(physical, 2).ok_or(Trap { cause: FETCH_ACCESS, value: address })?;
        Ok(half as u32)
    }

    fn execute(&mut self, i: u32, length: u64) -> Result<(), Trap> {
        let (rd, rs1, rs2) = ((i >> 7 & 31) as usize, (i >> 15 & 31) as usize, (i >> 20 & 31) as usize);
        let (funct3, funct7) = (i >> 12 & 7, i >> 25);
        let (a, b) = (self.x[rs1], self.x[rs2]);
        let illegal = Trap { cause: ILLEGAL, value: i.into() };
        let immediate = signed(i >> 20, 12);
        let store_at = a.wrapping_add(signed((i >> 25) << 5 | rd as u32, 12));
        let mut next = self.pc.wrapping_add(length);
        match i & 0x7f {
            0x37 => self.x[rd] = signed(i & !0xfff, 32),
            0x17 => self.x[rd] = self.pc.wrapping_add(signed(i & !0xfff, 32)),
            0x6f => {
                self.x[rd] = next;
                next = self.pc.wrapping_add(jump_distance(i) as u64);
            }
            0x67 if funct3 == 0 => {
                self.x[rd] = next;
                next = a.wrapping_add(immediate) & !1;
            }
            0x63 => {
                if taken(funct3, a, b).ok_or(illegal)? {
                    next = self.pc.wrapping_add(branch_distance(i) as u64);
                }
            }
            0x03 => self.x[rd] = self.load_register(a.wrapping_add(immediate), funct3, illegal)?,
            0x23 if funct3 < 4 => self.store(store_at, 1 << funct3, b)?,
            0x13 => {
                let value = match funct3 {
                    1 | 5 => operate(funct7 & !1, funct3, a, u64::from(i >> 20 & 63)),
                    _ => operate(0, funct3, a, immediate),
                };
                self.x[rd] = value.filter(|_| funct3 != 1 || funct7 & !1 == 0).ok_or(illegal)?;
            }
            0x1b => {
                let value = match funct3 {
                    0 => operate_word(0, 0, a, immediate),
                    1 | 5 if funct7 != 1 => operate_word(funct7, funct3, a, rs2 as u64),
                    _ => None,
                };
                self.x[rd] = value.ok_or(illegal)?;
            }
            0x33 => self.x[rd] = operate(funct7, funct3, a, b).ok_or(illegal)?,
            0x3b => self.x[rd] = operate_word(funct7, funct3, a, b).ok_or(illegal)?,
            0x0f if funct3 < 2 => {}
            0x2f => self.x[rd] = self.atomic(i, funct3, a, b)?,
            0x73 => return self.system(i, next),
            0x07 | 0x27 | 0x43 | 0x47 | 0x4b | 0x4f | 0x53 => self.floating(i)?,
            _ => return Err(illegal),
        }
        self.pc = next;
        Ok(())
    }

    fn load_register(&mut self, address: u64, funct3: u32, illegal: Trap) -> Result<u64, Trap> {
        if funct3 == 7 {
            return Err(illegal);
        }
        let size = 1 << (funct3 & 3);
        let value = self.load(address, size)?;
        let unused = 64 - 8 * size;
        Ok(if funct3 < 4 { ((value << unused) as i64 >> unused) as u64 } else { value })
    }

    fn atomic(&mut self, i: u32, funct3: u32, address: u64, b: u64) -> Result<u64, Trap> {
        let illegal = Trap { cause: ILLEGAL, value: i.into() };
        let known = matches!(i >> 27, 0..5 | 8 | 12 | 16 | 20 | 24 | 28);
        if funct3 & !1 != 2 || !known || (i >> 27 == 2 && i >> 20 & 31 != 0) {
            return Err(illegal);
        }
        let size = 1_u64 << funct3;
        let word = size == 4;
        let conditional = i >> 27 == 3;
        if !address.is_multiple_of(size) {
            let cause = if i >> 27 == 2 { LOAD_MISALIGNED } else { STORE_MISALIGNED };
            return Err(Trap { cause, value: address });
        }
        let extend = |value: u64| if word { sign_extend(value as u32) } else { value };
        if i >> 27 == 2 {
            let value = self.load(address, size)?;
            self.reservation = Some(address);
            return Ok(extend(value));
        }
        if conditional {
            // One that fails touches nothing, so it cannot fault either.
            let held = self.reservation.take() == Some(address);
            if held {
                self.store(address, size, b)?;
            }
            return Ok(u64::from(!held));
        }
        let physical = self.translate(address, Access::Store)?;
        let fault = Trap { cause: STORE_ACCESS, value: address };
        let old = extend(self.read(physical, size).ok_or(fault)?);
        let b = extend(b);
        let unsigned = |value: u64| if word { value & 0xffff_ffff } else { value };
        let new = match i >> 27 {
            0 => old.wrapping_add(b),
            1 => b,
            4 => old ^ b,
            8 => old | b,
            12 => old & b,
            16 => (old as i64).min(b as i64) as u64,
            20 => (old as i64).max(b as i64) as u64,
            24 => unsigned(old).min(unsigned(b)),
            28 => unsigned(old).max(unsigned(b)),
            _ => return Err(illegal),
        };
        self.write(physical, size, new).ok_or(fault)?;
        self.touched(address, size, Access::Load);
        self.touched(address, size, Access::Store);
        Ok(old)
    }

    fn system(&mut self, i: u32, next: u64) -> Result<(), Trap> {
        let illegal = Trap { cause: ILLEGAL, value: i.into() };
        let (rd, source, funct3) = ((i >> 7 & 31) as usize, i >> 15 & 31, i >> 12 & 7);
        if funct3 == 4 {
            return Err(illegal);
        }
        if funct3 != 0 {
            let number = i >> 20;
            let operand = if funct3 & 4 != 0 { source.into() } else { self.x[source as usize] };
            let old = self.read_csr(number, i)?;
            let new = match funct3 & 3 {
                1 => operand,
                // The devices' lines are no part of what a set or clear writes back.
                2 => {
                    if number & 0xff == 0x44 {
                        self.csr.mip | operand
                    } else {
                        old | operand
                    }
                }
                _ => {
                    if number & 0xff == 0x44 {
                        self.csr.mip & !operand
                    } else {
                        old & !operand
                    }
                }
            };
            if funct3 & 3 == 1 || source != 0 {
                self.write_csr(number, new, i)?;
            }
            self.x[rd] = old;
            self.pc = next;
            return Ok(());
        }
        match i {
            0x0000_0073 if self.mode == Mode::Supervisor && self.serves_sbi => self.call_firmware(),
            0x0000_0073 => return Err(Trap { cause: CALL + self.mode as u64, value: 0 }),
            0x0010_0073 => return Err(Trap { cause: BREAKPOINT, value: self.pc }),
            0x1020_0073 => return self.return_from_supervisor(i),
            0x3020_0073 => return self.return_from_machine(i),
            0x1050_0073 => {
                if self.mode == Mode::User
                    || (self.mode == Mode::Supervisor && self.csr.mstatus & crate::csr::TW != 0)
                {
                    return Err(illegal);
                }
                self.waits = true;
            }
            _ if i >> 25 == 9 && rd == 0 && self.mode != Mode::User => {
                if self.mode == Mode::Supervisor && self.csr.mstatus & crate::csr::TVM != 0 {
                    return Err(illegal);
                }
                match source {
                    0 => self.flush(),
                    _ => self.tlb.flush_address(self.x[source as usize]),
                }
            }
            _ => return Err(illegal),
        }
        self.pc = next;
        Ok(())
    }
}

pub(crate) fn taken(funct3: u32, a: u64, b: u64) -> Option<bool> {
    Some(match funct3 {
        0 => a == b,
        1 => a != b,
        4 => (a as i64) < b as i64,
        5 => a as i64 >= b as i64,
        6 => a < b,
        7 => a >= b,
        _ => return None,
    })
}
