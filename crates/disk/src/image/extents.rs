//! Owns the look at which parts of an image hold data: `SEEK_DATA` and `SEEK_HOLE` of lseek(2).

use super::{Image, ImageError};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::ops::Range;

/// A part of an image, all data or all hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Of the first byte.
    pub offset: u64,
    /// How many bytes; never 0.
    pub len: u64,
    /// No space is used, and zeroes are read. Data may be zeroes too.
    pub hole: bool,
}

/// The parts of a range, in order and without gaps. See [`Image::extents`].
#[derive(Debug)]
pub struct Extents<'a> {
    image: &'a Image,
    next: u64,
    end: u64,
}

impl<'a> Extents<'a> {
    pub(super) fn new(image: &'a Image, range: Range<u64>) -> Self {
        Self { image, next: range.start, end: range.end }
    }

    /// The part that begins at `self.next`: whether it is a hole, and where it ends.
    fn look(&self) -> Result<(bool, u64), Errno> {
        // lseek to a given place and its answer do not depend on the file's shared position, and reads and writes
        // give their own: several threads do not disturb each other.
        let file = self.image.medium.file();
        let seek = |to| rustix::fs::seek(&*file, to);
        match seek(SeekFrom::Data(self.next)) {
            Ok(data) if data > self.next => Ok((true, data)),
            Ok(_) => match seek(SeekFrom::Hole(self.next)) {
                // A hole was just made here by a discard: what was data a moment ago is still rightly called so.
                Ok(hole) if hole <= self.next => Ok((false, self.end)),
                Ok(hole) => Ok((false, hole)),
                Err(Errno::NXIO) => Ok((false, self.end)),
                Err(other) => Err(other),
            },
            // No data until the end.
            Err(Errno::NXIO) => Ok((true, self.end)),
            // Block devices and some filesystems cannot tell: all is data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok((false, self.end)),
            Err(other) => Err(other),
        }
    }
}

impl Iterator for Extents<'_> {
    type Item = Result<Extent, ImageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.end {
            return None;
        }
        let offset = self.next;
        match self.look() {
            Ok((hole, end)) => {
                self.next = end.min(self.end);
                Some(Ok(Extent { offset, len: self.next - offset, hole }))
            }
            Err(errno) => {
                self.next = self.end;
                Some(Err(self.image.io("look for holes in", offset, self.end - offset, errno.into())))
            }
        }
    }
}
