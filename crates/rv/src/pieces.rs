//! Owns what the machine asks of a compiler: machine code for pieces of the guest's code that are executed often.
//!
//! The machine decides what is compiled and when code is forgotten; a compiler only translates, at once or beside the machine:
//! when code is there cannot be seen from inside either. What it makes cannot be
//! told apart from what the interpreter does: the same registers and memory after the same count of instructions. It leaves
//! to the interpreter whatever needs more than registers and RAM whose translation is known.

use crate::decode::Op;
use crate::tlb::{SLOTS, Slot};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Places of instructions in a page of 4 KiB: one for each half.
pub const PLACES: usize = 2048;

/// A page's decoded instructions by place, and what follows the last one.
pub type Ops = [Op; PLACES + 1];

/// What a piece works on.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The integer registers; the first stays 0.
    pub x: &'a mut [u64; 32],
    /// All of RAM.
    pub ram: &'a mut [u8],
    /// Where pages of RAM were found for fetches. A slot is an address's if its tag is the address of the page.
    pub fetches: &'a [Slot; SLOTS],
    /// The same for loads.
    pub loads: &'a [Slot; SLOTS],
    /// The same for stores.
    pub stores: &'a [Slot; SLOTS],
    /// The address of the next instruction.
    pub pc: u64,
    /// So many instructions may be carried out at most.
    pub left: u64,
}

/// An order for the code of what is executed from a place of a page of RAM on.
#[derive(Debug)]
pub struct Order {
    /// No other order of the machine has it.
    pub number: u64,
    /// The page of RAM.
    pub page: usize,
    /// The place in it.
    pub place: usize,
    /// The page's instructions, so far as they were decoded.
    pub ops: Box<Ops>,
    /// Places at which code begins already.
    pub entries: Vec<usize>,
}

/// An order that was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// Its number.
    pub number: u64,
    /// The page of RAM.
    pub page: usize,
}

/// Makes machine code of instructions, and runs it.
pub trait Compiler: Send {
    /// Takes an order; false if it has too many.
    fn order(&mut self, order: Order) -> bool;

    /// The next order that was carried out, if one was since the last call.
    fn made(&mut self) -> Option<Made>;

    /// Puts the code that [`Compiler::made`] told of last into its place; false if there is none.
    fn put(&mut self) -> bool;

    /// Runs the code for a place of a page, to which `pc` points, and what follows it as long as there is code for it.
    /// Gives the address of the next instruction and how many are left; all if the interpreter has to go on.
    fn run(&mut self, page: usize, place: usize, parts: Parts<'_>) -> (u64, u64);

    /// Forgets the code for a page's instructions: they were written to.
    fn forget(&mut self, page: usize);

    /// Whether so much code was made that all should be forgotten.
    fn is_full(&self) -> bool;

    /// Forgets all code.
    fn clear(&mut self);
}
