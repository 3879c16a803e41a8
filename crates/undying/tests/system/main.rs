//! Whole-system tests: real agents, real QEMU, real servers, real clients over real TCP, real kills.

mod arbiter;
mod backup;
mod busy;
mod counter;
mod disks;
mod failover;
mod frozen;
mod histories;
mod hostile;
mod kit;
mod lifecycle;
mod links;
mod planned;
mod postgres;
mod qcow2;
mod read_error;
mod reboot;
mod refusals;
mod repair;
mod resync;
mod several;
mod shapes;
mod slow;
mod slow_disk;
mod stream;
mod trusting;
