//! Owns the thread that hashes a backup's copies of the disks for its primary.
//!
//! It reads beside the applier: whatever the guest writes meanwhile comes behind the hashes in the stream, so it does
//! not matter how much of it was applied when a piece was read.

use crossbeam_channel::{Receiver, Sender, unbounded};
use disk::{Image, ImageError};
use protocol::backup::Conn;
use protocol::resync::Run;
use protocol::wire::compare::{Ask, Hashes, PIECE, hash};
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
    pub fn start(images: Vec<Arc<Image>>, answers: Sender<Compared>) -> std::io::Result<Self> {
        let (asks, queue) = unbounded();
        let body = move || answer(&images, &queue, &answers);
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

fn answer(images: &[Arc<Image>], asks: &Receiver<(Conn, Ask)>, answers: &Sender<Compared>) {
    let mut buffer = Vec::new();
    for (conn, ask) in asks {
        let mut sums = Vec::with_capacity(ask.pieces());
        let done = ask.runs.iter().try_for_each(|run| match images.get(usize::from(run.disk)) {
            Some(image) => hashes(image, run, &mut buffer, &mut sums),
            None => Ok(()),
        });
        let outcome = done.map(|()| Hashes { sums }).map_err(|error: ImageError| error.to_string());
        if answers.send((conn, outcome)).is_err() {
            return;
        }
    }
}

fn hashes(image: &Image, run: &Run, buffer: &mut Vec<u8>, sums: &mut Vec<u128>) -> Result<(), ImageError> {
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
        sums.extend(buffer.chunks(PIECE as usize).map(hash));
        at += len;
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

    #[test]
    fn every_piece_has_its_hash_holes_and_short_ones_too() {
        let folder = tempfile::tempdir().unwrap();
        let image = Arc::new(Image::create(&folder.path().join("d"), (4 << 20) + 512).unwrap());
        image.write_at(4096, &[7; 4096]).unwrap();
        image.write_at(4 << 20, &[9; 512]).unwrap();
        let (answers, answered) = unbounded();
        let comparer = Comparer::start(vec![image], answers).unwrap();
        let run = |offset: u64, len: u64| Run { disk: 0, offset, len };
        let ask = Ask { runs: vec![run(0, 12288), run((4 << 20) - 4096, 4608)] };
        let pieces = ask.pieces();
        comparer.compare(Conn(3), ask);
        let (conn, hashes) = answered.recv().unwrap();
        let zero = hash(&[0; 4096]);
        assert_eq!((conn, hashes.as_ref().unwrap().sums.len()), (Conn(3), pieces));
        assert_eq!(hashes.unwrap().sums, [zero, hash(&[7; 4096]), zero, zero, hash(&[9; 512])]);
        comparer.compare(Conn(3), Ask { runs: vec![run(8 << 20, 1)] });
        assert!(
            answered.recv().unwrap().1.unwrap_err().contains("bytes"),
            "a disk that cannot be read is named"
        );
    }
}
