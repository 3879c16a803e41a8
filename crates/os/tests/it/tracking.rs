//! The tracker's life: attaching, detaching, targets that die or change under it.

use crate::target::{QUIET, Target, all_cold};
use os::process_memory::ProcessMemory;
use os::{Memory, PAGE_SIZE, Range, Tracker, TrackerError};

const PAGES: u64 = 64;

/// A quiet target with some shared memory.
fn quiet() -> (Target, ProcessMemory, Range) {
    let shared = Memory::create("quiet-shared", PAGES * PAGE_SIZE).unwrap();
    let target = Target::start_with("write", QUIET, Some(&shared));
    let memory = ProcessMemory::open(target.pid()).unwrap();
    let range = target.mapping_of("quiet-shared");
    (target, memory, range)
}

fn scanned(tracker: &mut Tracker) -> Vec<Range> {
    let mut dirty = Vec::new();
    tracker.scan_paused(&mut dirty).unwrap();
    dirty
}

fn page(range: Range, number: u64) -> Range {
    Range::new(range.start + number * PAGE_SIZE, PAGE_SIZE)
}

#[test]
fn nothing_of_ours_stays_in_the_target() {
    let (target, _, range) = quiet();
    let before = target.descriptors();
    let tracker = Tracker::attach(target.pid(), &[range]).unwrap();
    assert_eq!(target.descriptors(), before);
    drop(tracker);
    assert_eq!(target.descriptors(), before);
}

#[test]
fn a_second_tracker_works_after_the_first_is_dropped_and_not_before() {
    let (target, memory, range) = quiet();
    for round in 0..3 {
        let mut tracker = Tracker::attach(target.pid(), &[range]).unwrap();
        let second = Tracker::attach(target.pid(), &[range]);
        assert!(matches!(second, Err(TrackerError::Busy { .. })), "{second:?}");
        memory.write(range.start + round * PAGE_SIZE, b"x").unwrap();
        assert_eq!(scanned(&mut tracker), [page(range, round)]);
    }
}

#[test]
fn tracking_ends_when_the_tracking_process_is_killed() {
    let (target, memory, range) = quiet();
    let argument = format!("{} {} {}", target.pid(), range.start, range.len);
    let mut agent = Target::start_with("agent", &argument, None);
    assert_eq!(agent.greeting, "tracking");
    assert!(matches!(Tracker::attach(target.pid(), &[range]), Err(TrackerError::Busy { .. })));
    // A stopped agent lifts no protection: who writes to cold memory waits until it is killed.
    agent.child.pidfd().send_signal(rustix::process::Signal::STOP).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| memory.write(range.start + PAGE_SIZE, b"x").unwrap());
        agent.child.kill().unwrap();
        agent.child.wait(None).unwrap();
    });
    let mut tracker = Tracker::attach(target.pid(), &[range]).unwrap();
    memory.write(range.start, b"x").unwrap();
    assert_eq!(scanned(&mut tracker), [page(range, 0)]);
}

#[test]
fn a_scan_of_a_dead_target_is_an_error_and_not_an_empty_list() {
    for reaped in [false, true] {
        let (mut target, _, range) = quiet();
        let mut tracker = Tracker::attach(target.pid(), &[range]).unwrap();
        target.child.kill().unwrap();
        if reaped {
            target.child.wait(None).unwrap();
        } else {
            assert!(target.child.pidfd().wait_dead(None));
        }
        let mut dirty = Vec::new();
        assert!(matches!(tracker.scan_paused(&mut dirty), Err(TrackerError::Gone { .. })));
        assert!(matches!(tracker.scan_live(&mut dirty), Err(TrackerError::Gone { .. })));
        assert!(tracker.present(&[range]).is_err());
        assert!(matches!(Tracker::attach(target.pid(), &[range]), Err(TrackerError::Gone { .. })));
    }
}

/// A tracker whose target's memory is all cold.
fn cold(target: &Target, range: Range) -> Option<Tracker> {
    let tracker = all_cold(target.pid(), range);
    if !tracker.cools() {
        eprintln!("SKIPPED: a userfaultfd that tells of writes is not allowed here");
    }
    tracker.cools().then_some(tracker)
}

#[test]
fn writes_to_cold_memory_are_found_once_and_given_back_like_others() {
    let (target, memory, range) = quiet();
    let Some(mut tracker) = cold(&target, range) else { return };
    for written in [3, 4] {
        memory.write(page(range, written).start, b"x").unwrap();
        memory.write(page(range, written).start, b"y").unwrap();
        let dirty = scanned(&mut tracker);
        assert_eq!(dirty, [page(range, written)]);
        assert_eq!(scanned(&mut tracker), []);
        tracker.give_back(&dirty);
        assert_eq!(scanned(&mut tracker), dirty);
    }
    drop(tracker);
    assert_eq!(scanned(&mut Tracker::attach(target.pid(), &[range]).unwrap()), []);
    memory.write(range.start, b"nobody watches").unwrap();
}

