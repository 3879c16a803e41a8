//! Owns the first copy: the disks, then all memory in rounds, while the guest runs (live migration's pre-copy,
//! NSDI'05 §3).

use super::checkpointer::{Done, Job};
use crate::api::types::CopyProgress;
use crate::disks::{Kept, KeptChange, Tap};
use crate::link::{Outbox, Part};
use crate::ram::GuestRam;
use crate::staging::{Pool, PooledBuffer};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use disk::Image;
use os::range::{PAGE_SIZE, Range, page_count};
use os::tracker::Tracker;
use protocol::{Epoch, Session};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// So few dirty pages may be left to the first checkpoint: some ten milliseconds of copying at the worst.
const FEW_PAGES: u64 = 4_096;
/// A guest that writes faster than the link carries is given to the first checkpoint after so many rounds.
const MAX_ROUNDS: u32 = 12;

/// Bytes of a disk that are read at a time.
const DISK_PIECE: u64 = 1 << 20;
/// Bytes of disks that may wait behind the link.
const MAX_DISK_WAITING: usize = 16 << 20;
/// How often to look whether they still do.
const DISK_PAUSE: Duration = Duration::from_millis(1);

/// How a first copy ended.
#[derive(Debug)]
pub enum Outcome {
    /// Few pages are left to the first checkpoint.
    Copied,
    /// The session ended.
    Ended,
    /// It cannot be done.
    Failed(String),
}

/// One first copy.
pub struct Copy<'a> {
    /// The session.
    pub session: Session,
    /// The guest's memory.
    pub ram: &'a GuestRam,
    /// Its tracker; it tracks already.
    pub tracker: &'a mut Tracker,
    /// The images of its disks.
    pub images: &'a [Arc<Image>],
    /// What is written to them; it is kept already.
    pub tap: &'a Tap,
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
        let mut ranges = match self.ram.populated() {
            Ok(ranges) => ranges,
            Err(error) => return Outcome::Failed(error.to_string()),
        };
        let mut copied = 0;
        for round in 1..=MAX_ROUNDS {
            let pages = page_count(&ranges);
            match self.round(round, &ranges, &mut copied) {
                Ok(true) => {}
                Ok(false) => return Outcome::Ended,
                Err(why) => return Outcome::Failed(why),
            }
            ranges.clear();
            if let Err(error) = self.tracker.scan_live(&mut ranges) {
                return Outcome::Failed(error.to_string());
            }
            let dirty = page_count(&ranges);
            let no_progress = round > 2 && dirty >= pages;
            if dirty <= FEW_PAGES || no_progress || round == MAX_ROUNDS {
                break;
            }
        }
        // What is dirty now is owed to the first checkpoint.
        self.tracker.give_back(&ranges);
        Outcome::Copied
    }

    /// Copies what the disks hold, with what is written meanwhile behind it; false if the session ended. The rest
    /// belongs to the first checkpoint.
    fn disks(&mut self) -> Result<bool, String> {
        let mut copied_bytes = 0;
        for (disk, image) in (0u8..).zip(self.images) {
            let extents: Result<Vec<_>, _> = image.extents(0..image.size()).collect();
            let mut data = extents.map_err(|error| error.to_string())?;
            data.retain(|extent| !extent.hole);
            let mut remaining_bytes: u64 = data.iter().map(|extent| extent.len).sum();
            for extent in data {
                let (mut offset, end) = (extent.offset, extent.offset + extent.len);
                while offset < end {
                    let len = DISK_PIECE.min(end - offset);
                    let progress = CopyProgress { round: 0, copied_bytes, remaining_bytes };
                    let _ = self.done.send(Done::CopyProgress(progress));
                    if !self.piece(disk, image, offset, len)? {
                        return Ok(false);
                    }
                    offset += len;
                    copied_bytes += len;
                    remaining_bytes -= len;
                }
            }
        }
        Ok(true)
    }

    /// Sends a piece of a disk. What the guest writes there while it is read comes behind it from the tap.
    fn piece(&mut self, disk: u8, image: &Image, offset: u64, len: u64) -> Result<bool, String> {
        while self.outbox.disks_waiting() > MAX_DISK_WAITING {
            match self.jobs.recv_timeout(DISK_PAUSE) {
                Err(RecvTimeoutError::Timeout) => {}
                job => {
                    if !self.heed(job.ok()) {
                        return Ok(false);
                    }
                }
            }
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        image.read_at(offset, &mut bytes).map_err(|error| error.to_string())?;
        let mut changes = vec![KeptChange { disk, offset, what: Kept::Data(bytes) }];
        changes.append(&mut self.tap.take());
        self.outbox.disks(Epoch(0), changes);
        Ok(true)
    }

    /// Keeps an order that came for later; false if it ends this copy.
    fn heed(&mut self, job: Option<Job>) -> bool {
        match job {
            Some(Job::EndSession(session)) if session == self.session => false,
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

    /// Copies the ranges; false if the session ended meanwhile.
    fn round(&mut self, round: u32, ranges: &[Range], copied: &mut u64) -> Result<bool, String> {
        let mut pages = Vec::new();
        self.ram.number(ranges, &mut pages);
        let mut left = pages.as_slice();
        while !left.is_empty() {
            let remaining_bytes = left.len() as u64 * PAGE_SIZE;
            let progress = CopyProgress { round, copied_bytes: *copied, remaining_bytes };
            let _ = self.done.send(Done::CopyProgress(progress));
            let Some(mut buffer) = self.buffer() else { return Ok(false) };
            let (now, after) = left.split_at(left.len().min(buffer.pages()));
            left = after;
            let bytes = now.len() * PAGE_SIZE as usize;
            self.ram.copy_out(now, &mut buffer.bytes_mut()[..bytes]).map_err(|error| error.to_string())?;
            self.outbox.part(Epoch(0), Part { pages: now.to_vec(), buffer });
            *copied += bytes as u64;
        }
        Ok(true)
    }

    /// A free buffer; none if the session ended before there was one.
    fn buffer(&mut self) -> Option<PooledBuffer> {
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
