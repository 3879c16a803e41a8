//! Tests of the gate from outside.

mod announce;
mod bench;
mod gate;
mod model;
mod tap;
