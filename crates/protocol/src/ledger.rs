//! Owns output commit: which epochs were cut, which are committed, which output may leave, and until when.
//!
//! Promise 1 lives here: output of an epoch is released only after the backup acknowledged it. The *lease*
//! is a second, independent guard: a primary that was frozen may find an acknowledgement in its socket long
//! after the backup took over. Nothing in it would contradict the promoted VM, but frames of two hosts with one
//! MAC address confuse switches. So output also needs a fresh echo of the primary's own clock: the backup has
//! promised not to claim before its time-out has passed since it heard that reading, so until then no one else
//! speaks. No safety of data rests on clocks; silence of the old host does.

use crate::ids::Epoch;
use crate::time::{Instant, Micros};
use crate::timing::Timing;
use alloc::collections::VecDeque;

/// An acknowledgement that cannot be true.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// An epoch that was not sent.
    #[error("the backup acknowledged epoch {acked}, but {sent} is the newest that was sent")]
    NotSent {
        /// In the acknowledgement.
        acked: Epoch,
        /// Newest sent.
        sent: Epoch,
    },
    /// An echo of a time that has not come yet.
    #[error("the backup echoed a clock reading from the future")]
    Future,
}

/// The epochs of one session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ledger {
    lease: Micros,
    /// Cut and sent, not yet acknowledged, oldest first, with the time of the cut.
    waiting: VecDeque<(Epoch, Instant)>,
    sent: Epoch,
    acked: Epoch,
    released: Epoch,
    /// When the oldest epoch was cut that is acknowledged and still held, for want of a fresh echo.
    held_since: Option<Instant>,
    echo: Option<Instant>,
}

impl Ledger {
    /// The ledger of a new session.
    #[must_use]
    pub fn new(timing: &Timing) -> Self {
        Self {
            lease: timing.lease(),
            waiting: VecDeque::new(),
            sent: Epoch(0),
            acked: Epoch(0),
            released: Epoch(0),
            held_since: None,
            echo: None,
        }
    }

    /// The epoch that the next checkpoint closes.
    #[must_use]
    pub fn open_epoch(&self) -> Epoch {
        self.sent.next()
    }

    /// The newest epoch that was sent.
    #[must_use]
    pub fn sent(&self) -> Epoch {
        self.sent
    }

    /// The newest acknowledged epoch.
    #[must_use]
    pub fn acked(&self) -> Epoch {
        self.acked
    }

