//! What the arbiters' tests share. Each test program uses a part of it.
#![allow(dead_code)]

pub mod claimants;
pub mod etcd;
pub mod faults;
pub mod place;
pub mod relay;
pub mod trusting;

use protocol::{Claim, HostName, Term, VmName};
use std::path::Path;
use std::time::{Duration, Instant};

pub fn vm(name: &str) -> VmName {
    VmName::new(name).unwrap()
}

pub fn host(name: &str) -> HostName {
    HostName::new(name).unwrap()
}

pub fn claim(of: &str, term: u64, by: &str, nonce: u64) -> Claim {
    Claim { vm: vm(of), term: Term(term), host: host(by), nonce }
}

/// Copies a directory with all that is in it, as a backup would.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Far longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until it is so.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
