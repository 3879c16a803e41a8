//! Owns bounds that several tests take.

use model::{Begin, Bounds};

/// A change of backup. There are three hosts: a step, a wait and a sleep less keep the states few.
pub fn changing(depth: usize, faults: u8, commands: u8) -> Bounds {
    let begin = Begin::Change;
    Bounds { depth, faults, commands, steps: 1, waits: 1, sleeps: 1, begin, ..Bounds::default() }
}
