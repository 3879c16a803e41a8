//! Figures, for people: `cargo test --release -p os --test it measure -- --ignored --nocapture`. Nothing is asserted.

use crate::target::{QUIET, Random, Target};
use os::inject::system_call;
use os::process_memory::ProcessMemory;
use os::tracker::Cooling;
use os::{Memory, PAGE_SIZE, PageBuffer, Range, Tracker};
use std::time::{Duration, Instant};

const PAGES: u64 = 512 * 256;
const ROUNDS: usize = 50;

/// Median, in microseconds, of what `round` takes, without what `prepare` does before each.
fn median(mut prepare: impl FnMut(), mut round: impl FnMut()) -> u128 {
    let mut times: Vec<u128> = (0..ROUNDS)
        .map(|_| {
            prepare();
            let start = Instant::now();
            round();
            start.elapsed().as_micros()
        })
        .collect();
    times.sort_unstable();
    times[ROUNDS / 2]
}

#[test]
#[ignore = "for people"]
fn measure() {
    let shared = Memory::create("quiet-shared", PAGES * PAGE_SIZE).unwrap();
    (0..PAGES).for_each(|page| shared.write_at(page * PAGE_SIZE, &[1; 4096]));
    let target = Target::start_with("write", QUIET, Some(&shared));
    let memory = ProcessMemory::open(target.pid()).unwrap();
    let range = target.mapping_of("quiet-shared");
    // The target touches all of it, as a guest that has used its memory.
    (0..PAGES).for_each(|page| memory.write(range.start + page * PAGE_SIZE, &[2]).unwrap());
    let pidfd = target.child.pidfd();
    let inject = median(|| (), || drop(system_call(pidfd, libc::SYS_getpid, [0; 6]).unwrap().to_string()));
    println!("injection {inject} us");
    let attach = median(|| (), || drop(Tracker::attach(target.pid(), &[range]).unwrap()));
    println!("attach and detach, {} MiB: {attach} us", range.len >> 20);
    let mut tracker = Tracker::attach(target.pid(), &[range]).unwrap();
    for count in [0, 100, 300, 1000, 10_000] {
        for (name, scan) in [
            ("two steps", Tracker::scan_paused as fn(&mut Tracker, &mut Vec<Range>) -> _),
            ("one step", Tracker::scan_live),
        ] {
            let (mut dirty, mut random) = (Vec::new(), Random(5));
            let dirty_some = || {
                for _ in 0..count {
                    memory.write(range.start + random.below(PAGES) * PAGE_SIZE, &[3]).unwrap();
                }
            };
            let time = median(dirty_some, || scan(&mut tracker, &mut dirty).unwrap());
            println!("scan of {} MiB, {count} dirty, {name}: {time} us", range.len >> 20);
        }
    }
    drop(tracker);
    measure_first_writes(&target, &memory, range);
    measure_copies(&shared, &memory, range);
}

/// The first write to a page behind a scan, of warm and of cold memory, and how long it takes to make all of it cold.
fn measure_first_writes(target: &Target, memory: &ProcessMemory, range: Range) {
    let count = 256;
    for (what, after) in [("warm", Duration::MAX), ("cold", Duration::ZERO)] {
        let cooling = Cooling { from: 0, after, most_told: u32::MAX };
        let mut tracker = Tracker::attach_cooling(target.pid(), &[range], cooling).unwrap();
        let (mut moved, start) = (0, Instant::now());
        while tracker.settle().unwrap() {
            moved += 1;
        }
        if let Some(each) = start.elapsed().as_micros().checked_div(moved) {
            println!("a region of 2 MiB made cold in {each} us");
        }
        let mut random = Random(7);
        let again = || tracker.scan_live(&mut Vec::new()).unwrap();
        let write = || {
            (0..count)
                .for_each(|_| memory.write(range.start + random.below(PAGES) * PAGE_SIZE, &[3]).unwrap());
        };
        let time = median(again, write);
        println!("first write to a page of {what} memory: {:.1} us", time as f64 / f64::from(count));
    }
}

fn measure_copies(shared: &Memory, memory: &ProcessMemory, range: Range) {
    let count = 2000;
    let mut random = Random(6);
    let mut buffer = PageBuffer::new(count).unwrap();
    let offsets: Vec<u64> = (0..count).map(|_| random.below(PAGES) * PAGE_SIZE).collect();
    let ranges: Vec<Range> = offsets.iter().map(|o| Range::new(range.start + o, PAGE_SIZE)).collect();
    let rate = |us: u128| (count as u128 * 4096) as f64 / us as f64 / 1000.0;
    let mapped = median(|| (), || shared.copy_pages_out(&offsets, buffer.bytes_mut()));
    let remote = median(|| (), || memory.read_ranges(&ranges, buffer.bytes_mut()).unwrap());
    let fresh = median(|| (), || shared.copy_pages_out(&offsets, &mut vec![1; count * 4096]));
    println!("{count} scattered pages: mapped {mapped} us = {:.1} GB/s", rate(mapped));
    println!("{count} scattered pages: process_vm_readv {remote} us = {:.1} GB/s", rate(remote));
    println!("{count} scattered pages: mapped, to fresh memory {fresh} us = {:.1} GB/s", rate(fresh));
}
