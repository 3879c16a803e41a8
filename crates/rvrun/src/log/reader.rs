//! Owns reading a recording. Its bytes may be anything.

use super::{Entry, Event, LONGEST, MAGIC, VERSION, checksum};
use crate::setup::Setup;
use std::io::{self, Read, Seek, SeekFrom};

/// Why a recording cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// It is none.
    #[error("this is no recording of a deterministic machine")]
    NotALog,
    /// Another version.
    #[error("the recording has version {0}, this program reads version {VERSION}")]
    Version(u32),
    /// It was changed.
    #[error("the recording is damaged in block {block}: {what}")]
    Damaged {
        /// The block, from 0.
        block: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The system.
    #[error("cannot read the recording: {0}")]
    Read(#[from] io::Error),
}

/// A recording being read.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    setup: Setup,
    number: u64,
    block: Vec<u8>,
    /// Where the block is, and where the one after it.
    span: (u64, u64),
    /// Where in the block the next entry is.
    next: usize,
    at: u64,
}

/// A place between two entries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    number: u64,
    span: (u64, u64),
    next: usize,
    at: u64,
}

impl<R: Read> Reader<R> {
    /// Reads the beginning.
    ///
    /// # Errors
    /// It is no recording, one of another version, or damaged.
    pub fn open(mut from: R) -> Result<Reader<R>, LogError> {
        let mut head = Vec::new();
        from.by_ref().take(12).read_to_end(&mut head)?;
        let (magic, version) = head.split_at_checked(8).ok_or(LogError::NotALog)?;
        if magic != MAGIC {
            return Err(LogError::NotALog);
        }
        let version = u32::from_le_bytes(version.try_into().map_err(|_| LogError::NotALog)?);
        if version != VERSION {
            return Err(LogError::Version(version));
        }
        let first = read_block(&mut from, 0)?.ok_or(LogError::NotALog)?;
        let setup = postcard::from_bytes(&first)
            .map_err(|_| LogError::Damaged { block: 0, what: "it describes no machine" })?;
        let begin = HEAD + block_length(&first);
        let span = (begin, begin);
        Ok(Reader { from, setup, number: 1, block: Vec::new(), span, next: 0, at: 0 })
    }

    /// The machine that was recorded.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// The next entry: an instruction count, and what happened there. None at the end of what was written.
    ///
    /// # Errors
    /// It is damaged, or cannot be read.
    #[expect(clippy::should_implement_trait, reason = "reading can fail at every step, and then ends")]
    pub fn next(&mut self) -> Result<Option<(u64, Event)>, LogError> {
        while self.next == self.block.len() {
            let Some(block) = read_block(&mut self.from, self.number)? else { return Ok(None) };
            self.span = (self.span.1, self.span.1 + block_length(&block));
            (self.block, self.next) = (block, 0);
            self.number += 1;
        }
        let damaged = |what| LogError::Damaged { block: self.number - 1, what };
        let rest = &self.block[self.next..];
        let (entry, left): (Entry, _) =
            postcard::take_from_bytes(rest).map_err(|_| damaged("an entry cannot be understood"))?;
        self.next = self.block.len() - left.len();
        let at = self.at.checked_add(entry.after).ok_or(damaged("its counts overflow"))?;
        self.at = if entry.event == Event::Restart { 0 } else { at };
        Ok(Some((at, entry.event)))
    }
}

impl<R: Read + Seek> Reader<R> {
    /// Where it is.
    pub(crate) fn place(&self) -> Place {
        Place { number: self.number, span: self.span, next: self.next, at: self.at }
    }

    /// Goes back to where it was.
    pub(crate) fn go_to(&mut self, place: Place) -> Result<(), LogError> {
        let Place { number, span, next, at } = place;
        self.from.seek(SeekFrom::Start(span.0))?;
        self.block = Vec::new();
        if span.0 != span.1 {
            let gone = || LogError::Damaged { block: number - 1, what: "it was there, and is no more" };
            self.block = read_block(&mut self.from, number - 1)?.ok_or_else(gone)?;
        }
        (self.number, self.span, self.next, self.at) = (number, span, next, at);
        Ok(())
    }
}

/// Bytes before the first block, and before the bytes of each.
const HEAD: u64 = 12;

fn block_length(bytes: &[u8]) -> u64 {
    HEAD + bytes.len() as u64
}

/// The next block; none at the end, also if it is cut short.
fn read_block(from: &mut impl Read, number: u64) -> Result<Option<Vec<u8>>, LogError> {
    let mut head = Vec::new();
    from.by_ref().take(12).read_to_end(&mut head)?;
    let Some((length, sum)) = head.split_first_chunk::<4>() else { return Ok(None) };
    let Ok(sum) = <[u8; 8]>::try_from(sum) else { return Ok(None) };
    let length = u32::from_le_bytes(*length);
    if length == 0 || length > LONGEST {
        return Err(LogError::Damaged { block: number, what: "its length is none that is written" });
    }
    let mut bytes = Vec::new();
    from.by_ref().take(length.into()).read_to_end(&mut bytes)?;
    if bytes.len() < length as usize {
        return Ok(None);
    }
    if checksum(number, &bytes) != u64::from_le_bytes(sum) {
        return Err(LogError::Damaged { block: number, what: "its checksum is wrong" });
    }
    Ok(Some(bytes))
}
