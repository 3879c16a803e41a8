//! Owns machine code for the deterministic machine's hot instructions, made by cranelift from decoded pages.

#![deny(unsafe_code)]

mod call;
mod code;
mod emit;
mod maker;
mod piece;
mod region;
mod stubs;
mod tables;
mod worker;

pub use piece::{Pieces, Unsupported};
