//! Owns how busy the guest is: for how long its processors' threads ran, or waited to run, from checkpoint to checkpoint, and
//! whether they do at the moment.

use crate::computer::{Computer, MachineError};
use crate::loops::micros;
use os::thread_time::ThreadTime;
use protocol::Micros;
use std::time::Duration;

/// Looks at the threads of a guest's processors.
#[derive(Debug, Default)]
pub struct Busy {
    /// With what each had when it was last looked at.
    threads: Vec<(ThreadTime, Duration)>,
}

impl Busy {
    /// Finds the guest's threads. Where that is not possible nothing will be known, and the guest counts as busy.
    #[must_use]
    pub fn of(computer: &dyn Computer) -> Self {
        let looked_at = |account: ThreadTime| {
            let had = account.read().map_err(MachineError::Processors)?;
            Ok((account, had))
        };
        let accounts = computer.processors();
        match accounts.and_then(|accounts| accounts.into_iter().map(looked_at).collect()) {
            Ok(threads) => Self { threads },
            Err(error) => {
                tracing::warn!(%error, "how busy the guest is cannot be known: checkpoints follow it as one that never waits");
                Self::default()
            }
        }
    }

    /// Whether each processor's thread ran for less than that since the last time. One that runs at the moment may not be
    /// charged with what it did since the last tick.
    #[must_use]
    pub fn ran_less(&self, least: Micros) -> bool {
        let least = Duration::from_micros(least.0);
        let little = |(thread, had): &(ThreadTime, Duration)| {
            thread.read().is_ok_and(|has| has.saturating_sub(*had) < least)
        };
        !self.threads.is_empty() && self.threads.iter().all(little)
    }

    /// Whether all of its processors wait for something now.
    #[must_use]
    pub fn waits(&self) -> bool {
        !self.threads.is_empty() && self.threads.iter().all(|(thread, _)| thread.sleeps().unwrap_or(false))
    }

    /// Whether one of its processors is at work now, as far as is known.
    #[must_use]
    pub fn works(&self) -> bool {
        self.threads.iter().any(|(thread, _)| thread.sleeps().is_ok_and(|sleeps| !sleeps))
    }

    /// For how long the busiest thread ran, or wanted to, since the last time.
    pub fn since_last(&mut self) -> Option<Micros> {
        let mut most = None;
        for (account, had) in &mut self.threads {
            let has = account.read().ok()?;
            let more = has.saturating_sub(std::mem::replace(had, has));
            most = most.max(Some(micros(more)));
        }
        most
    }
}
