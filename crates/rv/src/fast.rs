//! Owns the fast path: decoded instructions, one after the other, as long as none needs more than registers and RAM
//! whose translation is known. All else is left to [`Machine::step`], which is the reference for what is done here.

use crate::decode::{Kind, decode};
use crate::execute::taken;
use crate::integer::{operate, operate_word, sign_extend};
use crate::machine::{Machine, RAM};
use crate::mmu::Access;
use crate::tlb::{SLOTS, Slot, slot_of};

/// Why the fast path came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The instruction count was reached, or the next instruction stands in a page that is not known yet.
    Ready,
    /// The next instruction is not for the fast path.
    Slow,
}

/// The bytes of RAM that an access touches, if the page was found and the address is aligned.
#[inline(always)]
fn place<const SIZE: usize>(slots: &[Slot; SLOTS], address: u64) -> Option<usize> {
    let slot = &slots[slot_of(address)];
    let bits = !0xfff | (SIZE as u64 - 1);
    (slot.tag == address & bits).then(|| (slot.target.wrapping_sub(RAM) | address & 0xfff) as usize)
}

#[inline(always)]
fn load<const SIZE: usize>(ram: &[u8], slots: &[Slot; SLOTS], address: u64) -> Option<[u8; SIZE]> {
    ram.get(place::<SIZE>(slots, address)?..)?.first_chunk().copied()
}

#[inline(always)]
fn store<const SIZE: usize>(
    ram: &mut [u8],
    slots: &[Slot; SLOTS],
    address: u64,
    bytes: [u8; SIZE],
) -> Option<()> {
    *ram.get_mut(place::<SIZE>(slots, address)?..)?.first_chunk_mut()? = bytes;
    Some(())
}

