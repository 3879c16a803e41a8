//! The clock of a KVM virtual machine in another process.

use crate::target::{INTERRUPTED, Target};
use os::kvm_clock::{KvmClock, KvmClockError};

const SECOND: u64 = 1_000_000_000;

#[test]
fn the_clock_of_a_kvm_guest_is_read_and_moved_forward() {
    if let Err(error) = os::facts::kvm_opens() {
        return eprintln!("SKIPPED: /dev/kvm: {error}");
    }
    let mut target = Target::start("kvm");
    let clock = KvmClock::find(target.pid()).unwrap();
    let started = std::time::Instant::now();
    let before = clock.read().unwrap();
    assert!(clock.advance(1000 * SECOND).unwrap() >= before);
    let after = clock.read().unwrap();
    let real = u64::try_from(started.elapsed().as_nanos()).unwrap();
    assert!(after >= before + 1000 * SECOND, "{before} {after}");
    assert!(after <= before + 1000 * SECOND + 2 * real, "{before} {after} {real}");
    assert_eq!(target.ask("on"), "on");
    assert_eq!(target.counter(INTERRUPTED), 0);
}

#[test]
fn a_process_without_a_vm_has_no_guest_clock() {
    let target = Target::start("poll");
    assert!(matches!(KvmClock::find(target.pid()), Err(KvmClockError::NoVm { .. })));
}
