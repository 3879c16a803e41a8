//! Owns the framing of QEMU's stream sockets: a 4-byte big-endian length, then the frame (QEMU net/stream.c).
//!
//! Pure: bytes go in by chunks of any size, frames come out. The length is checked before anything is believed.

/// Bytes of the length in front of each frame.
pub const HEADER_LEN: usize = 4;

/// The longest frame that QEMU itself can send or take (QEMU include/net/net.h, `NET_BUFSIZE`).
pub const QEMU_MAX_FRAME: usize = 4096 + 65536;

/// A stream that is no longer a stream of frames. Nothing after it can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream announces a frame of {length} bytes, the limit is {limit}: it is out of step or hostile")]
pub struct FramingError {
    /// The length that the stream announced.
    pub length: u32,
    /// The limit in force.
    pub limit: usize,
}

/// Cuts a byte stream into frames. Memory is allocated once.
#[derive(Debug)]
pub struct FrameReader {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    max_frame: usize,
}

impl FrameReader {
    /// A reader for frames of at most `max_frame` bytes.
    #[must_use]
    pub fn new(max_frame: usize) -> Self {
        let max_frame = max_frame.clamp(1, QEMU_MAX_FRAME);
        let buffer = vec![0; 2 * (HEADER_LEN + max_frame)].into_boxed_slice();
        Self { buffer, start: 0, end: 0, max_frame }
    }

    /// A reader without a buffer, to stand in for one that is lent out.
    pub(crate) fn empty() -> Self {
        Self { buffer: Box::default(), start: 0, end: 0, max_frame: 1 }
    }

    /// Where the next bytes of the stream go; never empty once [`next_frame`](Self::next_frame) returned `None`.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        } else if self.buffer.len() - self.start < HEADER_LEN + self.max_frame {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.buffer[self.end..]
    }

    /// Says that the first `count` bytes of [`space`](Self::space) were filled.
    ///
    /// # Panics
    /// If that is more than the space.
    pub fn filled(&mut self, count: usize) {
        assert!(count <= self.buffer.len() - self.end, "more was filled than there was space");
        self.end += count;
    }

    /// The next whole frame, or `None` if more bytes are needed.
    ///
    /// # Errors
    /// If the announced length is over the limit; then and ever after, since the stream has lost its step.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, FramingError> {
        let waiting = &self.buffer[self.start..self.end];
        let Some((header, rest)) = waiting.split_first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*header);
        let limit = self.max_frame;
        let Some(wanted) = usize::try_from(length).ok().filter(|&l| l <= limit) else {
            return Err(FramingError { length, limit });
        };
        if rest.len() < wanted {
            return Ok(None);
        }
        let from = self.start + HEADER_LEN;
        self.start = from + wanted;
        Ok(Some(&self.buffer[from..from + wanted]))
    }
}

/// The header for a frame of `length` bytes.
///
/// # Panics
/// If the length is over [`QEMU_MAX_FRAME`].
#[must_use]
pub fn header(length: usize) -> [u8; HEADER_LEN] {
    assert!(length <= QEMU_MAX_FRAME, "a frame of {length} bytes fits no QEMU");
    #[expect(clippy::cast_possible_truncation, reason = "checked above")]
    (length as u32).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn feed(reader: &mut FrameReader, mut bytes: &[u8], out: &mut Vec<Vec<u8>>) -> Result<(), FramingError> {
        while !bytes.is_empty() {
            let space = reader.space();
            assert!(!space.is_empty(), "no space although no frame is waiting");
            let n = space.len().min(bytes.len());
            space[..n].copy_from_slice(&bytes[..n]);
            reader.filled(n);
            bytes = &bytes[n..];
            while let Some(frame) = reader.next_frame()? {
                out.push(frame.to_vec());
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn frames_survive_any_chunking(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..30),
            chunks in prop::collection::vec(1usize..90, 1..50),
        ) {
            let mut stream = Vec::new();
            for frame in &frames {
                stream.extend_from_slice(&header(frame.len()));
                stream.extend_from_slice(frame);
            }
            let mut reader = FrameReader::new(200);
            let (mut out, mut rest, mut turn) = (Vec::new(), stream.as_slice(), 0);
            while !rest.is_empty() {
                let n = chunks[turn % chunks.len()].min(rest.len());
                feed(&mut reader, &rest[..n], &mut out).unwrap();
                rest = &rest[n..];
                turn += 1;
            }
            prop_assert_eq!(out, frames);
        }

        #[test]
        fn garbage_never_panics_and_no_frame_is_over_the_limit(garbage in prop::collection::vec(any::<u8>(), 0..4000)) {
            let mut reader = FrameReader::new(100);
            let mut out = Vec::new();
            let _ = feed(&mut reader, &garbage, &mut out);
            prop_assert!(out.iter().all(|frame| frame.len() <= 100));
            prop_assert_eq!(reader.buffer.len(), 208, "the buffer grew");
        }
    }

    #[test]
    fn a_length_over_the_limit_is_an_error_for_good() {
        let mut reader = FrameReader::new(100);
        let mut out = Vec::new();
        let bad = FramingError { length: 101, limit: 100 };
        assert_eq!(feed(&mut reader, &header(101), &mut out), Err(bad));
        assert_eq!(feed(&mut reader, &[0, 0, 0, 1, 7], &mut out), Err(bad));
        assert_eq!(out, Vec::<Vec<u8>>::new());
    }
}
