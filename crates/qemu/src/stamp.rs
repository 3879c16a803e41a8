//! Owns what was learnt of files, for as long as they are still those that were looked at.
//!
//! A migration waits for what is asked here: starting a QEMU to ask for its version, and reading a kernel and an initial file
//! system to hash them, took longer than the handover. A file's place, length and times tell whether it was touched since.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Of so many files something is remembered.
const MOST: usize = 256;

/// A file that was touched within this time may be touched again without its times telling: file systems count them
/// coarsely.
const RESTS_FOR_SECONDS: i64 = 2;

/// What changes when a file is replaced or written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    place: (u64, u64),
    len: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of a file that is not being written to.
    ///
    /// # Errors
    /// If it is not there.
    pub fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::from(&std::fs::metadata(path)?))
    }

    /// Whether the next write will be seen by another stamp.
    #[must_use]
    pub fn rests(&self) -> bool {
        let now = i64::try_from(os::clock::realtime_us() / 1_000_000).unwrap_or(0);
        let newest = self.written.0.max(self.changed.0);
        now.saturating_sub(newest) > RESTS_FOR_SECONDS
    }
}

impl From<&Metadata> for Stamp {
    fn from(of: &Metadata) -> Self {
        Self {
            place: (of.dev(), of.ino()),
            len: of.size(),
            written: (of.mtime(), of.mtime_nsec()),
            changed: (of.ctime(), of.ctime_nsec()),
        }
    }
}

/// What was learnt of files, each as it was then.
#[derive(Debug, Default)]
pub struct Learnt<T>(Mutex<BTreeMap<PathBuf, (Stamp, T)>>);

impl<T: Clone> Learnt<T> {
    /// Nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// What is known of a file. It is learnt again if the file may have changed, or cannot be looked at.
    ///
    /// # Errors
    /// If it cannot be learnt.
    pub fn of<E>(&self, file: &Path, learn: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = Stamp::of(file).ok();
        if let Some((stamp, learnt)) = known().get(file)
            && before == Some(*stamp)
        {
            return Ok(learnt.clone());
        }
        let learnt = learn()?;
        if let Some(stamp) = before.filter(|before| before.rests() && Stamp::of(file).ok() == Some(*before)) {
            let mut known = known();
            if known.len() >= MOST {
                known.clear();
            }
            known.insert(file.to_path_buf(), (stamp, learnt.clone()));
        }
        Ok(learnt)
    }
}

/// Where a program is that is named without a path.
#[must_use]
pub fn program(name: &Path) -> Option<PathBuf> {
    if name.components().count() > 1 {
        return Some(name.to_path_buf());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_written_to_or_replaced_has_another_stamp() {
        let folder = tempfile::tempdir().expect("a directory");
        let (file, other) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&file, "one").expect("written");
        let first = Stamp::of(&file).expect("there");
        assert_eq!(Stamp::of(&file).expect("there"), first);
        assert!(!first.rests(), "it was written a moment ago");
        std::fs::write(&file, "longer").expect("written");
        let longer = Stamp::of(&file).expect("there");
        assert_ne!(longer, first);
        std::fs::write(&other, "longer").expect("written");
        std::fs::rename(&other, &file).expect("renamed");
        assert_ne!(Stamp::of(&file).expect("there"), longer);
        let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3_600);
        let opened = std::fs::File::options().write(true).open(&file).expect("there");
        opened.set_modified(old).expect("set");
        assert!(!Stamp::of(&file).expect("there").rests(), "its time of change tells");
    }

    #[test]
    fn what_rests_is_looked_at_once_and_what_was_just_written_each_time() {
        let folder = tempfile::tempdir().expect("a directory");
        let fresh = folder.path().join("fresh");
        std::fs::write(&fresh, "one").expect("written");
        let rests = Path::new("/bin/sh");
        assert!(Stamp::of(rests).expect("there").rests());
        let (learnt, mut looks) = (Learnt::new(), [0; 2]);
        for round in 1..4 {
            for (file, looks) in [rests, &fresh].into_iter().zip(&mut looks) {
                let found = learnt.of(file, || {
                    *looks += 1;
                    Ok::<_, io::Error>(round)
                });
                assert_eq!(found.expect("learnt"), if file == rests { 1 } else { round });
            }
        }
        assert_eq!(looks, [1, 3]);
        let gone = learnt.of(&folder.path().join("none"), || Err::<u32, _>("no such file"));
        assert_eq!(gone, Err("no such file"));
    }

    #[test]
    fn what_was_learnt_of_another_file_at_its_place_does_not_count() {
        let learnt = Learnt::new();
        let rests = Path::new("/bin/sh");
        let stamp = Stamp::of(rests).expect("there");
        let other = Stamp { len: stamp.len + 1, ..stamp };
        learnt.0.lock().expect("whole").insert(rests.into(), (other, 1));
        assert_eq!(learnt.of(rests, || Ok::<_, io::Error>(2)).expect("learnt"), 2);
    }

    #[test]
    fn a_program_is_found_as_the_system_finds_it() {
        assert!(program(Path::new("sh")).is_some_and(|found| found.is_absolute()));
        assert_eq!(program(Path::new("/no/such")), Some(PathBuf::from("/no/such")));
        assert_eq!(program(Path::new("surely-no-such-program")), None);
    }
}
