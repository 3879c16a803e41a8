//! Owns a second session as the thread of the checkpoints serves it: it begins, is owed what checkpoints find, has its first one
//! taken with the present session's, and takes its place.

use super::gather::{Failure, Sends, gather};
use super::{Active, BUFFER_PAGES, BUFFERS, Worker};
use crate::link::Part;
use crate::primary::orders::{Begin, Done, Staged};
use crate::primary::second::Second;
use crate::staging::Pool;
use api::types::EpochRecord;
use protocol::{Epoch, Session};
use std::sync::atomic::Ordering;

/// What a checkpoint gathered for the second session, whose first one it is.
pub struct Joint {
    pub session: Session,
    parts: Vec<Part>,
    pages: u64,
}

impl Worker {
    pub(super) fn copy_beside(&mut self, begin: Begin) {
        let (session, disks) = (begin.base.session, (&self.tap, self.images.as_slice()));
        let pool = Pool::new(BUFFERS, BUFFER_PAGES).map_err(|error| error.to_string());
        let begun = pool.and_then(|pool| {
            Second::begin(begin, pool, &self.computer, disks, &self.done).map_err(|error| error.to_string())
        });
        match begun {
            Ok(second) => {
                self.bytes.fetch_add(second.pool.bytes(), Ordering::Relaxed);
                self.second = Some(second);
            }
            Err(why) => self.say(Done::Failed { session, why, resumable: false }),
        }
    }

    /// What was the present session is told to end next.
    pub(super) fn succeed(&mut self, session: Session) {
        let second = self.second.take_if(|second| second.base.session == session);
        let (Some(second), Some(active)) = (second, &mut self.active) else { return };
        self.tap.end_second();
        self.tap.meter().succeed();
        if let Some(marker) = self.tap.marker() {
            marker.map().succeed(second.base);
        }
        self.bytes.store(second.pool.bytes(), Ordering::Relaxed);
        (active.base, active.outbox, active.pool) = (second.base, second.outbox, second.pool);
    }

    /// What this checkpoint found is owed to the second session; copies all of that if it is that one's first checkpoint. If that
    /// cannot be done it is the end of the second session, and the present one's checkpoint goes on.
    pub(super) fn owe(&mut self, active: &Active, with: Option<Session>) -> Option<Joint> {
        let second = self.second.as_mut()?;
        second.owed.add(&active.dirty);
        second.owed.add(&active.ahead.addresses);
        let session = with.filter(|&with| with == second.base.session)?;
        second.ranges = second.owed.take();
        second.changes = self.tap.take_second();
        let mut pages = Vec::new();
        self.computer.ram().number(&second.ranges, &mut pages);
        let to = (&second.pool, &second.outbox);
        match gather(self.computer.ram(), &pages, to, Vec::new(), (Epoch(1), Sends::Later)) {
            Ok(parts) => Some(Joint { session, parts, pages: pages.len() as u64 }),
            Err(Failure { why, .. }) => {
                self.say(Done::Failed { session, why, resumable: false });
                None
            }
        }
    }

    pub(super) fn stage_joint(&mut self, joint: Joint, staged: &Staged) -> Staged {
        let Joint { parts, pages, .. } = joint;
        let mut changes = Vec::new();
        if let Some(second) = &mut self.second {
            second.ranges.clear();
            changes = std::mem::take(&mut second.changes);
        }
        Staged {
            epoch: Epoch(1),
            record: EpochRecord { epoch: 1, dirty_pages: pages, ahead_pages: 0, ..staged.record },
            parts,
            changes,
            device: staged.device.clone(),
            cut: staged.cut.clone(),
            gate: staged.gate.clone(),
            with: None,
            ..*staged
        }
    }
}