    /// Epochs sent and not acknowledged.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        u32::try_from(self.waiting.len()).unwrap_or(u32::MAX)
    }

    /// Whether everything sent is acknowledged and its output has left.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.waiting.is_empty() && self.released == self.sent
    }

    /// When the oldest epoch was cut whose output has not left: it is not acknowledged, or the echoes are too old.
    /// On a link so slow that everything arrives after the lease the latter would last for ever.
    #[must_use]
    pub fn oldest_waiting(&self) -> Option<Instant> {
        self.held_since.or(self.waiting.front().map(|&(_, cut_at)| cut_at))
    }

    /// Notes that `epoch` was cut at `cut_at` and is on its way.
    ///
    /// # Panics
    /// If it is not the open epoch: an error of the caller.
    pub fn send(&mut self, epoch: Epoch, cut_at: Instant) {
        assert_eq!(epoch, self.open_epoch(), "epochs are cut in order");
        self.sent = epoch;
        self.waiting.push_back((epoch, cut_at));
    }

    /// Plants a bug: a lease that nobody promised.
    #[cfg(feature = "planted")]
    pub fn plant_lease(&mut self, lease: Micros) {
        self.lease = lease;
    }

    /// Takes an echo of this host's clock.
    ///
    /// # Errors
    /// If the reading lies in the future.
    pub fn hear(&mut self, now: Instant, echo: Instant) -> Result<(), LedgerError> {
        if echo > now {
            return Err(LedgerError::Future);
        }
        self.echo = self.echo.max(Some(echo));
        Ok(())
    }

    /// Takes an acknowledgement of `epoch` and of every one before it. Old ones are taken in silence.
    ///
    /// # Errors
    /// If the epoch was never sent.
    pub fn acknowledge(&mut self, epoch: Epoch) -> Result<(), LedgerError> {
        if epoch > self.sent {
            return Err(LedgerError::NotSent { acked: epoch, sent: self.sent });
        }
        self.acked = self.acked.max(epoch);
        while let Some(&(waiting, cut_at)) = self.waiting.front()
            && waiting <= self.acked
        {
            self.held_since.get_or_insert(cut_at);
            self.waiting.pop_front();
        }
        Ok(())
    }

    /// Takes an answer of the backup: an echo, and perhaps an acknowledgement.
    ///
    /// # Errors
    /// As for [`Ledger::hear`] and [`Ledger::acknowledge`].
    pub fn answer(&mut self, now: Instant, echo: Instant, ack: Option<Epoch>) -> Result<(), LedgerError> {
        self.hear(now, echo)?;
        ack.map_or(Ok(()), |epoch| self.acknowledge(epoch))
    }

    /// Output of epochs up to this one may leave now; none if nothing new may.
    pub fn releasable(&mut self, now: Instant) -> Option<Epoch> {
        let fresh = self.echo.is_some_and(|echo| now < echo + self.lease);
        if !fresh || self.acked <= self.released {
            return None;
        }
        self.released = self.acked;
        self.held_since = None;
        assert!(self.released <= self.acked && self.acked <= self.sent);
        Some(self.released)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const T: Instant = Instant(1_000_000);

    fn ledger() -> Ledger {
        Ledger::new(&Timing::default())
    }

    #[test]
    fn nothing_leaves_before_its_acknowledgement() {
        let mut ledger = ledger();
        ledger.send(Epoch(1), T);
        ledger.send(Epoch(2), T);
        ledger.hear(T, T).unwrap();
        assert_eq!(ledger.releasable(T), None);
        ledger.acknowledge(Epoch(1)).unwrap();
        assert_eq!(ledger.releasable(T), Some(Epoch(1)));
        assert_eq!(ledger.releasable(T), None, "only once");
        assert_eq!(ledger.in_flight(), 1);
    }

    #[test]
    fn a_stale_echo_releases_nothing() {
        let mut ledger = ledger();
        ledger.send(Epoch(1), T);
        ledger.hear(T, T).unwrap();
        ledger.acknowledge(Epoch(1)).unwrap();
        let late = T + Timing::default().timeout;
        assert_eq!(ledger.releasable(late), None);
        ledger.hear(late, late).unwrap();
        assert_eq!(ledger.releasable(late), Some(Epoch(1)));
    }

    #[test]
    fn an_epoch_waits_until_its_output_has_left() {
        let mut ledger = ledger();
        ledger.send(Epoch(1), T);
        let late = T + Timing::default().timeout;
        ledger.send(Epoch(2), late);
        ledger.hear(late, T).unwrap();
        ledger.acknowledge(Epoch(1)).unwrap();
        assert_eq!((ledger.releasable(late), ledger.in_flight()), (None, 1));
        assert_eq!(ledger.oldest_waiting(), Some(T), "acknowledged, and held");
        ledger.hear(late, late).unwrap();
        assert_eq!(ledger.releasable(late), Some(Epoch(1)));
        assert_eq!(ledger.oldest_waiting(), Some(late));
    }

    #[test]
    fn acknowledgements_of_what_was_not_sent_are_refused() {
        let mut ledger = ledger();
        ledger.send(Epoch(1), T);
        assert!(ledger.acknowledge(Epoch(2)).is_err());
        assert!(ledger.hear(T, T + Micros(1)).is_err());
    }

    proptest! {
        /// Any mix of acknowledgements, echoes and time: what is released was acknowledged, in order, and fresh.
        #[test]
        fn released_is_acknowledged_and_monotonic(steps in prop::collection::vec((0u8..4, 0u64..8, 0u64..400_000), 1..80)) {
            let mut ledger = ledger();
            let (mut now, mut last, mut best_ack, mut best_echo) = (T, Epoch(0), Epoch(0), None);
            for (what, number, passed) in steps {
                match what {
                    0 => { let open = ledger.open_epoch(); ledger.send(open, now); }
                    1 => if ledger.acknowledge(Epoch(number)).is_ok() { best_ack = best_ack.max(Epoch(number)); },
                    2 => { now = now + Micros(passed); ledger.hear(now, now).unwrap(); best_echo = Some(now); }
                    _ => now = now + Micros(passed),
                }
                if let Some(epoch) = ledger.releasable(now) {
                    prop_assert!(epoch > last && epoch <= best_ack);
                    prop_assert!(best_echo.is_some_and(|echo| now.since(echo) < Timing::default().timeout));
                    last = epoch;
                }
            }
        }
    }
}
