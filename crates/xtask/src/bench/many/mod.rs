//! Owns the benchmark of one backup that stands by for many primaries: what each VM costs it, what a first copy does to
//! others, and how it is when all primaries die at once.

pub mod fleet;
pub mod greedy;
pub mod number;
pub mod refusal;
