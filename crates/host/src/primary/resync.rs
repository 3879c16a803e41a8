//! Owns the disks' part of a first copy: all data if the backup has nothing, else what differs from its copies.
//!
//! Nothing is sent but what was read right before it, and behind it everything that the guest wrote until then: so what
//! the guest wrote last is last in the stream, whatever it wrote over. Hashes are of what the backup had applied at
//! some time since it was asked; a piece that is equal then is equal in the end, because the guest's writes that the
//! backup had not applied come behind.

use super::copy::Copy;
use super::orders::Done;
use crate::disks::{Kept, KeptChange};
use api::types::{CopyKind, CopyProgress};
use crossbeam_channel::RecvTimeoutError;
use disk::Image;
use protocol::Epoch;
use protocol::resync::{DiskOffer, Repair, Run};
use protocol::wire::ToBackup;
use protocol::wire::compare::{Ask, Hashes, MAX_ASKS, PIECE, Seed, Store};
use std::collections::VecDeque;
use std::time::Duration;

/// Bytes of a disk that are read at a time: whole pieces.
const DISK_PIECE: u64 = 256 * PIECE;
/// Bytes of disks that may wait behind the link.
const MAX_DISK_WAITING: usize = 16 << 20;
/// How often to look whether they still do, and for what the guest wrote while hashes are waited for.
const DISK_PAUSE: Duration = Duration::from_millis(1);

