//! Owns the header of a qcow2 image: reading it, and a header for a copy that has no contents yet.
//!
//! The format is QEMU's `docs/interop/qcow2.txt`. Numbers are big-endian.

/// Bytes that are read of it: it has 72 in version 2 and 112 in version 3, extensions follow.
pub const HEAD: usize = 512;
/// How every qcow2 image begins.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Sizes of clusters that QEMU knows, as powers of two.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// Widest reference count, as a power of two of bits.
const MOST_REFCOUNT_ORDER: u32 = 6;
/// Least length of a header of version 3.
const LEN_OF_3: u32 = 104;
/// The part of the header that QEMU knows.
const KNOWN: usize = 112;

/// Bits of the incompatible features.
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
const DIRTY: u64 = 1 << 0;

/// Why an image cannot be a VM's disk here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It does not begin like one.
    #[error("it is no qcow2 image; remove `format = \"qcow2\"` from the VM file if it is a raw one")]
    Magic,
    /// A header that contradicts itself.
    #[error("its qcow2 header makes no sense ({0}); look at it with `qemu-img check`")]
    Malformed(&'static str),
    /// A feature that is newer than this program.
    #[error(
        "its qcow2 header has incompatible features ({0:#x}) that are not known here; convert it with `qemu-img convert -O qcow2`"
    )]
    Features(u64),
    /// A part of its contents is in another file.
    #[error(
        "it has a backing file, which would not be replicated; make it whole with `qemu-img convert -O qcow2`"
    )]
    Backing,
    /// All of its contents are in another file.
    #[error(
        "its data are in an external file, which would not be replicated; make it whole with `qemu-img convert -O qcow2`"
    )]
    ExternalData,
    /// It needs a secret.
    #[error(
        "it is encrypted, and there is no way to give QEMU its key here; encrypt inside the guest, or the medium"
    )]
    Encrypted,
    /// Its size has no bound.
    #[error(
        "it has {0} internal snapshots, so there is no bound to what it may grow to; delete them with `qemu-img snapshot -d`, or convert it with `qemu-img convert -O qcow2`"
    )]
    Snapshots(u32),
    /// QEMU found it damaged.
    #[error(
        "QEMU marked it as corrupt; look at it with `qemu-img check`, repair it with `qemu-img check -r all`"
    )]
    Corrupt,
}

/// What a qcow2 image says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    bytes: [u8; HEAD],
    version: u32,
    cluster_bits: u32,
    virtual_size: u64,
    incompatible: u64,
    refcount_order: u32,
}

impl Header {
    /// Reads the beginning of an image.
    ///
    /// # Errors
    /// If it is no qcow2 image, or one that cannot be a replicated disk.
    pub fn parse(bytes: &[u8; HEAD]) -> Result<Self, Unfit> {
        if bytes[..4] != MAGIC {
            return Err(Unfit::Magic);
        }
        let version = u32_at(bytes, 4);
        let newer = version >= 3;
        let this = Self {
            bytes: *bytes,
            version,
            cluster_bits: u32_at(bytes, 20),
            virtual_size: u64_at(bytes, 24),
            // What version 2 does not have is as if it were nothing, or as it was then.
            incompatible: if newer { u64_at(bytes, 72) } else { 0 },
            refcount_order: if newer { u32_at(bytes, 96) } else { 4 },
        };
        this.check_shape()?;
        this.check_fit()?;
        Ok(this)
    }

    fn check_shape(&self) -> Result<(), Unfit> {
        let wrong = |what| Err(Unfit::Malformed(what));
        if !matches!(self.version, 2 | 3) {
            return wrong("its version is neither 2 nor 3");
        }
        if !CLUSTER_BITS.contains(&self.cluster_bits) {
            return wrong("the size of its clusters");
        }
        if self.virtual_size == 0 || i64::try_from(self.virtual_size).is_err() {
            return wrong("the size of its disk");
        }
        if self.refcount_order > MOST_REFCOUNT_ORDER {
            return wrong("the width of its reference counts");
        }
        if self.version == 3 && u32_at(&self.bytes, 100) < LEN_OF_3 {
            return wrong("the length of its header");
        }
        Ok(())
    }

    fn check_fit(&self) -> Result<(), Unfit> {
        let (incompatible, snapshots) = (self.incompatible, u32_at(&self.bytes, 60));
        let unknown = incompatible & !(DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION_TYPE | EXTENDED_L2);
        match () {
            () if unknown != 0 => Err(Unfit::Features(unknown)),
            () if u64_at(&self.bytes, 8) != 0 => Err(Unfit::Backing),
            () if incompatible & EXTERNAL_DATA != 0 => Err(Unfit::ExternalData),
            () if u32_at(&self.bytes, 32) != 0 => Err(Unfit::Encrypted),
            () if snapshots != 0 => Err(Unfit::Snapshots(snapshots)),
            () if incompatible & CORRUPT != 0 => Err(Unfit::Corrupt),
            () => Ok(()),
        }
    }

