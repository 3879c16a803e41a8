//! Owns the fast path: decoded instructions, one after the other, as long as none needs more than registers and RAM
//! whose translation is known. All else is left to [`Machine::step`], which is the reference for what is done here.

use crate::decode::{Kind, Op, decode};
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
    /// There is machine code for what comes next.
    Compiled,
}

/// The bytes of RAM that an access touches, if the page was found and all of them lie in it.
#[inline(always)]
fn place<const SIZE: usize>(slots: &[Slot; SLOTS], address: u64) -> Option<usize> {
    let slot = &slots[slot_of(address)];
    let within = address & 0xfff;
    (slot.tag == address & !0xfff && within <= 0x1000 - SIZE as u64)
        .then(|| address.wrapping_add(slot.addend) as usize)
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

/// What an access gave; one that is not for the fast path ends it.
macro_rules! or_slow {
    ($access:expr, $ending:ident) => {
        match $access {
            Some(value) => value,
            None => {
                $ending = Ending::Slow;
                break;
            }
        }
    };
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

/// What each kind of instruction does, in a function that has the rest of the names: the machine's parts, and macros for
/// branches, jumps, loads and stores. `$other` is what else there is in its match.
macro_rules! operations {
    ($op:ident, $at:ident, $next:ident, $x:ident, $base:ident; $($other:tt)*) => {
        lengths! {
            $op.kind, $at, $next;
            Nop/Nop4 => {},
            Li/Li4 => $x[usize::from($op.rd & 31)] = immediate($op),
            Mv/Mv4 => $x[usize::from($op.rd & 31)] = get($x, $op.rs2),
            Addi/Addi4 => $x[usize::from($op.rd & 31)] = get($x, $op.rs1).wrapping_add(immediate($op)),
            Andi/Andi4 => $x[usize::from($op.rd & 31)] = get($x, $op.rs1) & immediate($op),
            Slli/Slli4 => $x[usize::from($op.rd & 31)] = get($x, $op.rs1) << (immediate($op) & 63),
            Srli/Srli4 => $x[usize::from($op.rd & 31)] = get($x, $op.rs1) >> (immediate($op) & 63),
            Srai/Srai4 => $x[usize::from($op.rd & 31)] = ((get($x, $op.rs1) as i64) >> (immediate($op) & 63)) as u64,
            Addiw/Addiw4 => $x[usize::from($op.rd & 31)] = sign_extend(get($x, $op.rs1).wrapping_add(immediate($op)) as u32),
            Add/Add4 => $x[usize::from($op.rd & 31)] = get($x, $op.rs1).wrapping_add(get($x, $op.rs2)),
            Sub/Sub4 => $x[usize::from($op.rd & 31)] = get($x, $op.rs1).wrapping_sub(get($x, $op.rs2)),
            Xor/Xor4 => $x[usize::from($op.rd & 31)] = get($x, $op.rs1) ^ get($x, $op.rs2),
            Or/Or4 => $x[usize::from($op.rd & 31)] = get($x, $op.rs1) | get($x, $op.rs2),
            And/And4 => $x[usize::from($op.rd & 31)] = get($x, $op.rs1) & get($x, $op.rs2),
            Addw/Addw4 => $x[usize::from($op.rd & 31)] = sign_extend((get($x, $op.rs1) as u32).wrapping_add(get($x, $op.rs2) as u32)),
            Subw/Subw4 => $x[usize::from($op.rd & 31)] = sign_extend((get($x, $op.rs1) as u32).wrapping_sub(get($x, $op.rs2) as u32)),
            Beq/Beq4 => branch!(get($x, $op.rs1) == get($x, $op.rs2)),
            Bne/Bne4 => branch!(get($x, $op.rs1) != get($x, $op.rs2)),
            J/J4 => $next = $op.immediate as usize,
            Lw/Lw4 => $x[usize::from($op.rd & 31)] = i32::from_le_bytes(load!(4, get($x, $op.rs1).wrapping_add(immediate($op)))) as u64,
            Ld/Ld4 => $x[usize::from($op.rd & 31)] = u64::from_le_bytes(load!(8, get($x, $op.rs1).wrapping_add(immediate($op)))),
            Sw/Sw4 => store!(get($x, $op.rs1).wrapping_add(immediate($op)), get($x, $op.rs2) as u32),
            Sd/Sd4 => store!(get($x, $op.rs1).wrapping_add(immediate($op)), get($x, $op.rs2) as u64),
            Jr/Jr4 => jump!(get($x, $op.rs1).wrapping_add(immediate($op)) & !1),
            Jalr/Jalr4 => {
                // Read first: it may be the register that is written.
                let to = get($x, $op.rs1).wrapping_add(immediate($op)) & !1;
                $x[usize::from($op.rd & 31)] = $base.wrapping_add(2 * $next as u64);
                jump!(to);
            },
            JFar/JFar4 => jump!($base.wrapping_add(2 * $at as u64).wrapping_add(immediate($op))),
            BranchFar/BranchFar4 => {
                if taken($op.rd.into(), get($x, $op.rs1), get($x, $op.rs2)).unwrap_or(false) {
                    jump!($base.wrapping_add(2 * $at as u64).wrapping_add(immediate($op)));
                }
            };
            Auipc => $x[usize::from($op.rd & 31)] = $base.wrapping_add(2 * $at as u64).wrapping_add(immediate($op)),
            Slti => $x[usize::from($op.rd & 31)] = u64::from((get($x, $op.rs1) as i64) < immediate($op) as i64),
            Sltiu => $x[usize::from($op.rd & 31)] = u64::from(get($x, $op.rs1) < immediate($op)),
            Xori => $x[usize::from($op.rd & 31)] = get($x, $op.rs1) ^ immediate($op),
            Ori => $x[usize::from($op.rd & 31)] = get($x, $op.rs1) | immediate($op),
            Slliw => $x[usize::from($op.rd & 31)] = sign_extend((get($x, $op.rs1) as u32) << (immediate($op) & 31)),
            Srliw => $x[usize::from($op.rd & 31)] = sign_extend((get($x, $op.rs1) as u32) >> (immediate($op) & 31)),
            Sraiw => $x[usize::from($op.rd & 31)] = ((get($x, $op.rs1) as i32) >> (immediate($op) & 31)) as u64,
            Sll => $x[usize::from($op.rd & 31)] = get($x, $op.rs1) << (get($x, $op.rs2) & 63),
            Slt => $x[usize::from($op.rd & 31)] = u64::from((get($x, $op.rs1) as i64) < get($x, $op.rs2) as i64),
            Sltu => $x[usize::from($op.rd & 31)] = u64::from(get($x, $op.rs1) < get($x, $op.rs2)),
            Srl => $x[usize::from($op.rd & 31)] = get($x, $op.rs1) >> (get($x, $op.rs2) & 63),
            Sra => $x[usize::from($op.rd & 31)] = ((get($x, $op.rs1) as i64) >> (get($x, $op.rs2) & 63)) as u64,
            Sllw => $x[usize::from($op.rd & 31)] = sign_extend((get($x, $op.rs1) as u32) << (get($x, $op.rs2) & 31)),
            Srlw => $x[usize::from($op.rd & 31)] = sign_extend((get($x, $op.rs1) as u32) >> (get($x, $op.rs2) & 31)),
            Sraw => $x[usize::from($op.rd & 31)] = ((get($x, $op.rs1) as i32) >> (get($x, $op.rs2) & 31)) as u64,
            Mul => $x[usize::from($op.rd & 31)] = get($x, $op.rs1).wrapping_mul(get($x, $op.rs2)),
            Mulw => $x[usize::from($op.rd & 31)] = sign_extend((get($x, $op.rs1) as u32).wrapping_mul(get($x, $op.rs2) as u32)),
            Multiply => $x[usize::from($op.rd & 31)] = operate(1, $op.immediate as u32, get($x, $op.rs1), get($x, $op.rs2)).unwrap_or(0),
            MultiplyWord => $x[usize::from($op.rd & 31)] = operate_word(1, $op.immediate as u32, get($x, $op.rs1), get($x, $op.rs2)).unwrap_or(0),
            Blt => branch!((get($x, $op.rs1) as i64) < get($x, $op.rs2) as i64),
            Bge => branch!(get($x, $op.rs1) as i64 >= get($x, $op.rs2) as i64),
            Bltu => branch!(get($x, $op.rs1) < get($x, $op.rs2)),
            Bgeu => branch!(get($x, $op.rs1) >= get($x, $op.rs2)),
            Jal => {
                $x[usize::from($op.rd & 31)] = $base.wrapping_add(2 * $next as u64);
                $next = $op.immediate as usize;
            },
            JalFar => {
                $x[usize::from($op.rd & 31)] = $base.wrapping_add(2 * $next as u64);
                jump!($base.wrapping_add(2 * $at as u64).wrapping_add(immediate($op)));
            },
            Lb => $x[usize::from($op.rd & 31)] = i8::from_le_bytes(load!(1, get($x, $op.rs1).wrapping_add(immediate($op)))) as u64,
            Lh => $x[usize::from($op.rd & 31)] = i16::from_le_bytes(load!(2, get($x, $op.rs1).wrapping_add(immediate($op)))) as u64,
            Lbu => $x[usize::from($op.rd & 31)] = u8::from_le_bytes(load!(1, get($x, $op.rs1).wrapping_add(immediate($op)))).into(),
            Lhu => $x[usize::from($op.rd & 31)] = u16::from_le_bytes(load!(2, get($x, $op.rs1).wrapping_add(immediate($op)))).into(),
            Lwu => $x[usize::from($op.rd & 31)] = u32::from_le_bytes(load!(4, get($x, $op.rs1).wrapping_add(immediate($op)))).into(),
            Sb => store!(get($x, $op.rs1).wrapping_add(immediate($op)), get($x, $op.rs2) as u8),
            Sh => store!(get($x, $op.rs1).wrapping_add(immediate($op)), get($x, $op.rs2) as u16);
            $($other)*
        }
    };
}

#[inline(always)]
fn immediate(op: &Op) -> u64 {
    op.immediate as i64 as u64
}

#[inline(always)]
fn get(x: &[u64; 32], register: u8) -> u64 {
    x[usize::from(register & 31)]
}

impl Machine {
    /// Carries out instructions until so many were since reset, or until one is not for the fast path.
    pub(crate) fn run_fast(&mut self, end: u64) -> Ending {
        let Some(number) = self.code_page() else { return Ending::Slow };
        let views = [Access::Fetch, Access::Load, Access::Store].map(|access| self.view(access));
        let Machine { x, ram, tlb, code, debugged, .. } = self;
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
            let op = &ops[at];
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
                ($size:literal, $address:expr) => {
                    or_slow!(load::<$size>(ram, loads, $address), ending)
                };
            }
            macro_rules! store {
                ($address:expr, $value:expr) => {
                    or_slow!(store(ram, stores, $address, $value.to_le_bytes()), ending)
                };
            }
            operations! {
                op, at, next, x, base;
                Kind::Undecoded => {
                    let stops = debugged.is_place(at);
                    ops[at] = if stops { Op::SLOW } else { decode(&ram[start..start + 0x1000], at) };
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
                Kind::Compiled => {
                    ending = Ending::Compiled;
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
