//! Owns the copy to a host that shall be the VM's backup in the present one's place, while checkpoints go on.
//!
//! The guest has one tracker, and its marks are read by the present backup's checkpoints. What they find is *owed* to the second
//! session as well: its copy takes that for what a tracker of its own would say. The same with the disks: what a checkpoint
//! takes of them is kept for the second session. So the copy is a first copy like any other ([`struct@Copy`]), on a thread of its
//! own, and the checkpoint that is taken for both sends it what is owed then.

use super::copy::{Copy, Outcome};
use super::orders::{Begin, Done, Job};
use super::pace::Pace;
use crate::computer::{Computer, MachineError, PageTracker};
use crate::disks::{KeptChange, Tap};
use crate::link::Outbox;
use crate::loops::Haste;
use crate::staging::Pool;
use crossbeam_channel::{Receiver, Sender, unbounded};
use disk::Image;
use os::range::{Range, normalize};
use protocol::resync::Base;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// So many ranges may wait to be sorted, for which the guest stands still.
const UNSORTED: usize = 16_384;

/// Pages that the second session's backup lacks, by what the first one's checkpoints found.
#[derive(Debug, Default)]
pub struct Owed(Mutex<Pages>);

#[derive(Debug, Default)]
struct Pages {
    ranges: Vec<Range>,
    /// So many of them were left when they were sorted last.
    sorted: usize,
}

impl Owed {
    /// These were written. Checkpoints find the same pages again and again.
    pub fn add(&self, ranges: &[Range]) {
        let mut owed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        owed.ranges.extend_from_slice(ranges);
        if owed.ranges.len() > 2 * owed.sorted + UNSORTED {
            normalize(&mut owed.ranges);
            owed.sorted = owed.ranges.len();
        }
    }

    /// All of them, sorted and joined.
    pub fn take(&self) -> Vec<Range> {
        let owed = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let mut ranges = owed.ranges;
        normalize(&mut ranges);
        ranges
    }
}

/// Owed pages in a tracker's place.
struct Relay(Arc<Owed>);

impl PageTracker for Relay {
    fn scan_live(&mut self, dirty: &mut Vec<Range>) -> Result<(), MachineError> {
        dirty.extend(self.0.take());
        Ok(())
    }

    fn give_back(&mut self, ranges: &[Range]) {
        self.0.add(ranges);
    }

    fn settle(&mut self) -> Result<bool, MachineError> {
        Ok(false)
    }
}

/// The second session, as the thread of the checkpoints knows it.
pub struct Second {
    pub base: Base,
    pub outbox: Outbox,
    pub pool: Pool,
    pub owed: Arc<Owed>,
    /// To the thread that copies.
    jobs: Sender<Job>,
    /// What its first checkpoint took; owed again if that fails.
    pub ranges: Vec<Range>,
    pub changes: Vec<KeptChange>,
}

impl Second {
    /// Begins the copy.
    pub fn begin(
        begin: Begin,
        pool: Pool,
        computer: &Arc<dyn Computer>,
        (tap, images): (&Arc<Tap>, &[Arc<Image>]),
        done: &Sender<Done>,
    ) -> std::io::Result<Self> {
        let (jobs, queue) = unbounded();
        let owed = Arc::new(Owed::default());
        // Before anything is read: what is written from now on comes again.
        tap.begin_second();
        tap.meter().copy_anew();
        let (base, outbox) = (begin.base, begin.outbox.clone());
        let copying = Copying {
            begin,
            pool: pool.clone(),
            computer: Arc::clone(computer),
            tap: Arc::clone(tap),
            images: images.to_vec(),
            owed: Arc::clone(&owed),
            done: done.clone(),
        };
        std::thread::Builder::new().name("ud-copy".into()).spawn(move || copying.run(&queue))?;
        let (ranges, changes) = (Vec::new(), Vec::new());
        Ok(Self { base, outbox, pool, owed, jobs, ranges, changes })
    }

    /// Hands an order to the copy.
    pub fn send(&self, job: Job) {
        let _ = self.jobs.send(job);
    }

    /// The checkpoint that was taken for it, too, failed.
    pub fn give_back(&mut self, tap: &Tap) {
        self.owed.add(&std::mem::take(&mut self.ranges));
        tap.give_back_second(std::mem::take(&mut self.changes));
    }
}

/// What the thread that copies holds.
struct Copying {
    begin: Begin,
    pool: Pool,
    computer: Arc<dyn Computer>,
    tap: Arc<Tap>,
    images: Vec<Arc<Image>>,
    owed: Arc<Owed>,
    done: Sender<Done>,
}

impl Copying {
    fn run(self, jobs: &Receiver<Job>) {
        Haste::default().suit(protocol::Epoch(0));
        let session = self.begin.base.session;
        let mut copy = Copy {
            session,
            beside: true,
            ram: self.computer.ram(),
            tracker: &mut Relay(Arc::clone(&self.owed)),
            images: &self.images,
            tap: &self.tap,
            offer: &self.begin.offer,
            pace: Pace::new(self.begin.rate),
            wire: 0,
            hashes: VecDeque::new(),
            reached: false,
            pool: &self.pool,
            outbox: &self.begin.outbox,
            done: &self.done,
            jobs,
            later: &mut VecDeque::new(),
        };
        let told = match copy.run() {
            Outcome::Copied => Done::Copied(session),
            Outcome::Ended => return,
            Outcome::GivenUp(why) | Outcome::Failed(why) => Done::Failed { session, why, resumable: false },
        };
        let _ = self.done.send(told);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use os::range::PAGE_SIZE;

    #[test]
    fn what_checkpoints_find_is_owed_once_and_until_it_is_taken() {
        let page = |number: u64| Range::new(number * PAGE_SIZE, PAGE_SIZE);
        let owed = Arc::new(Owed::default());
        owed.add(&[page(1), page(7)]);
        owed.add(&[page(2), page(7)]);
        let mut relay = Relay(Arc::clone(&owed));
        let mut dirty = Vec::new();
        relay.scan_live(&mut dirty).unwrap();
        assert_eq!(dirty, [Range::new(PAGE_SIZE, 2 * PAGE_SIZE), page(7)]);
        relay.give_back(&dirty[1..]);
        assert_eq!(owed.take(), [page(7)]);
        assert_eq!(owed.take(), []);
    }
}
