//! Owns the bodies of journal records.
//!
//! | kind | body |
//! |---|---|
//! | Change | operation (1 data, 2 zeroes, 3 discard), disk, 6 reserved bytes, offset u64, length u64, the data |
//! | Commit | changes u64, bytes of their bodies u64, running digest of their headers u64 |
//! | Head | number of the segment u64 |
//! | Applied | number of segments u64, length of each in bytes u64 |

use super::record::{MAX_DATA_LEN, RecordError};
use crate::change::{Change, What};
use crate::le::u64_at;
use alloc::vec::Vec;

/// Length of a change's body without its data.
pub const CHANGE_HEAD: usize = 24;
/// Length of a commit's body.
pub const COMMIT_LEN: usize = 24;
/// Length of a segment head's body.
pub const HEAD_LEN: usize = 8;

/// Length of a mark's body.
pub const SHAPE_LEN: usize = 16;

impl What<'_> {
    fn number(&self) -> u8 {
        match self {
            What::Data(_) => 1,
            What::Zeroes(_) => 2,
            What::Discard(_) => 3,
        }
    }
}

impl<'a> Change<'a> {
    /// Length of the body in bytes.
    #[must_use]
    pub fn body_len(&self) -> usize {
        match self.what {
            What::Data(data) => CHANGE_HEAD + data.len(),
            What::Zeroes(_) | What::Discard(_) => CHANGE_HEAD,
        }
    }

    /// Whether the range has bytes, ends before 2^63 and its data fit a record.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let ends = self.offset.checked_add(self.what.len()).is_some_and(|end| i64::try_from(end).is_ok());
        let fits = !matches!(self.what, What::Data(data) if data.len() > MAX_DATA_LEN);
        ends && fits && !self.what.is_empty()
    }

    /// Appends the body's bytes.
    ///
    /// # Panics
    /// If the change is not sound.
    pub fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.is_sound(), "a change at {} of {} bytes", self.offset, self.what.len());
        out.extend([self.what.number(), self.disk, 0, 0, 0, 0, 0, 0]);
        out.extend(self.offset.to_le_bytes());
        out.extend(self.what.len().to_le_bytes());
        if let What::Data(data) = self.what {
            out.extend(data);
        }
    }

    /// Reads a body whose checksum was right.
    ///
    /// # Errors
    /// If it is no change, or not a sound one.
    pub fn decode(body: &'a [u8]) -> Result<Self, RecordError> {
        let (head, data) = body.split_at_checked(CHANGE_HEAD).ok_or(RecordError::Body("too short"))?;
        if head[2..8] != [0; 6] {
            return Err(RecordError::Body("reserved bytes are set"));
        }
        let len = u64_at(head, 16);
        let what = match head[0] {
            1 => What::Data(data),
            2 => What::Zeroes(len),
            3 => What::Discard(len),
            _ => return Err(RecordError::Body("unknown operation")),
        };
        let change = Self { disk: head[1], offset: u64_at(head, 8), what };
        if what.len() != len || change.body_len() != body.len() {
            return Err(RecordError::Body("its lengths differ"));
        }
        if !change.is_sound() {
            return Err(RecordError::Body("an impossible range"));
        }
        Ok(change)
    }
}

/// What a commit says of the changes before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// How many they are.
    pub changes: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Running digest of their headers, see [`super::Header::digest`].
    pub digest: u64,
}

impl Totals {
    /// Adds a change's record.
    pub fn add(&mut self, header: &super::Header) {
        self.changes += 1;
        self.bytes += u64::from(header.len);
        self.digest = header.digest(self.digest);
    }

    /// The commit's body.
    #[must_use]
    pub fn encode(&self) -> [u8; COMMIT_LEN] {
        let mut out = [0; COMMIT_LEN];
        out[..8].copy_from_slice(&self.changes.to_le_bytes());
        out[8..16].copy_from_slice(&self.bytes.to_le_bytes());
        out[16..].copy_from_slice(&self.digest.to_le_bytes());
        out
    }

    /// Reads a commit's body.
    ///
    /// # Errors
    /// If its length is wrong.
    pub fn decode(body: &[u8]) -> Result<Self, RecordError> {
        if body.len() != COMMIT_LEN {
            return Err(RecordError::Body("a commit of another length"));
        }
        Ok(Self { changes: u64_at(body, 0), bytes: u64_at(body, 8), digest: u64_at(body, 16) })
    }
}

/// The shape of the journal's files; each mark holds it, so that a missing file is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Number of segments.
    pub segments: u64,
    /// Length of each in bytes.
    pub segment_len: u64,
}

impl Shape {
    /// A mark's body.
    #[must_use]
    pub fn encode(&self) -> [u8; SHAPE_LEN] {
        let mut out = [0; SHAPE_LEN];
        out[..8].copy_from_slice(&self.segments.to_le_bytes());
        out[8..].copy_from_slice(&self.segment_len.to_le_bytes());
        out
    }

    /// Reads a mark's body.
    ///
    /// # Errors
    /// If its length is wrong.
    pub fn decode(body: &[u8]) -> Result<Self, RecordError> {
        if body.len() != SHAPE_LEN {
            return Err(RecordError::Body("a mark of another length"));
        }
        Ok(Self { segments: u64_at(body, 0), segment_len: u64_at(body, 8) })
    }
}

/// Reads a segment head's body: the segment's number.
///
/// # Errors
/// If its length is wrong.
pub fn segment_number(body: &[u8]) -> Result<u64, RecordError> {
    if body.len() != HEAD_LEN {
        return Err(RecordError::Body("a segment head of another length"));
    }
    Ok(u64_at(body, 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn golden_bytes_of_a_change_and_a_commit() {
        let mut out = Vec::new();
        Change { disk: 2, offset: 4096, what: What::Data(b"ab") }.encode(&mut out);
        let golden = [1, 2, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, b'a', b'b'];
        assert_eq!(out, golden);
        let totals = Totals { changes: 1, bytes: 26, digest: 0x0908_0706_0504_0302 };
        let golden = [1, 0, 0, 0, 0, 0, 0, 0, 26, 0, 0, 0, 0, 0, 0, 0, 2, 3, 4, 5, 6, 7, 8, 9];
        assert_eq!(totals.encode(), golden);
        let shape = Shape { segments: 8, segment_len: 4096 };
        assert_eq!(shape.encode(), [8, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Shape::decode(&shape.encode()), Ok(shape));
    }

    #[test]
    fn impossible_changes_are_refused() {
        let body = |op: u8, offset: u64, len: u64, data: &[u8]| {
            let mut body = vec![op, 0, 0, 0, 0, 0, 0, 0];
            body.extend(offset.to_le_bytes());
            body.extend(len.to_le_bytes());
            body.extend(data);
            body
        };
        for bad in [
            body(0, 0, 1, b"a"),
            body(1, 0, 2, b"a"),
            body(1, 0, 0, b""),
            body(2, 0, 1, b"a"),
            body(3, 1, u64::MAX, b""),
            body(3, 1, i64::MAX as u64, b""),
        ] {
            assert!(Change::decode(&bad).is_err(), "{bad:?}");
        }
        assert!(Change::decode(&body(3, 0, i64::MAX as u64, b"")).is_ok());
    }
}
