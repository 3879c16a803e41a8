//! Owns snapshots: the whole machine at an instruction count, or what changed of it since the snapshot before.
//!
//! Taking one changes nothing that the guest could see, and nothing of what it does later: the cache of translations is
//! a part of it, that of decoded instructions is made anew. What left the machine and was not taken with
//! [`Machine::outputs`] is no part of it: whoever takes snapshots takes that first.

mod apart;
mod bytes;
mod history;
mod state;
#[cfg(test)]
mod tests;

pub use bytes::{SnapshotError, VERSION as STATE_VERSION};
pub use history::History;

use crate::dirty::PAGE;
use crate::machine::Machine;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};
pub(crate) use state::State;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A machine at an instruction count: all of it, or what changed since another snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    id: u64,
    built: Built,
    /// Bytes of RAM.
    ram: u64,
    /// Everything but RAM.
    state: Vec<u8>,
    instructions: u64,
    /// The numbers of the pages that it holds, in order.
    pages: Vec<u32>,
    /// The pages, one behind the other.
    data: Vec<u8>,
}

/// What a snapshot is built on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Built {
    OnNothing,
    On(u64),
    /// On nothing any more, since it was made whole; it is still called by that.
    OnceOn(u64),
}

impl Built {
    /// What a snapshot of this state is called.
    fn name(self, state: &[u8]) -> u64 {
        let base = match self {
            Built::OnNothing => 0,
            Built::On(base) | Built::OnceOn(base) => base,
        };
        xxh3_64_with_seed(state, base)
    }

    /// Of the same snapshot made whole.
    fn whole(self) -> Built {
        match self {
            Built::On(base) => Built::OnceOn(base),
            whole => whole,
        }
    }
}

impl Snapshot {
    /// What it is called: made of all registers and devices, and of its base.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The snapshot to which this one tells the changes; none if it is whole.
    pub fn base(&self) -> Option<u64> {
        match self.built {
            Built::On(base) => Some(base),
            Built::OnNothing | Built::OnceOn(_) => None,
        }
    }

    /// Instructions since reset.
    pub fn instructions(&self) -> u64 {
        self.instructions
    }

    /// Bytes of RAM of its machine.
    pub fn ram(&self) -> u64 {
        self.ram
    }

    /// The numbers of the pages of RAM that it holds, in order.
    pub fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// A new machine that goes on from a whole snapshot.
    ///
    /// # Errors
    /// It tells changes only, or there is not enough memory.
    pub fn machine(&self) -> Result<Machine, SnapshotError> {
        if self.base().is_some() {
            return Err(SnapshotError::NotNext);
        }
        let ram = usize::try_from(self.ram).map_err(|_| SnapshotError::Memory)?;
        // Asked for once before: what is not there then is an error, not the end of the program.
        Vec::<u8>::new().try_reserve_exact(ram).map_err(|_| SnapshotError::Memory)?;
        let mut machine = Machine::new(ram);
        machine.take_state(State::decode(&self.state)?, self.id);
        for (page, bytes) in self.each() {
            machine.put_page(page, bytes);
        }
        Ok(machine)
    }

    /// The same snapshot whole, under the same name: with all RAM of a machine that stands at it. Those behind it follow on
    /// it as they did before.
    ///
    /// # Errors
    /// The machine does not stand there.
    pub fn merged(&self, machine: &Machine) -> Result<Snapshot, SnapshotError> {
        if !machine.stands() || machine.saved != Some(self.id) {
            return Err(SnapshotError::NotNext);
        }
        let (pages, state) = (machine.full_pages(), self.state.clone());
        let data = machine.pages_of_ram(&pages);
        Ok(Snapshot { built: self.built.whole(), state, pages, data, ..*self })
    }

    /// Each page with its number.
    fn each(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.pages.iter().copied().zip(self.data.chunks_exact(PAGE))
    }
}

impl Machine {
    /// Takes a whole snapshot. Pages that are all zero are not in it.
    pub fn save(&mut self) -> Snapshot {
        let pages = self.full_pages();
        self.snapshot(None, pages)
    }

