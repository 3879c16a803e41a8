//! Owns the memory of a run: a hash of everything, and, in a second run of a failed seed, its last lines.

use crate::rng::mix;
use std::collections::VecDeque;

#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    /// Lines cost more than the rest of the run: only when asked for.
    lines: Option<VecDeque<String>>,
    keep: usize,
}

impl Trace {
    /// `keep` lines are kept, the newest.
    pub(crate) fn new(keep: usize) -> Self {
        Self { hash: 0, lines: (keep > 0).then(VecDeque::new), keep }
    }

    pub(crate) fn fold(&mut self, word: u64) {
        self.hash = mix(self.hash ^ word).wrapping_add(word);
    }

    pub(crate) fn line(&mut self, now: u64, line: impl FnOnce() -> String) {
        let Some(lines) = &mut self.lines else { return };
        if lines.len() >= self.keep {
            lines.pop_front();
        }
        lines.push_back(format!("{:>9}.{:03} {}", now / 1_000, now % 1_000, line()));
    }

    pub(crate) fn on(&self) -> bool {
        self.lines.is_some()
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn take_lines(&mut self) -> Vec<String> {
        self.lines.take().unwrap_or_default().into()
    }
}
