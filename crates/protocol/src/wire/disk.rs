//! Owns the encoding of disk changes in the body of a Disk frame: a batch of records, packed as device state is
//! ([`blob`]).
//!
//! Unpacked, a batch is a sequence of records, in the order in which the guest made the changes:
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 1 | what: 0 Data, 1 Zeroes, 2 Discard |
//! | 1 | 1 | index of the disk |
//! | 2 | 2 | reserved, 0 |
//! | 4 | 8 | offset in bytes |
//! | 12 | 8 | length in bytes, not 0 |
//! | 20 | length | the bytes (Data only) |
//!
//! A replica reads zeroes where the guest discarded, as it does where the guest wrote zeroes; they differ in what
//! becomes of the space. Everything a reader hands out was checked: the disk exists and the range lies inside it.

use super::blob::{self, BlobError, MAX_PIECE};
use crate::change::{Change, What};
use crate::le::u64_at;
use alloc::vec::Vec;

const HEAD: usize = 20;
const DATA: u8 = 0;
const ZEROES: u8 = 1;
const DISCARD: u8 = 2;

/// Longest run of bytes in one Data record; a longer write is several records.
pub const MAX_DATA: usize = MAX_PIECE - HEAD;

/// Why a batch was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// It does not unpack.
    #[error(transparent)]
    Packing(#[from] BlobError),
    /// The batch ends inside a record.
    #[error("the batch of disk changes ends in the middle of a record")]
    Truncated,
    /// A kind of change that this version does not know.
    #[error("unknown kind of disk change {0}")]
    What(u8),
    /// Reserved bytes are set.
    #[error("reserved bytes of a disk change are set")]
    Reserved,
    /// A range that the VM's disks do not have.
    #[error("{len} bytes at {offset} of disk {disk} do not exist in this VM")]
    OutOfRange {
        /// Index of the disk.
        disk: u8,
        /// First byte.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
}

/// Collects changes into the body of one frame.
#[derive(Debug, Default)]
pub struct DiskBatch {
    records: Vec<u8>,
}

impl DiskBatch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a change behind those before it. False if there is no room: send the batch first.
    ///
    /// # Panics
    /// If the change is of no bytes, or of more than [`MAX_DATA`]: an error of the caller.
    #[must_use]
    pub fn push(&mut self, change: Change<'_>) -> bool {
        let len = change.what.len();
        let (what, bytes): (u8, &[u8]) = match change.what {
            What::Data(bytes) => (DATA, bytes),
            What::Zeroes(_) => (ZEROES, &[]),
            What::Discard(_) => (DISCARD, &[]),
        };
        assert!(len > 0 && bytes.len() <= MAX_DATA, "a change of {len} bytes");
        if self.records.len() + HEAD + bytes.len() > MAX_PIECE {
            return false;
        }
        self.records.extend_from_slice(&[what, change.disk, 0, 0]);
        self.records.extend_from_slice(&change.offset.to_le_bytes());
        self.records.extend_from_slice(&len.to_le_bytes());
        self.records.extend_from_slice(bytes);
        true
    }

    /// Whether nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Ends the batch: the frame's body. The batch is empty again.
    #[must_use]
    pub fn finish(&mut self) -> Vec<u8> {
        let body = blob::pack(&self.records);
        self.records.clear();
        body
    }
}

/// The records in a frame's body, for [`read_batch`].
///
/// # Errors
/// If the body does not unpack.
pub fn unpack(body: &[u8]) -> Result<Vec<u8>, DiskError> {
    Ok(blob::unpack(body)?)
}

