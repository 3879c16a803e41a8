//! The disk journal, and the difference map, against crashes, by oracles that know nothing of their formats.

mod differences;
mod files;
mod model;
mod random;
mod rot;
mod storage;
mod truncated;
mod usage;
