//! Owns the second question: what a guest loses if it goes on before its pages are copied.
//!
//! For that all its memory needs a watch that tells of each first write and holds the writer (`Tracker`'s watch over cold
//! memory), where today's lets a write lift the protection by itself. No memory can have both. What the handler of a
//! copy on write would do beyond noting the page, copying it, is not done here: the figures are the least it can cost.

use crate::Outcome;
use crate::copiers::{Copiers, Source};
use crate::guest::{Guest, Pattern};
use crate::times::Times;
use os::Tracker;
use os::tracker::Cooling;
use std::sync::Arc;
use std::time::{Duration, Instant};

const COUNTS: [u32; 3] = [1_000, 3_000, 10_000];
/// Of the pages the guest writes so many again at once, in percent.
const AGAIN: [u32; 3] = [10, 50, 100];

/// A guest whose memory is watched, and the thread that copies it.
struct Trial<'a> {
    guest: &'a mut Guest,
    copiers: Copiers,
    tracker: Tracker,
    rounds: u32,
}

/// What it costs.
#[derive(Default)]
struct Cost {
    /// Scanning and protecting, while the guest stands still.
    protect: Times,
    copy: Times,
    /// Each of the guest's first writes behind that.
    write: Times,
    /// All of them together.
    writes: Times,
}

/// When the guest goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum GoesOn {
    /// When all is copied.
    Behind,
    /// Before that: it writes while the pages are copied.
    Before,
}

/// Prints the table.
pub fn measure(guest: &mut Guest, rounds: u32) -> Outcome<()> {
    println!("Letting the guest go before all is copied, us, {rounds} rounds");
    let watches = ["protect: lifts", "tells", "first write: lifts", "tells", "tells, copying", "copied"];
    print!("{:<11}{:>7}{:>8}", "pages", "count", "again %");
    watches.iter().for_each(|what| print!("{what:>20}"));
    println!("{:>15}{:>15}", "lost: stopped", "let go");
    for (pattern, count) in Pattern::ALL.iter().flat_map(|pattern| COUNTS.map(|count| (*pattern, count))) {
        let lifting = |guest: &Guest| Ok(Tracker::attach(guest.pid(), &[guest.range])?);
        let stopped = Trial::begin(guest, lifting, (count, rounds))?.all(pattern, count, GoesOn::Behind)?;
        let mut trial = Trial::begin(guest, telling, (count, rounds))?;
        let told = trial.all(pattern, count, GoesOn::Behind)?;
        let let_go = trial.all(pattern, count, GoesOn::Before)?;
        for (at, again) in AGAIN.iter().enumerate() {
            print!("{:<11}{count:>7}{again:>8}", pattern.name());
            report(&stopped[at], &told[at], &let_go[at]);
        }
    }
    Ok(())
}

impl<'a> Trial<'a> {
    fn begin(
        guest: &'a mut Guest,
        track: impl Fn(&Guest) -> Outcome<Tracker>,
        (count, rounds): (u32, u32),
    ) -> Outcome<Self> {
        let copiers = Copiers::start(Source::Shared(Arc::clone(&guest.memory)), 1, (count, 0))?;
        Ok(Self { copiers, tracker: track(guest)?, guest, rounds })
    }

    fn all(&mut self, pattern: Pattern, count: u32, goes_on: GoesOn) -> Outcome<Vec<Cost>> {
        AGAIN.iter().map(|again| self.one(pattern, (count, *again), goes_on)).collect()
    }

    /// So many pages were written; of them so many percent are written again.
    fn one(&mut self, pattern: Pattern, (count, again): (u32, u32), goes_on: GoesOn) -> Outcome<Cost> {
        let mut cost = Cost::default();
        for round in 0..self.rounds {
            // What the last round left.
            self.scan()?;
            let pages = pattern.pages(count, round);
            self.guest.write(&pages)?;
            cost.protect.add(self.scan()?);
            // If they are all over the memory, so is a part of them.
            let again = &pages[..pages.len() * again as usize / 100];
            let mut sorted = pages.clone();
            sorted.sort_unstable();
            if goes_on == GoesOn::Before {
                self.guest.begin(again)?;
            }
            let began = Instant::now();
            self.copiers.copy(&sorted)?;
            cost.copy.add(began.elapsed());
            if goes_on == GoesOn::Behind {
                self.guest.begin(again)?;
            }
            let times = self.guest.end(again.len())?;
            cost.writes.add(times.iter().sum());
            cost.write.extend(times);
        }
        Ok(cost)
    }

    fn scan(&mut self) -> Outcome<Duration> {
        let began = Instant::now();
        self.tracker.scan_live(&mut Vec::new())?;
        Ok(began.elapsed())
    }
}

/// A tracker whose watch over all memory tells.
fn telling(guest: &Guest) -> Outcome<Tracker> {
    let cooling = Cooling { from: 0, after: Duration::ZERO, most_told: u32::MAX };
    let mut tracker = Tracker::attach_cooling(guest.pid(), &[guest.range], cooling)?;
    if !tracker.cools() {
        return Err("a userfaultfd that tells is not allowed".into());
    }
    while tracker.settle()? {}
    Ok(tracker)
}

fn report(stopped: &Cost, told: &Cost, let_go: &Cost) {
    let times = [&stopped.protect, &told.protect, &stopped.write, &told.write, &let_go.write, &stopped.copy];
    times.iter().for_each(|times| print!("{times:>20}"));
    let lost_stopped = stopped.protect.median() + stopped.copy.median() + stopped.writes.median();
    let lost_let_go = let_go.protect.median() + let_go.writes.median();
    println!("{lost_stopped:>15.0}{lost_let_go:>15.0}");
}
