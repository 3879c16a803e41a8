//! Owns what a primary may ask during its first copy: hashes of this host's copies, and word of how far they are.

use super::{Action, Backup, Conn, Phase, Primary};
use crate::wire::ToPrimary;
use crate::wire::compare::{Ask, Hashes, MAX_ASKS};
use alloc::string::String;
use alloc::vec::Vec;

impl Backup {
    /// A primary that asks for more than may be under way would have this host work without bound.
    pub(super) fn on_ask(&mut self, conn: Conn, ask: Ask, out: &mut Vec<Action>) {
        let Some(primary) = self.in_first_copy("hashes are asked for", out) else { return };
        if primary.asks >= MAX_ASKS {
            let why = alloc::format!("more than {MAX_ASKS} questions for hashes at a time");
            return self.refuse_stream(why, out);
        }
        primary.asks += 1;
        out.push(Action::Compare(conn, ask));
    }

    /// One mark at a time.
    pub(super) fn on_mark(&mut self, conn: Conn, out: &mut Vec<Action>) {
        let Some(primary) = self.in_first_copy("a mark came", out) else { return };
        if core::mem::replace(&mut primary.marked, true) {
            return self.refuse_stream("a second mark came before the first was answered".into(), out);
        }
        out.push(Action::Reach(conn));
    }

    /// The primary, if this is its first copy: later the copies are what the journal says, and what comes is acknowledged by
    /// epoch. Who asks then is refused, unless nobody listens to him any more.
    fn in_first_copy(&mut self, what: &str, out: &mut Vec<Action>) -> Option<&mut Primary> {
        let copying = matches!(&self.phase, Phase::Copying(primary) if primary.received.is_empty());
        if !copying && !matches!(self.phase, Phase::Claiming(..) | Phase::Promoting(..)) {
            self.refuse_stream(alloc::format!("{what} when there is no first copy"), out);
        }
        self.primary_mut().filter(|_| copying)
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

    /// What cannot be read is no copy: the primary is told, and goes on without this backup.
    pub(super) fn on_compare_failed(&mut self, conn: Conn, why: String, out: &mut Vec<Action>) {
        if self.is_current(conn) {
            self.refuse_stream(alloc::format!("what this host has of the VM cannot be compared: {why}"), out);
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
