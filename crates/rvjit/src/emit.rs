//! Owns what each instruction becomes in cranelift's language.
//!
//! A register that was read or written stays a value until the next root; what was written goes to memory before an access
//! that may not be found, and at the end of a way. Whether enough instructions are left is asked once at each root, for the longest way from it.

use crate::call;
use crate::region::{Block, End, Region, behind};
use crate::stubs::{self, WORD, sure};
use cranelift_codegen::Context;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{self, BlockArg, InstBuilder, MemFlags, SigRef, Value, types};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use rv::{Kind, Op, PLACES};
use std::collections::BTreeMap;

/// What is known on the way from a root.
#[derive(Clone, Copy)]
pub(crate) struct State {
    values: [Option<Value>; 32],
    /// Registers whose values are not in memory yet.
    dirty: u32,
    /// Instructions carried out since the root.
    count: u64,
    /// Instructions left at the root.
    left: Value,
}

/// Where a root begins, and the registers whose values it is given.
#[derive(Clone)]
struct Root {
    block: ir::Block,
    carried: Vec<u8>,
}

/// Makes one piece.
pub(crate) struct Emitter<'a> {
    pub b: FunctionBuilder<'a>,
    region: &'a Region,
    roots: BTreeMap<usize, Root>,
    context: Value,
    x: Value,
    ram: Value,
    loads: Value,
    /// The page's address.
    base: Value,
    /// Where the page's entries are.
    entries: usize,
    dispatch: usize,
    piece: SigRef,
    back: ir::Block,
    /// The ways out for what is the interpreter's, to be made at the end.
    ways_out: Vec<(ir::Block, usize, State)>,
}

impl<'a> Emitter<'a> {
    /// Makes the code of a region that begins at a place.
    pub fn build(
        context: &'a mut Context,
        builder: &'a mut FunctionBuilderContext,
        region: &'a Region,
        place: usize,
        entries: usize,
        dispatch: usize,
    ) {
        context.func.signature = stubs::piece();
        let mut b = FunctionBuilder::new(&mut context.func, builder);
        let piece = b.import_signature(stubs::piece());
        let start = b.create_block();
        b.append_block_params_for_function_params(start);
        b.switch_to_block(start);
        let parameters: Vec<Value> = b.block_params(start).to_vec();
        let [context, x, ram, loads, pc, left] = parameters[..] else { return };
        let base = b.ins().iadd_imm(pc, -2 * place as i64);
        let back = b.create_block();
        b.append_block_param(back, WORD);
        b.append_block_param(back, WORD);
        b.set_cold_block(back);
        let mut roots = BTreeMap::new();
        for (&place, _) in region.blocks.iter().filter(|(_, block)| block.root) {
            let root = Root { block: b.create_block(), carried: region.carried(place) };
            for _ in 0..=root.carried.len() {
                b.append_block_param(root.block, WORD);
            }
            roots.insert(place, root);
        }
        let ways_out = Vec::new();
        let mut emitter = Emitter {
            b,
            region,
            roots,
            context,
            x,
            ram,
            loads,
            base,
            entries,
            dispatch,
            piece,
            back,
            ways_out,
        };
        let state = State { values: [None; 32], dirty: 0, count: 0, left };
        emitter.go_to(place, state);
        emitter.all();
        emitter.b.seal_all_blocks();
        emitter.b.finalize();
    }

    fn all(&mut self) {
        for (place, root) in self.roots.clone() {
            self.b.switch_to_block(root.block);
            let left = self.b.block_params(root.block)[0];
            let mut state = State { values: [None; 32], dirty: 0, count: 0, left };
            for (number, &register) in root.carried.iter().enumerate() {
                state.values[usize::from(register)] = Some(self.b.block_params(root.block)[number + 1]);
            }
            let longest = self.region.longest(place);
            let fits = self.b.create_block();
            let short = self.way_out(place, &state);
            let few = self.b.ins().icmp_imm(IntCC::SignedLessThan, left, longest as i64);
            self.b.ins().brif(few, short, &[], fits, &[]);
            self.b.switch_to_block(fits);
            self.block(place, state);
        }
        while let Some((block, place, mut state)) = self.ways_out.pop() {
            self.b.switch_to_block(block);
            self.go_back(place, &mut state);
        }
        self.b.switch_to_block(self.back);
        let (pc, left) = (self.b.block_params(self.back)[0], self.b.block_params(self.back)[1]);
        self.b.ins().store(sure(), pc, self.context, call::PC);
        self.b.ins().store(sure(), left, self.context, call::LEFT);
        self.b.ins().return_(&[]);
    }

