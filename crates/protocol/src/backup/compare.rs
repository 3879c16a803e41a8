//! Owns when hashes of this host's copies are given.

use super::{Action, Backup, Conn, Phase};
use crate::wire::ToPrimary;
use crate::wire::compare::{Ask, Hashes, MAX_ASKS};
use alloc::string::String;
use alloc::vec::Vec;

impl Backup {
    /// Hashes are for the first copy: later the copies are what the journal says. A primary that asks for more than may
    /// be under way would have this host work without bound.
    pub(super) fn on_ask(&mut self, conn: Conn, ask: Ask, out: &mut Vec<Action>) {
        match &mut self.phase {
            Phase::Copying(primary) if primary.received.is_empty() && primary.asks < MAX_ASKS => {
                primary.asks += 1;
                out.push(Action::Compare(conn, ask));
            }
            Phase::Copying(primary) if primary.received.is_empty() => {
                let why = alloc::format!("more than {MAX_ASKS} questions for hashes at a time");
                self.refuse_stream(why, out);
            }
            Phase::Claiming(..) | Phase::Promoting(..) => {}
            _ => self.refuse_stream("hashes are asked for when there is no first copy".into(), out),
        }
    }

    pub(super) fn on_compared(&mut self, conn: Conn, hashes: Hashes, out: &mut Vec<Action>) {
        if !self.is_current(conn) {
            return;
        }
        if let Some(primary) = self.primary_mut() {
            primary.asks = primary.asks.saturating_sub(1);
            out.push(Action::Send(conn, ToPrimary::Hashes(hashes)));
        }
    }

    /// A copy that cannot be read is none: the primary is told, and goes on without this backup.
    pub(super) fn on_compare_failed(&mut self, conn: Conn, why: String, out: &mut Vec<Action>) {
        if self.is_current(conn) {
            self.refuse_stream(alloc::format!("the copies of the disks cannot be compared: {why}"), out);
        }
    }
}
