//! Owns staging and commit: what is taken of the stream, and when an epoch is whole.

use super::{Action, Backup, BulkUse, Conn, Phase, Staged};
use crate::ids::Epoch;
use crate::notice::Notice;
use crate::time::Instant;
use crate::wire::{AckBody, Commit, ToPrimary};
use alloc::vec::Vec;

impl Backup {
    /// Decides on a bulk frame (pages, devices, console) of `len` body bytes whose contents were found valid.
    pub fn bulk(
        &mut self,
        now: Instant,
        conn: Conn,
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
        if copying && epoch == Epoch(0) {
            return BulkUse::ApplyNow;
        }
        if epoch != primary.committed.next() {
            let why =
                alloc::format!("data of epoch {epoch} came while epoch {} is open", primary.committed.next());
            self.refuse_stream(why, out);
            return BulkUse::Ignore;
        }
        primary.staged.frames += 1;
        primary.staged.bytes += len as u64;
        #[cfg(feature = "planted")]
        if self.planted.apply_partial && !copying {
            return BulkUse::ApplyNow;
        }
        BulkUse::Stage(epoch)
    }

    pub(super) fn on_commit(&mut self, epoch: Epoch, commit: Commit, out: &mut Vec<Action>) {
        let (Phase::Copying(primary) | Phase::Armed(primary)) = &mut self.phase else { return };
        let staged = primary.staged;
        if epoch != primary.committed.next() {
            let why =
                alloc::format!("Commit of epoch {epoch} while epoch {} is open", primary.committed.next());
            return self.refuse_stream(why, out);
        }
        if (staged.frames, staged.bytes) != (commit.frames, commit.bytes) {
            let why = alloc::format!(
                "epoch {epoch} is not whole: {} of {} frames, {} of {} bytes",
                staged.frames,
                commit.frames,
                staged.bytes,
                commit.bytes
            );
            return self.refuse_stream(why, out);
        }
        primary.staged = Staged::default();
        primary.committed = epoch;
        primary.echo = primary.echo.max(commit.sent_at);
        out.push(Action::Commit(epoch, commit.gate));
        if let Some(conn) = primary.conn {
            out.push(Action::Send(conn, ToPrimary::Ack(epoch, AckBody { echo: primary.echo })));
        }
        self.arm(out);
    }

    /// The first whole epoch entitles the backup to take over.
    fn arm(&mut self, out: &mut Vec<Action>) {
        self.phase = match core::mem::replace(&mut self.phase, Phase::Empty) {
            Phase::Copying(primary) => {
                let (host, term) = (primary.host.clone(), primary.term);
                out.push(Action::Notice(Notice::StandbyArmed { primary: host, term }));
                Phase::Armed(primary)
            }
            phase => phase,
        };
    }

    pub(super) fn drop_staged(&mut self, out: &mut Vec<Action>) {
        if let Phase::Armed(primary) = &mut self.phase {
            primary.staged = Staged::default();
            out.push(Action::DropStaged);
        }
    }
}