/// Reads the records of an unpacked batch, calling `visit` for each change, in their order.
///
/// `sizes[disk]` is the length of that disk in bytes. Called with an empty `visit` it validates.
///
/// # Errors
/// At the first record that is malformed or outside the disks; records before it were visited.
pub fn read_batch<'a>(
    records: &'a [u8],
    sizes: &[u64],
    mut visit: impl FnMut(Change<'a>),
) -> Result<u64, DiskError> {
    let mut rest = records;
    let mut changes = 0;
    while !rest.is_empty() {
        let (head, after) = rest.split_first_chunk::<HEAD>().ok_or(DiskError::Truncated)?;
        rest = after;
        let [what, disk, reserved @ ..] = [head[0], head[1], head[2], head[3]];
        let (offset, len) = (u64_at(head, 4), u64_at(head, 12));
        if reserved != [0; 2] {
            return Err(DiskError::Reserved);
        }
        let size = sizes.get(usize::from(disk)).copied().unwrap_or(0);
        if len == 0 || offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(DiskError::OutOfRange { disk, offset, len });
        }
        let what = match what {
            DATA => {
                let len = usize::try_from(len).map_err(|_| DiskError::Truncated)?;
                let (bytes, after) = rest.split_at_checked(len).ok_or(DiskError::Truncated)?;
                rest = after;
                What::Data(bytes)
            }
            ZEROES => What::Zeroes(len),
            DISCARD => What::Discard(len),
            other => return Err(DiskError::What(other)),
        };
        visit(Change { disk, offset, what });
        changes += 1;
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZES: [u64; 2] = [4096, 300];

    /// A change that is drawn: the disk, what, where, how much, and of which byte.
    type Drawn = (u8, u8, u64, u64, u8);

    fn drawn() -> impl Strategy<Value = Vec<Drawn>> {
        prop::collection::vec((0u8..2, 0u8..3, 0u64..200, 1u64..100, any::<u8>()), 0..40)
    }

    fn apply(disks: &mut [Vec<u8>], change: Change<'_>) {
        let disk = &mut disks[usize::from(change.disk)];
        let (offset, len) = (change.offset, change.what.len());
        let (from, to) = (usize::try_from(offset).unwrap(), usize::try_from(offset + len).unwrap());
        match change.what {
            What::Data(bytes) => disk[from..to].copy_from_slice(bytes),
            What::Zeroes(_) | What::Discard(_) => disk[from..to].fill(0),
        }
    }

    fn blank() -> Vec<Vec<u8>> {
        SIZES.iter().map(|&size| alloc::vec![0xee; usize::try_from(size).unwrap()]).collect()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_in_order(changes in drawn()) {
            let (mut batch, mut expected) = (DiskBatch::new(), blank());
            for &(disk, what, offset, len, byte) in &changes {
                let bytes = alloc::vec![byte; usize::try_from(len).unwrap()];
                let what = match what {
                    0 => What::Data(&bytes),
                    1 => What::Zeroes(len),
                    _ => What::Discard(len),
                };
                let change = Change { disk, offset, what };
                prop_assert!(batch.push(change));
                apply(&mut expected, change);
            }
            let mut found = blank();
            let records = unpack(&batch.finish()).unwrap();
            let read = read_batch(&records, &SIZES, |change| apply(&mut found, change));
            prop_assert_eq!(read, Ok(changes.len() as u64));
            prop_assert_eq!(found, expected);
            prop_assert!(batch.is_empty());
        }

        #[test]
        fn no_bytes_make_the_reader_panic_or_leave_the_disks(bytes in prop::collection::vec(0u8..4, 0..200)) {
            let _ = unpack(&bytes);
            let _ = read_batch(&bytes, &SIZES, |change| {
                let (offset, len) = (change.offset, change.what.len());
                assert!(len > 0 && offset + len <= SIZES[usize::from(change.disk)]);
            });
        }

        #[test]
        fn a_truncated_batch_is_refused(cut in 1usize..119) {
            let mut batch = DiskBatch::new();
            assert!(batch.push(Change { disk: 0, offset: 7, what: What::Data(&[5; 100]) }));
            let records = unpack(&batch.finish()).unwrap();
            prop_assert_eq!(read_batch(&records[..cut], &SIZES, |_| ()), Err(DiskError::Truncated));
        }
    }

    #[test]
    fn golden_bytes() {
        let mut batch = DiskBatch::new();
        assert!(batch.push(Change { disk: 1, offset: 0x0102, what: What::Data(b"abc") }));
        assert!(batch.push(Change { disk: 0, offset: 512, what: What::Zeroes(1024) }));
        assert!(batch.push(Change { disk: 0, offset: 0, what: What::Discard(1) }));
        let body = batch.finish();
        assert_eq!(body[..4], [63, 0, 0, 0], "the length before it was packed");
        let expected = [
            &[0, 1, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, b'a', b'b', b'c'][..],
            &[1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0],
            &[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(unpack(&body).unwrap(), expected.concat());
    }

    #[test]
    fn changes_outside_the_disks_and_unknown_ones_are_refused() {
        let record = |what: u8, disk: u8, reserved: u8, offset: u64, len: u64| {
            let mut record = alloc::vec![what, disk, 0, reserved];
            record.extend_from_slice(&offset.to_le_bytes());
            record.extend_from_slice(&len.to_le_bytes());
            read_batch(&record, &SIZES, |_| ())
        };
        assert_eq!(record(1, 1, 0, 299, 1), Ok(1));
        for (disk, offset, len) in [(1, 299, 2), (1, 300, 1), (2, 0, 1), (0, u64::MAX, 2), (0, 5, 0)] {
            assert_eq!(record(1, disk, 0, offset, len), Err(DiskError::OutOfRange { disk, offset, len }));
        }
        assert_eq!(record(3, 0, 0, 0, 1), Err(DiskError::What(3)));
        assert_eq!(record(1, 0, 1, 0, 1), Err(DiskError::Reserved));
        assert_eq!(unpack(&[1, 0]), Err(DiskError::Packing(BlobError::Length)));
    }

    #[test]
    fn a_full_batch_takes_no_more_and_fits_a_frame() {
        let mut batch = DiskBatch::new();
        let mut word = 1u64;
        let noise: Vec<u8> = core::iter::repeat_with(|| {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (word >> 56) as u8
        })
        .take(MAX_DATA)
        .collect();
        assert!(batch.push(Change { disk: 0, offset: 0, what: What::Data(&noise) }));
        assert!(!batch.push(Change { disk: 0, offset: 0, what: What::Zeroes(1) }));
        let body = batch.finish();
        assert!(body.len() <= super::super::MAX_BODY_LEN as usize);
        assert_eq!(read_batch(&unpack(&body).unwrap(), &[1 << 20], |_| ()), Ok(1));
    }
}
