//! Owns how many bytes a qcow2 image may come to need.
//!
//! QEMU makes an image larger by writing behind its end. Over NBD it cannot: an export has one size for good, and a
//! write behind it fails. So the file gets its final size before it is served, as a hole; QEMU finds free clusters by
//! their reference counts, not by the end of the file.

use super::header::Header;

/// QEMU takes free clusters from the beginning, but a request that needs several takes them side by side, and passes
/// over holes that are too small for it. So a disk that was discarded in pieces can need more than a full one.
const FRAGMENTED: u64 = 2;

/// Bytes that the image may come to need; none if that is more than files can have.
pub(super) fn room(header: &Header) -> Option<u64> {
    fully_allocated(header)?.checked_mul(FRAGMENTED).filter(|&bytes| i64::try_from(bytes).is_ok())
}

/// Bytes of an image in which every cluster of the disk has a place, as QEMU reckons it (`block/qcow2.c`,
/// `qcow2_calc_prealloc_size`; `qemu-img measure` says the same).
pub(super) fn fully_allocated(header: &Header) -> Option<u64> {
    let cluster = header.cluster();
    let data = header.virtual_size().checked_next_multiple_of(cluster)?;
    let l2 = tables(data / cluster, header.l2_entry(), cluster)?;
    let l1 = tables(l2 / cluster, 8, cluster)?;
    let used = data.checked_add(cluster)?.checked_add(l2)?.checked_add(l1)?;
    used.checked_add(counts(used / cluster, cluster, header.refcount_bits())?)
}

/// Bytes of whole clusters with so many entries.
fn tables(entries: u64, entry: u64, cluster: u64) -> Option<u64> {
    entries.checked_mul(entry)?.checked_next_multiple_of(cluster)
}

/// Bytes of reference counts for so many clusters and for those that the counts take themselves.
fn counts(clusters: u64, cluster: u64, bits: u64) -> Option<u64> {
    let (per_block, per_table) = (cluster * 8 / bits, cluster / 8);
    let (mut blocks, mut table) = (0_u64, 0);
    loop {
        let all = clusters.checked_add(blocks)?.checked_add(table)?;
        let needed = all.div_ceil(per_block);
        let tables = needed.div_ceil(per_table);
        if (needed, tables) == (blocks, table) {
            return (blocks + table).checked_mul(cluster);
        }
        (blocks, table) = (needed, tables);
    }
}
