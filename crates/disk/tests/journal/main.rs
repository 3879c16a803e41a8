//! The disk journal against crashes, by an oracle that knows nothing of its format.

mod files;
mod model;
mod random;
mod rot;
mod storage;
mod truncated;
mod usage;
