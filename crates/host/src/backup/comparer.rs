//! Owns the thread that hashes a backup's copies of the disks, and the memory that it has, for its primary.
//!
//! It reads beside the applier: whatever the guest writes meanwhile comes behind the hashes in the stream, so it does
//! not matter how much of it was applied when a piece was read.

use crate::ram::{GuestRam, Occupied, RamError};
use crossbeam_channel::{Receiver, Sender, unbounded};
use disk::{Image, ImageError};
use protocol::backup::Conn;
use protocol::resync::Run;
use protocol::wire::compare::{Ask, Hashes, PIECE, Seed, Store};
use std::sync::Arc;
use std::thread::JoinHandle;

/// Bytes that are read at a time: whole pieces.
const READ: u64 = 256 * PIECE;

/// The answer to an Ask that came on this connection; or why there is none.
pub type Compared = (Conn, Result<Hashes, String>);

/// The handle of the thread. Dropping it ends the thread.
pub struct Comparer {
    asks: Option<Sender<(Conn, Ask)>>,
    thread: Option<JoinHandle<()>>,
}

impl Comparer {
    /// Starts the thread for copies.
    ///
    /// # Errors
    /// If the system gives none.
    pub fn start(images: Vec<Arc<Image>>, ram: GuestRam, answers: Sender<Compared>) -> std::io::Result<Self> {
        let (asks, queue) = unbounded();
        let body = move || answer((&images, &ram), &queue, &answers);
        let thread = std::thread::Builder::new().name("ud-compare".into()).spawn(body)?;
        Ok(Self { asks: Some(asks), thread: Some(thread) })
    }

    /// Orders the hashes of an Ask that was found right.
    pub fn compare(&self, conn: Conn, ask: Ask) {
        if let Some(asks) = &self.asks {
            let _ = asks.send((conn, ask));
        }
    }
}

