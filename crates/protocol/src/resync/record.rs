//! Owns the bytes of a difference map in its file: sectors of 512 bytes, each with its checksum, little endian.
//!
//! | sector | holds |
//! |---|---|
//! | 0 | the head: magic `UDYM`, version u16, number of disks u16, VM id (16), number of bases u16, 6 reserved bytes, [`MAX_BASES`] × (term u64, session u64), [`MAX_DISKS`] × size u64; zeroes; xxh3-64 of the bytes before |
//! | then, for each disk | its listed extents, then its saved blocks, as rows of bits: 504 bytes of bits, xxh3-64 of them with the sector's number as seed |
//!
//! A sector is written whole or not at all, so each can be written in its place. What the map says after a crash is
//! decided by [`Differences::after_crash`].

use super::differences::{Base, Differences, Extent, Grain, MAX_BASES};
use crate::ids::{Session, Term, VmId};
use crate::le::{u16_at, u64_at, u128_at};
use alloc::vec::Vec;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Bytes of a sector.
pub const SECTOR: usize = 512;
/// Bytes of bits in one.
const PAYLOAD: usize = SECTOR - 8;
/// Most disks in a map; a VM has no more.
pub const MAX_DISKS: usize = 16;
/// Version of the map that this build writes and reads.
pub const VERSION: u16 = 1;

const MAGIC: [u8; 4] = *b"UDYM";
const BASES_AT: usize = 32;
const SIZES_AT: usize = BASES_AT + MAX_BASES * 16;

/// Which row of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    /// Extents that are listed.
    Listed,
    /// Blocks that are saved.
    Saved,
}

/// Why bytes are no difference map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// None at all, or cut short.
    #[error("this is no difference map")]
    Magic,
    /// Damaged.
    #[error("sector {0} of the difference map is damaged (checksum mismatch)")]
    Checksum(u64),
    /// Of another VM.
    #[error("the difference map is of {got:?}, not of {want:?}")]
    Foreign {
        /// In the file.
        got: VmId,
        /// Asked for.
        want: VmId,
    },
    /// Of another version.
    #[error("the difference map has version {0}, this build reads {VERSION}")]
    Version(u16),
    /// Of disks of other sizes.
    #[error("the difference map is of disks of other sizes")]
    Sizes,
    /// Numbers that cannot be, or bits behind the end of a disk.
    #[error("the difference map says nothing that this version knows")]
    Content,
}

/// Where things are in the file of a map.
#[derive(Debug, Clone)]
pub struct Layout {
    /// For each disk the first sector of its listed extents, of its saved blocks, and of what follows.
    disks: Vec<[u64; 3]>,
}

impl Layout {
    /// Of a map of disks of these sizes in bytes.
    #[must_use]
    pub fn new(grain: Grain, sizes: &[u64]) -> Self {
        let sectors = |bits: usize| bits.div_ceil(PAYLOAD * 8) as u64;
        let mut next = 1;
        let disk = |&size: &u64| {
            let (blocks, extents) = grain.bits(size);
            let first = next;
            next += sectors(extents) + sectors(blocks);
            [first, first + sectors(extents), next]
        };
        Self { disks: sizes.iter().map(disk).collect() }
    }

    /// How many sectors the file has.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.disks.last().map_or(1, |disk| disk[2])
    }

    /// The sectors of a row.
    #[must_use]
    pub fn row(&self, disk: u8, row: Row) -> core::ops::Range<u64> {
        let at = self.disks[usize::from(disk)];
        match row {
            Row::Listed => at[0]..at[1],
            Row::Saved => at[1]..at[2],
        }
    }

    /// The sectors in which these extents are listed, each once.
    #[must_use]
    pub fn listing(&self, extents: &[Extent]) -> Vec<(u8, u64)> {
        let place = |extent: &Extent| {
            (extent.disk, self.row(extent.disk, Row::Listed).start + (extent.at / (PAYLOAD * 8)) as u64)
        };
        let mut places: Vec<_> = extents.iter().map(place).collect();
        places.sort_unstable();
        places.dedup();
        places
    }
}

