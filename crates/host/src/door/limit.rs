//! Owns how often the same is told: strangers must not fill the event log.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Between two events of one kind about one other side.
const EVERY: Duration = Duration::from_secs(30);
/// Other sides that are told apart; all the rest are one.
const MAX: usize = 32;

/// What was told lately.
#[derive(Debug, Default)]
pub struct Limit {
    told: BTreeMap<(String, &'static str), (Instant, u64)>,
}

impl Limit {
    /// Whether this may be told now, and how many like it were not told since the last one that was.
    pub fn told(&mut self, whom: &str, what: &'static str, now: Instant) -> Option<u64> {
        let mut key = (whom.to_owned(), what);
        if !self.told.contains_key(&key) && self.told.len() >= MAX {
            self.told
                .retain(|_, (at, held_back)| now.saturating_duration_since(*at) < EVERY || *held_back > 0);
            if self.told.len() >= MAX {
                key = (String::new(), "");
            }
        }
        match self.told.get_mut(&key) {
            Some((at, held_back)) if now.saturating_duration_since(*at) < EVERY => {
                *held_back += 1;
                None
            }
            Some((at, held_back)) => {
                *at = now;
                Some(std::mem::take(held_back))
            }
            None => {
                self.told.insert(key, (now, 0));
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_told_once_in_a_while_with_what_was_held_back() {
        let (mut limit, now) = (Limit::default(), Instant::now());
        assert_eq!(limit.told("a", "unknown", now), Some(0));
        assert_eq!(limit.told("a", "unknown", now), None);
        assert_eq!(limit.told("a", "unknown", now + EVERY / 2), None);
        assert_eq!(limit.told("a", "revoked", now), Some(0), "another reason");
        assert_eq!(limit.told("b", "unknown", now), Some(0), "another side");
        assert_eq!(limit.told("a", "unknown", now + EVERY), Some(2));
    }

    #[test]
    fn many_strangers_are_one() {
        let (mut limit, now) = (Limit::default(), Instant::now());
        let told = (0..10_000).filter(|at| limit.told(&at.to_string(), "unknown", now).is_some()).count();
        assert!(told <= MAX + 1, "{told} of 10,000 were told");
        assert!(limit.told.len() <= MAX + 1);
        assert_eq!(limit.told("new", "unknown", now + EVERY), Some(0), "later there is room again");
    }
}