impl Machine {
    /// Carries out instructions until so many were since reset, or until one is not for the fast path.
    pub(crate) fn run_fast(&mut self, end: u64) -> Ending {
        let Some(number) = self.code_page() else { return Ending::Slow };
        let views = [Access::Fetch, Access::Load, Access::Store].map(|access| self.view(access));
        let Machine { x, ram, tlb, code, .. } = self;
        let fetches = tlb.slots(Access::Fetch, views[0]);
        let loads = tlb.slots(Access::Load, views[1]);
        let stores = tlb.slots(Access::Store, views[2]);
        let (ram, x) = (ram.as_mut_slice(), x);
        let mut page = &mut code.pages[number];
        let mut base = self.pc & !0xfff;
        let mut at = (self.pc & 0xfff) as usize / 2;
        let mut left = end - self.instructions;
        let mut ending = Ending::Ready;
        while left != 0 {
            let op = page.ops[at];
            let mut next = at + 1 + usize::from(op.rd >> 7);
            let rd = usize::from(op.rd & 31);
            let a = x[usize::from(op.rs1 & 31)];
            let b = x[usize::from(op.rs2 & 31)];
            let immediate = op.immediate as i64 as u64;
            let address = a.wrapping_add(immediate);
            // Where a jump out of the page goes.
            let mut far = None;
            macro_rules! branch {
                ($condition:expr) => {
                    if $condition {
                        next = op.immediate as usize
                    }
                };
            }
            macro_rules! load {
                ($size:literal, $bytes:ident => $value:expr) => {
                    match load::<$size>(ram, loads, address) {
                        Some($bytes) => x[rd] = $value,
                        None => {
                            ending = Ending::Slow;
                            break;
                        }
                    }
                };
            }
            macro_rules! store {
                ($size:literal, $value:ty) => {
                    if store::<$size>(ram, stores, address, (b as $value).to_le_bytes()).is_none() {
                        ending = Ending::Slow;
                        break;
                    }
                };
            }
            match op.kind {
                Kind::Undecoded => {
                    page.ops[at] = decode(&ram[page.start..page.start + 0x1000], at);
                    continue;
                }
                Kind::Slow => {
                    ending = Ending::Slow;
                    break;
                }
                Kind::PageEnd => {
                    // No instruction: only the way to the next page.
                    match fetches_page(fetches, base.wrapping_add(0x1000)).and_then(|start| code.find(start)) {
                        Some(number) => {
                            page = &mut code.pages[number];
                            base = base.wrapping_add(0x1000);
                            at = 0;
                            continue;
                        }
                        None => break,
                    }
                }
                Kind::Nop => {}
                Kind::Li => x[rd] = immediate,
                Kind::Auipc => x[rd] = base.wrapping_add(2 * at as u64).wrapping_add(immediate),
                Kind::Addi => x[rd] = address,
                Kind::Slti => x[rd] = u64::from((a as i64) < immediate as i64),
                Kind::Sltiu => x[rd] = u64::from(a < immediate),
                Kind::Xori => x[rd] = a ^ immediate,
                Kind::Ori => x[rd] = a | immediate,
                Kind::Andi => x[rd] = a & immediate,
                Kind::Slli => x[rd] = a << (immediate & 63),
                Kind::Srli => x[rd] = a >> (immediate & 63),
                Kind::Srai => x[rd] = ((a as i64) >> (immediate & 63)) as u64,
                Kind::Addiw => x[rd] = sign_extend(address as u32),
                Kind::Slliw => x[rd] = sign_extend((a as u32) << (immediate & 31)),
                Kind::Srliw => x[rd] = sign_extend((a as u32) >> (immediate & 31)),
                Kind::Sraiw => x[rd] = ((a as i32) >> (immediate & 31)) as u64,
                Kind::Add => x[rd] = a.wrapping_add(b),
                Kind::Sub => x[rd] = a.wrapping_sub(b),
                Kind::Sll => x[rd] = a << (b & 63),
                Kind::Slt => x[rd] = u64::from((a as i64) < b as i64),
                Kind::Sltu => x[rd] = u64::from(a < b),
                Kind::Xor => x[rd] = a ^ b,
                Kind::Srl => x[rd] = a >> (b & 63),
                Kind::Sra => x[rd] = ((a as i64) >> (b & 63)) as u64,
                Kind::Or => x[rd] = a | b,
                Kind::And => x[rd] = a & b,
                Kind::Addw => x[rd] = sign_extend((a as u32).wrapping_add(b as u32)),
                Kind::Subw => x[rd] = sign_extend((a as u32).wrapping_sub(b as u32)),
                Kind::Sllw => x[rd] = sign_extend((a as u32) << (b & 31)),
                Kind::Srlw => x[rd] = sign_extend((a as u32) >> (b & 31)),
                Kind::Sraw => x[rd] = ((a as i32) >> (b & 31)) as u64,
                Kind::Mul => x[rd] = a.wrapping_mul(b),
                Kind::Mulw => x[rd] = sign_extend((a as u32).wrapping_mul(b as u32)),
                Kind::Multiply => x[rd] = operate(1, op.immediate as u32, a, b).unwrap_or(0),
                Kind::MultiplyWord => x[rd] = operate_word(1, op.immediate as u32, a, b).unwrap_or(0),
                Kind::Beq => branch!(a == b),
                Kind::Bne => branch!(a != b),
                Kind::Blt => branch!((a as i64) < b as i64),
                Kind::Bge => branch!(a as i64 >= b as i64),
                Kind::Bltu => branch!(a < b),
                Kind::Bgeu => branch!(a >= b),
                Kind::J => next = op.immediate as usize,
                Kind::Jal => {
                    x[rd] = base.wrapping_add(2 * next as u64);
                    next = op.immediate as usize;
                }
                Kind::BranchFar => {
                    if taken(rd as u32, a, b).unwrap_or(false) {
                        far = Some(base.wrapping_add(2 * at as u64).wrapping_add(immediate));
                    }
                }
                Kind::JFar => far = Some(base.wrapping_add(2 * at as u64).wrapping_add(immediate)),
                Kind::JalFar => {
                    x[rd] = base.wrapping_add(2 * next as u64);
                    far = Some(base.wrapping_add(2 * at as u64).wrapping_add(immediate));
                }
                Kind::Jr => far = Some(address & !1),
                Kind::Jalr => {
                    x[rd] = base.wrapping_add(2 * next as u64);
                    far = Some(address & !1);
                }
                Kind::Lb => load!(1, bytes => i8::from_le_bytes(bytes) as u64),
                Kind::Lh => load!(2, bytes => i16::from_le_bytes(bytes) as u64),
                Kind::Lw => load!(4, bytes => i32::from_le_bytes(bytes) as u64),
                Kind::Ld => load!(8, bytes => u64::from_le_bytes(bytes)),
                Kind::Lbu => load!(1, bytes => u8::from_le_bytes(bytes).into()),
                Kind::Lhu => load!(2, bytes => u16::from_le_bytes(bytes).into()),
                Kind::Lwu => load!(4, bytes => u32::from_le_bytes(bytes).into()),
                Kind::Sb => store!(1, u8),
                Kind::Sh => store!(2, u16),
                Kind::Sw => store!(4, u32),
                Kind::Sd => store!(8, u64),
            }
            left -= 1;
            at = next;
            if let Some(to) = far {
                at = (to & 0xfff) as usize / 2;
                if to & !0xfff != base {
                    base = to & !0xfff;
                    match fetches_page(fetches, base).and_then(|start| code.find(start)) {
                        Some(number) => page = &mut code.pages[number],
                        None => break,
                    }
                }
            }
        }
        self.pc = base.wrapping_add(2 * at as u64);
        self.instructions = end - left;
        ending
    }

    /// The number of the page of decoded instructions that the program counter points into; none if that is no RAM, or
    /// the fetch will trap.
    fn code_page(&mut self) -> Option<usize> {
        let physical = self.translate(self.pc, Access::Fetch).ok()?;
        let at = usize::try_from(physical.checked_sub(RAM)?).ok()?;
        if let Some(number) = self.code.find(at) {
            return Some(number);
        }
        let number = self.code.insert(at)?;
        self.tlb.watch(physical & !0xfff);
        Some(number)
    }
}

/// Where in RAM a page of instructions begins whose translation is known.
#[inline(always)]
fn fetches_page(fetches: &[Slot; SLOTS], base: u64) -> Option<usize> {
    place::<1>(fetches, base)
}
