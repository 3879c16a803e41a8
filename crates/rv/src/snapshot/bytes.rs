//! Owns the form of a snapshot as bytes.
//!
//! ```text
//! "UDRVSNP\0"  version: u32
//! block*       length: u32, xxh3 of the bytes with the block's number as its seed: u64, bytes
//! ```
//!
//! Numbers are little-endian. The first block is a header, the second everything but RAM, both in postcard's form. Then come
//! the pages, in order, 64 to a block but in the last: the page's number (u32), and 0 if it is all zero, or 1 and its
//! bytes. Each snapshot has one form only. Nothing in it depends on the program's build or on the host.
//!
//! A snapshot that was merged with those that it was built on is whole, and still called by its base: those behind it go on
//! naming it.

use super::state::State;
use super::{Built, Snapshot, is_zero};
use crate::dirty::PAGE;
use alloc::vec::Vec;
use core::convert::Infallible;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

const MAGIC: [u8; 8] = *b"UDRVSNP\0";
/// The version of a machine's state that is written, and the only one that is read.
pub const VERSION: u32 = 1;
/// Pages in a block.
const BLOCK: usize = 64;

/// Why a snapshot cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotError {
    /// The bytes are none.
    NotASnapshot,
    /// They have another version.
    Version(u32),
    /// They were changed, or cut short.
    Damaged(&'static str),
    /// It tells changes, and not those to this machine.
    NotNext,
    /// The machine's RAM does not fit the memory that there is.
    Memory,
    /// It is of a machine with another size of RAM.
    OtherRam {
        /// Bytes of RAM of the machine that it is of.
        has: u64,
        /// Bytes of RAM of the machine that it was given to.
        given: u64,
    },
}

impl core::fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            SnapshotError::NotASnapshot => f.write_str("this is no snapshot of a deterministic machine"),
            SnapshotError::Version(version) => {
                write!(f, "the snapshot has version {version}, this program reads version {VERSION}")
            }
            SnapshotError::Damaged(what) => write!(f, "the snapshot is damaged: {what}"),
            SnapshotError::NotNext => {
                f.write_str("the snapshot tells changes only, and not those to where the machine stands")
            }
            SnapshotError::Memory => {
                f.write_str("there is not enough memory for the RAM of the snapshot's machine")
            }
            SnapshotError::OtherRam { has, given } => {
                write!(f, "the state is of a machine with {has} bytes of RAM, and this one has {given}")
            }
        }
    }
}

impl core::error::Error for SnapshotError {}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    built: Built,
    ram: u64,
    pages: u32,
}

