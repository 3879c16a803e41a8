//! Owns the first copy: the disks (`resync`), then all memory in rounds, or what of it differs from a remnant (`remnant`), while the
//! guest runs (live migration's pre-copy, NSDI'05 §3).

use super::orders::{Done, Job};
use super::pace::Pace;
use crate::computer::PageTracker;
use crate::disks::{KeptChange, Tap};
use crate::link::{Outbox, Pack, Part};
use crate::ram::GuestRam;
use crate::staging::{Pool, PooledBuffer};
use api::types::CopyProgress;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use disk::Image;
use os::range::{PAGE_SIZE, Range, page_count};
use protocol::resync::{MemoryOffer, Offer};
use protocol::wire::ToBackup;
use protocol::wire::compare::Hashes;
use protocol::{Epoch, Session};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// So few dirty pages may be left to the first checkpoint: some ten milliseconds of copying at the worst.
const FEW_PAGES: u64 = 4_096;
/// A guest that writes faster than the link carries is given to the first checkpoint after so many rounds.
const MAX_ROUNDS: u32 = 12;
/// Beside the checkpoints of another session there is no hurry, and what the guest says waits for all that is left: so few, in
/// so many rounds.
const FEW_BESIDE: u64 = 128;
const MAX_ROUNDS_BESIDE: u32 = 40;
/// How often to look for what the guest wrote to its disks while something is waited for.
pub(super) const DISK_PAUSE: Duration = Duration::from_millis(1);

/// How a first copy ended.
#[derive(Debug)]
pub enum Outcome {
    /// Few pages are left to the first checkpoint.
    Copied,
    /// A migration would stop the guest for too long.
    GivenUp(String),
    /// The session ended.
    Ended,
    /// It cannot be done.
    Failed(String),
}

/// One first copy.
pub struct Copy<'a> {
    /// The session.
    pub session: Session,
    /// Checkpoints of another session go on beside it, and take what is written to the disks.
    pub beside: bool,
    /// The guest's memory.
    pub ram: &'a GuestRam,
    /// Its tracker; it tracks already.
    pub tracker: &'a mut dyn PageTracker,
    /// The images of its disks.
    pub images: &'a [Arc<Image>],
    /// What is written to them; it is kept already.
    pub tap: &'a Tap,
    /// What the backup has of all that.
    pub offer: &'a Offer,
    /// How fast it may go.
    pub pace: Pace,
    /// Bytes of memory on the wire that the pace knows of.
    pub wire: u64,
    /// Hashes that came, the oldest first.
    pub hashes: VecDeque<Hashes>,
    /// The backup has all before the last mark.
    pub reached: bool,
    /// Buffers.
    pub pool: &'a Pool,
    /// Where pages go.
    pub outbox: &'a Outbox,
    /// To the loop.
    pub done: &'a Sender<Done>,
    /// Orders that come meanwhile.
    pub jobs: &'a Receiver<Job>,
    /// Orders that came and are for later.
    pub later: &'a mut VecDeque<Job>,
}

