//! Owns who has an image on storage that several hosts reach: this host, or another one.
//!
//! An image that is elsewhere can be read, but says nothing that lasts: its owner writes it. Taking it opens it anew: a network
//! file system shows what another host wrote to those who open the file after that host wrote it out (NFS: close-to-open, nfs(5)).

use super::{Access, Image, ImageError, lock, open_file};
use std::fs::File;
use std::ops::Deref;
use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

/// An image's file, and whether this host may write it.
#[derive(Debug)]
pub(super) struct Held(RwLock<State>);

#[derive(Debug)]
struct State {
    file: File,
    here: bool,
}

/// The file, which is not exchanged for another while this lives.
pub(super) struct InUse<'a>(RwLockReadGuard<'a, State>);

impl Deref for InUse<'_> {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0.file
    }
}

impl Held {
    pub fn here(file: File) -> Self {
        Self(RwLock::new(State { file, here: true }))
    }

    /// The file, to be looked at.
    pub fn file(&self) -> InUse<'_> {
        InUse(self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The file, to be changed; none while it is elsewhere.
    pub fn file_to_change(&self) -> Option<InUse<'_>> {
        Some(self.file()).filter(|file| file.0.here)
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Image {
    /// Opens an image that another host has, to be written once it was [taken](Self::take). Until then it can be read.
    ///
    /// # Errors
    /// As [`open`](Self::open), but that it is in use.
    pub fn open_elsewhere(path: &Path) -> Result<Self, ImageError> {
        let (file, size) = open_file(path, Access::ReadOnly)?;
        let image = Self::new(path, file, size, Access::ReadWrite);
        image.check_size()?;
        image.medium.with(|state| state.here = false);
        Ok(image)
    }

    /// Whether this host has it.
    #[must_use]
    pub fn is_here(&self) -> bool {
        self.medium.file().0.here
    }

    /// Another host may have it from now on: what was written is on the medium, nothing more is written, its lock is given up.
    ///
    /// # Errors
    /// If the medium fails; then it is still ours.
    pub fn release(&self) -> Result<(), ImageError> {
        if self.access == Access::ReadOnly {
            return Ok(());
        }
        self.flush()?;
        self.medium.with(|state| {
            state.here = false;
            // It fails only for a file that has no lock.
            let _ = state.file.unlock();
        });
        Ok(())
    }

    /// This host has it from now on, with what other hosts wrote to it.
    ///
    /// # Errors
    /// As [`open`](Self::open), or if its size is another one now; then it stays elsewhere.
    pub fn take(&self) -> Result<(), ImageError> {
        if self.is_here() {
            return Ok(());
        }
        let (file, size) = open_file(&self.path, self.access)?;
        if size != self.size {
            return Err(ImageError::Resized { path: self.path.clone(), had: self.size, has: size });
        }
        lock(&self.path, &file, self.access)?;
        self.medium.with(|state| *state = State { file, here: true });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Holes;

    fn pair() -> (tempfile::TempDir, Image, Image) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let ours = Image::create(&path, 4096).unwrap();
        (folder, ours, Image::open_elsewhere(&path).unwrap())
    }

    #[test]
    fn one_host_writes_at_a_time_and_the_next_sees_it() {
        let (_folder, ours, theirs) = pair();
        ours.write_at(0, b"first").unwrap();
        for refused in [
            theirs.write_at(0, b"x"),
            theirs.write_zeroes_at(0, 512, Holes::Allowed),
            theirs.discard_at(0, 512).map(drop),
        ] {
            assert!(matches!(refused, Err(ImageError::Elsewhere { .. })), "{refused:?}");
        }
        assert!(matches!(theirs.take(), Err(ImageError::InUse { .. })), "it is ours");
        assert!(!theirs.is_here());
        ours.release().unwrap();
        assert!(matches!(ours.write_at(0, b"late"), Err(ImageError::Elsewhere { .. })));
        theirs.take().unwrap();
        let mut seen = [0; 5];
        theirs.read_at(0, &mut seen).unwrap();
        assert_eq!(&seen, b"first");
        theirs.write_at(0, b"other").unwrap();
        assert!(matches!(ours.take(), Err(ImageError::InUse { .. })));
        drop(theirs);
        ours.take().unwrap();
        ours.read_at(0, &mut seen).unwrap();
        assert_eq!(&seen, b"other");
        ours.write_at(0, b"again").unwrap();
        assert!(matches!(Image::open(ours.path(), Access::ReadWrite), Err(ImageError::InUse { .. })));
    }

    #[test]
    fn one_that_was_replaced_meanwhile_is_taken_as_it_is_now_but_not_with_another_size() {
        let (folder, ours, theirs) = pair();
        ours.release().unwrap();
        let path = folder.path().join("disk");
        std::fs::rename(&path, folder.path().join("old")).unwrap();
        std::fs::write(&path, [7; 8192]).unwrap();
        assert!(matches!(theirs.take(), Err(ImageError::Resized { had: 4096, has: 8192, .. })));
        assert!(!theirs.is_here());
        std::fs::write(&path, [7; 4096]).unwrap();
        theirs.take().unwrap();
        let mut seen = [0; 1];
        theirs.read_at(0, &mut seen).unwrap();
        assert_eq!(seen, [7]);
    }

    #[test]
    fn one_that_is_only_read_is_everybodys() {
        let (folder, ours, _) = pair();
        drop(ours);
        let open = || Image::open(&folder.path().join("disk"), Access::ReadOnly).unwrap();
        let (here, there) = (open(), open());
        here.release().unwrap();
        assert!(here.is_here() && there.is_here());
    }
}