impl Snapshot {
    /// The snapshot as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.data.len() + self.state.len() + 8 * self.pages.len() + 256);
        let Ok(()) = self.write(|bytes| {
            all.extend_from_slice(bytes);
            Ok::<(), Infallible>(())
        });
        all
    }

    /// Gives the snapshot's bytes, piece by piece, to whoever puts them somewhere.
    ///
    /// # Errors
    /// They could not be put there.
    pub fn write<E>(&self, mut put: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        put(&MAGIC)?;
        put(&VERSION.to_le_bytes())?;
        let header = Header { built: self.built, ram: self.ram, pages: self.pages.len() as u32 };
        let mut number = 0;
        let mut block = |bytes: &[u8]| {
            put(&(bytes.len() as u32).to_le_bytes())?;
            put(&xxh3_64_with_seed(bytes, number).to_le_bytes())?;
            number += 1;
            put(bytes)
        };
        block(&postcard::to_allocvec(&header).expect("memory takes all bytes"))?;
        block(&self.state)?;
        let mut some = Vec::with_capacity(BLOCK * (PAGE + 5));
        for (at, (page, bytes)) in (1..).zip(self.each()) {
            some.extend(page.to_le_bytes());
            match is_zero(bytes) {
                true => some.push(0),
                false => {
                    some.push(1);
                    some.extend_from_slice(bytes);
                }
            }
            if at % BLOCK == 0 || at == self.pages.len() {
                block(&some)?;
                some.clear();
            }
        }
        Ok(())
    }

    /// The snapshot that these bytes are. They may be anything.
    ///
    /// # Errors
    /// They are no snapshot, one of another version, or damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Snapshot, SnapshotError> {
        let rest = bytes.strip_prefix(&MAGIC).ok_or(SnapshotError::NotASnapshot)?;
        let (version, rest) = rest.split_first_chunk().ok_or(SnapshotError::NotASnapshot)?;
        let version = u32::from_le_bytes(*version);
        if version != VERSION {
            return Err(SnapshotError::Version(version));
        }
        let mut blocks = Blocks { rest, number: 0 };
        let header = decode_header(blocks.next()?)?;
        let state = blocks.next()?.to_vec();
        let instructions = State::decode(&state)?.instructions;
        let (mut pages, mut data) = (Vec::new(), Vec::new());
        let count = header.pages as usize;
        while pages.len() < count {
            let mut block = blocks.next()?;
            for _ in 0..BLOCK.min(count - pages.len()) {
                block = take_page(block, &header, &mut pages, &mut data)?;
            }
            if !block.is_empty() {
                return Err(SnapshotError::Damaged("a block has more than its pages"));
            }
        }
        if !blocks.rest.is_empty() {
            return Err(SnapshotError::Damaged("there is more behind its end"));
        }
        let Header { built, ram, .. } = header;
        Ok(Snapshot { id: built.name(&state), built, ram, state, instructions, pages, data })
    }
}

fn decode_header(bytes: &[u8]) -> Result<Header, SnapshotError> {
    let damaged = SnapshotError::Damaged("its header cannot be understood");
    let header: Header = postcard::from_bytes(bytes).map_err(|_| damaged)?;
    if postcard::to_allocvec(&header).as_deref() == Ok(bytes) { Ok(header) } else { Err(damaged) }
}

/// Takes one page from a block; gives what is behind it.
fn take_page<'a>(
    block: &'a [u8],
    header: &Header,
    pages: &mut Vec<u32>,
    data: &mut Vec<u8>,
) -> Result<&'a [u8], SnapshotError> {
    let cut = SnapshotError::Damaged("a page is cut short");
    let (page, rest) = block.split_first_chunk().ok_or(cut)?;
    let page = u32::from_le_bytes(*page);
    let (kind, rest) = rest.split_first().ok_or(cut)?;
    let start = u64::from(page) * PAGE as u64;
    if start >= header.ram || pages.last().is_some_and(|&last| last >= page) {
        return Err(SnapshotError::Damaged("its pages are not those of its RAM, in order"));
    }
    pages.push(page);
    let inside = usize::try_from(header.ram - start).unwrap_or(PAGE).min(PAGE);
    match kind {
        0 if matches!(header.built, Built::On(_)) => {
            data.resize(data.len() + PAGE, 0);
            Ok(rest)
        }
        1 => {
            let (bytes, rest) = rest.split_at_checked(PAGE).ok_or(cut)?;
            if is_zero(bytes) || !is_zero(&bytes[inside..]) {
                return Err(SnapshotError::Damaged("a page is not as it is written"));
            }
            data.extend_from_slice(bytes);
            Ok(rest)
        }
        _ => Err(SnapshotError::Damaged("a page is of no known kind")),
    }
}

struct Blocks<'a> {
    rest: &'a [u8],
    number: u64,
}

impl<'a> Blocks<'a> {
    fn next(&mut self) -> Result<&'a [u8], SnapshotError> {
        let cut = SnapshotError::Damaged("it is cut short");
        let (length, rest) = self.rest.split_first_chunk().ok_or(cut)?;
        let (sum, rest) = rest.split_first_chunk().ok_or(cut)?;
        let (bytes, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or(cut)?;
        if xxh3_64_with_seed(bytes, self.number) != u64::from_le_bytes(*sum) {
            return Err(SnapshotError::Damaged("a checksum is wrong"));
        }
        self.rest = rest;
        self.number += 1;
        Ok(bytes)
    }
}
