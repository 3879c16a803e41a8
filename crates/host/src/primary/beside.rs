//! Owns the session with the host that shall be the VM's backup in the present one's place, as the VM's loop knows it.
//!
//! Its copy is `second`'s; what is decided is `protocol::primary`'s (its `change`).

use super::Engine;
use super::copied::Copied;
use super::orders::{Job, Staged};
use super::session::SessionLink;
use crate::disks::Proofs;
use crate::link::Outbox;
use crate::plan::Plan;
use api::types::ApiError;
use protocol::primary::Command;
use protocol::{HostName, Session};

/// A session beside the present one.
pub struct Beside {
    pub session: Session,
    pub link: Option<SessionLink>,
    /// Its first checkpoint, and how many epochs the gate counts before that.
    joint: Option<(Staged, u64)>,
    /// To be told once that is acknowledged.
    pub copied: Option<Copied>,
}

impl Beside {
    pub fn new(session: Session) -> Self {
        Self { session, link: None, joint: None, copied: None }
    }
}

impl Engine {
    /// Brings up another backup, at no more than so many bytes a second; the present one protects the VM until it is there.
    pub(super) fn change_backup(
        &mut self,
        plan: &Plan,
        to: &HostName,
        rate: Option<u64>,
    ) -> Result<(), ApiError> {
        let command = |peer, timing, machine| Command::Change { peer, timing, machine };
        self.begin_protection((plan, to), rate, command)
    }

    pub(super) fn is_beside(&self, session: Session) -> bool {
        self.beside.as_ref().is_some_and(|beside| beside.session == session)
    }

    /// A checkpoint was taken, and perhaps another session's first with it.
    pub(super) fn stage(&mut self, mut staged: Staged) {
        let before = staged.cut.epoch.0.saturating_sub(1);
        if let Some((session, joint)) = staged.with.take()
            && let Some(beside) = self.beside.as_mut().filter(|beside| beside.session == session)
        {
            beside.joint = Some((*joint, before));
        }
        self.staged = Some(staged);
    }

    /// Sends the first checkpoint of the second session. What the guest is given from now on is of that one's next epoch.
    pub(super) fn send_joint(&mut self) {
        let Some(Beside { link: Some(link), joint, .. }) = &mut self.beside else { return };
        let Some((staged, before)) = joint.take() else { return };
        let outbox = link.outbox.clone();
        staged.send(&outbox);
        self.share_input(&outbox, before);
    }

    /// The guest's input is told to a backup, whose first epoch comes behind so many of the gate's.
    pub(super) fn share_input(&self, outbox: &Outbox, before: u64) {
        if self.plan.as_ref().is_none_or(|plan| plan.request.input_replay) {
            self.machine.share_input(outbox.clone(), before);
        }
    }

    /// The second session takes the present one's place. That is ended next.
    pub(super) fn succeed(&mut self, session: Session) {
        let Some(Beside { session, link: Some(link), copied, .. }) =
            self.beside.take_if(|beside| beside.session == session)
        else {
            return;
        };
        self.checkpointer.send(Job::Succeed(session));
        self.handle.set_copy(None);
        self.staged = None;
        self.copied = copied;
        let old = self.link.replace(link);
        self.beside = old.map(|old| {
            let session = old.session;
            Beside { link: Some(old), ..Beside::new(session) }
        });
    }

    pub(super) fn end_beside(&mut self) {
        let Some(Beside { session, link, .. }) = self.beside.take() else { return };
        link.into_iter().for_each(SessionLink::close);
        self.proofs = Proofs::default();
        self.handle.set_copy(None);
        self.checkpointer.send(Job::EndSession(session));
    }
}
