//! The tracker against an oracle: after each scan, whatever differs from the last copy must have been returned.

use crate::target::{PRIVATE_PAGES, Random, SHARED_NAME, SLOW, Target};
use os::process_memory::ProcessMemory;
use os::range::normalize;
use os::tracker::Cooling;
use os::{Memory, PAGE_SIZE, Range, Tracker};
use std::collections::BTreeSet;
use std::time::Duration;

const SHARED_PAGES: u64 = 4096;
const PAGE: usize = PAGE_SIZE as usize;

/// A target that writes, a tracker on it, and a copy of its memory that is kept up by what the scans return alone.
struct Oracle {
    target: Target,
    tracker: Tracker,
    memory: ProcessMemory,
    shared: Memory,
    ranges: [Range; 2],
    copy: Vec<u8>,
    random: Random,
}

impl Oracle {
    fn new(seed: u64) -> Self {
        Self::cooling(seed, "", Cooling::default())
    }

    fn cooling(seed: u64, pace: &str, cooling: Cooling) -> Self {
        let shared = Memory::create(SHARED_NAME, SHARED_PAGES * PAGE_SIZE).unwrap();
        let target = Target::start_with("write", pace, Some(&shared));
        let private = Range::new(target.greeting.parse().unwrap(), PRIVATE_PAGES * PAGE_SIZE);
        let ranges = [target.mapping_of(SHARED_NAME), private];
        let tracker = Tracker::attach_cooling(target.pid(), &ranges, cooling).unwrap();
        let memory = ProcessMemory::open(target.pid()).unwrap();
        let copy = vec![0; (SHARED_PAGES + PRIVATE_PAGES) as usize * PAGE];
        let mut oracle = Self { target, tracker, memory, shared, ranges, copy, random: Random(seed) };
        oracle.target.pause();
        oracle.copy = oracle.truth();
        oracle.target.resume();
        oracle
    }

    /// All its memory as it is. Holes of the shared part are not touched: so later writes meet them as holes.
    fn truth(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.copy.len()];
        for range in self.shared.populated() {
            let range = range.unwrap();
            let part = &mut bytes[range.start as usize..range.end() as usize];
            self.shared.read_at(range.start, part);
        }
        let part = &mut bytes[self.ranges[0].len as usize..];
        self.memory.read(self.ranges[1].start, part).unwrap();
        bytes
    }

    /// Index of a page in the copy.
    fn index(&self, address: u64) -> usize {
        let [shared, private] = self.ranges;
        let offset = if shared.contains(address) {
            address - shared.start
        } else {
            shared.len + address - private.start
        };
        (offset / PAGE_SIZE) as usize
    }

    fn indices(&self, dirty: &[Range]) -> BTreeSet<usize> {
        dirty.iter().flat_map(Range::pages).map(|address| self.index(address)).collect()
    }

    fn run_for(&mut self, most_writes: u64) {
        let until = self.target.writes() + self.random.below(most_writes);
        while self.target.writes() < until {
            std::thread::yield_now();
        }
    }

    fn scan(&mut self, two_steps: bool) -> Vec<Range> {
        let mut dirty = Vec::new();
        let scan = if two_steps { Tracker::scan_paused } else { Tracker::scan_live };
        scan(&mut self.tracker, &mut dirty).unwrap();
        dirty
    }

    /// Stops the target, and lets it go on when a scan was found to be exact.
    fn epoch(&mut self, two_steps: bool) {
        self.target.pause();
        let dirty = self.scan(two_steps);
        let dirty = self.indices(&dirty);
        self.check(&dirty);
        // So a scan that returns everything would not pass.
        assert_eq!(self.scan(two_steps), [], "nothing is written while it is paused");
        self.target.resume();
    }

    /// Asserts that `dirty` has every page that differs from the copy, then brings the copy up to date.
    fn check(&mut self, dirty: &BTreeSet<usize>) {
        let truth = self.truth();
        let pages = truth.chunks(PAGE).zip(self.copy.chunks(PAGE)).enumerate();
        let differ: Vec<usize> =
            pages.filter(|(_, (now, copy))| now != copy).map(|(index, _)| index).collect();
        let missed: Vec<&usize> = differ.iter().filter(|index| !dirty.contains(index)).collect();
        assert!(missed.is_empty(), "{} of {} changed pages missed: {missed:?}", missed.len(), differ.len());
        self.copy = truth;
    }
}

