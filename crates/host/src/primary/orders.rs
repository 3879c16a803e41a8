//! Owns the words between a VM's loop and the thread that stops its guest: orders, answers, and a checkpoint that was taken.

use super::precopy::RoundTold;
use crate::disks::KeptChange;
use crate::link::{Outbox, Part};
use api::types::{CopyProgress, EpochRecord};
use net::CutReport;
use protocol::migration::Migration;
use protocol::resync::{Base, Offer};
use protocol::wire::Commit;
use protocol::wire::compare::Hashes;
use protocol::{Epoch, Instant, Micros, RunPermit, Session};

/// An order to the thread.
#[derive(Debug)]
pub enum Job {
    /// Begin the first copy of a session.
    Copy {
        /// What it begins with.
        begin: Box<Begin>,
        /// The policy, if the VM shall run there.
        migration: Option<Box<Migration>>,
    },
    /// Begin the first copy of a session beside the present one.
    CopyBeside(Box<Begin>),
    /// Hashes of the backup's copies, for the first copy.
    Hashes(Session, Hashes),
    /// The backup has what the first copy sent before its mark.
    Reached(Session),
    /// Take a checkpoint.
    Checkpoint {
        /// The session.
        session: Session,
        /// The epoch that it closes.
        epoch: Epoch,
        /// The gate's number of it.
        cut: Epoch,
        /// Leave the guest paused.
        last: bool,
        /// It is the first one of this session, too.
        with: Option<Session>,
    },
    /// The session that was begun beside the present one takes its place.
    Succeed(Session),
    /// Forget the session.
    EndSession(Session),
    /// From now on the guest loses so many percent of its time.
    Slow(Session, u8),
    /// Stop the guest.
    Pause,
    /// Let it run.
    Resume(RunPermit),
    /// Release everything and let output pass.
    OpenOutput,
    /// End the thread.
    Quit,
}

/// What a session's first copy begins with.
#[derive(Debug)]
pub struct Begin {
    /// The session's name.
    pub base: Base,
    /// Where pages go.
    pub outbox: Outbox,
    /// What copies of the disks the backup has.
    pub offer: Offer,
    /// Most bytes a second.
    pub rate: Option<u64>,
}

/// What the thread says.
#[derive(Debug)]
pub enum Done {
    /// The first copy goes on.
    CopyProgress(CopyProgress),
    /// A round of a migration is over.
    Round(Box<RoundTold>),
    /// A migration would stop the guest for too long.
    GivenUp(Session, String),
    /// Little is left to the first checkpoint.
    Copied(Session),
    /// A checkpoint was taken.
    Checkpoint(Session, Box<Staged>),
    /// Something failed for the session.
    Failed {
        /// The session.
        session: Session,
        /// Why.
        why: String,
        /// It may be tried again.
        resumable: bool,
    },
    /// The machine does not answer any more.
    VmLost(String),
    /// The guest runs, and an operator should look after it.
    Warning(String),
}

/// A checkpoint that waits to be sent.
#[derive(Debug)]
pub struct Staged {
    /// The epoch.
    pub epoch: Epoch,
    /// It is the session's last.
    pub(super) last: bool,
    /// When the guest was stopped.
    pub cut_at: Instant,
    /// What was measured.
    pub record: EpochRecord,
    /// How busy the guest was in it.
    pub busy: Option<Micros>,
    /// It waited for something when it was stopped.
    pub waited: bool,
    pub(super) parts: Vec<Part>,
    pub(super) changes: Vec<KeptChange>,
    pub(super) device: Vec<u8>,
    pub(super) cut: CutReport,
    pub(super) gate: Vec<u8>,
    /// The same for the session that was begun beside this one.
    pub(super) with: Option<(Session, Box<Staged>)>,
}

impl Staged {
    /// Puts everything on the link, the Commit last.
    pub fn send(self, outbox: &Outbox) {
        for part in self.parts {
            outbox.part(self.epoch, part);
        }
        outbox.disks(self.epoch, self.changes);
        outbox.device(self.epoch, self.device);
        for console in self.cut.consoles {
            // The first epoch tells where the stream stands, even if the guest said nothing.
            if !console.bytes.is_empty() || self.epoch == Epoch(1) {
                outbox.console(self.epoch, console.offset, &console.bytes);
            }
        }
        let (sent_at, last, gate) = (self.cut_at, self.last, self.gate);
        outbox.commit(self.epoch, Commit { sent_at, last, gate, ..Commit::default() });
    }
}
