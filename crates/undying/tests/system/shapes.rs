//! Failovers of guests of other shapes.

use crate::kit::{Setup, possible, possible_in_qemu};
use lab::plain::Machine;

/// A failover by the death of the primary's host.
fn fails_over(setup: Setup) {
    let loaded = setup.start();
    loaded.fails_over("alpha", "beta");
    loaded.verdict();
}

#[test]
fn over_ipv6() {
    if possible() {
        fails_over(Setup::new("ipv6").over_ipv6());
    }
}

#[test]
fn a_lean_machine() {
    if possible_in_qemu("such machine") {
        fails_over(Setup::new("lean").lean());
    }
}

#[test]
fn a_microvm() {
    if possible_in_qemu("such machine") {
        fails_over(Setup::new("micro").shape(|shape| shape.machine = Machine::Microvm));
    }
}

#[test]
fn a_legacy_virtio_card() {
    if possible_in_qemu("such machine") {
        fails_over(Setup::new("legacy").shape(|shape| shape.nic = Some("virtio-legacy")));
    }
}

#[test]
fn two_processors_both_busy() {
    if !possible_in_qemu("second processor") {
        return;
    }
    let loaded = Setup::new("smp").shape(|shape| shape.cpus = 2).start();
    let counted = |mut pulse: lab::guest::pulse::PulseClient| pulse.stats().expect("statistics").iterations;
    // A busy loop on one processor, Redis and the network on the other.
    loaded.pulse(|mut pulse| pulse.count(true)).expect("an order");
    loaded.progress();
    loaded.fails_over("alpha", "beta");
    let before = loaded.pulse(counted);
    loaded.progress();
    assert!(loaded.pulse(counted) > before, "the other processor counts on");
    loaded.verdict();
}
