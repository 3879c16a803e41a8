//! Owns what the whole-system tests share.
//!
//! | module | owns |
//! |---|---|
//! | [`loaded`] | a cluster with a protected Redis under load |
//! | [`load`] | clients that write, and their verdict |
//! | [`process`] | a process that is to die, or to be gone |
//! | [`look`] | what agents say: who owns a VM, events, logs |
//! | [`proxy`] | a replication link that damages, delays or throttles |
//! | [`capture`] | what leaves a host |
//! | [`medium`] | a disk that is slow |

pub mod capture;
pub mod load;
pub mod loaded;
pub mod look;
pub mod medium;
pub mod process;
pub mod proxy;

pub use loaded::{Guest, Loaded, Setup};

use std::path::Path;
use std::time::{Duration, Instant};

/// The checkpoint interval of these tests.
pub const INTERVAL: Duration = Duration::from_millis(25);
/// Far longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Whether real clusters can be made here; says loudly why not.
pub fn possible() -> bool {
    let missing: Vec<_> = lab::packages::missing().iter().map(|package| package.name).collect();
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: whole-system tests need root");
        return false;
    }
    if !missing.is_empty() {
        eprintln!("SKIPPED: whole-system tests need the Debian packages {}", missing.join(" "));
        return false;
    }
    true
}

/// Whether the usual guest of all tests runs in the deterministic machine: `UNDYING_MACHINE=rv` says so.
pub fn on_the_deterministic_machine() -> bool {
    match std::env::var("UNDYING_MACHINE").as_deref() {
        Err(_) | Ok("qemu") => false,
        Ok("rv") => true,
        Ok(other) => panic!("UNDYING_MACHINE is qemu or rv, not {other:?}"),
    }
}

/// As [`possible`], for a test that wants of its guest what only one in QEMU has: `what`.
pub fn possible_in_qemu(what: &str) -> bool {
    if on_the_deterministic_machine() {
        eprintln!("SKIPPED: the deterministic machine's guest has no {what}");
        return false;
    }
    possible()
}

/// The program under test.
pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_undying"))
}

/// Looks again and again until `look` finds something; fails with what `last` says after [`PATIENCE`].
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>, last: impl FnOnce() -> String) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "{what} did not happen within {PATIENCE:?}\n{}", last());
        std::thread::sleep(Duration::from_millis(10));
    }
}
