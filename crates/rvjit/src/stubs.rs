//! Owns the functions that every piece needs: the way in, the way back, and the way from one page to another.

use crate::call;
use cranelift_codegen::Context;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{AbiParam, InstBuilder, MemFlags, Signature, Type, Value, types};
use cranelift_codegen::isa::CallConv;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

pub(crate) const WORD: Type = types::I64;

/// What a piece is given, in this order: context, registers, RAM, slots for loads, program counter, instructions left.
pub(crate) const PARAMETERS: usize = 6;

/// Memory that is there, and aligned.
pub(crate) fn sure() -> MemFlags {
    MemFlags::trusted()
}

/// How a piece is called. It never returns to another piece: they jump.
pub(crate) fn piece() -> Signature {
    let mut signature = Signature::new(CallConv::Tail);
    signature.params = vec![AbiParam::new(WORD); PARAMETERS];
    signature
}

/// The function by which Rust enters a piece: context and piece.
pub(crate) fn enter(context: &mut Context, builder: &mut FunctionBuilderContext, convention: CallConv) {
    context.func.signature = Signature::new(convention);
    context.func.signature.params = vec![AbiParam::new(WORD); 2];
    let mut b = FunctionBuilder::new(&mut context.func, builder);
    let start = b.create_block();
    b.append_block_params_for_function_params(start);
    b.switch_to_block(start);
    let (context, piece_at) = (b.block_params(start)[0], b.block_params(start)[1]);
    let mut arguments = vec![context];
    for offset in [call::X, call::RAM, call::LOADS, call::PC, call::LEFT] {
        arguments.push(b.ins().load(WORD, sure(), context, offset));
    }
    let signature = b.import_signature(piece());
    b.ins().call_indirect(signature, piece_at, &arguments);
    b.ins().return_(&[]);
    b.seal_all_blocks();
    b.finalize();
}

/// The way back to Rust.
pub(crate) fn back(context: &mut Context, builder: &mut FunctionBuilderContext) {
    context.func.signature = piece();
    let mut b = FunctionBuilder::new(&mut context.func, builder);
    let start = b.create_block();
    b.append_block_params_for_function_params(start);
    b.switch_to_block(start);
    let (context, pc, left) = (b.block_params(start)[0], b.block_params(start)[4], b.block_params(start)[5]);
    b.ins().store(sure(), pc, context, call::PC);
    b.ins().store(sure(), left, context, call::LEFT);
    b.ins().return_(&[]);
    b.seal_all_blocks();
    b.finalize();
}

/// Goes to the piece at the program counter, whose page has to be found first; back if there is none.
pub(crate) fn dispatch(context: &mut Context, builder: &mut FunctionBuilderContext, back: usize) {
    context.func.signature = piece();
    let mut b = FunctionBuilder::new(&mut context.func, builder);
    let start = b.create_block();
    b.append_block_params_for_function_params(start);
    b.switch_to_block(start);
    let arguments: Vec<Value> = b.block_params(start).to_vec();
    let (context, pc) = (arguments[0], arguments[4]);
    let [found, there, away] = [(); 3].map(|()| b.create_block());
    b.set_cold_block(away);
    let fetches = b.ins().load(WORD, sure(), context, call::FETCHES);
    let index = b.ins().ushr_imm(pc, 8);
    let index = b.ins().band_imm(index, 0xff0);
    let slot = b.ins().iadd(fetches, index);
    let tag = b.ins().load(WORD, sure(), slot, 0);
    let page = b.ins().band_imm(pc, !0xfff);
    let hit = b.ins().icmp(IntCC::Equal, tag, page);
    b.ins().brif(hit, found, &[], away, &[]);
    b.switch_to_block(found);
    let addend = b.ins().load(WORD, sure(), slot, 8);
    let at = b.ins().iadd(pc, addend);
    let number = b.ins().ushr_imm(at, 12);
    let pages = b.ins().load(WORD, sure(), context, call::PAGES);
    let known = b.ins().icmp(IntCC::UnsignedLessThan, number, pages);
    b.ins().brif(known, there, &[], away, &[]);
    b.switch_to_block(there);
    let tables = b.ins().load(WORD, sure(), context, call::TABLES);
    let offset = b.ins().ishl_imm(number, 3);
    let table = b.ins().iadd(tables, offset);
    let entries = b.ins().load(WORD, sure(), table, 0);
    let within = b.ins().band_imm(pc, 0xffe);
    let within = b.ins().ishl_imm(within, 2);
    let entry = b.ins().iadd(entries, within);
    let piece_at = b.ins().load(WORD, sure(), entry, 0);
    let signature = b.import_signature(piece());
    b.ins().return_call_indirect(signature, piece_at, &arguments);
    b.switch_to_block(away);
    let back = b.ins().iconst(WORD, back as i64);
    b.ins().return_call_indirect(signature, back, &arguments);
    b.seal_all_blocks();
    b.finalize();
}