    /// Bytes of the disk that a guest sees.
    #[must_use]
    pub fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    /// Bytes of a cluster.
    #[must_use]
    pub fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bits of a reference count.
    pub(super) fn refcount_bits(&self) -> u64 {
        1 << self.refcount_order
    }

    /// Bytes of an entry in a table of the second level.
    pub(super) fn l2_entry(&self) -> u64 {
        if self.incompatible & EXTENDED_L2 == 0 { 8 } else { 16 }
    }

    /// A header with which a QEMU that waits opens a copy of this image before its contents are there. It tells the
    /// same disk and where the tables will be, and nothing that would lead QEMU to look further: no extensions, and
    /// not that QEMU should repair or distrust the image. QEMU reads the true one when it takes the image into use.
    #[must_use]
    pub fn placeholder(&self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        let known = if self.version == 2 { 72 } else { LEN_OF_3 as usize };
        bytes[..known].copy_from_slice(&self.bytes[..known]);
        if self.version == 3 {
            let kept = self.incompatible & (COMPRESSION_TYPE | EXTENDED_L2);
            bytes[72..80].copy_from_slice(&kept.to_be_bytes());
            bytes[80..96].fill(0);
            bytes[100..104].copy_from_slice(&(KNOWN as u32).to_be_bytes());
            if kept & COMPRESSION_TYPE != 0 {
                bytes[104] = self.bytes[104];
            }
        }
        // The name of a backing file has no length, and there is no table of snapshots.
        bytes[16..20].fill(0);
        bytes[64..72].fill(0);
        bytes
    }
}

fn u32_at(bytes: &[u8; HEAD], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8; HEAD], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A header of version 3, of a disk of 1 GiB.
    pub fn plain() -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[..4].copy_from_slice(&MAGIC);
        for (at, value) in [(4, 3_u32), (20, 16), (36, 2), (56, 1), (96, 4), (100, 112)] {
            bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        for (at, value) in [(24, 1_u64 << 30), (40, 0x3_0000), (48, 0x1_0000)] {
            bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
        }
        bytes
    }

    fn with(at: usize, bytes: &[u8]) -> Result<Header, Unfit> {
        let mut changed = plain();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        Header::parse(&changed)
    }

    #[test]
    fn what_cannot_be_a_replicated_disk_is_refused_with_its_reason() {
        assert_eq!(with(24, &(1_u64 << 30).to_be_bytes()).unwrap().virtual_size(), 1 << 30);
        for (at, bytes, why) in [
            (0, &b"QFI\xfa"[..], Unfit::Magic),
            (4, &[0, 0, 0, 1], Unfit::Malformed("its version is neither 2 nor 3")),
            (20, &[0, 0, 0, 22], Unfit::Malformed("the size of its clusters")),
            (24, &[0; 8], Unfit::Malformed("the size of its disk")),
            (99, &[7], Unfit::Malformed("the width of its reference counts")),
            (103, &[72], Unfit::Malformed("the length of its header")),
            (8, &[0, 0, 0, 0, 0, 0, 1, 0], Unfit::Backing),
            (79, &[4], Unfit::ExternalData),
            (79, &[32], Unfit::Features(32)),
            (79, &[2], Unfit::Corrupt),
            (35, &[2], Unfit::Encrypted),
            (63, &[3], Unfit::Snapshots(3)),
        ] {
            assert_eq!(with(at, bytes), Err(why), "{at} {bytes:?}");
        }
    }

    #[test]
    fn a_placeholder_tells_the_same_disk_and_no_more() {
        // Dirty, zstd, extended; compatible and self-clearing features; an extension behind the header.
        let mut bytes = plain();
        (bytes[79], bytes[87], bytes[95], bytes[104], bytes[112]) = (0b1_1001, 1, 1, 1, 9);
        let header = Header::parse(&bytes).unwrap();
        let placeholder = header.placeholder();
        let again = Header::parse(&placeholder).unwrap();
        assert_eq!((again.virtual_size(), again.cluster(), again.l2_entry()), (1 << 30, 1 << 16, 16));
        assert_eq!((again.incompatible, placeholder[104]), (0b1_1000, 1));
        assert_eq!(&placeholder[40..60], &bytes[40..60], "where the tables are");
        assert!(placeholder[80..96].iter().chain(&placeholder[112..]).all(|&byte| byte == 0));
        assert_eq!(again.placeholder(), placeholder);
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_a_placeholder_is_one_of_itself(
            begins in any::<bool>(),
            rest in proptest::collection::vec(any::<u8>(), HEAD),
            changes in proptest::collection::vec((0..HEAD, any::<u8>()), 0..6),
        ) {
            let mut bytes: [u8; HEAD] = if begins { plain() } else { rest.try_into().unwrap() };
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            if let Ok(header) = Header::parse(&bytes) {
                let placeholder = header.placeholder();
                prop_assert_eq!(Header::parse(&placeholder).map(|header| header.placeholder()), Ok(placeholder));
                let _ = super::super::room::fully_allocated(&header);
            }
        }
    }
}