/// The head of a map's file.
#[must_use]
pub fn head(map: &Differences, vm: VmId) -> [u8; SECTOR] {
    let mut out = [0; SECTOR];
    let count = |len: usize| u16::try_from(len).unwrap_or(u16::MAX).to_le_bytes();
    assert!(map.disks.len() <= MAX_DISKS && map.bases.len() <= MAX_BASES, "more than a map can have");
    out[0..4].copy_from_slice(&MAGIC);
    out[4..6].copy_from_slice(&VERSION.to_le_bytes());
    out[6..8].copy_from_slice(&count(map.disks.len()));
    out[8..24].copy_from_slice(&vm.0.to_le_bytes());
    out[24..26].copy_from_slice(&count(map.bases.len()));
    for (to, base) in out[BASES_AT..].as_chunks_mut::<16>().0.iter_mut().zip(&map.bases) {
        to[..8].copy_from_slice(&base.term.0.to_le_bytes());
        to[8..].copy_from_slice(&base.session.0.to_le_bytes());
    }
    for (to, disk) in out[SIZES_AT..].as_chunks_mut::<8>().0.iter_mut().zip(&map.disks) {
        *to = disk.size.to_le_bytes();
    }
    let sum = xxh3_64(&out[..PAYLOAD]);
    out[PAYLOAD..].copy_from_slice(&sum.to_le_bytes());
    out
}

/// A sector of a row: as the file should be. For a row of saved blocks these are the marked ones.
#[must_use]
pub fn sector(map: &Differences, layout: &Layout, disk: u8, row: Row, at: u64) -> [u8; SECTOR] {
    let from = usize::try_from(at - layout.row(disk, row).start).unwrap_or(usize::MAX) * PAYLOAD;
    let disk = &map.disks[usize::from(disk)];
    let bits = match row {
        Row::Listed => &disk.listed,
        Row::Saved => &disk.blocks,
    };
    let mut out = [0; SECTOR];
    out.iter_mut().zip(bits.bytes(from, PAYLOAD)).for_each(|(to, byte)| *to = byte);
    let sum = xxh3_64_with_seed(&out[..PAYLOAD], at);
    out[PAYLOAD..].copy_from_slice(&sum.to_le_bytes());
    out
}

impl Differences {
    /// The sectors of saved blocks that are not in the file as they should be.
    #[must_use]
    pub fn unsaved(&self, layout: &Layout) -> Vec<(u8, u64)> {
        let mut places = Vec::new();
        for (disk, row) in (0u8..).zip(&self.disks) {
            for at in layout.row(disk, Row::Saved) {
                let from =
                    usize::try_from(at - layout.row(disk, Row::Saved).start).unwrap_or(usize::MAX) * PAYLOAD;
                if !row.blocks.bytes(from, PAYLOAD).eq(row.saved.bytes(from, PAYLOAD)) {
                    places.push((disk, at));
                }
            }
        }
        places
    }

    /// This sector of saved blocks, as [`sector`] made it, is durably in the file.
    pub fn saved(&mut self, layout: &Layout, disk: u8, at: u64, sector: &[u8; SECTOR]) {
        let from = usize::try_from(at - layout.row(disk, Row::Saved).start).unwrap_or(usize::MAX) * PAYLOAD;
        let row = &mut self.disks[usize::from(disk)].saved;
        let end = ((from + PAYLOAD) * 8).min(row.len());
        row.clear(from * 8..end);
        let inside = row.set_bytes(from, &sector[..PAYLOAD]);
        assert!(inside, "bits behind the end of a disk");
    }
}

/// Reads the map of this VM's disks from a whole file, as it is after a crash.
///
/// # Errors
/// If it is none, is damaged, of another VM, of another version or of other disks.
pub fn read(bytes: &[u8], grain: Grain, sizes: &[u64], want: VmId) -> Result<Differences, RecordError> {
    let (sectors, rest) = bytes.as_chunks::<SECTOR>();
    let (head, _) = sectors.split_first().ok_or(RecordError::Magic)?;
    let bases = read_head(head, sizes, want)?;
    let layout = Layout::new(grain, sizes);
    if sectors.len() as u64 != layout.sectors() || !rest.is_empty() {
        return Err(RecordError::Sizes);
    }
    let mut map = Differences::new(grain, sizes, &bases);
    for disk in (0u8..).take(sizes.len()) {
        for row in [Row::Listed, Row::Saved] {
            let range = layout.row(disk, row);
            for at in range.clone() {
                let sector = &sectors[usize::try_from(at).unwrap_or(usize::MAX)];
                if xxh3_64_with_seed(&sector[..PAYLOAD], at).to_le_bytes() != sector[PAYLOAD..] {
                    return Err(RecordError::Checksum(at));
                }
                let disk = &mut map.disks[usize::from(disk)];
                let bits = if row == Row::Listed { &mut disk.listed } else { &mut disk.saved };
                let from = usize::try_from(at - range.start).unwrap_or(usize::MAX) * PAYLOAD;
                if !bits.set_bytes(from, &sector[..PAYLOAD]) {
                    return Err(RecordError::Content);
                }
            }
        }
    }
    Ok(map.after_crash())
}