fn run_epochs(two_steps: bool, seed: u64) {
    let mut oracle = Oracle::new(seed);
    for _ in 0..80 {
        oracle.run_for(2000);
        oracle.epoch(two_steps);
    }
}

#[test]
fn no_changed_page_is_missed_by_scans_in_two_steps() {
    run_epochs(true, 1);
}

#[test]
fn no_changed_page_is_missed_by_scans_in_one_step() {
    run_epochs(false, 2);
}

/// Pages that were written, at random, are left open for the next scan, which takes them for written again.
#[test]
fn no_changed_page_is_missed_where_some_are_left_open() {
    let (mut oracle, mut open) = (Oracle::new(5), Vec::new());
    for _ in 0..80 {
        oracle.run_for(2000);
        oracle.target.pause();
        let mut dirty = Vec::new();
        oracle.tracker.scan_but(&open, &mut dirty).unwrap();
        dirty.append(&mut open);
        normalize(&mut dirty);
        let indices = oracle.indices(&dirty);
        oracle.check(&indices);
        let pages = dirty.iter().flat_map(Range::pages).filter(|_| oracle.random.below(3) > 0);
        open.extend(pages.map(|page| Range::new(page, PAGE_SIZE)));
        normalize(&mut open);
        oracle.target.resume();
    }
}

/// As in a first copy: rounds while it runs, the pages of each copied after its scan, then one round while it stands.
#[test]
fn copies_made_while_it_runs_are_complete_after_a_last_paused_round() {
    for two_steps in [true, false] {
        let mut oracle = Oracle::new(3);
        for _ in 0..15 {
            for _ in 0..4 {
                oracle.run_for(500);
                let dirty = oracle.scan(two_steps);
                copy_into(&mut oracle, &dirty);
            }
            oracle.target.pause();
            let dirty = oracle.scan(true);
            let dirty = oracle.indices(&dirty);
            oracle.check(&dirty);
            oracle.target.resume();
        }
    }
}

fn copy_into(oracle: &mut Oracle, dirty: &[Range]) {
    for range in dirty {
        let mut bytes = vec![0; range.len as usize];
        oracle.memory.read(range.start, &mut bytes).unwrap();
        let start = oracle.index(range.start) * PAGE;
        oracle.copy[start..start + bytes.len()].copy_from_slice(&bytes);
    }
}

#[test]
fn pages_given_back_come_again_with_the_next_scan() {
    let mut oracle = Oracle::new(4);
    for round in 0..40 {
        oracle.run_for(1000);
        oracle.target.pause();
        let failed = oracle.scan(round % 2 == 0);
        // A part of them was saved, the rest was not.
        let at = oracle.random.below(failed.len() as u64 + 1) as usize;
        oracle.tracker.give_back(&failed[at..]);
        let saved: Vec<Range> = failed[..at].to_vec();
        copy_into(&mut oracle, &saved);
        oracle.target.resume();
        oracle.run_for(1000);
        oracle.target.pause();
        let dirty = oracle.scan(round % 3 == 0);
        let sorted = dirty.windows(2).all(|pair| pair[0].end() < pair[1].start);
        assert!(sorted, "sorted, joined and without repetition: {dirty:?}");
        let dirty = oracle.indices(&dirty);
        oracle.check(&dirty);
        assert_eq!(oracle.scan(true), [], "what was owed is owed once");
        oracle.target.resume();
    }
}

/// Regions go from one watch to the other all the time, while several threads write to them.
#[test]
fn no_changed_page_is_missed_while_memory_cools_and_warms() {
    let cooling = Cooling { from: 0, after: Duration::ZERO, most_told: 0 };
    for two_steps in [true, false] {
        let mut oracle = Oracle::cooling(5, SLOW, cooling);
        if !oracle.tracker.cools() {
            return eprintln!("SKIPPED: a userfaultfd that tells of writes is not allowed here");
        }
        let mut tried = 0;
        for _ in 0..150 {
            oracle.epoch(two_steps);
            let tries = oracle.random.below(30);
            tried += (0..tries).filter(|_| oracle.tracker.settle().unwrap()).count();
            oracle.run_for(100);
        }
        assert!(tried > 150, "only {tried} regions were tried");
    }
}
