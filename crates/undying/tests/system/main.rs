//! Whole-system tests: real agents, real QEMU, a real Redis, real clients over real TCP, real kills.

mod arbiter;
mod backup;
mod counter;
mod disks;
mod failover;
mod frozen;
mod hostile;
mod kit;
mod lifecycle;
mod links;
mod planned;
mod reboot;
mod refusals;
mod several;
mod shapes;
mod slow;
mod stream;
