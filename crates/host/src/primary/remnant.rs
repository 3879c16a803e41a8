//! Owns the memory's part of a first copy to a host that has a remnant of it: everything is compared, and what differs is sent.
//!
//! It is memory of some time, and the host's QEMU may have written to it since: nothing is taken for granted. A page that is
//! equal when it is looked at may be written later; the tracker, which tracks already, finds that. Pages that are holes here
//! are compared too: in a remnant they may hold anything.

use super::copy::Copy;
use super::orders::Done;
use crate::link::Part;
use crate::ram::Occupied;
use api::types::CopyProgress;
use os::range::PAGE_SIZE;
use protocol::Epoch;
use protocol::resync::Run;
use protocol::wire::compare::{PIECE, Seed, Store};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

// A piece is a page.
const _: () = assert!(PIECE == PAGE_SIZE);

impl Copy<'_> {
    /// Makes a remnant this memory, but for what is written meanwhile; false if the session ended.
    pub(super) fn compare_memory(&mut self) -> Result<bool, String> {
        let sizes = self.ram.sizes();
        let (mut copied_bytes, all) = (0, sizes.iter().sum::<u64>());
        let mut occupied = Occupied::default();
        self.compare_runs(Store::Memory, Run::whole(sizes), |copy, part, hashes| {
            let progress = CopyProgress { round: 1, copied_bytes, remaining_bytes: all - copied_bytes };
            let _ = copy.done.send(Done::CopyProgress(progress));
            copied_bytes += part.len;
            copy.outbox.copy_wire().compared.fetch_add(part.len, Ordering::Relaxed);
            copy.send_differing(part, hashes, &mut occupied)
        })
    }

    /// Sends the pages of a part whose hashes are not these; false if the session ended.
    fn send_differing(
        &mut self,
        part: &Run,
        (seed, sums): (Seed, &[u128]),
        occupied: &mut Occupied,
    ) -> Result<bool, String> {
        let first = part.offset / PAGE_SIZE;
        let numbers = first..first + sums.len() as u64;
        let found =
            occupied.among(self.ram, part.disk, numbers.clone()).map_err(|error| error.to_string())?;
        let looked_at = worth_a_look(numbers, &found, (seed, sums));
        let pages: Vec<(u8, u64)> = looked_at.into_iter().map(|page| (part.disk, page)).collect();
        let mut left = pages.as_slice();
        while !left.is_empty() {
            if !self.wait_for_pace() {
                return Ok(false);
            }
            let Some(buffer) = self.buffer() else { return Ok(false) };
            let (now, after) = left.split_at(left.len().min(buffer.pages()));
            left = after;
            let mut part = Part::copy(self.ram, now, buffer).map_err(|error| error.to_string())?;
            part.leave_out_if(|(_, page), bytes| sums[(page - first) as usize] == seed.hash(bytes));
            let bytes = part.pages().count() as u64 * PAGE_SIZE;
            if bytes > 0 {
                self.outbox.part(Epoch(0), part.packed(self.pack()).once(true));
                self.outbox.copy_wire().differing.fetch_add(bytes, Ordering::Relaxed);
                self.pace.sent(bytes);
            }
            if self.beside {
                self.outbox.disks(Epoch(0), self.written());
            }
        }
        Ok(true)
    }
}

/// Of these pages those that may differ: holes are zeroes, and are not read if the other host has zeroes too.
fn worth_a_look(
    pages: std::ops::Range<u64>,
    occupied: &[u64],
    (seed, sums): (Seed, &[u128]),
) -> BTreeSet<u64> {
    let zeroes = seed.hash(&[0; PAGE_SIZE as usize]);
    let dirty = pages.zip(sums).filter(|(_, sum)| **sum != zeroes).map(|(page, _)| page);
    dirty.chain(occupied.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_looked_at_only_if_the_other_host_has_anything_there() {
        let seed = Seed(5);
        let (zeroes, other) = (seed.hash(&[0; PAGE_SIZE as usize]), 7);
        let looked_at = worth_a_look(10..14, &[11, 13], (seed, &[zeroes, zeroes, other, other]));
        assert_eq!(looked_at.into_iter().collect::<Vec<_>>(), [11, 12, 13]);
    }
}
