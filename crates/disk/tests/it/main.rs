//! Disks as their clients see them: programs of other authors, hostile ones, and many at once.

#![forbid(unsafe_code)]

mod client;
mod device;
mod foreign;
mod full;
mod hostile;
mod order;
mod qcow2;
mod qemu;
mod support;
