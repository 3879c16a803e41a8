//! Owns how devices reach guest memory: RAM and nothing else, every access checked.

use crate::code::Code;
use crate::dirty::Dirty;
use crate::machine::RAM;

/// RAM as devices see it. All that a device writes goes through [`Memory::write`].
pub(crate) struct Memory<'a> {
    pub ram: &'a mut [u8],
    /// Hears of every write: a device may write over instructions.
    pub code: &'a mut Code,
    pub dirty: &'a mut Dirty,
}

impl Memory<'_> {
    fn place(&self, address: u64, length: usize) -> Option<core::ops::Range<usize>> {
        let start = usize::try_from(address.checked_sub(RAM)?).ok()?;
        let end = start.checked_add(length)?;
        (end <= self.ram.len()).then_some(start..end)
    }

    /// These bytes; none if they are not all RAM.
    pub fn read(&self, address: u64, length: usize) -> Option<&[u8]> {
        self.place(address, length).map(|place| &self.ram[place])
    }

    /// Writes bytes; none, and nothing is changed, if they do not all fall into RAM.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Option<()> {
        let place = self.place(address, bytes.len())?;
        self.code.wrote_range(place.start, bytes.len());
        self.dirty.mark_range(place.start, bytes.len());
        self.ram[place].copy_from_slice(bytes);
        Some(())
    }

    pub fn half(&self, address: u64) -> Option<u16> {
        self.read(address, 2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
    }
}
