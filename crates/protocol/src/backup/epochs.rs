//! Owns staging: what is taken of the stream, and when an epoch is received whole.

use super::durable::Received;
use super::{Action, Backup, BulkUse, Conn, Phase, Primary, Staged};
use crate::ids::Epoch;
use crate::time::Instant;
use crate::wire::{Commit, Kind};
use alloc::string::String;
use alloc::vec::Vec;

impl Backup {
    /// Decides on a bulk frame (pages, devices, console, disk changes) of `len` body bytes whose contents were found
    /// valid.
    pub fn bulk(
        &mut self,
        now: Instant,
        conn: Conn,
        kind: Kind,
        epoch: Epoch,
        len: usize,
        out: &mut Vec<Action>,
    ) -> BulkUse {
        if !self.is_current(conn) {
            return BulkUse::Ignore;
        }
        self.hear(now);
        let copying = matches!(self.phase, Phase::Copying(_));
        let (Phase::Copying(primary) | Phase::Armed(primary)) = &mut self.phase else {
            return BulkUse::Ignore;
        };
        let is_disk = kind == Kind::Disk;
        if copying && epoch == Epoch(0) && primary.received.is_empty() {
            return BulkUse::ApplyNow;
        }
        if let Err(why) = primary.expects(kind, epoch) {
            self.refuse_stream(why, out);
            return BulkUse::Ignore;
        }
        primary.staged.frames += 1;
        primary.staged.bytes += len as u64;
        primary.staged.disk_frames += u64::from(is_disk);
        #[cfg(feature = "planted")]
        {
            if self.planted.apply_partial && !copying && !is_disk {
                return BulkUse::ApplyNow;
            }
            if self.planted.apply_partial_disk && is_disk && primary.staged.disk_frames > 1 {
                return BulkUse::Ignore;
            }
        }
        BulkUse::Stage(epoch)
    }

    pub(super) fn on_commit(&mut self, now: Instant, epoch: Epoch, commit: Commit, out: &mut Vec<Action>) {
        let (Phase::Copying(primary) | Phase::Armed(primary)) = &mut self.phase else { return };
        if let Err(why) = primary.check_whole(epoch, &commit) {
            return self.refuse_stream(why, out);
        }
        let staged = core::mem::take(&mut primary.staged);
        primary.complete = commit.last;
        primary.take_echo(now, commit.sent_at);
        let has_disk = staged.disk_frames > 0 || core::mem::take(&mut primary.copies_disks);
        let durable = !has_disk;
        #[cfg(feature = "planted")]
        let durable = durable || self.planted.ack_before_durable;
        primary.received.push_back(Received { epoch, gate: commit.gate, durable });
        if has_disk {
            out.push(Action::Persist(primary.opened, epoch));
        }
        self.commit_durable(now, out);
    }

    pub(super) fn drop_staged(&mut self, out: &mut Vec<Action>) {
        if let Phase::Armed(primary) = &mut self.phase {
            primary.staged = Staged::default();
            primary.received.clear();
            out.push(Action::DropStaged);
        }
    }
}

impl Primary {
    /// Whether all of the epoch came, and it is the next.
    fn check_whole(&self, epoch: Epoch, commit: &Commit) -> Result<(), String> {
        self.expects(Kind::Commit, epoch)?;
        let staged = self.staged;
        if (staged.frames, staged.bytes) != (commit.frames, commit.bytes) {
            return Err(alloc::format!(
                "epoch {epoch} is not whole: {} of {} frames, {} of {} bytes",
                staged.frames,
                commit.frames,
                staged.bytes,
                commit.bytes
            ));
        }
        // The primary waits for an acknowledgement before it has more in flight: this bounds what is staged.
        if self.received.len() >= self.timing.max_in_flight as usize {
            return Err(alloc::format!(
                "epoch {epoch} came while {} wait to be durable, more than may be in flight",
                self.received.len()
            ));
        }
        Ok(())
    }
}
