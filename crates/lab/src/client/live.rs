//! Owns what can be seen of clients while they are at work: for a display, and for runs too long to keep every reply.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::timeline::{Gap, Sample};

/// Replies kept for who looks; if nobody does, later ones are only counted.
const KEEP: usize = 1 << 16;

/// Where one connection stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its list on the server, or the client's name.
    pub key: String,
    /// The highest number that was acknowledged, or how many operations were.
    pub acknowledged: u64,
    /// When its last reply arrived, on `os::clock`; 0 before the first.
    pub last_reply_us: u64,
}

/// What arrived since somebody looked last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recent {
    /// Replies of all connections, in the order of their arrival.
    pub samples: Vec<Sample>,
    /// The longest time that any one connection waited for a reply that has now arrived.
    pub longest_wait: Option<Gap>,
}

/// What the clients have done so far, for a progress line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Operations that were acknowledged.
    pub acknowledged: u64,
    /// Connections that broke.
    pub broken: u64,
    /// When the last reply arrived on any connection, on `os::clock`; 0 before the first.
    pub last_reply_us: u64,
}

/// Clients that can be looked at while they are at work.
pub trait Clients: Sync {
    /// What is acknowledged to them, in the plural.
    fn what(&self) -> &'static str;

    /// Where every connection stands.
    fn standings(&self) -> Vec<Standing>;

    /// What arrived since this was asked last: one who asks takes it away from all others.
    fn recent(&self) -> Recent;

    /// How many connections broke so far.
    fn broken(&self) -> u64;

    /// Whether every connection got a reply after this time, on `os::clock`.
    fn all_answered_since(&self, since_us: u64) -> bool {
        self.standings().iter().all(|line| line.last_reply_us > since_us)
    }

    /// What was done so far.
    fn progress(&self) -> Progress {
        let standings = self.standings();
        Progress {
            acknowledged: standings.iter().map(|line| line.acknowledged).sum(),
            broken: self.broken(),
            last_reply_us: standings.iter().map(|line| line.last_reply_us).max().unwrap_or(0),
        }
    }
}

#[derive(Debug)]
struct Line {
    key: String,
    acknowledged: AtomicU64,
    last_reply_us: AtomicU64,
}

/// Where all connections write what they see.
#[derive(Debug)]
pub(super) struct Board {
    lines: Vec<Line>,
    recent: Mutex<Recent>,
}

impl Board {
    pub fn new(keys: impl IntoIterator<Item = String>) -> Board {
        let line = |key| Line { key, acknowledged: AtomicU64::new(0), last_reply_us: AtomicU64::new(0) };
        Board { lines: keys.into_iter().map(line).collect(), recent: Mutex::default() }
    }

    /// Connection `index` got these replies, all at once.
    pub fn note(&self, index: usize, samples: &[Sample]) {
        let Some(at_us) = samples.last().map(|sample| sample.at_us) else { return };
        let line = &self.lines[index];
        line.acknowledged.fetch_add(samples.len() as u64, Relaxed);
        let before = line.last_reply_us.swap(at_us, Relaxed);
        let mut recent = self.recent();
        let room = KEEP.saturating_sub(recent.samples.len());
        recent.samples.extend(samples.iter().take(room));
        let waited = at_us.saturating_sub(before);
        if before > 0 && recent.longest_wait.is_none_or(|gap| waited > gap.duration_us) {
            recent.longest_wait = Some(Gap { started_us: before, duration_us: waited });
        }
    }

    pub fn take(&self) -> Recent {
        std::mem::take(&mut *self.recent())
    }

    pub fn standings(&self) -> Vec<Standing> {
        let standing = |line: &Line| Standing {
            key: line.key.clone(),
            acknowledged: line.acknowledged.load(Relaxed),
            last_reply_us: line.last_reply_us.load(Relaxed),
        };
        self.lines.iter().map(standing).collect()
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replies(at_us: &[u64]) -> Vec<Sample> {
        at_us.iter().map(|&at_us| Sample { at_us, latency_us: 7 }).collect()
    }

    #[test]
    fn the_longest_wait_is_that_of_one_connection_and_is_told_once() {
        let board = Board::new(["a".into(), "b".into()]);
        board.note(0, &replies(&[1_000]));
        board.note(1, &replies(&[1_400]));
        board.note(0, &replies(&[1_500, 1_500]));
        board.note(1, &replies(&[1_600]));
        let seen = board.take();
        assert_eq!(seen.longest_wait, Some(Gap { started_us: 1_000, duration_us: 500 }));
        assert_eq!(seen.samples.len(), 5);
        assert_eq!(board.take(), Recent::default());
        let standing = |key: &str, acknowledged, last_reply_us| Standing {
            key: key.into(),
            acknowledged,
            last_reply_us,
        };
        assert_eq!(board.standings(), [standing("a", 3, 1_500), standing("b", 2, 1_600)]);
    }

    #[test]
    fn what_nobody_looks_at_does_not_grow_without_end() {
        let board = Board::new(["a".into()]);
        for at_us in 1..=2 * KEEP as u64 {
            board.note(0, &replies(&[at_us]));
        }
        assert_eq!(board.take().samples.len(), KEEP);
        assert_eq!(board.standings()[0].acknowledged, 2 * KEEP as u64);
    }
}
