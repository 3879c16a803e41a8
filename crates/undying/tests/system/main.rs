//! Whole-system tests: real agents, real QEMU, a real Redis, real clients over real TCP, real kills.

mod kit;
mod failover;