    /// A block for the way out before the instruction at a place.
    fn way_out(&mut self, place: usize, state: &State) -> ir::Block {
        let block = self.b.create_block();
        self.b.set_cold_block(block);
        self.ways_out.push((block, place, *state));
        block
    }

    fn go_back(&mut self, place: usize, state: &mut State) {
        self.flush(state);
        let (pc, left) = (self.address(place), self.left(state));
        self.b.ins().jump(self.back, &[BlockArg::Value(pc), BlockArg::Value(left)]);
    }

    /// The address of a place of the page.
    fn address(&mut self, place: usize) -> Value {
        self.b.ins().iadd_imm(self.base, 2 * place as i64)
    }

    fn left(&mut self, state: &State) -> Value {
        if state.count == 0 { state.left } else { self.b.ins().iadd_imm(state.left, -(state.count as i64)) }
    }

    /// Puts into memory what was written.
    fn flush(&mut self, state: &mut State) {
        for register in (1..32).filter(|register| state.dirty >> register & 1 != 0) {
            if let Some(value) = state.values[register] {
                self.b.ins().store(sure(), value, self.x, 8 * register as i32);
            }
        }
        state.dirty = 0;
    }

    fn get(&mut self, state: &mut State, register: u8) -> Value {
        let register = usize::from(register & 31);
        if let Some(value) = state.values[register] {
            return value;
        }
        let value = match register {
            0 => self.b.ins().iconst(WORD, 0),
            _ => self.b.ins().load(WORD, sure(), self.x, 8 * register as i32),
        };
        state.values[register] = Some(value);
        value
    }

    fn set(state: &mut State, register: u8, value: Value) {
        if register != 0 {
            state.values[usize::from(register & 31)] = Some(value);
            state.dirty |= 1 << (register & 31);
        }
    }

    fn block(&mut self, place: usize, mut state: State) {
        let block: &'a Block = &self.region.blocks[&place];
        for (place, op) in &block.ops {
            self.op(*place, op, &mut state);
            state.count += 1;
        }
        let last = block.ops.last();
        match (block.end, last) {
            (End::To(to), _) => self.go_to(to, state),
            (End::Slow(place), _) => self.go_back(place, &mut state),
            (End::Behind, _) => self.go_to(PLACES, state),
            (End::Branch(to, or), Some((_, op))) => {
                if !self.is_branch(to) && !self.is_branch(or) {
                    self.flush(&mut state);
                }
                let condition = self.condition(op, &mut state);
                let [taken, not] = [(); 2].map(|()| self.b.create_block());
                self.b.ins().brif(condition, taken, &[], not, &[]);
                self.b.switch_to_block(taken);
                self.go_to(to, state);
                self.b.switch_to_block(not);
                self.go_to(or, state);
            }
            (End::Far(or), Some((at, op))) => {
                let condition = self.condition(op, &mut state);
                let [taken, not] = [(); 2].map(|()| self.b.create_block());
                self.b.ins().brif(condition, taken, &[], not, &[]);
                self.b.switch_to_block(taken);
                let to = self.b.ins().iadd_imm(self.base, 2 * *at as i64 + i64::from(op.immediate));
                self.leave(to, state);
                self.b.switch_to_block(not);
                self.go_to(or, state);
            }
            (End::Away, Some((at, op))) => self.away(*at, op, &block.returns, state),
            (_, None) => self.go_back(place, &mut state),
        }
    }

    /// Whether a place is entered from one block only.
    fn is_branch(&self, place: usize) -> bool {
        self.region.blocks.get(&place).is_some_and(|block| !block.root)
    }

    /// Goes on at a place of the page.
    fn go_to(&mut self, place: usize, mut state: State) {
        if self.is_branch(place) {
            self.block(place, state);
            return;
        }
        self.flush(&mut state);
        if let Some(root) = self.roots.get(&place).cloned() {
            let mut given = vec![BlockArg::Value(self.left(&state))];
            for &register in &root.carried {
                given.push(BlockArg::Value(self.get(&mut state, register)));
            }
            self.b.ins().jump(root.block, &given);
        } else if place < PLACES {
            let entry = self.b.ins().iconst(WORD, (self.entries + 8 * place) as i64);
            let to = self.b.ins().load(WORD, sure(), entry, 0);
            let pc = self.address(place);
            self.enter(to, pc, &state);
        } else {
            let pc = self.address(PLACES);
            self.leave(pc, state);
        }
    }

