//! Owns the first question: how long copying takes with several threads, alone and while a machine saves its devices.

use crate::Outcome;
use crate::copiers::{Copiers, Source};
use crate::guest::{Guest, Pattern};
use crate::times::Times;
use os::process_memory::ProcessMemory;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

const COUNTS: [u32; 5] = [300, 1_000, 3_000, 10_000, 30_000];
/// How many threads, and how many pages more than the others the first one takes: those that are copied while the machine saves
/// its devices.
const TEAMS: [(&str, usize, usize); 4] = [("1", 1, 0), ("2", 2, 0), ("2, uneven", 2, 1_500), ("4", 4, 0)];
/// What QEMU takes to save its devices.
const DEVICES: Duration = Duration::from_millis(1);

/// A thread of ordinary priority that works as long as QEMU does for its devices.
struct Devices {
    begin: Sender<()>,
    done: Receiver<()>,
}

impl Devices {
    fn start() -> Self {
        let (begin, orders) = channel();
        let (tell, done) = channel();
        let turns = turns_of(DEVICES);
        std::thread::spawn(move || {
            for () in orders {
                work(turns);
                if tell.send(()).is_err() {
                    return;
                }
            }
        });
        Self { begin, done }
    }
}

fn work(turns: u64) {
    for turn in 0..turns {
        black_box(turn);
    }
}

/// So many turns of `work` take this long on a processor of one's own.
fn turns_of(time: Duration) -> u64 {
    const TRIED: u64 = 1_000_000;
    let once = || {
        let began = Instant::now();
        work(TRIED);
        began.elapsed()
    };
    let quickest = (0..20).map(|_| once()).min().unwrap_or(time);
    (TRIED as f64 * time.as_secs_f64() / quickest.as_secs_f64()) as u64
}

/// Prints the table.
pub fn measure(guest: &mut Guest, rounds: u32) -> Outcome<()> {
    let shared = Source::Shared(Arc::clone(&guest.memory));
    let process = Source::Process(Arc::new(ProcessMemory::open(guest.pid())?), guest.range.start);
    let devices = Devices::start();
    println!("Copying by threads, us, {rounds} rounds: alone, and until that and 1 ms of devices are done");
    println!(
        "{:<18}{:<11}{:>7}{:>11}{:>20}{:>11}{:>20}",
        "memory", "pages", "count", "threads", "alone", "us a page", "beside devices"
    );
    let cases = [
        ("shared", &shared, Pattern::Run),
        ("shared", &shared, Pattern::Scattered),
        ("of a process", &process, Pattern::Scattered),
    ];
    for (memory, source, pattern) in cases {
        for (count, (team, threads, more)) in COUNTS.iter().flat_map(|count| TEAMS.map(|team| (*count, team)))
        {
            let mut copiers = Copiers::start(source.clone(), threads, (count, more))?;
            let (mut alone, mut beside) = (Times::default(), Times::default());
            for round in 0..rounds {
                let pages = |round| pattern.pages(count, round);
                alone.add(once(guest, &mut copiers, pages(round * 2), None)?);
                beside.add(once(guest, &mut copiers, pages(round * 2 + 1), Some(&devices))?);
            }
            let (pages, each) = (pattern.name(), alone.median() / f64::from(count));
            println!("{memory:<18}{pages:<11}{count:>7}{team:>11}{alone:>20}{each:>11.2}{beside:>20}");
        }
    }
    Ok(())
}

/// The guest writes to `pages`, and they are copied, by rising address as a scan finds them.
fn once(
    guest: &mut Guest,
    copiers: &mut Copiers,
    mut pages: Vec<u32>,
    devices: Option<&Devices>,
) -> Outcome<Duration> {
    guest.write(&pages)?;
    pages.sort_unstable();
    let began = Instant::now();
    if let Some(devices) = devices {
        devices.begin.send(())?;
    }
    copiers.copy(&pages)?;
    if let Some(devices) = devices {
        devices.done.recv()?;
    }
    Ok(began.elapsed())
}
