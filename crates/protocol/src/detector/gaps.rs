//! Owns what is learnt of a link from the silences between what it brought, and the time-out that they ask for.
//!
//! The manner is that of phi-accrual detectors: silences of the recent past have a mean and a deviation, and one that
//! is many deviations longer than the mean is suspicious. Two things are different. A *sample* is the longest silence
//! of one period of a heartbeat, not every gap: a stream of pages has gaps of microseconds between its frames, and
//! would hide what heartbeats have to say. And the *peak*, the longest silence of late, counts for itself: silences of
//! real links and busy hosts are not distributed normally, and where there was one of 200 ms the next of 300 ms is
//! no surprise. The peak grows at once and fades slowly, so that a link must behave for minutes before it is trusted
//! again.

use crate::time::{Instant, Micros};
use alloc::collections::VecDeque;

/// Samples that mean, deviation and percentile are made of.
const WINDOW: usize = 128;
/// So many deviations above the mean are suspicious. Of normally distributed silences one in a thousand million is.
const DEVIATIONS: u64 = 6;
/// A silence so many times as long as the longest of late is suspicious.
const PEAKS: u64 = 2;
/// The peak loses this part of itself with each sample: half of it in 2,839, which is a minute and a half at the
/// default heartbeat.
const FADE: u64 = 4_096;
/// Longer silences are taken for this long, an hour: no sum overflows.
const LONGEST: u64 = 3_600_000_000;

/// What was learnt, for displays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GapsView {
    /// Mean of the longest silences of the last periods.
    pub mean: Micros,
    /// Of a hundred periods one had a silence as long as this, or longer.
    pub p99: Micros,
    /// The longest of late, fading.
    pub peak: Micros,
}

/// The silences of one direction of a link.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Gaps {
    heartbeat: Micros,
    /// When the period began whose longest silence is being looked for, and that.
    period: (Instant, u64),
    window: VecDeque<u64>,
    mean: u64,
    deviation: u64,
    peak: u64,
}

impl Gaps {
    /// Nothing is known yet of a link on which something comes every `heartbeat` at least.
    #[must_use]
    pub fn new(now: Instant, heartbeat: Micros) -> Self {
        let period = (now, 0);
        Self { heartbeat, period, window: VecDeque::new(), mean: 0, deviation: 0, peak: 0 }
    }

    /// The same for another session: what lies between the two was no silence.
    #[must_use]
    pub fn resume(self, now: Instant, heartbeat: Micros) -> Self {
        Self { heartbeat, period: (now, 0), ..self }
    }

    /// Something came after this silence.
    pub fn add(&mut self, now: Instant, silence: Micros) {
        let silence = silence.0.min(LONGEST);
        self.period.1 = self.period.1.max(silence);
        // What is long is heeded at once.
        self.peak = self.peak.max(silence);
        if now.since(self.period.0) >= self.heartbeat {
            let longest = self.period.1;
            self.period = (now, 0);
            self.sample(longest);
        }
    }

    fn sample(&mut self, longest: u64) {
        if self.window.len() == WINDOW {
            self.window.pop_front();
        }
        self.window.push_back(longest);
        let faded = self.peak - self.peak.div_ceil(FADE);
        self.peak = faded.max(longest);
        let count = self.window.len() as u64;
        self.mean = self.window.iter().sum::<u64>() / count;
        let squares = self.window.iter().map(|&sample| u128::from(sample.abs_diff(self.mean)).pow(2));
        let variance = squares.sum::<u128>() / u128::from(count);
        self.deviation = u64::try_from(variance.isqrt()).unwrap_or(LONGEST);
    }

    /// The shortest silence that would be suspicious on this link.
    #[must_use]
    pub fn needs(&self) -> Micros {
        let usual = self.mean + DEVIATIONS * self.deviation;
        Micros(usual.max(PEAKS * self.peak + self.heartbeat.0))
    }

    /// For displays.
    #[must_use]
    pub fn view(&self) -> GapsView {
        let mut sorted: alloc::vec::Vec<_> = self.window.iter().copied().collect();
        sorted.sort_unstable();
        let p99 = (sorted.len() * 99).div_ceil(100).checked_sub(1).map_or(0, |at| sorted[at]);
        GapsView { mean: Micros(self.mean), p99: Micros(p99), peak: Micros(self.peak) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEARTBEAT: Micros = Micros::from_millis(30);

    /// After silences of so many microseconds.
    fn after(silences: impl IntoIterator<Item = u64>) -> (Instant, Gaps) {
        let start = Instant(1_000_000);
        let mut at = (start, Gaps::new(start, HEARTBEAT));
        for silence in silences {
            at.0 = at.0 + Micros(silence);
            at.1.add(at.0, Micros(silence));
        }
        at
    }

    #[test]
    fn a_quiet_link_asks_for_little() {
        let (_, gaps) = after((0..1_000).map(|beat| 30_000 + beat % 7 * 100));
        assert!(gaps.needs() < Micros::from_millis(100), "{gaps:?}");
        assert_eq!(gaps.view().p99, Micros(30_600));
    }

    #[test]
    fn a_stream_of_pages_does_not_hide_the_silences_between_them() {
        let page = core::iter::repeat_n(50, 600);
        let (_, gaps) = after((0..200).flat_map(|_| page.clone().chain([90_000])));
        assert!(gaps.view().mean >= Micros(30_000), "{gaps:?}");
        assert!(gaps.needs() >= Micros(210_000));
    }

    #[test]
    fn it_grows_at_once_and_shrinks_in_minutes() {
        let quiet = || core::iter::repeat_n(30_000, 400);
        let (_, gaps) = after(quiet().chain([250_000]));
        assert_eq!(gaps.needs(), Micros(530_000));
        let (_, gaps) = after(quiet().chain([250_000]).chain(quiet()));
        assert!((Micros(470_000)..Micros(530_000)).contains(&gaps.needs()), "12 s later: {gaps:?}");
        let (_, gaps) = after(quiet().chain([250_000]).chain(core::iter::repeat_n(30_000, 12_000)));
        assert!(gaps.needs() < Micros(110_000), "6 minutes later: {gaps:?}");
    }

    #[test]
    fn what_lies_between_two_sessions_is_no_silence() {
        let (now, gaps) = after(core::iter::repeat_n(30_000, 400));
        let (needs, later) = (gaps.needs(), now + Micros(60_000_000));
        let mut gaps = gaps.resume(later, HEARTBEAT);
        gaps.add(later + HEARTBEAT, HEARTBEAT);
        assert_eq!(gaps.needs(), needs);
    }

    proptest! {
        /// Whatever comes: a silence twice as long as one just seen is not suspicious, and nothing overflows.
        #[test]
        fn twice_what_was_seen_is_tolerated(silences in prop::collection::vec(prop_oneof![0u64..500_000, any::<u64>().prop_map(|s| s >> 8)], 1..300)) {
            let last = *silences.last().unwrap();
            let (_, gaps) = after(silences);
            prop_assert!(gaps.needs() >= Micros(2 * last.min(LONGEST)));
            prop_assert!(gaps.view().p99 <= Micros(LONGEST));
        }
    }
}