    fn enter(&mut self, piece: Value, pc: Value, state: &State) {
        let left = self.left(state);
        let arguments = [self.context, self.x, self.ram, self.loads, pc, left];
        self.b.ins().return_call_indirect(self.piece, piece, &arguments);
    }

    /// Goes on at an address.
    fn leave(&mut self, pc: Value, mut state: State) {
        self.flush(&mut state);
        let dispatch = self.b.ins().iconst(WORD, self.dispatch as i64);
        self.enter(dispatch, pc, &state);
    }

    fn away(&mut self, place: usize, op: &Op, returns: &[usize], mut state: State) {
        let link = behind(place, op);
        let far = 2 * place as i64 + i64::from(op.immediate);
        let to = match op.kind.long() {
            Kind::JFar4 | Kind::JalFar => self.b.ins().iadd_imm(self.base, far),
            _ => {
                // Read first: it may be the register that is written.
                let value = self.get(&mut state, op.rs1);
                let sum = self.b.ins().iadd_imm(value, i64::from(op.immediate));
                self.b.ins().band_imm(sum, !1)
            }
        };
        if matches!(op.kind.long(), Kind::JalFar | Kind::Jalr4) {
            let link = self.address(link);
            Self::set(&mut state, op.rd, link);
        }
        for &place in returns {
            let expected = self.address(place);
            let same = self.b.ins().icmp(IntCC::Equal, to, expected);
            let [here, not] = [(); 2].map(|()| self.b.create_block());
            self.b.ins().brif(same, here, &[], not, &[]);
            self.b.switch_to_block(here);
            self.go_to(place, state);
            self.b.switch_to_block(not);
        }
        self.leave(to, state);
    }

    fn condition(&mut self, op: &Op, state: &mut State) -> Value {
        let (a, b) = (self.get(state, op.rs1), self.get(state, op.rs2));
        let condition = match (op.kind.long(), op.rd) {
            (Kind::Beq4, _) | (Kind::BranchFar4, 0) => IntCC::Equal,
            (Kind::Bne4, _) | (Kind::BranchFar4, 1) => IntCC::NotEqual,
            (Kind::Blt, _) | (Kind::BranchFar4, 4) => IntCC::SignedLessThan,
            (Kind::Bge, _) | (Kind::BranchFar4, 5) => IntCC::SignedGreaterThanOrEqual,
            (Kind::Bltu, _) | (Kind::BranchFar4, 6) => IntCC::UnsignedLessThan,
            _ => IntCC::UnsignedGreaterThanOrEqual,
        };
        self.b.ins().icmp(condition, a, b)
    }

    fn op(&mut self, place: usize, op: &Op, state: &mut State) {
        let kind = op.kind.long();
        match kind {
            Kind::Lb | Kind::Lh | Kind::Lw4 | Kind::Ld4 | Kind::Lbu | Kind::Lhu | Kind::Lwu => {
                self.load(place, op, state);
            }
            Kind::Sb | Kind::Sh | Kind::Sw4 | Kind::Sd4 => self.store(place, op, state),
            Kind::Jal => {
                let link = self.address(behind(place, op));
                Self::set(state, op.rd, link);
            }
            _ => {
                if let Some(value) = self.value(place, op, state) {
                    Self::set(state, op.rd, value);
                }
            }
        }
    }

