//! Owns when a VM's tracker does the work that makes later scans shorter: between checkpoints, while the guest runs.

use crate::computer::PageTracker;
use std::time::{Duration, Instant};

/// Between two pieces of a millisecond, while there are any: a tenth of a processor. 16 GiB take a minute and a half.
const BETWEEN: Duration = Duration::from_millis(10);
/// Until it is asked again whether there is any.
const REST: Duration = Duration::from_secs(1);

/// When the next piece of that work is due.
#[derive(Debug)]
pub struct Settling(Instant);

impl Settling {
    /// It begins once the VM is protected.
    pub fn begin() -> Self {
        Self(Instant::now() + REST)
    }

    /// When it is due.
    pub fn due(&self) -> Instant {
        self.0
    }

    /// Does a piece.
    pub fn work(&mut self, tracker: &mut dyn PageTracker) {
        let more = tracker.settle().unwrap_or_else(|error| {
            // The next scan fails for the same reason, and is what must not.
            tracing::debug!(%error, "the tracker cannot settle");
            false
        });
        self.0 = Instant::now() + if more { BETWEEN } else { REST };
    }
}
