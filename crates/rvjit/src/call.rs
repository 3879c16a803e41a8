//! Owns calling the machine code that [`emit`](crate::emit) made: the only unsafe code outside `os`.
//!
//! That a call is sound is a property of the code that is called, so it is argued where that code is made. What
//! [`stubs`](crate::stubs) and [`emit`](crate::emit) make
//! - reads and writes the context, and the 32 registers by constant offsets;
//! - reads slots by an index of eight bits into 256 slots;
//! - reads and writes RAM at a place that it compared with `limit` before, at most 8 bytes from there on, whatever the slots say;
//! - reads a table by a page that it compared with `pages` before, and by a place of eleven bits into 2,048 entries, all of
//!   which hold the address of a function with the convention of pieces;
//! - jumps to such functions only, which stay where they are until [`free`], and comes back to the caller in the end, since each
//!   piece counts down what is left.

#![allow(unsafe_code)]

use crate::code::Code;
use crate::tables::Tables;
use cranelift_jit::JITModule;
use rv::{Parts, Slot};

/// What pieces find by one pointer. [`emit`](crate::emit) knows the offsets.
#[repr(C)]
pub(crate) struct Context {
    x: *mut u64,
    ram: *mut u8,
    loads: *const Slot,
    stores: *const Slot,
    fetches: *const Slot,
    tables: *const usize,
    pages: u64,
    /// No access of 8 bytes may begin behind this place of RAM.
    limit: u64,
    pc: u64,
    left: i64,
}

pub(crate) const X: i32 = 0;
pub(crate) const RAM: i32 = 8;
pub(crate) const LOADS: i32 = 16;
pub(crate) const STORES: i32 = 24;
pub(crate) const FETCHES: i32 = 32;
pub(crate) const TABLES: i32 = 40;
pub(crate) const PAGES: i32 = 48;
pub(crate) const LIMIT: i32 = 56;
pub(crate) const PC: i32 = 64;
pub(crate) const LEFT: i32 = 72;

const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(Context, x) == X as usize && offset_of!(Context, ram) == RAM as usize);
    assert!(offset_of!(Context, loads) == LOADS as usize && offset_of!(Context, stores) == STORES as usize);
    assert!(
        offset_of!(Context, fetches) == FETCHES as usize && offset_of!(Context, tables) == TABLES as usize
    );
    assert!(offset_of!(Context, pages) == PAGES as usize && offset_of!(Context, limit) == LIMIT as usize);
    assert!(offset_of!(Context, pc) == PC as usize && offset_of!(Context, left) == LEFT as usize);
    assert!(offset_of!(Slot, tag) == 0 && offset_of!(Slot, addend) == 8 && size_of::<Slot>() == 16);
};

/// The function that enters a piece: context, piece.
type Enter = unsafe extern "C" fn(*mut Context, usize);

/// Runs machine code. Gives the address of the next instruction, and how many are left.
pub(crate) fn run(code: &Code, tables: &Tables, piece: usize, parts: Parts<'_>) -> Option<(u64, u64)> {
    let left = i64::try_from(parts.left).unwrap_or(i64::MAX);
    let mut context = Context {
        x: parts.x.as_mut_ptr(),
        ram: parts.ram.as_mut_ptr(),
        loads: parts.loads.as_ptr(),
        stores: parts.stores.as_ptr(),
        fetches: parts.fetches.as_ptr(),
        tables: tables.pages().as_ptr(),
        pages: tables.pages().len() as u64,
        limit: parts.ram.len().checked_sub(8)? as u64,
        pc: parts.pc,
        left,
    };
    let enter = std::ptr::with_exposed_provenance::<()>(code.enter());
    // SAFETY: `Code` made this function with this signature, and it stays as long as `code` is borrowed.
    let enter = unsafe { std::mem::transmute::<*const (), Enter>(enter) };
    // SAFETY: all pointers of the context come from borrows that last until the end of this function, RAM has 8 bytes behind
    // `limit`, `tables` as many words as `pages` says, each the address of a table that `tables` holds, and `piece` is the address
    // of a piece of `code`. What the code does with them stands above.
    unsafe { enter(&raw mut context, piece) };
    let done = left - context.left;
    Some((context.pc, parts.left - done as u64))
}

/// Gives the memory of machine code back, for [`Code::free`], which owns it: nobody can enter it any more.
pub(crate) fn free(module: JITModule) {
    // SAFETY: the addresses in tables are used by `run` only, which needs the `Code` that held this module.
    unsafe { module.free_memory() }
}
