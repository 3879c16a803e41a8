//! Owns how busy the guest is: for how long its processors' threads ran, or waited to run, from checkpoint to checkpoint.
//!
//! With KVM and TCG alike such a thread sleeps while its processor is halted.

use os::thread_time::ThreadTime;
use protocol::Micros;
use qemu::Qemu;
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
    pub fn of(qemu: &Qemu) -> Self {
        let account = |tid| {
            let account = ThreadTime::open(qemu.pid(), tid)?;
            let had = account.read()?;
            Ok::<_, std::io::Error>((account, had))
        };
        let ids = qemu.processor_threads().map_err(std::io::Error::other);
        match ids.and_then(|ids| ids.into_iter().map(account).collect()) {
            Ok(threads) => Self { threads },
            Err(error) => {
                tracing::warn!(%error, "how busy the guest is cannot be known: checkpoints follow it as one that never waits");
                Self::default()
            }
        }
    }

    /// For how long the busiest thread ran, or wanted to, since the last time.
    pub fn since_last(&mut self) -> Option<Micros> {
        let mut most = None;
        for (account, had) in &mut self.threads {
            let has = account.read().ok()?;
            let more = has.saturating_sub(std::mem::replace(had, has));
            most = most.max(Some(Micros(u64::try_from(more.as_micros()).unwrap_or(u64::MAX))));
        }
        most
    }
}