impl Drop for Comparer {
    fn drop(&mut self) {
        drop(self.asks.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(
    (images, ram): (&[Arc<Image>], &GuestRam),
    asks: &Receiver<(Conn, Ask)>,
    answers: &Sender<Compared>,
) {
    let (mut buffer, mut occupied) = (Vec::new(), Occupied::default());
    for (conn, ask) in asks {
        let mut sums = Vec::with_capacity(ask.pieces());
        let done = ask.runs.iter().try_for_each(|run| match (ask.of, images.get(usize::from(run.disk))) {
            (Store::Disks, Some(image)) => {
                hashes(image, (run, ask.seed), &mut buffer, &mut sums).map_err(|error| error.to_string())
            }
            (Store::Disks, None) => Ok(()),
            (Store::Memory, _) => {
                memory_hashes((ram, &mut occupied), (run, ask.seed), &mut buffer, &mut sums)
                    .map_err(|error| error.to_string())
            }
        });
        let outcome = done.map(|()| Hashes { sums });
        if answers.send((conn, outcome)).is_err() {
            return;
        }
    }
}

fn hashes(
    image: &Image,
    (run, seed): (&Run, Seed),
    buffer: &mut Vec<u8>,
    sums: &mut Vec<u128>,
) -> Result<(), ImageError> {
    let end = run.offset + run.len;
    let mut at = run.offset;
    while at < end {
        let len = READ.min(end - at);
        buffer.resize(usize::try_from(len).unwrap_or_default(), 0);
        if is_hole(image, at, len) {
            buffer.fill(0)
        } else {
            image.read_at(at, buffer)?
        }
        sums.extend(buffer.chunks(PIECE as usize).map(|piece| seed.hash(piece)));
        at += len;
    }
    Ok(())
}

fn memory_hashes(
    (ram, occupied): (&GuestRam, &mut Occupied),
    (run, seed): (&Run, Seed),
    buffer: &mut Vec<u8>,
    sums: &mut Vec<u128>,
) -> Result<(), RamError> {
    let mut from = run.offset / PIECE;
    let behind = from + run.len.div_ceil(PIECE);
    let zeroes = seed.hash(&[0; PIECE as usize]);
    while from < behind {
        let to = behind.min(from + READ / PIECE);
        let found = occupied.among(ram, run.disk, from..to)?;
        buffer.resize(found.len() * PIECE as usize, 0);
        let pages: Vec<(u8, u64)> = found.iter().map(|&page| (run.disk, page)).collect();
        ram.copy_out(&pages, buffer)?;
        let mut of_pages = found.iter().zip(buffer.chunks(PIECE as usize)).peekable();
        let sum =
            |page| of_pages.next_if(|(at, _)| **at == page).map_or(zeroes, |(_, bytes)| seed.hash(bytes));
        sums.extend((from..to).map(sum));
        from = to;
    }
    Ok(())
}

/// Whether nothing was ever written there: a file is not read then, which takes most of the time.
fn is_hole(image: &Image, offset: u64, len: u64) -> bool {
    let mut extents = image.extents(offset..offset + len).peekable();
    extents.peek().is_some() && extents.all(|extent| extent.is_ok_and(|extent| extent.hole))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ram::plain;
    use os::Memory;

    const SEED: Seed = Seed(9);

    fn memory() -> Arc<Memory> {
        Arc::new(Memory::create("test-compare", 1_024 * PIECE).unwrap())
    }

    #[test]
    fn every_page_has_its_hash_and_holes_stay_holes() {
        let memory = memory();
        for page in [3, 300, 301] {
            memory.write_at(page * PIECE, &[page as u8; PIECE as usize]);
        }
        let (answers, answered) = unbounded();
        let comparer = Comparer::start(Vec::new(), plain::ram_of(&memory), answers).unwrap();
        let run = |first: u64, pages: u64| Run { disk: 0, offset: first * PIECE, len: pages * PIECE };
        comparer
            .compare(Conn(1), Ask { of: Store::Memory, seed: SEED, runs: vec![run(0, 1_000), run(300, 1)] });
        let sums = answered.recv().unwrap().1.unwrap().sums;
        let of = |page: u64| if [3, 300, 301].contains(&page) { page as u8 } else { 0 };
        let expected: Vec<u128> =
            (0..1_000).chain([300]).map(|page| SEED.hash(&[of(page); PIECE as usize])).collect();
        assert_eq!(sums, expected);
        assert_eq!(memory.populated().count(), 2);
    }

    #[test]
    fn every_piece_has_its_hash_holes_and_short_ones_too() {
        let folder = tempfile::tempdir().unwrap();
        let image = Arc::new(Image::create(&folder.path().join("d"), (4 << 20) + 512).unwrap());
        image.write_at(4096, &[7; 4096]).unwrap();
        image.write_at(4 << 20, &[9; 512]).unwrap();
        let (answers, answered) = unbounded();
        let comparer = Comparer::start(vec![image], plain::ram_of(&memory()), answers).unwrap();
        let run = |offset: u64, len: u64| Run { disk: 0, offset, len };
        let ask =
            Ask { of: Store::Disks, seed: SEED, runs: vec![run(0, 12288), run((4 << 20) - 4096, 4608)] };
        let pieces = ask.pieces();
        comparer.compare(Conn(3), ask);
        let (conn, hashes) = answered.recv().unwrap();
        let zero = SEED.hash(&[0; 4096]);
        assert_eq!((conn, hashes.as_ref().unwrap().sums.len()), (Conn(3), pieces));
        assert_eq!(hashes.unwrap().sums, [zero, SEED.hash(&[7; 4096]), zero, zero, SEED.hash(&[9; 512])]);
        comparer.compare(Conn(3), Ask { of: Store::Disks, seed: SEED, runs: vec![run(8 << 20, 1)] });
        assert!(
            answered.recv().unwrap().1.unwrap_err().contains("bytes"),
            "a disk that cannot be read is named"
        );
    }
}
