//! Owns which snapshots of a run are kept: the last ones. The oldest of them is made whole, and what is older is removed, in
//! steps between which the program may be killed: whatever is there can be restored.

#[cfg(test)]
mod tests;

use super::merge::merge;
use super::reader::chain;
use super::{EXTENSION, SavedError, before, named, numbers};
use std::fs::File;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

/// So many go at once, since each is an open file while they are merged.
const AT_ONCE: usize = 256;

/// Removes older snapshots on a thread of its own: merging them takes longer than a guest may stand still, and longer than
/// writing the next one may wait.
pub(super) struct Thinner {
    bell: Option<SyncSender<()>>,
    thread: Option<JoinHandle<Result<(), SavedError>>>,
}

impl Thinner {
    /// Keeps at least so many snapshots in a directory, and at most about twice as many.
    pub fn begin(directory: &Path, keep: NonZeroUsize) -> std::io::Result<Thinner> {
        // One that waits stands for all.
        let (bell, rung) = sync_channel(1);
        let directory = directory.to_owned();
        let thread = std::thread::Builder::new()
            .name("thinning".to_owned())
            .spawn(move || rung.into_iter().try_for_each(|()| thin(&directory, keep)))?;
        Ok(Thinner { bell: Some(bell), thread: Some(thread) })
    }

    /// Says that there is one more.
    ///
    /// # Errors
    /// Snapshots could not be merged or removed.
    pub fn ring(&mut self) -> Result<(), SavedError> {
        match self.bell.as_ref().map(|bell| bell.try_send(())) {
            Some(Ok(()) | Err(TrySendError::Full(()))) => Ok(()),
            _ => self.finish(),
        }
    }

    /// Waits until what is due is done.
    ///
    /// # Errors
    /// Snapshots could not be merged or removed.
    pub fn finish(&mut self) -> Result<(), SavedError> {
        self.bell = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(done)) => done,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Ok(()),
        }
    }
}

fn thin(directory: &Path, keep: NonZeroUsize) -> Result<(), SavedError> {
    loop {
        let steps = steps(directory, keep)?;
        if steps.is_empty() {
            return Ok(());
        }
        steps.iter().try_for_each(Step::carry_out)?;
    }
}

/// What is done at once; the directory is right before and after it.
#[derive(Debug)]
pub(super) enum Step {
    /// What these come to, each of which is built on the next, is written beside the first.
    Merge(Vec<PathBuf>),
    /// What was written beside it takes its place.
    Replace(PathBuf),
    /// What is whole already reaches its medium.
    Sync(PathBuf),
    /// This is needed no more.
    Remove(PathBuf),
}

/// What is to be done if there are twice as many snapshots as are kept, so that each merge is one for many of them.
pub(super) fn steps(directory: &Path, keep: NonZeroUsize) -> Result<Vec<Step>, SavedError> {
    let numbers = numbers(directory, EXTENSION)?;
    if numbers.len() / 2 < keep.get() {
        return Ok(Vec::new());
    }
    let (gone, kept) = numbers.split_at((numbers.len() - keep.get()).min(AT_ONCE));
    let place = |number: u64| directory.join(named(number, EXTENSION));
    let oldest = place(kept[0]);
    let chain = chain(&oldest)?;
    let mut steps = match chain.len() {
        1 => vec![Step::Sync(oldest)],
        _ => vec![Step::Merge(chain), Step::Replace(oldest)],
    };
    // Each goes before what it is built on, and all of them before what the disks held, which each of them needs.
    steps.extend(gone.iter().rev().map(|&number| Step::Remove(place(number))));
    let held = gone.iter().map(|&number| before::beside(directory, number));
    steps.extend(held.filter(|path| path.exists()).map(Step::Remove));
    Ok(steps)
}

impl Step {
    pub(super) fn carry_out(&self) -> Result<(), SavedError> {
        match self {
            Step::Merge(chain) => merge(chain, &beside(&chain[0])),
            Step::Replace(path) => {
                let replaced = std::fs::rename(beside(path), path).and_then(|()| sync_directory_of(path));
                replaced.map_err(failed("replace the snapshot", path))
            }
            Step::Sync(path) => {
                let synced = File::open(path).and_then(|file| file.sync_all());
                synced.and_then(|()| sync_directory_of(path)).map_err(failed("flush the snapshot", path))
            }
            Step::Remove(path) => std::fs::remove_file(path).map_err(failed("remove", path)),
        }
    }
}

/// Where a snapshot is while it is written.
pub(super) fn beside(path: &Path) -> PathBuf {
    path.with_extension("part")
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> SavedError + use<> {
    let path = path.to_owned();
    move |source| SavedError::File { what, path, source }
}

fn sync_directory_of(path: &Path) -> std::io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}
