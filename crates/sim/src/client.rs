//! Owns the model client: it sends numbered increments, repeats what is not acknowledged, and remembers what was.

use std::collections::BTreeMap;

const WINDOW: u64 = 4;
const REPEAT_AFTER: u64 = 30_000;

#[derive(Debug, Default)]
pub(crate) struct Client {
    next: u64,
    pub(crate) acked: u64,
    sent_at: BTreeMap<u64, u64>,
    /// Last word that came, for the liveness check.
    pub(crate) progress_at: u64,
}

impl Client {
    /// Writes to send now: new ones while the window has room, and those that were not answered in time.
    pub(crate) fn due(&mut self, now: u64) -> Vec<u64> {
        while self.next < self.acked + WINDOW {
            self.sent_at.insert(self.next, 0);
            self.next += 1;
        }
        let mut due = Vec::new();
        for (&write, sent_at) in &mut self.sent_at {
            if *sent_at == 0 || *sent_at + REPEAT_AFTER <= now {
                *sent_at = now;
                due.push(write);
            }
        }
        due
    }

    /// Takes an acknowledgement; returns how many writes it acknowledges anew.
    ///
    /// # Errors
    /// If it acknowledges what was not sent.
    pub(crate) fn acknowledged(&mut self, now: u64, stored: u64) -> Result<u64, String> {
        if stored > self.next {
            return Err(format!("{stored} writes acknowledged, {} were made", self.next));
        }
        let new = stored.saturating_sub(self.acked);
        if new > 0 {
            self.acked = stored;
            self.sent_at = self.sent_at.split_off(&stored);
            self.progress_at = now;
        }
        Ok(new)
    }
}
