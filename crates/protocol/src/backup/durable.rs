//! Owns the way from received to committed: which epochs wait for their disk changes to be durable, and in which
//! order they are committed and acknowledged.
//!
//! Epochs persist while later ones come in, and one answer of the journal may do for several (group commit). They
//! are committed in their order all the same: an epoch without disk changes waits behind one that has some.
//!
//! What is received and not committed is thrown away when the session ends in any way, the claim of the next term
//! included. That is sound, and simpler than to wait for the journal: it was never acknowledged, so no output of it
//! has left the primary, and a promoted VM may go on without it. An answer that comes later finds nothing that waits
//! for it, and what it made durable is cut off by the promotion.

use super::{Action, Backup, Conn, Phase, Primary};
use crate::ids::Epoch;
use crate::notice::Notice;
use crate::time::Instant;
use crate::wire::{Kind, ToPrimary, YieldReason};
use alloc::string::String;
use alloc::vec::Vec;

/// An epoch that came whole and is not committed.
#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone, PartialEq, Eq, Hash))]
pub(super) struct Received {
    pub(super) epoch: Epoch,
    /// The gate's memory of it.
    pub(super) gate: Vec<u8>,
    /// Its disk changes are durable, or it has none.
    pub(super) durable: bool,
}

impl Primary {
    /// Whether something of this epoch may come now.
    pub(super) fn expects(&self, kind: Kind, epoch: Epoch) -> Result<(), String> {
        let newest = self.received.back().map_or(self.committed, |received| received.epoch);
        let open = newest.next();
        if self.complete {
            Err(alloc::format!("{kind:?} of epoch {epoch} came behind the session's last epoch, {newest}"))
        } else if epoch != open {
            Err(alloc::format!("{kind:?} of epoch {epoch} came while epoch {open} is open"))
        } else {
            Ok(())
        }
    }
}

impl Backup {
    pub(super) fn on_persisted(&mut self, now: Instant, conn: Conn, epoch: Epoch, out: &mut Vec<Action>) {
        let Some(primary) = self.primary_mut().filter(|primary| primary.opened == conn) else { return };
        let done = primary.received.iter_mut().take_while(|received| received.epoch <= epoch);
        done.for_each(|received| received.durable = true);
        self.commit_durable(now, out);
    }

    /// Commits every epoch that is durable and has none before it that is not, and acknowledges the newest of them:
    /// an acknowledgement covers all before it.
    pub(super) fn commit_durable(&mut self, now: Instant, out: &mut Vec<Action>) {
        let (Phase::Copying(primary) | Phase::Armed(primary)) = &mut self.phase else { return };
        let before = primary.committed;
        while primary.received.front().is_some_and(|received| received.durable)
            && let Some(received) = primary.received.pop_front()
        {
            assert_eq!(received.epoch, primary.committed.next(), "epochs are committed in order");
            primary.committed = received.epoch;
            out.push(Action::Commit(received.epoch, received.gate));
        }
        if primary.committed == before {
            return;
        }
        if let Some(conn) = primary.conn {
            out.push(Action::Send(conn, ToPrimary::Ack(primary.committed, primary.answer(now))));
        }
        if primary.complete && primary.received.is_empty() {
            out.push(Action::Stand);
        }
        self.arm(out);
    }

    /// The first committed epoch entitles the backup to take over, which it does if nobody else can go on.
    fn arm(&mut self, out: &mut Vec<Action>) {
        self.phase = match core::mem::replace(&mut self.phase, Phase::Empty) {
            Phase::Copying(primary) => {
                let (host, term, session) = (primary.host.clone(), primary.term, primary.session);
                // Its primary opens another session with this host in a later term, or once this backup has resigned.
                self.least = self.least.max((term, session.next()));
                out.push(Action::Notice(Notice::StandbyArmed { primary: host, term }));
                Phase::Armed(primary)
            }
            phase => phase,
        };
        if let Phase::Armed(primary) = &mut self.phase
            && core::mem::take(&mut primary.vm_died)
        {
            let committed = primary.committed;
            self.take_over(committed, YieldReason::VmDied, out);
        }
    }

    /// A backup that cannot keep what it acknowledges is none: the primary is told and goes on without it. What is
    /// committed stays promotable, should the primary die before it has won the next term.
    pub(super) fn on_persist_failed(&mut self, conn: Conn, epoch: Epoch, why: String, out: &mut Vec<Action>) {
        let waits = |primary: &Primary| {
            primary.opened == conn && primary.received.iter().any(|received| received.epoch == epoch)
        };
        if self.primary().is_some_and(waits) {
            let reason = alloc::format!("the disk changes of epoch {epoch} cannot be made durable: {why}");
            out.push(Action::Notice(Notice::PersistFailed { epoch, why }));
            self.refuse_stream(reason, out);
        }
    }
}
