//! The tracker against an oracle: after each epoch all of the guest's memory is compared with a copy of it from
//! the epoch before, and every page that differs must be among those that the tracker found.

mod common;

use common::{Bench, KVM, Setting, TCG, drain, lines, read_until};
use os::tracker::Cooling;
use os::{Memory, Range, Tracker};
use qemu::Channels;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const EPOCHS: usize = 60;

/// All pages that exist, by their place in main memory. Holes are not read: reading would fill them.
fn snapshot(memory: &Memory) -> BTreeMap<u64, Vec<u8>> {
    let ranges: Vec<Range> = memory.populated().collect::<Result<_, _>>().unwrap();
    let page = |offset| {
        let mut bytes = vec![0; 4096];
        memory.read_at(offset, &mut bytes);
        (offset, bytes)
    };
    ranges.iter().flat_map(Range::pages).map(page).collect()
}

/// Pages that differ; a page that did not exist before was zero.
fn changed(before: &BTreeMap<u64, Vec<u8>>, after: &BTreeMap<u64, Vec<u8>>) -> BTreeSet<u64> {
    let zero = vec![0; 4096];
    after.iter().filter(|(at, bytes)| before.get(at).unwrap_or(&zero) != *bytes).map(|(at, _)| *at).collect()
}

fn nothing_is_missed(setting: Setting<'_>) {
    check(setting, Cooling::default());
}

/// The same, with regions that go from one watch to the other while the guest runs.
fn nothing_is_missed_while_memory_cools(setting: Setting<'_>) {
    check(setting, Cooling { from: 0, after: Duration::ZERO, most_told: 4 });
}

fn check(setting: Setting<'_>, cooling: Cooling) {
    let Some(bench) = Bench::new(setting) else { return };
    let (qemu, Channels { console, .. }) = bench.primary();
    let mut tracker = Tracker::attach_cooling(qemu.pid(), &qemu.ram().tracked_ranges(), cooling).unwrap();
    let mut moved = 0;
    let mut before = snapshot(qemu.memory());
    qemu.cont().unwrap();
    let mut printed = Vec::new();
    let (mut written, mut reported, mut areas) = (0, 0, BTreeSet::new());
    for epoch in 0..EPOCHS {
        let more = lines(&printed) + 1 + epoch % 7;
        read_until(&console, &mut printed, |out| lines(out) >= more);
        qemu.stop().unwrap();
        let mut dirty = Vec::new();
        tracker.scan_paused(&mut dirty).unwrap();
        let place = |address| qemu.ram().locate(address).unwrap();
        let found: BTreeSet<u64> = dirty.iter().flat_map(Range::pages).map(|a| place(a).offset).collect();
        let after = snapshot(qemu.memory());
        let changed = changed(&before, &after);
        let missed: Vec<_> = changed.difference(&found).collect();
        assert!(missed.is_empty(), "epoch {epoch}: {missed:x?} changed and were not found");
        written += changed.len();
        reported += found.len();
        areas.extend(changed.iter().map(|at| at >> 20));
        before = after;
        drain(&console, &mut printed);
        qemu.cont().unwrap();
        moved += (0..8).filter(|_| tracker.settle().unwrap()).count();
    }
    // The guest wrote in the area of each of its processors, and the tracker did not simply report everything.
    for cpu in 0..u64::from(setting.cpus) {
        assert!(areas.contains(&(2 + cpu)), "processor {cpu} wrote nothing: {areas:?}");
    }
    assert!(written >= EPOCHS, "only {written} pages were written");
    assert_eq!(moved > 0, tracker.cools(), "{moved} moves");
    assert!(reported < EPOCHS * before.len(), "{reported} pages reported in {EPOCHS} epochs");
    eprintln!(
        "{setting:?}: {EPOCHS} epochs, {written} pages changed, {reported} found, 0 missed; {moved} moves between watches tried"
    );
}

#[test]
fn tcg() {
    nothing_is_missed(TCG);
}

#[test]
fn tcg_two_processors() {
    nothing_is_missed(Setting { cpus: 2, ..TCG });
}

#[test]
fn kvm() {
    nothing_is_missed(KVM);
}

#[test]
fn kvm_two_processors() {
    nothing_is_missed(Setting { machine: "microvm", cpus: 2, ..KVM });
}

#[test]
fn tcg_while_memory_cools() {
    nothing_is_missed_while_memory_cools(TCG);
}

#[test]
fn kvm_while_memory_cools() {
    nothing_is_missed_while_memory_cools(KVM);
}

#[test]
fn kvm_two_processors_while_memory_cools() {
    nothing_is_missed_while_memory_cools(Setting { machine: "microvm", cpus: 2, ..KVM });
}
