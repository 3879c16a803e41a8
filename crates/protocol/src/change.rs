//! Owns what a change of a VM's disk is: the same for who serves the disk, for the wire and for the journal.

/// What is done to a range of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What<'a> {
    /// These bytes are written.
    Data(&'a [u8]),
    /// So many bytes become zero.
    Zeroes(u64),
    /// So many bytes are given up: the guest needs them no more, and a replica reads zeroes there. It differs from
    /// zeroes in what becomes of the space.
    Discard(u64),
}

impl What<'_> {
    /// Length of the range in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            What::Data(data) => data.len() as u64,
            What::Zeroes(len) | What::Discard(len) => *len,
        }
    }

    /// Whether the range has no bytes; such a change is neither sent nor written down, and nobody is told of it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One change of one of a VM's disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change<'a> {
    /// Index of the disk.
    pub disk: u8,
    /// First byte of the range.
    pub offset: u64,
    /// What is done to it.
    pub what: What<'a>,
}