    /// Takes a snapshot of what changed since the last one, or since the one that this machine was made from; a whole one if
    /// there is none.
    pub fn save_changes(&mut self) -> Snapshot {
        match self.saved {
            Some(base) => {
                let pages = self.dirty.pages().collect();
                self.snapshot(Some(base), pages)
            }
            None => self.save(),
        }
    }

    /// Makes of a machine that stands at a snapshot one that stands at the next, which tells the changes.
    ///
    /// # Errors
    /// It does not follow that one, or the machine wrote to RAM since.
    pub fn follow(&mut self, next: &Snapshot) -> Result<(), SnapshotError> {
        if !self.stands() || next.base() != self.saved || next.ram != self.ram.len() as u64 {
            return Err(SnapshotError::NotNext);
        }
        self.take_state(State::decode(&next.state)?, next.id);
        for (page, bytes) in next.each() {
            self.put_page(page, bytes);
        }
        Ok(())
    }

    /// Takes everything back that happened since a snapshot, at which the other machine stands still.
    ///
    /// # Errors
    /// The other one stands somewhere else.
    pub fn go_back(&mut self, to: &Machine) -> Result<(), SnapshotError> {
        let Some(id) =
            self.saved.filter(|_| to.stands() && to.saved == self.saved && to.ram.len() == self.ram.len())
        else {
            return Err(SnapshotError::NotNext);
        };
        let pages: Vec<u32> = self.dirty.pages().collect();
        self.take_state(State::of(to), id);
        for page in pages {
            let start = page as usize * PAGE;
            let end = to.ram.len().min(start + PAGE);
            self.put_page(page, &to.ram[start..end]);
        }
        Ok(())
    }

    fn snapshot(&mut self, base: Option<u64>, pages: Vec<u32>) -> Snapshot {
        let state = State::of(self).encode();
        let built = base.map_or(Built::OnNothing, Built::On);
        let id = built.name(&state);
        let data = self.pages_of_ram(&pages);
        self.stand_at(id);
        let (ram, instructions) = (self.ram.len() as u64, self.instructions);
        Snapshot { id, built, ram, state, instructions, pages, data }
    }

    /// Whether nothing was written to RAM since a snapshot.
    fn stands(&self) -> bool {
        self.saved.is_some() && self.dirty.pages().next().is_none()
    }

    /// The pages that are not all zero.
    fn full_pages(&self) -> Vec<u32> {
        let full = (0..).zip(self.ram.chunks(PAGE)).filter(|(_, page)| !is_zero(page));
        full.map(|(number, _)| number).collect()
    }

    /// What these pages hold, one behind the other.
    fn pages_of_ram(&self, pages: &[u32]) -> Vec<u8> {
        let mut data = Vec::with_capacity(pages.len() * PAGE);
        for &page in pages {
            let start = page as usize * PAGE;
            let end = self.ram.len().min(start + PAGE);
            data.extend_from_slice(&self.ram[start..end]);
        }
        // RAM may end within a page.
        data.resize(pages.len() * PAGE, 0);
        data
    }

    /// From now on pages are dirty if they are written.
    fn stand_at(&mut self, id: u64) {
        self.take_marks();
        self.saved = Some(id);
    }

    /// Takes all marks away, and with them what the fast path and machine code may store to.
    fn take_marks(&mut self) {
        self.dirty.clear();
        self.tlb.watch_all();
    }

    fn take_state(&mut self, state: State, id: u64) {
        state.put_into(self);
        self.outputs.clear();
        self.stand_at(id);
    }

    /// Puts a page into RAM, as it was saved.
    fn put_page(&mut self, page: u32, bytes: &[u8]) {
        let start = page as usize * PAGE;
        let end = self.ram.len().min(start + PAGE);
        self.code.wrote_range(start, end - start);
        self.ram[start..end].copy_from_slice(&bytes[..end - start]);
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(64).all(|part| part.iter().fold(0, |all, byte| all | byte) == 0)
}
