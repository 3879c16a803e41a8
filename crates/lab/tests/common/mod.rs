//! What the tests of this crate need, and saying loudly when it is not there.
#![allow(dead_code, unused_imports, reason = "each test binary uses some of it")]

/// Whether this is root with all programs; says what is missing if not.
pub fn root_and_programs() -> bool {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: network namespaces need root");
        return false;
    }
    let missing = lab::packages::missing();
    if !missing.is_empty() {
        eprintln!("SKIPPED: these packages are missing:\n{}", lab::packages::explain(&missing));
        return false;
    }
    true
}

/// Whether KVM can be used; says so if not.
pub fn kvm() -> bool {
    let opens = std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    if !opens {
        eprintln!("SKIPPED: /dev/kvm does not open");
    }
    opens
}

mod sample;
pub use sample::sample_report;
