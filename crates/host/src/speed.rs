//! Owns how fast a first copy goes: over its last seconds, so that an operator sees what is, not what was.

use api::types::CopyProgress;
use std::collections::VecDeque;

/// How far back is looked, µs.
const WINDOW_US: u64 = 3_000_000;

/// Watches the progress of a copy.
#[derive(Debug, Default)]
pub struct CopySpeed {
    seen: VecDeque<(u64, CopyProgress)>,
}

impl CopySpeed {
    /// So far it was at this time, µs. The disks are counted on their own: what they are followed by begins anew.
    pub fn saw(&mut self, now_us: u64, progress: CopyProgress) {
        let other = |(_, last): &(u64, CopyProgress)| {
            (last.round == 0) != (progress.round == 0) || last.copied_bytes > progress.copied_bytes
        };
        if self.seen.back().is_some_and(other) {
            self.seen.clear();
        }
        // One before the window stays: there must be something to compare with.
        while self.seen.get(1).is_some_and(|(at, _)| at + WINDOW_US < now_us) {
            self.seen.pop_front();
        }
        // Some of what is said in the same moment is enough.
        if self.seen.len() < 2 || self.seen.back().is_some_and(|(at, _)| at + WINDOW_US / 30 < now_us) {
            self.seen.push_back((now_us, progress));
        }
    }

    /// Bytes a second, if the copy goes on for long enough to tell.
    #[must_use]
    pub fn bytes_per_second(&self) -> Option<u64> {
        let ((from, first), (to, last)) = (self.seen.front()?, self.seen.back()?);
        let bytes = last.copied_bytes.checked_sub(first.copied_bytes)?;
        let took = to.checked_sub(*from).filter(|&took| took > 0)?;
        u64::try_from(u128::from(bytes) * 1_000_000 / u128::from(took)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(round: u32, copied_bytes: u64) -> CopyProgress {
        CopyProgress { round, copied_bytes, remaining_bytes: 1 }
    }

    #[test]
    fn the_last_seconds_count_and_memory_begins_behind_the_disks() {
        let mut speed = CopySpeed::default();
        assert_eq!(speed.bytes_per_second(), None);
        for second in 0..10 {
            speed.saw(second * 1_000_000, at(0, second * 1_000));
        }
        assert_eq!(speed.bytes_per_second(), Some(1_000));
        for second in 10..20 {
            speed.saw(second * 1_000_000, at(0, 9_000 + (second - 9) * 5_000));
        }
        assert_eq!(speed.bytes_per_second(), Some(5_000), "what was long ago is forgotten");
        speed.saw(20_000_000, at(1, 0));
        assert_eq!(speed.bytes_per_second(), None, "too short to tell");
        speed.saw(20_500_000, at(1, 4_000));
        assert_eq!(speed.bytes_per_second(), Some(8_000));
    }

    #[test]
    fn what_is_said_often_takes_little_memory() {
        let mut speed = CopySpeed::default();
        for step in 0..1_000_000 {
            speed.saw(step * 10, at(2, step));
        }
        assert!(speed.seen.len() < 40, "{}", speed.seen.len());
        assert_eq!(speed.bytes_per_second(), Some(100_000));
    }
}