    /// What an instruction that only works on registers writes.
    fn value(&mut self, place: usize, op: &Op, state: &mut State) -> Option<Value> {
        let by = i64::from(op.immediate);
        let kind = op.kind.long();
        let a = match kind {
            Kind::Li4 => return Some(self.b.ins().iconst(WORD, by)),
            Kind::Auipc => return Some(self.b.ins().iadd_imm(self.base, 2 * place as i64 + by)),
            Kind::Mv4 => return Some(self.get(state, op.rs2)),
            Kind::Nop4 | Kind::Beq4 | Kind::Bne4 | Kind::BranchFar4 | Kind::J4 | Kind::JFar4 | Kind::Jr4 => {
                return None;
            }
            Kind::Jalr4 | Kind::JalFar | Kind::Blt | Kind::Bge | Kind::Bltu | Kind::Bgeu => return None,
            _ => self.get(state, op.rs1),
        };
        let with_immediate = match kind {
            Kind::Addi4 => Some(self.b.ins().iadd_imm(a, by)),
            Kind::Andi4 => Some(self.b.ins().band_imm(a, by)),
            Kind::Xori => Some(self.b.ins().bxor_imm(a, by)),
            Kind::Ori => Some(self.b.ins().bor_imm(a, by)),
            Kind::Slli4 => Some(self.b.ins().ishl_imm(a, by & 63)),
            Kind::Srli4 => Some(self.b.ins().ushr_imm(a, by & 63)),
            Kind::Srai4 => Some(self.b.ins().sshr_imm(a, by & 63)),
            Kind::Slti => Some(self.less(IntCC::SignedLessThan, a, by)),
            Kind::Sltiu => Some(self.less(IntCC::UnsignedLessThan, a, by)),
            Kind::Addiw4 | Kind::Slliw | Kind::Srliw | Kind::Sraiw => {
                let word = self.b.ins().ireduce(types::I32, a);
                let result = match kind {
                    Kind::Addiw4 => self.b.ins().iadd_imm(word, by),
                    Kind::Slliw => self.b.ins().ishl_imm(word, by & 31),
                    Kind::Srliw => self.b.ins().ushr_imm(word, by & 31),
                    _ => self.b.ins().sshr_imm(word, by & 31),
                };
                Some(self.b.ins().sextend(WORD, result))
            }
            _ => None,
        };
        if with_immediate.is_some() {
            return with_immediate;
        }
        let b = self.get(state, op.rs2);
        Some(self.both(op, a, b))
    }

    fn less(&mut self, condition: IntCC, a: Value, by: i64) -> Value {
        let less = self.b.ins().icmp_imm(condition, a, by);
        self.b.ins().uextend(WORD, less)
    }

    /// What an instruction between two registers writes.
    fn both(&mut self, op: &Op, a: Value, b: Value) -> Value {
        let kind = op.kind.long();
        match kind {
            Kind::Add4 => self.b.ins().iadd(a, b),
            Kind::Sub4 => self.b.ins().isub(a, b),
            Kind::Xor4 => self.b.ins().bxor(a, b),
            Kind::Or4 => self.b.ins().bor(a, b),
            Kind::And4 => self.b.ins().band(a, b),
            Kind::Sll => self.b.ins().ishl(a, b),
            Kind::Srl => self.b.ins().ushr(a, b),
            Kind::Sra => self.b.ins().sshr(a, b),
            Kind::Slt | Kind::Sltu => {
                let signed = kind == Kind::Slt;
                let condition = if signed { IntCC::SignedLessThan } else { IntCC::UnsignedLessThan };
                let less = self.b.ins().icmp(condition, a, b);
                self.b.ins().uextend(WORD, less)
            }
            Kind::Mul => self.b.ins().imul(a, b),
            Kind::Multiply => self.multiply(op.immediate, a, b),
            _ => {
                let [a, b] = [a, b].map(|value| self.b.ins().ireduce(types::I32, value));
                let word = match kind {
                    Kind::Addw4 => self.b.ins().iadd(a, b),
                    Kind::Subw4 => self.b.ins().isub(a, b),
                    Kind::Sllw => self.b.ins().ishl(a, b),
                    Kind::Srlw => self.b.ins().ushr(a, b),
                    Kind::Sraw => self.b.ins().sshr(a, b),
                    Kind::Mulw => self.b.ins().imul(a, b),
                    _ => self.divide(op.immediate, a, b),
                };
                self.b.ins().sextend(WORD, word)
            }
        }
    }

    fn multiply(&mut self, funct3: i32, a: Value, b: Value) -> Value {
        match funct3 {
            1 => self.b.ins().smulhi(a, b),
            2 => {
                // As without signs, less the second where the first is negative.
                let high = self.b.ins().umulhi(a, b);
                let sign = self.b.ins().sshr_imm(a, 63);
                let less = self.b.ins().band(sign, b);
                self.b.ins().isub(high, less)
            }
            3 => self.b.ins().umulhi(a, b),
            _ => self.divide(funct3, a, b),
        }
    }