impl Copy<'_> {
    /// Copies until little is dirty.
    pub fn run(&mut self) -> Outcome {
        match self.disks() {
            Ok(true) => {}
            Ok(false) => return Outcome::Ended,
            Err(why) => return Outcome::Failed(why),
        }
        let mut ranges = match self.all_memory() {
            Ok(Some(ranges)) => ranges,
            Ok(None) => return Outcome::Ended,
            Err(why) => return Outcome::Failed(why),
        };
        let mut copied = 0;
        let (few, rounds) =
            if self.beside { (FEW_BESIDE, MAX_ROUNDS_BESIDE) } else { (FEW_PAGES, MAX_ROUNDS) };
        for round in 1..=rounds {
            let pages = page_count(&ranges);
            match self.round(round, &ranges, &mut copied) {
                Ok(true) => {}
                Ok(false) => return Outcome::Ended,
                Err(why) => return Outcome::Failed(why),
            }
            if self.beside && !self.arrives() {
                return Outcome::Ended;
            }
            ranges.clear();
            if let Err(error) = self.tracker.scan_live(&mut ranges) {
                return Outcome::Failed(error.to_string());
            }
            let dirty = page_count(&ranges);
            let no_progress = round > 2 && dirty >= pages;
            if dirty <= few || no_progress || round == rounds {
                break;
            }
        }
        // What is dirty now is owed to the first checkpoint.
        self.tracker.give_back(&ranges);
        Outcome::Copied
    }

    /// What the first round sends: all that is not zeroes, or, to a host that has a remnant, what was written while all was
    /// compared with that. None if the session ended.
    pub(super) fn all_memory(&mut self) -> Result<Option<Vec<Range>>, String> {
        self.outbox.copy_wire().disks_are_done();
        if self.offer.memory == MemoryOffer::Blank {
            return self.ram.populated().map(Some).map_err(|error| error.to_string());
        }
        if !self.compare_memory()? {
            return Ok(None);
        }
        let mut ranges = Vec::new();
        self.tracker.scan_live(&mut ranges).map_err(|error| error.to_string())?;
        Ok(Some(ranges))
    }

    /// Waits until all that was sent is in the other host's copy; false if the session ended. What stood in queues before the
    /// first checkpoint would keep its acknowledgement waiting, and with it what the guest says.
    fn arrives(&mut self) -> bool {
        self.reached = false;
        self.outbox.to_backup(&ToBackup::Mark);
        self.waits_until(|copy| copy.reached)
    }

    /// Heeds orders until that is so; false if the session ended. What the guest writes to its disks meanwhile is sent on.
    pub(super) fn waits_until(&mut self, so: impl Fn(&Self) -> bool) -> bool {
        while !so(self) {
            match self.jobs.recv_timeout(DISK_PAUSE) {
                Err(RecvTimeoutError::Timeout) => self.outbox.disks(Epoch(0), self.written()),
                job => {
                    if !self.heed(job.ok()) {
                        return false;
                    }
                }
            }
        }
        true
    }

    /// What was written to the disks since the last time.
    pub(super) fn written(&self) -> Vec<KeptChange> {
        if self.beside { self.tap.take_second() } else { self.tap.take() }
    }

    /// Keeps an order that came for later; false if it ends this copy.
    pub(super) fn heed(&mut self, job: Option<Job>) -> bool {
        match job {
            Some(Job::EndSession(session)) if session == self.session => false,
            // Those of a session before were asked for by another copy.
            Some(Job::Hashes(session, hashes)) => {
                if session == self.session {
                    self.hashes.push_back(hashes);
                }
                true
            }
            Some(Job::Reached(session)) => {
                self.reached |= session == self.session;
                true
            }
            Some(job @ Job::Quit) => {
                self.later.push_back(job);
                false
            }
            Some(job) => {
                self.later.push_back(job);
                true
            }
            None => false,
        }
    }

    /// Under a bound on bytes each one less is time won.
    pub(super) fn pack(&self) -> Pack {
        if self.pace.is_bounded() { Pack::Always } else { Pack::IfSooner }
    }

    /// Copies the ranges; false if the session ended meanwhile.
    fn round(&mut self, round: u32, ranges: &[Range], copied: &mut u64) -> Result<bool, String> {
        let mut pages = Vec::new();
        self.ram.number(ranges, &mut pages);
        let mut left = pages.as_slice();
        while !left.is_empty() {
            let remaining_bytes = left.len() as u64 * PAGE_SIZE;
            let progress = CopyProgress { round, copied_bytes: *copied, remaining_bytes };
            let _ = self.done.send(Done::CopyProgress(progress));
            if !self.wait_for_pace() {
                return Ok(false);
            }
            let Some(buffer) = self.buffer() else { return Ok(false) };
            let (now, after) = left.split_at(left.len().min(buffer.pages()));
            left = after;
            let part = Part::copy(self.ram, now, buffer).map_err(|error| error.to_string())?;
            self.outbox.part(Epoch(0), part.packed(self.pack()).once(round == 1));
            if self.beside {
                self.outbox.disks(Epoch(0), self.written());
            }
            let bytes = now.len() as u64 * PAGE_SIZE;
            *copied += bytes;
            self.pace.sent(bytes);
        }
        Ok(true)
    }

    /// Waits until more may be sent, heeding orders; false if the session ended.
    pub(super) fn wait_for_pace(&mut self) -> bool {
        while let Some(wait) = self.pace.wait() {
            match self.jobs.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => {}
                job => {
                    if !self.heed(job.ok()) {
                        return false;
                    }
                }
            }
        }
        true
    }

    /// A free buffer; none if the session ended before there was one.
    pub(super) fn buffer(&mut self) -> Option<PooledBuffer> {
        loop {
            crossbeam_channel::select! {
                recv(self.jobs) -> job => if !self.heed(job.ok()) {
                    return None;
                },
                recv(self.pool.free()) -> buffer => return buffer.ok().map(|buffer| self.pool.adopt(buffer)),
            }
        }
    }
}
