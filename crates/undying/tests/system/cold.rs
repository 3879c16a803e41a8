//! Cold memory: what a guest writes to memory that it had not written for long is at the backup like all else.

use crate::kit::{Guest, Setup, look, possible_in_qemu, wait_for};
use os::process_memory::mappings;
use std::time::Duration;

/// From a GiB on memory cools.
const MEMORY_MIB: u32 = 1_280;
/// What the guest fills before it is protected, pages: they cool.
const PAGES: u64 = 100_000;
/// What it writes of it again.
const AGAIN: u64 = 20_000;
/// Once the first of them is cold the others follow, 2 MiB in 11 ms.
const ALL_COOL: Duration = Duration::from_secs(8);

/// Waits until most of the guest's memory at `host` is cold: it has another watch, and so is another mapping of its QEMU.
fn cools(guest: &Guest, host: &str) {
    let pid = guest.status(host).pid.expect("its QEMU has a number");
    let pieces = || {
        let all = mappings(pid).expect("its mappings");
        let largest = all.iter().filter(|mapping| mapping.shared).max_by_key(|mapping| mapping.range.len);
        let inode = largest.expect("its RAM").inode;
        (all.iter().filter(|mapping| mapping.inode == inode).count() > 1).then_some(())
    };
    wait_for("memory that is cold", pieces, || look::logs(&guest.cluster));
    std::thread::sleep(ALL_COOL);
}

#[test]
fn what_a_guest_writes_to_cold_memory_is_there_after_each_failover() {
    if !possible_in_qemu("pulse program") {
        return;
    }
    let guest = Setup::new("cold").shape(|shape| shape.memory_mib = MEMORY_MIB).boot();
    guest.fills(PAGES, "full", PAGES);
    guest.pulse(|mut pulse| pulse.stop()).expect("an order");
    guest.protect("alpha", "beta");
    let loaded = guest.load("cold");
    for (dies, survivor) in [("alpha", "beta"), ("beta", "alpha")] {
        cools(&loaded, dies);
        loaded.progress();
        loaded.fills(PAGES, "5000", AGAIN);
        // The answer leaves when the epoch that holds it is committed.
        loaded.pulse(|mut pulse| pulse.stop()).expect("an order");
        loaded.fails_over(dies, survivor);
        let whole = loaded.pulse(|mut pulse| pulse.check()).expect("its memory is whole");
        assert!(whole >= AGAIN, "{whole} pages");
        if survivor == "beta" {
            loaded.cluster.revive(dies).expect("it comes back");
            loaded.protect(survivor, dies);
        }
    }
    loaded.verdict();
}
