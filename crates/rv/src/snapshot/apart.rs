//! Owns a machine's RAM and all the rest of it apart from each other, for whoever keeps a copy of a running machine: pages
//! are copied while it runs, and what is left, with the rest, when it stands still.

use super::bytes::VERSION;
use super::{SnapshotError, State};
use crate::machine::Machine;
use alloc::vec::Vec;

/// Bytes before the state: its version, and the size of RAM.
const HEAD: usize = 12;

impl Machine {
    /// The numbers of the pages that were written since this was called last, or since the last snapshot, or ever; in order.
    /// From now on pages are dirty if they are written again. A snapshot of changes needs a whole one before it after this.
    pub fn take_dirty(&mut self) -> Vec<u32> {
        let pages = self.dirty.pages().collect();
        self.take_marks();
        self.saved = None;
        pages
    }

    /// From now on all of RAM counts as written: a machine that takes another one's place may differ from it anywhere.
    pub fn mark_all(&mut self) {
        self.dirty.mark_range(0, self.ram.len());
    }

    /// Everything but RAM, as bytes. What left the machine and was not taken is no part of it: see [`Machine::outputs`].
    pub fn state(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        bytes.extend((self.ram.len() as u64).to_le_bytes());
        bytes.extend(State::of(self).encode());
        bytes
    }

    /// Makes this machine be where another one was when its [`Machine::state`] was taken, whose RAM this one has already.
    /// Pages that count as written go on doing so.
    ///
    /// # Errors
    /// The bytes, which may be anything, are no state, one of another version, or one of a machine with another size of RAM.
    /// Nothing is changed then.
    pub fn put_state(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        let (head, state) = bytes.split_first_chunk::<HEAD>().ok_or(SnapshotError::NotASnapshot)?;
        let field = |bytes: &[u8]| bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
        let (version, has) = (field(&head[..4]) as u32, field(&head[4..]));
        if version != VERSION {
            return Err(SnapshotError::Version(version));
        }
        let given = self.ram.len() as u64;
        if has != given {
            return Err(SnapshotError::OtherRam { has, given });
        }
        State::decode(state)?.put_into(self);
        self.outputs.clear();
        self.saved = None;
        Ok(())
    }
}
