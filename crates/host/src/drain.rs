//! Owns whether this host is being drained for maintenance. A file in the state directory says so, so that it outlives
//! the agent.

use protocol::HostName;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// The file, empty.
const NAME: &str = "draining";

/// Whether this host takes no VM any more and gives away those it has.
#[derive(Debug)]
pub struct Drain {
    file: PathBuf,
    on: AtomicBool,
}

impl Drain {
    /// As it was when the last agent of this state directory ended.
    #[must_use]
    pub fn open(state_dir: &Path) -> Self {
        let file = state_dir.join(NAME);
        let on = AtomicBool::new(file.exists());
        Self { file, on }
    }

    /// Whether it is.
    #[must_use]
    pub fn on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Begins or ends it, durably.
    ///
    /// # Errors
    /// If the file cannot be made or removed; then nothing changed.
    pub fn set(&self, on: bool) -> io::Result<()> {
        if on {
            std::fs::File::create(&self.file)?.sync_all()?;
        } else if self.file.exists() {
            std::fs::remove_file(&self.file)?;
        }
        if let Some(directory) = self.file.parent() {
            std::fs::File::open(directory)?.sync_all()?;
        }
        self.on.store(on, Ordering::Relaxed);
        Ok(())
    }

    /// Why nothing new is taken, for people; none if it is.
    #[must_use]
    pub fn refusal(&self, here: &HostName) -> Option<String> {
        self.on().then(|| {
            format!("host {here} is being drained and takes no VMs; `undying host undrain` there ends that")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_outlives_the_agent_and_ends_when_it_is_said() {
        let place = tempfile::tempdir().expect("a directory");
        let here = HostName::new("alpha").expect("a name");
        let drain = Drain::open(place.path());
        assert!(!drain.on() && drain.refusal(&here).is_none());
        drain.set(true).expect("drained");
        let again = Drain::open(place.path());
        assert!(
            again.on() && again.refusal(&here).expect("a refusal").contains("host alpha is being drained")
        );
        again.set(false).expect("undrained");
        again.set(false).expect("twice is no error");
        assert!(!Drain::open(place.path()).on());
    }
}