    /// Quotient or remainder of words or double words. The host's division knows no zero and no overflow.
    fn divide(&mut self, funct3: i32, a: Value, b: Value) -> Value {
        let kind = self.b.func.dfg.value_type(a);
        let one = self.b.ins().iconst(kind, 1);
        let zero = self.b.ins().icmp_imm(IntCC::Equal, b, 0);
        let (negated, all) = (self.b.ins().icmp_imm(IntCC::Equal, b, -1), self.b.ins().iconst(kind, -1));
        let unsure = if funct3 & 1 == 0 { self.b.ins().bor(zero, negated) } else { zero };
        let divisor = self.b.ins().select(unsure, one, b);
        match funct3 {
            4 => {
                let quotient = self.b.ins().sdiv(a, divisor);
                let minus = self.b.ins().ineg(a);
                let quotient = self.b.ins().select(negated, minus, quotient);
                self.b.ins().select(zero, all, quotient)
            }
            5 => {
                let quotient = self.b.ins().udiv(a, divisor);
                self.b.ins().select(zero, all, quotient)
            }
            6 => {
                let rest = self.b.ins().srem(a, divisor);
                self.b.ins().select(zero, a, rest)
            }
            _ => {
                let rest = self.b.ins().urem(a, divisor);
                self.b.ins().select(zero, a, rest)
            }
        }
    }

    /// Where in the host's memory an access goes; what is not found directly is the interpreter's.
    fn find(&mut self, place: usize, op: &Op, size: u64, slots: Value, state: &mut State) -> Value {
        let register = self.get(state, op.rs1);
        // Here and not on each way out: less code to be made, and values are needed for a shorter time.
        self.flush(state);
        let out = self.way_out(place, state);
        let [found, within] = [(); 2].map(|()| self.b.create_block());
        let address = self.b.ins().iadd_imm(register, i64::from(op.immediate));
        let index = self.b.ins().ushr_imm(address, 8);
        let index = self.b.ins().band_imm(index, 0xff0);
        let slot = self.b.ins().iadd(slots, index);
        let tag = self.b.ins().load(WORD, sure(), slot, 0);
        // The page of the last byte: an access that goes on in the next page finds nothing.
        let last = self.b.ins().iadd_imm(address, size as i64 - 1);
        let page = self.b.ins().band_imm(last, !0xfff);
        let hit = self.b.ins().icmp(IntCC::Equal, tag, page);
        self.b.ins().brif(hit, found, &[], out, &[]);
        self.b.switch_to_block(found);
        let addend = self.b.ins().load(WORD, sure(), slot, 8);
        let at = self.b.ins().iadd(address, addend);
        // Whatever the slot says, only RAM is touched: see `call`.
        let limit = self.b.ins().load(WORD, sure(), self.context, call::LIMIT);
        let beyond = self.b.ins().icmp(IntCC::UnsignedGreaterThan, at, limit);
        self.b.ins().brif(beyond, out, &[], within, &[]);
        self.b.switch_to_block(within);
        self.b.ins().iadd(self.ram, at)
    }

    fn load(&mut self, place: usize, op: &Op, state: &mut State) {
        let kind = op.kind.long();
        let size = match kind {
            Kind::Lb | Kind::Lbu => 1,
            Kind::Lh | Kind::Lhu => 2,
            Kind::Lw4 | Kind::Lwu => 4,
            _ => 8,
        };
        let at = self.find(place, op, size, self.loads, state);
        let flags = bytes();
        let value = match kind {
            Kind::Lb => self.b.ins().sload8(WORD, flags, at, 0),
            Kind::Lh => self.b.ins().sload16(WORD, flags, at, 0),
            Kind::Lw4 => self.b.ins().sload32(flags, at, 0),
            Kind::Lbu => self.b.ins().uload8(WORD, flags, at, 0),
            Kind::Lhu => self.b.ins().uload16(WORD, flags, at, 0),
            Kind::Lwu => self.b.ins().uload32(flags, at, 0),
            _ => self.b.ins().load(WORD, flags, at, 0),
        };
        Self::set(state, op.rd, value);
    }

    fn store(&mut self, place: usize, op: &Op, state: &mut State) {
        let kind = op.kind.long();
        let size = match kind {
            Kind::Sb => 1,
            Kind::Sh => 2,
            Kind::Sw4 => 4,
            _ => 8,
        };
        let value = self.get(state, op.rs2);
        let slots = self.b.ins().load(WORD, sure(), self.context, call::STORES);
        let at = self.find(place, op, size, slots, state);
        let flags = bytes();
        match kind {
            Kind::Sb => self.b.ins().istore8(flags, value, at, 0),
            Kind::Sh => self.b.ins().istore16(flags, value, at, 0),
            Kind::Sw4 => self.b.ins().istore32(flags, value, at, 0),
            _ => self.b.ins().store(flags, value, at, 0),
        };
    }
}

/// Bytes of RAM, wherever they are.
fn bytes() -> MemFlags {
    MemFlags::new().with_notrap().with_endianness(ir::Endianness::Little)
}
