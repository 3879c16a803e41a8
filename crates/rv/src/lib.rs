//! The deterministic machine: a RISC-V computer whose state is a function of its inputs.
//!
//! No clock, no randomness, no host floating point, no threads, no files and no `unsafe`: `no_std` keeps the
//! compiler's eye on it.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod float;
