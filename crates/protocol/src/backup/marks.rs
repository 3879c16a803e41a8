//! Owns when a primary is told how far its first copy has come.

use super::{Action, Backup, Conn, Phase};
use crate::wire::ToPrimary;
use alloc::vec::Vec;

impl Backup {
    /// Marks are for the first copy, one at a time: what comes later is acknowledged by epoch.
    pub(super) fn on_mark(&mut self, conn: Conn, out: &mut Vec<Action>) {
        match &mut self.phase {
            Phase::Copying(primary) if primary.received.is_empty() && !primary.marked => {
                primary.marked = true;
                out.push(Action::Reach(conn));
            }
            Phase::Copying(primary) if primary.received.is_empty() => {
                self.refuse_stream("a second mark came before the first was answered".into(), out);
            }
            Phase::Claiming(..) | Phase::Promoting(..) => {}
            _ => self.refuse_stream("a mark came when there is no first copy".into(), out),
        }
    }

    pub(super) fn on_reached(&mut self, conn: Conn, out: &mut Vec<Action>) {
        if !self.is_current(conn) {
            return;
        }
        if let Some(primary) = self.primary_mut().filter(|primary| primary.marked) {
            primary.marked = false;
            out.push(Action::Send(conn, ToPrimary::Reached));
        }
    }

    /// Whoever is not told waits for ever: the primary goes on without this backup.
    pub(super) fn on_reach_failed(&mut self, conn: Conn, why: &str, out: &mut Vec<Action>) {
        if self.is_current(conn) {
            self.refuse_stream(alloc::format!("the first copy cannot be made durable: {why}"), out);
        }
    }
}
