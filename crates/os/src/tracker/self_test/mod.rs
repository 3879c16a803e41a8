//! Owns the proof, at start-up, that this kernel tracks writes correctly.
//!
//! Version numbers do not tell: kernels before 6.9 lose written marks in some cases, others return stale data after
//! a huge page is given back, vendors backport, containers forbid. So each way in which a guest's memory gets
//! written is tried once, for a few milliseconds, before any VM is protected.

mod area;

use super::uffd::Uffd;
use super::{Cooling, Tracker, TrackerError};
use crate::facts::kernel_release;
use crate::process_memory::ProcessMemory;
use crate::range::{PAGE_SIZE, Range};
use area::{Area, Sleeper};
use std::io::{IoSliceMut, Read, Write};
use std::time::Duration;

/// What the self-test has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfTestReport {
    /// The running kernel's release.
    pub kernel: String,
    /// What was tried, and works.
    pub cases: Vec<&'static str>,
}

/// Not tried where it is not allowed: all memory stays warm then.
const COLD: &str = "cold memory";

type Case = (&'static str, fn() -> Result<(), Failure>);

const CASES: [Case; 5] = [
    ("private memory", private_memory),
    ("shared memory", shared_memory),
    ("a huge page, written and given back", huge_page),
    ("writes by the kernel", kernel_writes),
    ("another process", another_process),
];

/// Tries whether memory can be tracked here: on our own memory and on that of a child. Takes milliseconds.
///
/// # Errors
/// What is missing (kernel, permission), or [`TrackerError::SelfTest`] if the kernel tracks wrongly.
pub fn self_test() -> Result<SelfTestReport, TrackerError> {
    let mut cases = Vec::new();
    for (case, run) in CASES {
        run().map_err(|failure| failure.of(case))?;
        cases.push(case);
    }
    if cold_memory().map_err(|failure| failure.of(COLD))? {
        cases.push(COLD);
    }
    Ok(SelfTestReport { kernel: kernel_release(), cases })
}

enum Failure {
    /// Something does not work, and says so.
    Tracker(TrackerError),
    /// It works, wrongly or not at all.
    Wrong(String),
}

impl Failure {
    fn of(self, case: &'static str) -> TrackerError {
        match self {
            Self::Wrong(reason) => TrackerError::SelfTest { release: kernel_release(), case, reason },
            Self::Tracker(error) => error,
        }
    }
}

impl<E: Into<TrackerError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Tracker(error.into())
    }
}

fn wrong(what: &str) -> impl Fn(std::io::Error) -> Failure {
    move |error| Failure::Wrong(format!("{what}: {error}"))
}

fn track(area: &Area) -> Result<Tracker, TrackerError> {
    Tracker::begin(std::process::id(), Uffd::own, &[area.range()], Cooling::default())
}

/// Scans and compares with the pages (by number) that were written.
fn expect(tracker: &mut Tracker, area: &Area, two_steps: bool, written: &[u64]) -> Result<(), Failure> {
    let found = scan(tracker, area, two_steps)?;
    if found == written {
        return Ok(());
    }
    let how = if two_steps { "two steps" } else { "one step" };
    Err(Failure::Wrong(format!("pages {written:?} were written, a scan in {how} found {found:?}")))
}

fn scan(tracker: &mut Tracker, area: &Area, two_steps: bool) -> Result<Vec<u64>, TrackerError> {
    let mut dirty = Vec::new();
    if two_steps {
        tracker.scan_paused(&mut dirty)?
    } else {
        tracker.scan_live(&mut dirty)?
    }
    let number = |address| (address - area.range().start) / PAGE_SIZE;
    Ok(dirty.iter().flat_map(Range::pages).map(number).collect())
}

fn private_memory() -> Result<(), Failure> {
    plain_writes(&Area::private(64).map_err(wrong("mmap"))?)
}

fn shared_memory() -> Result<(), Failure> {
    plain_writes(&Area::shared(64).map_err(wrong("mmap"))?)
}

/// Writes to pages that exist and to pages that do not yet, found once and only once, both ways.
fn plain_writes(area: &Area) -> Result<(), Failure> {
    (0..32).for_each(|page| area.write(page, 1));
    let mut tracker = track(area)?;
    for two_steps in [true, false] {
        expect(&mut tracker, area, two_steps, &[])?;
        for written in [[0, 1, 31, 32, 50], [0, 2, 31, 33, 63]] {
            written.iter().for_each(|page| area.write(*page, 2));
            expect(&mut tracker, area, two_steps, &written)?;
        }
        // Reading is not writing.
        let _sum: u64 = (0..64).map(|page| u64::from(area.read(page))).sum();
        expect(&mut tracker, area, two_steps, &[])?;
    }
    Ok(())
}

/// A write to a huge page is found (with it may come its neighbours); after the page was given back nothing of its
/// old content is left, and writes are found again.
fn huge_page() -> Result<(), Failure> {
    let area = Area::huge().map_err(wrong("mmap"))?;
    (0..512).for_each(|page| area.write(page, 1));
    let mut tracker = track(&area)?;
    for two_steps in [true, false] {
        for written in [5, 300] {
            area.write(written, 2);
            expect_among(&mut tracker, &area, two_steps, written)?;
        }
        area.give_back().map_err(wrong("madvise"))?;
        area.write(7, 3);
        expect_among(&mut tracker, &area, two_steps, 7)?;
        let stale = (0..512).find(|page| area.read(*page) != if *page == 7 { 3 } else { 0 });
        if let Some(page) = stale {
            let value = area.read(page);
            return Err(Failure::Wrong(format!("page {page} still has {value} after it was given back")));
        }
        (0..512).for_each(|page| area.write(page, 1));
        scan(&mut tracker, &area, two_steps)?;
    }
    Ok(())
}

