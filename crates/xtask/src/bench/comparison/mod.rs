//! Owns `cargo xtask bench comparison`: what the other benchmarks leave open of the evaluation. A guest that writes memory as
//! fast as it can, by interval; QEMU's COLO; and checkpoints with parts left out.

pub mod ablation;
pub mod colo;
pub mod writing;
