//! Tests of crate `os` against other, real processes.
//!
//! The processes are this very program, started again as a *target* (see `target`): it does one thing on its main
//! thread, such as waiting in `ppoll`, which a test harness would not leave free.

mod guest_clock;
mod injection;
mod measure;
mod network;
mod oracle;
mod processes;
mod target;
mod tracking;
