//! Owns the thread that hears of each first write to a page of cold memory.
//!
//! Such a write waits in the kernel: the thread notes the page, lifts its protection, and with that the writer goes on.
//! Noting and lifting are one step towards a scan, which takes the notes and then protects the pages again. So a page
//! without protection is noted, or is just being returned by a scan; a page that is both noted and protected does no
//! harm. If we die the kernel closes the userfaultfd and lets all writers go on.

use super::TrackerError;
use super::uffd::{Tidings, Uffd};
use crate::range::{PAGE_SIZE, Range, normalize};
use rustix::event::{PollFd, PollFlags, poll};
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Hears of writes to what `uffd` watches, until it is dropped.
#[derive(Debug)]
pub(super) struct Told {
    uffd: Arc<Uffd>,
    notes: Arc<Mutex<Notes>>,
    /// Closed to end the thread.
    end: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Notes {
    /// Addresses of pages that were written, and are not protected now.
    pages: Vec<u64>,
    /// Watched memory that the process has unmapped.
    lost: Option<Range>,
    /// A protection could not be lifted: a writer hangs.
    failed: Option<TrackerError>,
}

impl Told {
    pub(super) fn listen(uffd: Arc<Uffd>) -> io::Result<Self> {
        let notes = Arc::new(Mutex::new(Notes::default()));
        let (ended, end) = io::pipe()?;
        let (theirs, hears) = (Arc::clone(&notes), Arc::clone(&uffd));
        let thread = std::thread::Builder::new()
            .name("cold memory".into())
            .spawn(move || hear(&hears, &ended, &theirs))?;
        Ok(Self { uffd, notes, end: Some(end), thread: Some(thread) })
    }

    /// Puts the noted pages into `pages` (sorted, joined) and protects those among them that `is_cold`: others have a
    /// watch that needs no such help.
    ///
    /// # Errors
    /// If one cannot be protected, a writer hangs, or watched memory is not there any more. All stay noted.
    pub(super) fn take(
        &self,
        mut is_cold: impl FnMut(u64) -> bool,
        pages: &mut Vec<Range>,
    ) -> Result<(), TrackerError> {
        pages.clear();
        let taken = lock(&self.notes).take(&self.uffd)?;
        let mut cold: Vec<Range> = Vec::new();
        for page in taken.iter().map(|&page| Range::new(page, PAGE_SIZE)) {
            pages.push(page);
            cold.extend(Some(page).filter(|page| is_cold(page.start)));
        }
        normalize(pages);
        normalize(&mut cold);
        // Without the lock: it waits for mappings that change, of which the thread must hear first.
        let protected = cold.iter().try_for_each(|range| self.uffd.write_protect(*range));
        if protected.is_err() {
            lock(&self.notes).pages.extend(taken);
        }
        protected
    }
}

impl Notes {
    fn take(&mut self, uffd: &Uffd) -> Result<Vec<u64>, TrackerError> {
        if let Some(range) = self.lost {
            return Err(uffd.lost(range));
        }
        self.failed.take().map_or_else(|| Ok(std::mem::take(&mut self.pages)), Err)
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn hear(uffd: &Uffd, ended: &PipeReader, notes: &Mutex<Notes>) {
    // A guest's processor waits for this thread. Not allowed: it waits longer.
    let _ = crate::sched::raise_current_thread();
    let mut tidings = Vec::new();
    loop {
        let mut fds =
            [PollFd::new(uffd, PollFlags::IN), PollFd::from_borrowed_fd(ended.as_fd(), PollFlags::IN)];
        let polled = poll(&mut fds, None);
        if polled == Err(rustix::io::Errno::INTR) {
            continue;
        }
        if polled.is_err() || !fds[1].revents().is_empty() {
            return;
        }
        if let Err(error) = uffd.hear(&mut tidings).and_then(|()| heed(uffd, &mut tidings, notes)) {
            lock(notes).failed = Some(error);
            return;
        }
    }
}

/// Notes what `tidings` tell of, and lets writers go on.
fn heed(uffd: &Uffd, tidings: &mut Vec<Tidings>, notes: &Mutex<Notes>) -> Result<(), TrackerError> {
    let mut next = 0;
    while let Some(&tiding) = tidings.get(next) {
        let mut notes = lock(notes);
        let done = match tiding {
            Tidings::Unmapped(range) => {
                notes.lost = Some(range);
                true
            }
            Tidings::Write(page) => {
                notes.pages.push(page.start);
                uffd.lift(page)?
            }
        };
        drop(notes);
        if done {
            next += 1;
        } else {
            uffd.hear(tidings)?;
        }
    }
    tidings.clear();
    Ok(())
}

fn lock(notes: &Mutex<Notes>) -> MutexGuard<'_, Notes> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}
