//! Owns what is counted of a VM's disks while they are copied and replicated, for displays.

use api::types::{CopyKind, DiskCopy, JournalStatus};
use protocol::Epoch;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One disk.
#[derive(Debug, Default, Clone)]
struct Counts {
    copy: Option<DiskCopy>,
    /// Bytes that the guest changed in this session.
    written: u64,
    acknowledged: u64,
}

#[derive(Debug, Default)]
struct State {
    disks: Vec<Counts>,
    /// What each disk had written when an epoch was cut.
    cuts: VecDeque<(Epoch, Vec<u64>)>,
    journal: Option<JournalStatus>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Meter(Mutex<State>);

impl Meter {
    /// Of so many disks.
    #[must_use]
    pub fn new(disks: usize) -> Self {
        Self(Mutex::new(State { disks: vec![Counts::default(); disks], ..State::default() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session begins: nothing is written in it yet.
    pub fn restart(&self) {
        let mut state = self.state();
        let disks = state.disks.len();
        (state.disks, state.cuts) = (vec![Counts::default(); disks], VecDeque::new());
    }

    /// The session is over; what its copy did stays to be seen.
    pub fn end(&self) {
        let mut state = self.state();
        state.cuts.clear();
        for disk in &mut state.disks {
            (disk.written, disk.acknowledged) = (0, 0);
        }
    }

    /// Another copy of the disks begins, beside a session whose counts go on.
    pub fn copy_anew(&self) {
        self.state().disks.iter_mut().for_each(|counts| counts.copy = None);
    }

    /// So many bytes of a disk are to be examined.
    pub fn begin_copy(&self, disk: u8, kind: CopyKind, bytes: u64) {
        if let Some(counts) = self.state().disks.get_mut(usize::from(disk)) {
            let copy = counts.copy.get_or_insert(DiskCopy {
                kind,
                done_bytes: 0,
                remaining_bytes: 0,
                sent_bytes: 0,
            });
            copy.remaining_bytes += bytes;
        }
    }

    /// So many were, and so many of them sent.
    pub fn copied(&self, disk: u8, examined: u64, sent: u64) {
        if let Some(copy) =
            self.state().disks.get_mut(usize::from(disk)).and_then(|counts| counts.copy.as_mut())
        {
            copy.done_bytes += examined;
            copy.remaining_bytes = copy.remaining_bytes.saturating_sub(examined);
            copy.sent_bytes += sent;
        }
    }

    /// The guest changed so many bytes.
    pub fn written(&self, disk: u8, bytes: u64) {
        if let Some(counts) = self.state().disks.get_mut(usize::from(disk)) {
            counts.written += bytes;
        }
    }

    /// An epoch was cut.
    pub fn cut(&self, epoch: Epoch) {
        let mut state = self.state();
        let written = state.disks.iter().map(|counts| counts.written).collect();
        state.cuts.push_back((epoch, written));
    }

    /// Another session takes the present one's place: the newest cut was its first epoch.
    pub fn succeed(&self) {
        let mut state = self.state();
        let newest = state.cuts.pop_back().map(|(_, written)| (Epoch(1), written));
        state.cuts = newest.into_iter().collect();
    }

    /// It is acknowledged.
    pub fn acknowledged(&self, epoch: Epoch) {
        let mut state = self.state();
        while let Some((_, written)) = state.cuts.pop_front_if(|(cut, _)| *cut <= epoch) {
            for (counts, written) in state.disks.iter_mut().zip(written) {
                counts.acknowledged = written;
            }
        }
    }

    /// How full a backup's journal is.
    pub fn journal(&self, status: JournalStatus) {
        self.state().journal = Some(status);
    }

    /// How full it was last; none at a primary.
    #[must_use]
    pub fn journal_status(&self) -> Option<JournalStatus> {
        self.state().journal
    }

    /// How the newest copy of a disk went, and its bytes that are written and not acknowledged.
    #[must_use]
    pub fn of_disk(&self, disk: usize) -> (Option<DiskCopy>, u64) {
        let state = self.state();
        let counts = state.disks.get(disk);
        counts.map_or((None, 0), |counts| (counts.copy, counts.written.saturating_sub(counts.acknowledged)))
    }

    /// The newest copy of all disks: how, bytes examined and sent.
    #[must_use]
    pub fn copy(&self) -> Option<DiskCopy> {
        let state = self.state();
        state.disks.iter().filter_map(|counts| counts.copy).reduce(|one, other| DiskCopy {
            kind: one.kind,
            done_bytes: one.done_bytes + other.done_bytes,
            remaining_bytes: one.remaining_bytes + other.remaining_bytes,
            sent_bytes: one.sent_bytes + other.sent_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_acknowledged_is_no_lag() {
        let meter = Meter::new(2);
        meter.written(0, 100);
        meter.cut(Epoch(1));
        meter.written(0, 30);
        meter.written(1, 5);
        assert_eq!((meter.of_disk(0).1, meter.of_disk(1).1), (130, 5));
        meter.acknowledged(Epoch(1));
        assert_eq!((meter.of_disk(0).1, meter.of_disk(1).1), (30, 5));
        meter.end();
        assert_eq!(meter.of_disk(0).1, 0);
    }

    #[test]
    fn a_session_that_takes_anothers_place_counts_from_its_newest_cut() {
        let meter = Meter::new(1);
        for epoch in [6, 7] {
            meter.written(0, 100);
            meter.cut(Epoch(epoch));
        }
        meter.written(0, 30);
        meter.succeed();
        meter.acknowledged(Epoch(1));
        assert_eq!(meter.of_disk(0).1, 30);
        meter.cut(Epoch(2));
        meter.acknowledged(Epoch(2));
        assert_eq!(meter.of_disk(0).1, 0);
    }

    #[test]
    fn a_copy_is_counted_for_each_disk_and_for_all() {
        let meter = Meter::new(2);
        assert_eq!(meter.copy(), None);
        meter.begin_copy(0, CopyKind::Difference, 1000);
        meter.begin_copy(1, CopyKind::Difference, 500);
        meter.copied(0, 600, 50);
        let all = meter.copy().unwrap();
        assert_eq!((all.done_bytes, all.remaining_bytes, all.sent_bytes), (600, 900, 50));
        assert_eq!(meter.of_disk(1).0.unwrap().remaining_bytes, 500);
        meter.copy_anew();
        assert_eq!(meter.copy(), None, "another one begins");
        meter.begin_copy(0, CopyKind::Full, 10);
        meter.restart();
        assert_eq!(meter.copy(), None);
    }
}