impl Copy<'_> {
    /// Makes the backup's copies the disks, with what is written meanwhile; false if the session ended. What is
    /// written last belongs to the first checkpoint.
    pub(super) fn disks(&mut self) -> Result<bool, String> {
        let sizes: Vec<u64> = self.images.iter().map(|image| image.size()).collect();
        self.offer.disks.check(&sizes).map_err(|error| error.to_string())?;
        let map = self.tap.marker().map(|marker| marker.map());
        match (map.map(|map| map.repair(&self.offer.disks)), &self.offer.disks) {
            (Some(Repair::Compare(runs)), _) => self.compare(CopyKind::Difference, runs),
            (Some(Repair::CompareAll(runs)), _) => self.compare(CopyKind::Comparison, runs),
            (Some(Repair::SendAll), _) | (None, DiskOffer::NoDisks | DiskOffer::Blank) => self.send_all(),
            // No map was made for disks that are there: nothing is known of them.
            (None, DiskOffer::Copies { .. }) => self.compare(CopyKind::Comparison, Run::whole(sizes)),
        }
    }

    fn begin(&self, kind: CopyKind, runs: &[Run]) {
        let disks = 0..u8::try_from(self.images.len()).unwrap_or(u8::MAX);
        disks.for_each(|disk| self.tap.meter().begin_copy(disk, kind, 0));
        runs.iter().for_each(|run| self.tap.meter().begin_copy(run.disk, kind, run.len));
    }

    fn tell(&self) {
        if let Some(copy) = self.tap.meter().copy() {
            let (copied_bytes, remaining_bytes) = (copy.done_bytes, copy.remaining_bytes);
            let _ =
                self.done.send(Done::CopyProgress(CopyProgress { round: 0, copied_bytes, remaining_bytes }));
        }
    }

    /// Sends all data; holes read as zeroes at the backup already.
    fn send_all(&mut self) -> Result<bool, String> {
        let mut runs = Vec::new();
        for (disk, image) in (0u8..).zip(self.images) {
            let extents: Result<Vec<_>, _> = image.extents(0..image.size()).collect();
            let data = extents.map_err(|error| error.to_string())?.into_iter().filter(|extent| !extent.hole);
            runs.extend(data.map(|extent| Run { disk, offset: extent.offset, len: extent.len }));
        }
        self.begin(CopyKind::Full, &runs);
        for part in runs.iter().flat_map(parts) {
            if !self.make_room()? {
                return Ok(false);
            }
            let bytes = self.read(&part)?;
            self.send(
                &part,
                vec![KeptChange { disk: part.disk, offset: part.offset, what: Kept::Data(bytes) }],
            );
        }
        Ok(true)
    }

    /// Compares these runs of the disks, and sends the pieces that differ.
    fn compare(&mut self, kind: CopyKind, runs: Vec<Run>) -> Result<bool, String> {
        self.begin(kind, &runs);
        self.compare_runs(Store::Disks, runs, |copy, part, (seed, sums)| {
            if !copy.make_room()? {
                return Ok(false);
            }
            let bytes = copy.read(part)?;
            copy.send(part, differing(part, &bytes, (seed, sums)));
            Ok(true)
        })
    }

    /// Asks for hashes of these runs, some Asks ahead, and hands each part on with those of its pieces; false if the session
    /// ended.
    pub(super) fn compare_runs(
        &mut self,
        of: Store,
        runs: Vec<Run>,
        mut each: impl FnMut(&mut Self, &Run, (Seed, &[u128])) -> Result<bool, String>,
    ) -> Result<bool, String> {
        let seed = Seed(crate::loops::random());
        let (mut waiting, mut asked): (VecDeque<Run>, VecDeque<Ask>) = (runs.into(), VecDeque::new());
        loop {
            while asked.len() < MAX_ASKS as usize && !waiting.is_empty() {
                let ask = Ask::next_of((of, seed), &mut waiting);
                self.outbox.to_backup(&ToBackup::Ask(ask.clone()));
                asked.push_back(ask);
            }
            let Some(ask) = asked.pop_front() else { return Ok(true) };
            let Some(Hashes { sums }) = self.answer() else { return Ok(false) };
            if sums.len() != ask.pieces() {
                return Err(format!("the backup gave {} hashes for {} pieces", sums.len(), ask.pieces()));
            }
            let mut sums = sums.as_slice();
            for part in ask.runs.iter().flat_map(parts) {
                let (now, after) = sums.split_at(part.len.div_ceil(PIECE) as usize);
                sums = after;
                if !each(self, &part, (seed, now))? {
                    return Ok(false);
                }
            }
        }
    }

    /// The next hashes; none if the session ended. What the guest writes meanwhile is sent on.
    fn answer(&mut self) -> Option<Hashes> {
        self.waits_until(|copy| !copy.hashes.is_empty());
        self.hashes.pop_front()
    }

    /// Waits until the link has room and the pace allows more; false if the session ended.
    fn make_room(&mut self) -> Result<bool, String> {
        self.tell();
        while self.outbox.disks_waiting() > MAX_DISK_WAITING {
            match self.jobs.recv_timeout(DISK_PAUSE) {
                Err(RecvTimeoutError::Timeout) => {}
                job => {
                    if !self.heed(job.ok()) {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(self.wait_for_pace())
    }

    fn read(&self, part: &Run) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; usize::try_from(part.len).unwrap_or_default()];
        let image: &Image = &self.images[usize::from(part.disk)];
        image.read_at(part.offset, &mut bytes).map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    /// Sends what was just read of a part, and behind it what the guest wrote until now.
    fn send(&mut self, part: &Run, mut changes: Vec<KeptChange>) {
        let bytes = changes.iter().map(KeptChange::changed).sum();
        self.tap.meter().copied(part.disk, part.len, bytes);
        self.pace.sent(bytes);
        if !changes.is_empty() {
            changes.append(&mut self.written());
            self.outbox.disks(Epoch(0), changes);
        }
    }
}

/// A run in parts that are read at a time.
fn parts(run: &Run) -> impl Iterator<Item = Run> + use<> {
    let Run { disk, offset, len } = *run;
    let starts = (0..len).step_by(DISK_PIECE as usize);
    starts.map(move |at| Run { disk, offset: offset + at, len: DISK_PIECE.min(len - at) })
}

/// The pieces of a part whose hashes are not these, those that lie together as one change.
fn differing(part: &Run, bytes: &[u8], (seed, sums): (Seed, &[u128])) -> Vec<KeptChange> {
    let mut changes: Vec<KeptChange> = Vec::new();
    let mut offset = part.offset;
    for (piece, &sum) in bytes.chunks(PIECE as usize).zip(sums) {
        let len = piece.len() as u64;
        if seed.hash(piece) != sum {
            let zeroes = piece.iter().all(|&byte| byte == 0);
            match changes.last_mut().filter(|last| last.offset + last.changed() == offset) {
                Some(KeptChange { what: Kept::Zeroes(run), .. }) if zeroes => *run += len,
                Some(KeptChange { what: Kept::Data(run), .. }) if !zeroes => run.extend_from_slice(piece),
                _ => {
                    let what = if zeroes { Kept::Zeroes(len) } else { Kept::Data(piece.to_vec()) };
                    changes.push(KeptChange { disk: part.disk, offset, what });
                }
            }
        }
        offset += len;
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: Seed = Seed(3);

    #[test]
    fn only_pieces_that_differ_are_sent_and_neighbours_together() {
        let mut bytes = vec![1; 6 * 4096 + 512];
        bytes[3 * 4096..5 * 4096].fill(0);
        let part = Run { disk: 2, offset: 8192, len: bytes.len() as u64 };
        let mut sums: Vec<u128> = bytes.chunks(4096).map(|piece| SEED.hash(piece)).collect();
        assert_eq!(differing(&part, &bytes, (SEED, &sums)), []);
        for changed in [1, 2, 3, 4, 6] {
            sums[changed] ^= 1;
        }
        let change = |piece: u64, what| KeptChange { disk: 2, offset: 8192 + piece * 4096, what };
        let expected = [
            change(1, Kept::Data(vec![1; 8192])),
            change(3, Kept::Zeroes(8192)),
            change(6, Kept::Data(vec![1; 512])),
        ];
        assert_eq!(differing(&part, &bytes, (SEED, &sums)), expected);
    }

    #[test]
    fn parts_cover_a_run() {
        let run = Run { disk: 1, offset: 512, len: 2 * DISK_PIECE + 7 };
        let parts: Vec<Run> = parts(&run).collect();
        assert_eq!(parts.len(), 3);
        assert_eq!(parts[2], Run { disk: 1, offset: 512 + 2 * DISK_PIECE, len: 7 });
        assert_eq!(parts.iter().map(|part| part.len).sum::<u64>(), run.len);
    }
}
