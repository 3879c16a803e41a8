//! Owns where things stand in the journal's files.

use super::error::JournalError;
use super::storage::Storage;
use protocol::journal::body::{CHANGE_HEAD, COMMIT_LEN, Shape};
use protocol::journal::{HEADER_LEN, Kind, MAX_DATA_LEN};

/// Records begin at multiples of this; a device writes a sector whole or not at all.
pub(super) const SECTOR: u64 = 512;
/// Heads, marks and what follows a commit begin at multiples of this.
pub(super) const BLOCK: u64 = 4096;
/// Length of a record header.
pub(super) const HEADER_LEN_U64: u64 = HEADER_LEN as u64;
/// The file of marks.
pub(super) const MARKS: &str = "marks";
/// How many marks it holds.
pub(super) const MARK_SLOTS: u64 = 2;
/// What a commit takes from its segment.
pub(super) const COMMIT_SIZE: u64 = (HEADER_LEN + COMMIT_LEN) as u64;

const MIN_SEGMENT: u64 = 4 * BLOCK;
const SEGMENT: &str = "segment-";
/// Segments of a journal whose size is all that is known.
const USUAL_SEGMENTS: u32 = 8;

/// Number and size of the segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    segments: u32,
    segment_len: u64,
}

impl Layout {
    /// So many segments of so many bytes.
    ///
    /// # Errors
    /// If there are fewer than two, or they are too short or no multiple of 4096.
    pub fn new(segments: u32, segment_len: u64) -> Result<Self, JournalError> {
        if segments < 2 || segment_len < MIN_SEGMENT || !segment_len.is_multiple_of(BLOCK) {
            return Err(JournalError::Size { segments, segment_len });
        }
        Ok(Self { segments, segment_len })
    }

    /// A journal of at most so many bytes, marks included.
    ///
    /// # Errors
    /// If that is too little.
    pub fn within(limit: u64) -> Result<Self, JournalError> {
        let room = limit.saturating_sub(MARK_SLOTS * BLOCK) / u64::from(USUAL_SEGMENTS);
        Self::new(USUAL_SEGMENTS, room / BLOCK * BLOCK)
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn size(&self) -> u64 {
        u64::from(self.segments) * self.segment_len
    }

    pub(super) fn is_segment(name: &str) -> bool {
        name.starts_with(SEGMENT)
    }

    pub(super) fn shape(&self) -> Shape {
        Shape { segments: u64::from(self.segments), segment_len: self.segment_len }
    }

    pub(super) fn segments(&self) -> u32 {
        self.segments
    }

    pub(super) fn segment_len(&self) -> u64 {
        self.segment_len
    }

    /// Name of the file that holds the segment with this number.
    pub(super) fn file(&self, number: u64) -> String {
        format!("{SEGMENT}{:03}", number % u64::from(self.segments))
    }

    /// Names of all segments' files.
    pub(super) fn files(&self) -> impl Iterator<Item = String> + use<> {
        let this = *self;
        (0..u64::from(self.segments)).map(move |number| this.file(number))
    }

    /// Most bytes of data in one record, so that a record and a commit fit a segment.
    pub(super) fn max_data(&self) -> usize {
        let room = self.segment_len - 2 * BLOCK - (HEADER_LEN + CHANGE_HEAD) as u64;
        MAX_DATA_LEN.min(usize::try_from(room).unwrap_or(MAX_DATA_LEN))
    }

    /// Whether a record of this size fits the segment behind `at`.
    pub(super) fn fits(&self, at: u64, size: u64) -> bool {
        at + size <= self.segment_len
    }

    /// The layout of the journal that is there.
    pub(super) fn found<S: Storage>(storage: &S) -> Result<Self, JournalError> {
        let wrong = |what| JournalError::Layout { file: storage.describe(MARKS), what };
        let mut names =
            storage.list().map_err(|source| failed(storage, "list the files beside", MARKS, source))?;
        names.retain(|name| Self::is_segment(name));
        let count = u32::try_from(names.len()).map_err(|_| wrong("too many segments"))?;
        let first = names.first().ok_or_else(|| wrong("there are no segments"))?;
        let len = |name: &str| storage.len(name).map_err(|source| failed(storage, "look at", name, source));
        let found = Self::new(count, len(first)?).map_err(|_| wrong("the segments have no possible size"))?;
        for file in found.files() {
            if !names.contains(&file) {
                return Err(wrong("a segment is missing"));
            }
            if len(&file)? != found.segment_len {
                return Err(wrong("the segments have different lengths"));
            }
        }
        Ok(found)
    }
}

/// Where the next record begins behind one that ends at `end`.
pub(super) fn behind(kind: Kind, end: u64) -> u64 {
    end.next_multiple_of(if kind == Kind::Change { SECTOR } else { BLOCK })
}

/// An error of the storage, with the file's path.
pub(super) fn failed<S: Storage>(
    storage: &S,
    action: &'static str,
    name: &str,
    source: std::io::Error,
) -> JournalError {
    JournalError::Io { action, file: storage.describe(name), source }
}
