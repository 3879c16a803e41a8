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

/// A match over kinds, in which each of those with a compressed form stands twice: the place of the next instruction has to
/// be a constant away from this one, not computed from what was loaded, so that the processor need not wait for it.
macro_rules! lengths {
    (
        $kind:expr, $at:ident, $next:ident;
        $($short:ident/$long:ident => $both:expr),* ;
        $($only:ident => $one:expr),* ;
        $($other:tt)*
    ) => {
        match $kind {
            $(Kind::$short => { $next = $at + 1; $both })*
            $(Kind::$long => { $next = $at + 2; $both })*
            $(Kind::$only => { $next = $at + 2; $one })*
            $($other)*
        }
    };
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
        let page = &mut code.pages[number];
        let (mut ops, mut start) = (&mut *page.ops, page.start);
        let mut base = self.pc & !0xfff;
        let mut at = (self.pc & 0xfff) as usize / 2;
        let mut left = end - self.instructions;
        let mut ending = Ending::Ready;
        while left != 0 {
            let op = ops[at];
            let rd = usize::from(op.rd & 31);
            // Read where they are needed only.
            macro_rules! a {
                () => {
                    x[usize::from(op.rs1 & 31)]
                };
            }
            macro_rules! b {
                () => {
                    x[usize::from(op.rs2 & 31)]
                };
            }
            let immediate = op.immediate as i64 as u64;
            macro_rules! address {
                () => {
                    a!().wrapping_add(immediate)
                };
            }
            let mut next;
            macro_rules! branch {
                ($condition:expr) => {
                    if $condition {
                        // A branch, not a conditional move: the processor shall guess where to go on.
                        core::hint::black_box(());
                        next = op.immediate as usize
                    }
                };
            }
            // To another page; it is known already or looked for outside.
            macro_rules! jump {
                ($to:expr) => {{
                    let to: u64 = $to;
                    next = (to & 0xfff) as usize / 2;
                    if to & !0xfff != base {
                        base = to & !0xfff;
                        match place::<1>(fetches, base).and_then(|start| code.find(start)) {
                            Some(number) => {
                                let page = &mut code.pages[number];
                                (ops, start) = (&mut *page.ops, page.start);
                            }
                            None => {
                                at = next;
                                left -= 1;
                                break;
                            }
                        }
                    }
                }};
            }
            macro_rules! load {
                ($size:literal, $bytes:ident => $value:expr) => {
                    match load::<$size>(ram, loads, address!()) {
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
                    if store::<$size>(ram, stores, address!(), (b!() as $value).to_le_bytes()).is_none() {
                        ending = Ending::Slow;
                        break;
                    }
                };
            }
            let here = base.wrapping_add(2 * at as u64);
            lengths! {
                op.kind, at, next;
                Nop/Nop4 => {},
                Li/Li4 => x[rd] = immediate,
                Mv/Mv4 => x[rd] = b!(),
                Addi/Addi4 => x[rd] = address!(),
                Andi/Andi4 => x[rd] = a!() & immediate,
                Slli/Slli4 => x[rd] = a!() << (immediate & 63),
                Srli/Srli4 => x[rd] = a!() >> (immediate & 63),
                Srai/Srai4 => x[rd] = ((a!() as i64) >> (immediate & 63)) as u64,
                Addiw/Addiw4 => x[rd] = sign_extend(address!() as u32),
                Add/Add4 => x[rd] = a!().wrapping_add(b!()),
                Sub/Sub4 => x[rd] = a!().wrapping_sub(b!()),
                Xor/Xor4 => x[rd] = a!() ^ b!(),
                Or/Or4 => x[rd] = a!() | b!(),
                And/And4 => x[rd] = a!() & b!(),
                Addw/Addw4 => x[rd] = sign_extend((a!() as u32).wrapping_add(b!() as u32)),
                Subw/Subw4 => x[rd] = sign_extend((a!() as u32).wrapping_sub(b!() as u32)),
                Beq/Beq4 => branch!(a!() == b!()),
                Bne/Bne4 => branch!(a!() != b!()),
                J/J4 => next = op.immediate as usize,
                Lw/Lw4 => load!(4, bytes => i32::from_le_bytes(bytes) as u64),
                Ld/Ld4 => load!(8, bytes => u64::from_le_bytes(bytes)),
                Sw/Sw4 => store!(4, u32),
                Sd/Sd4 => store!(8, u64),
                Jr/Jr4 => jump!(address!() & !1),
                Jalr/Jalr4 => {
                    // Read first: it may be the register that is written.
                    let to = address!() & !1;
                    x[rd] = base.wrapping_add(2 * next as u64);
                    jump!(to);
                },
                JFar/JFar4 => jump!(here.wrapping_add(immediate)),
                BranchFar/BranchFar4 => {
                    if taken(rd as u32, a!(), b!()).unwrap_or(false) {
                        jump!(here.wrapping_add(immediate));
                    }
                };
                Auipc => x[rd] = here.wrapping_add(immediate),
                Slti => x[rd] = u64::from((a!() as i64) < immediate as i64),
                Sltiu => x[rd] = u64::from(a!() < immediate),
                Xori => x[rd] = a!() ^ immediate,
                Ori => x[rd] = a!() | immediate,
                Slliw => x[rd] = sign_extend((a!() as u32) << (immediate & 31)),
                Srliw => x[rd] = sign_extend((a!() as u32) >> (immediate & 31)),
                Sraiw => x[rd] = ((a!() as i32) >> (immediate & 31)) as u64,
                Sll => x[rd] = a!() << (b!() & 63),
                Slt => x[rd] = u64::from((a!() as i64) < b!() as i64),
                Sltu => x[rd] = u64::from(a!() < b!()),
                Srl => x[rd] = a!() >> (b!() & 63),
                Sra => x[rd] = ((a!() as i64) >> (b!() & 63)) as u64,
                Sllw => x[rd] = sign_extend((a!() as u32) << (b!() & 31)),
                Srlw => x[rd] = sign_extend((a!() as u32) >> (b!() & 31)),
                Sraw => x[rd] = ((a!() as i32) >> (b!() & 31)) as u64,
                Mul => x[rd] = a!().wrapping_mul(b!()),
                Mulw => x[rd] = sign_extend((a!() as u32).wrapping_mul(b!() as u32)),
                Multiply => x[rd] = operate(1, op.immediate as u32, a!(), b!()).unwrap_or(0),
                MultiplyWord => x[rd] = operate_word(1, op.immediate as u32, a!(), b!()).unwrap_or(0),
                Blt => branch!((a!() as i64) < b!() as i64),
                Bge => branch!(a!() as i64 >= b!() as i64),
                Bltu => branch!(a!() < b!()),
                Bgeu => branch!(a!() >= b!()),
                Jal => {
                    x[rd] = base.wrapping_add(2 * next as u64);
                    next = op.immediate as usize;
                },
                JalFar => {
                    x[rd] = base.wrapping_add(2 * next as u64);
                    jump!(here.wrapping_add(immediate));
                },
                Lb => load!(1, bytes => i8::from_le_bytes(bytes) as u64),
                Lh => load!(2, bytes => i16::from_le_bytes(bytes) as u64),
                Lbu => load!(1, bytes => u8::from_le_bytes(bytes).into()),
                Lhu => load!(2, bytes => u16::from_le_bytes(bytes).into()),
                Lwu => load!(4, bytes => u32::from_le_bytes(bytes).into()),
                Sb => store!(1, u8),
                Sh => store!(2, u16);
                Kind::Undecoded => {
                    ops[at] = decode(&ram[start..start + 0x1000], at);
                    continue;
                }
                Kind::PageEnd => {
                    // No instruction: only the way to the next page.
                    base = base.wrapping_add(0x1000);
                    at = 0;
                    match place::<1>(fetches, base).and_then(|start| code.find(start)) {
                        Some(number) => {
                                let page = &mut code.pages[number];
                                (ops, start) = (&mut *page.ops, page.start);
                            }
                        None => break,
                    }
                    continue;
                }
                Kind::Slow => {
                    ending = Ending::Slow;
                    break;
                }
            }
            left -= 1;
            at = next;
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
