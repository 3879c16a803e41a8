//! The order in which the observer hears of changes is the order in which they reached the image.

use crate::client::{Client, TRIM, WRITE, WRITE_ZEROES};
use crate::support::{Fixture, Random};
use disk::{FlushUse, Observer, Pace};
use protocol::What;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// Small, so that nearly all changes overlap others.
const SIZE: u64 = 64 << 10;
const CLIENTS: u64 = 4;
const BATCHES: u64 = 60;
const IN_FLIGHT: u64 = 16;

/// Applies what it hears to a disk of its own, and looks into the image while it is told: the change must be there,
/// whole, and stay until it has heard. Only looking at the end would miss nearly all disorder, since later changes
/// cover it.
struct Replay {
    disk: Mutex<Vec<u8>>,
    image: OnceLock<File>,
    disorder: AtomicU64,
}

impl Replay {
    fn is_there(&self, offset: u64, what: What<'_>) -> bool {
        let mut now = vec![0; usize::try_from(what.len()).unwrap()];
        self.image.get().expect("set before the first client").read_exact_at(&mut now, offset).unwrap();
        match what {
            What::Data(bytes) => now == bytes,
            What::Zeroes(_) | What::Discard(_) => now.iter().all(|byte| *byte == 0),
        }
    }
}

impl Observer for Replay {
    fn written(&self, offset: u64, what: What<'_>) -> Pace {
        for _ in 0..10 {
            if !self.is_there(offset, what) {
                self.disorder.fetch_add(1, Ordering::Relaxed);
            }
            std::thread::yield_now();
        }
        let mut disk = self.disk.lock().unwrap();
        let start = usize::try_from(offset).unwrap();
        let part = &mut disk[start..start + usize::try_from(what.len()).unwrap()];
        match what {
            What::Data(bytes) => part.copy_from_slice(bytes),
            What::Zeroes(_) | What::Discard(_) => part.fill(0),
        }
        Pace::Full
    }

    fn flush(&self) -> FlushUse {
        FlushUse::Sync
    }
}

/// Many changes in flight at once, of any length and place.
fn storm(mut client: Client, seed: u64) {
    let mut random = Random(seed);
    for _ in 0..BATCHES {
        for cookie in 0..IN_FLIGHT {
            let len = 512 * (1 + random.below(32));
            let offset = 512 * random.below((SIZE - len) / 512 + 1);
            let len = u32::try_from(len).unwrap();
            match random.below(8) {
                0 => client.send(WRITE_ZEROES, cookie, offset, len, &[]),
                1 => client.send(TRIM, cookie, offset, len, &[]),
                _ => {
                    let mut bytes = vec![0; len as usize];
                    random.fill(&mut bytes);
                    client.send(WRITE, cookie, offset, len, &bytes);
                }
            }
        }
        let mut answered: Vec<u64> = (0..IN_FLIGHT)
            .map(|_| client.reply())
            .map(|(error, cookie)| {
                assert_eq!(error, 0);
                cookie
            })
            .collect();
        answered.sort_unstable();
        assert!(answered.into_iter().eq(0..IN_FLIGHT), "each request has one reply");
    }
}

#[test]
fn a_replay_of_what_was_observed_is_the_image() {
    let disk = Mutex::new(vec![0; usize::try_from(SIZE).unwrap()]);
    let replay = Arc::new(Replay { disk, image: OnceLock::new(), disorder: AtomicU64::new(0) });
    let mut fixture = Fixture::observed(SIZE, Arc::clone(&replay) as Arc<dyn Observer>);
    replay.image.set(File::open(fixture.image()).unwrap()).unwrap();
    std::thread::scope(|scope| {
        for seed in 1..=CLIENTS {
            let client = Client::connect(&fixture.socket());
            scope.spawn(move || storm(client, seed * 7919));
        }
    });
    let stats = fixture.export().stats();
    assert_eq!(stats.writes + stats.zeroes + stats.discards, CLIENTS * BATCHES * IN_FLIGHT);
    assert_eq!(stats.errors, 0);
    let image = fixture.bytes();
    let replayed = replay.disk.lock().unwrap();
    let wrong = image.chunks(512).zip(replayed.chunks(512)).filter(|(a, b)| a != b).count();
    assert_eq!(wrong, 0, "of {} sectors {wrong} differ", SIZE / 512);
    let disorder = replay.disorder.load(Ordering::Relaxed);
    assert_eq!(disorder, 0, "{disorder} times a change was not in the image while the observer heard of it");
}

/// Waits after a change at the beginning of the disk, until it is told to go on.
struct Waits {
    reached: std::sync::mpsc::SyncSender<()>,
    go_on: Mutex<std::sync::mpsc::Receiver<()>>,
}

impl Observer for Waits {
    fn written(&self, offset: u64, _: What<'_>) -> Pace {
        if offset == 0 { Pace::Slow } else { Pace::Full }
    }

    fn slow_down(&self) {
        self.reached.send(()).unwrap();
        self.go_on.lock().unwrap().recv().unwrap();
    }

    fn flush(&self) -> FlushUse {
        FlushUse::AnswerAtOnce
    }
}

#[test]
fn the_client_hears_of_a_change_after_the_observer_and_other_changes_go_on() {
    let (reached, is_reached) = std::sync::mpsc::sync_channel(1);
    let (go_on, wait) = std::sync::mpsc::channel();
    let fixture = Fixture::observed(SIZE, Arc::new(Waits { reached, go_on: Mutex::new(wait) }));
    let mut client = Client::connect(&fixture.socket());
    client.send(WRITE, 1, 0, 4096, &[1; 4096]);
    is_reached.recv().unwrap();
    // The observer waits: the first must not be answered, a change elsewhere must.
    client.send(WRITE, 2, 8192, 512, &[2; 512]);
    assert_eq!(client.reply(), (0, 2));
    client.stream.set_nonblocking(true).unwrap();
    let early = std::io::Read::read(&mut client.stream, &mut [0; 1]);
    assert_eq!(early.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    client.stream.set_nonblocking(false).unwrap();
    go_on.send(()).unwrap();
    assert_eq!(client.reply(), (0, 1));
}