#[test]
fn a_scan_of_a_dead_target_with_cold_memory_is_an_error() {
    let (mut target, _, range) = quiet();
    let Some(mut tracker) = cold(&target, range) else { return };
    target.child.kill().unwrap();
    target.child.wait(None).unwrap();
    let mut dirty = Vec::new();
    assert!(matches!(tracker.scan_paused(&mut dirty), Err(TrackerError::Gone { .. })));
    assert!(matches!(tracker.scan_live(&mut dirty), Err(TrackerError::Gone { .. })));
}

#[test]
fn cold_memory_that_the_target_maps_anew_is_noticed() {
    let (mut target, memory, range) = quiet();
    let Some(mut tracker) = cold(&target, range) else { return };
    let gone = page(range, 32);
    target.ask(&format!("remap {} {}", gone.start, gone.len));
    memory.write(gone.start, b"x").unwrap();
    for _ in 0..2 {
        let result = tracker.scan_live(&mut Vec::new());
        assert!(matches!(result, Err(TrackerError::Lost { range, .. }) if range == gone), "{result:?}");
    }
}

#[test]
fn memory_that_the_target_maps_anew_is_noticed() {
    let (mut target, memory, range) = quiet();
    let mut tracker = Tracker::attach(target.pid(), &[range]).unwrap();
    memory.write(range.start, b"x").unwrap();
    let gone = page(range, 32);
    target.ask(&format!("remap {} {}", gone.start, gone.len));
    let mut dirty = Vec::new();
    for _ in 0..2 {
        let result = tracker.scan_live(&mut dirty);
        assert!(matches!(result, Err(TrackerError::Lost { .. })), "{result:?}");
        assert_eq!(dirty, []);
    }
}

#[test]
fn ranges_that_are_not_mapped_pages_are_refused() {
    let (target, _, range) = quiet();
    let bad = [
        Range::new(range.start + 1, PAGE_SIZE),
        Range::new(range.start, 0),
        Range::new(range.start, PAGE_SIZE + 1),
        Range::new(0x1000, PAGE_SIZE),
    ];
    for bad in bad {
        let result = Tracker::attach(target.pid(), &[range, bad]);
        assert!(matches!(result, Err(TrackerError::BadRange { .. })), "{bad:?} {result:?}");
    }
}

#[test]
fn present_pages_are_those_that_the_target_has() {
    let (target, memory, _) = quiet();
    let private = Range::new(target.greeting.parse().unwrap(), 64 * PAGE_SIZE);
    for number in [3, 4, 40] {
        memory.write(page(private, number).start, b"x").unwrap();
    }
    let mut tracker = Tracker::attach(target.pid(), &[private]).unwrap();
    let expected = [Range::new(page(private, 3).start, 2 * PAGE_SIZE), page(private, 40)];
    assert_eq!(tracker.present(&[private]).unwrap(), expected);
    // Read, but never written: it stays the shared zero page.
    memory.read(page(private, 10).start, &mut [0]).unwrap();
    assert_eq!(tracker.present(&[private]).unwrap(), expected);
}

/// More ranges than fit one call, and than the kernel gathers at a time, come out complete and in order.
/// Pages that are left open are neither returned nor protected, so that what is written to them comes once they are not left out.
#[test]
fn what_is_left_open_costs_no_fault_and_is_returned_afterwards() {
    let (target, memory, range) = quiet();
    let mut tracker = Tracker::attach(target.pid(), &[range]).unwrap();
    let write = |number: u64| memory.write(range.start + number * PAGE_SIZE, b"x").unwrap();
    let open = [page(range, 3), Range::new(range.start + 10 * PAGE_SIZE, 2 * PAGE_SIZE)];
    let but = |tracker: &mut Tracker| {
        let mut dirty = Vec::new();
        tracker.scan_but(&open, &mut dirty).unwrap();
        dirty
    };
    for round in 0..3 {
        [2, 3, 4, 11].into_iter().for_each(write);
        assert_eq!(but(&mut tracker), [page(range, 2), page(range, 4)], "round {round}");
        assert_eq!(but(&mut tracker), [], "round {round}: nothing was written");
    }
    tracker.give_back(&[page(range, 10)]);
    assert_eq!(but(&mut tracker), [page(range, 10)], "what is owed comes all the same");
    assert_eq!(scanned(&mut tracker), [page(range, 3), page(range, 11)]);
    assert_eq!(scanned(&mut tracker), []);
}

#[test]
fn very_many_ranges_are_all_returned() {
    for pages in [1500, 12_000] {
        let shared = Memory::create("quiet-shared", pages * PAGE_SIZE).unwrap();
        let target = Target::start_with("write", QUIET, Some(&shared));
        let memory = ProcessMemory::open(target.pid()).unwrap();
        let range = target.mapping_of("quiet-shared");
        let mut tracker = Tracker::attach(target.pid(), &[range]).unwrap();
        let every_second: Vec<Range> = (0..pages / 2).map(|n| page(range, 2 * n)).collect();
        let mut dirty = Vec::new();
        for scan in [Tracker::scan_paused, Tracker::scan_live] {
            every_second.iter().for_each(|page| memory.write(page.start, b"x").unwrap());
            scan(&mut tracker, &mut dirty).unwrap();
            assert_eq!(dirty, every_second);
        }
    }
}