fn expect_among(tracker: &mut Tracker, area: &Area, two_steps: bool, written: u64) -> Result<(), Failure> {
    let found = scan(tracker, area, two_steps)?;
    if found.contains(&written) {
        return Ok(());
    }
    Err(Failure::Wrong(format!("page {written} was written, a scan found only {found:?}")))
}

/// The kernel writes to memory on a program's behalf, to pages that exist (first four) and that do not.
fn kernel_writes() -> Result<(), Failure> {
    let mut area = Area::shared(16).map_err(wrong("mmap"))?;
    (0..4).for_each(|page| area.write(page, 1));
    let mut tracker = track(&area)?;
    let file = area::filled_file(2 * 100).map_err(wrong("memfd"))?;
    for two_steps in [true, false] {
        for (by_read, by_preadv) in [(1, [2, 3]), (9, [10, 14])] {
            write_through_pipe(&mut area, by_read).map_err(wrong("read from a pipe"))?;
            let mut parts = area.two_parts(by_preadv, 100).map(IoSliceMut::new);
            rustix::io::preadv(&file, &mut parts, 0).map_err(|e| wrong("preadv")(e.into()))?;
            expect(&mut tracker, &area, two_steps, &[by_read, by_preadv[0], by_preadv[1]])?;
        }
    }
    Ok(())
}

fn write_through_pipe(area: &mut Area, page: u64) -> std::io::Result<()> {
    let (mut from, mut to) = std::io::pipe()?;
    to.write_all(&[7; 100])?;
    let [part, _] = area.two_parts([page, 0], 100);
    from.read_exact(part)
}

/// The way into another process: stopping it, a userfaultfd made inside it and moved over, a scan from here.
fn another_process() -> Result<(), Failure> {
    let area = Area::private(16).map_err(wrong("mmap"))?;
    (0..8).for_each(|page| area.write(page, 1));
    let child = Sleeper::fork().map_err(wrong("fork"))?;
    let mut tracker = Tracker::attach(child.pid(), &[area.range()])?;
    let memory = ProcessMemory::open(child.pid())?;
    for two_steps in [true, false] {
        expect(&mut tracker, &area, two_steps, &[])?;
        let written = [2, 3, 11];
        for page in written {
            memory.write(area.range().start + page * PAGE_SIZE, &[9])?;
        }
        expect(&mut tracker, &area, two_steps, &written)?;
    }
    Ok(())
}

/// Memory that goes to the watch that tells of writes, and back. Returns whether that is allowed.
fn cold_memory() -> Result<bool, Failure> {
    let mut area = Area::shared(16).map_err(wrong("mmap"))?;
    (0..8).for_each(|page| area.write(page, 1));
    let cooling = Cooling { from: 0, after: Duration::ZERO, most_told: 0 };
    let mut tracker = Tracker::begin(std::process::id(), Uffd::own, &[area.range()], cooling)?;
    if !tracker.cools() {
        return Ok(false);
    }
    for (two_steps, written) in [(true, 2), (false, 12), (true, 12), (false, 3)] {
        if !tracker.settle()? {
            return Err(Failure::Wrong("memory that was not written, or told of, was not moved".into()));
        }
        expect(&mut tracker, &area, two_steps, &[])?;
        area.write(written, 2);
        write_through_pipe(&mut area, 5).map_err(wrong("read from a pipe"))?;
        let mut expected = [written, 5];
        expected.sort_unstable();
        expect(&mut tracker, &area, two_steps, &expected)?;
        expect(&mut tracker, &area, two_steps, &[])?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracker::uffd::OnWrite;

    #[test]
    fn this_kernel_passes_or_says_what_it_lacks() {
        match self_test() {
            Ok(report) => assert_eq!(report.cases[..CASES.len()], CASES.map(|(case, _)| case)),
            Err(error @ TrackerError::SelfTest { .. }) => panic!("{error}"),
            Err(error) => eprintln!("SKIPPED: {error}"),
        }
    }

    #[test]
    fn a_userfaultfd_knows_when_its_process_is_gone() {
        let child = Sleeper::fork().unwrap();
        let target = crate::PidFd::open(child.pid()).unwrap();
        let Ok(uffd) = Uffd::inside(&target, OnWrite::Lift) else {
            return eprintln!("SKIPPED: no tracking here");
        };
        assert!(uffd.is_alive());
        target.kill().unwrap();
        assert!(target.wait_dead(None));
        assert!(!uffd.is_alive());
    }

    #[test]
    fn a_scan_that_misses_a_page_fails_the_test() {
        let area = Area::private(4).unwrap();
        let Ok(mut tracker) = track(&area) else { return eprintln!("SKIPPED: no tracking here") };
        area.write(1, 1);
        let failure = expect(&mut tracker, &area, true, &[1, 2]);
        assert!(matches!(failure, Err(Failure::Wrong(reason)) if reason.contains("found [1]")));
    }
}