fn read_head(head: &[u8; SECTOR], sizes: &[u64], want: VmId) -> Result<Vec<Base>, RecordError> {
    if head[..4] != MAGIC {
        return Err(RecordError::Magic);
    }
    if xxh3_64(&head[..PAYLOAD]) != u64_at(head, PAYLOAD) {
        return Err(RecordError::Checksum(0));
    }
    let vm = VmId(u128_at(head, 8));
    if vm != want {
        return Err(RecordError::Foreign { got: vm, want });
    }
    if u16_at(head, 4) != VERSION {
        return Err(RecordError::Version(u16_at(head, 4)));
    }
    let bases = usize::from(u16_at(head, 24));
    if bases > MAX_BASES || sizes.len() > MAX_DISKS {
        return Err(RecordError::Content);
    }
    let same = (0..sizes.len()).all(|disk| u64_at(head, SIZES_AT + disk * 8) == sizes[disk]);
    if usize::from(u16_at(head, 6)) != sizes.len() || !same {
        return Err(RecordError::Sizes);
    }
    let base = |at: usize| Base { term: Term(u64_at(head, at)), session: Session(u64_at(head, at + 8)) };
    Ok((0..bases).map(|at| base(BASES_AT + at * 16)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GRAIN: Grain = Grain { block: 512, blocks: 4 };
    const SIZES: [u64; 2] = [512 * 9_000, 512 * 3];
    const VM: VmId = VmId(0xab);

    fn whole(map: &Differences) -> Vec<u8> {
        let layout = Layout::new(GRAIN, &SIZES);
        let mut bytes = head(map, VM).to_vec();
        for disk in 0..2 {
            for row in [Row::Listed, Row::Saved] {
                layout.row(disk, row).for_each(|at| bytes.extend(sector(map, &layout, disk, row, at)));
            }
        }
        bytes
    }

    fn marked(ranges: &[(u8, u64, u64)]) -> Differences {
        let base = Base { term: Term(3), session: Session(4) };
        let mut map = Differences::new(GRAIN, &SIZES, &[base]);
        for &(disk, offset, len) in ranges {
            let missing = map.inactive(disk, offset, len);
            map.list(&missing);
            map.activate(&missing);
            map.mark(disk, offset, len);
        }
        map
    }

    #[test]
    fn golden_bytes_of_version_1() {
        let bytes = whole(&marked(&[(0, 0, 1), (1, 1024, 1)]));
        assert_eq!(bytes.len() as u64, Layout::new(GRAIN, &SIZES).sectors() * 512);
        assert_eq!(bytes[..9], [0x55, 0x44, 0x59, 0x4d, 1, 0, 2, 0, 0xab]);
        assert_eq!((bytes[24], bytes[32], bytes[40]), (1, 3, 4));
        assert_eq!((bytes[512], bytes[1024]), (1, 1), "the first extent and the first block");
        assert_eq!(Layout::new(GRAIN, &SIZES).row(1, Row::Saved), 6..7);
        assert_eq!(bytes[6 * 512], 4);
    }

    proptest! {
        #[test]
        fn a_map_read_back_marks_all_that_was_marked(ranges in prop::collection::vec((0u8..2, 0u64..4_700_000, 1u64..9_000), 0..20)) {
            let map = marked(&ranges);
            let read = read(&whole(&map), GRAIN, &SIZES, VM).unwrap();
            prop_assert_eq!(read.bases(), map.bases());
            prop_assert_eq!(read.active(), map.active());
            let covered = |run: &crate::resync::Run| read.runs().iter().any(|r| r.disk == run.disk
                && r.offset <= run.offset && r.offset + r.len >= run.offset + run.len);
            prop_assert!(map.runs().iter().all(covered));
        }

        #[test]
        fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..1_000)) {
            prop_assert!(read(&bytes, GRAIN, &SIZES, VM).is_err());
            let good = whole(&marked(&[(0, 5, 5)]));
            bytes.truncate(good.len());
            let mut mixed = good.clone();
            mixed[..bytes.len()].copy_from_slice(&bytes);
            let _ = read(&mixed, GRAIN, &SIZES, VM);
        }
    }

    #[test]
    fn every_flipped_bit_a_foreign_map_and_other_disks_are_refused() {
        let bytes = whole(&marked(&[(0, 5, 5)]));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bad, GRAIN, &SIZES, VM).is_err(), "bit {bit}");
        }
        assert!(matches!(read(&bytes, GRAIN, &SIZES, VmId(1)), Err(RecordError::Foreign { .. })));
        assert!(matches!(read(&bytes, GRAIN, &SIZES[..1], VM), Err(RecordError::Sizes)));
        assert!(matches!(read(&bytes, GRAIN, &[512 * 9_000, 512 * 4], VM), Err(RecordError::Sizes)));
        assert!(matches!(read(&bytes[..bytes.len() - 1], GRAIN, &SIZES, VM), Err(RecordError::Sizes)));
    }
}
