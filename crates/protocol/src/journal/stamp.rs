//! Owns the stamp beside a VM's disk images: which content they hold, and which of two copies is newer.
//!
//! 64 bytes, little endian: magic `UDYS`, version u16, content u16, VM id (16), term u64, session u64, epoch u64,
//! 8 reserved bytes, xxh3-64 of bytes 0..56.
//!
//! Used when both hosts of a VM died. The arguments:
//!
//! - A higher term wins. A backup promoted to term t+1 went on from an epoch that it had committed, and output of
//!   term t that left belongs to that epoch or an earlier one. A primary that won t+1 to run unprotected holds
//!   all of term t itself.
//! - In one term the owner wins over its backup: what the backup committed came from the owner, whose images held
//!   it before. The owner's last writes may be of an epoch that no one saw; a restart is a power cut, and after
//!   one the disk may hold more than was answered for. What the guest never flushed may be missing there and
//!   present at the backup: a disk under a power cut owes no more.
//! - Two backups of one session: the higher epoch. Of two sessions the later: the earlier one ended with a checkpoint that
//!   was also the later one's first (a change of backup).
//! - A copy that is being filled is no copy.
//!
//! A grant that was won and never used changes no stamp, so the arbiter's newest term may be higher than both.

use crate::ids::{Epoch, Session, Term, VmId};
use crate::le::{u16_at, u64_at, u128_at};
use xxhash_rust::xxh3::xxh3_64;

/// Length of a stamp in bytes.
pub const STAMP_LEN: usize = 64;
/// Version of the stamps that this build writes.
pub const STAMP_VERSION: u16 = 1;

const MAGIC: [u8; 4] = *b"UDYS";

/// What the images hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Content {
    /// Clean, a backup's: the stamp's epoch, or, once its journal is recovered, a later committed one.
    Epoch = 1,
    /// Dirty, the owner's: the VM runs on them in this term, they are newer than the epoch says.
    Running = 2,
    /// Clean, the owner's: the VM stopped on them in this term, everything is synced.
    Stopped = 3,
    /// Dirty, a backup's: they are being filled and are no state of the VM at all.
    Filling = 4,
}

impl Content {
    /// Every value.
    pub const ALL: [Self; 4] = [Self::Epoch, Self::Running, Self::Stopped, Self::Filling];

    fn is_owners(self) -> bool {
        matches!(self, Self::Running | Self::Stopped)
    }
}

/// Says which content a VM's disk images hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The VM.
    pub vm: VmId,
    /// The term in which the content arose.
    pub term: Term,
    /// The session that the epoch is counted in; 0 if there was none.
    pub session: Session,
    /// The newest epoch known to be in the images.
    pub epoch: Epoch,
    /// What the images hold.
    pub content: Content,
}

/// Why bytes were refused as a stamp.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StampError {
    /// Not a stamp.
    #[error("this is no stamp of disk images (its length or beginning is wrong)")]
    Magic,
    /// Damaged.
    #[error("the stamp is damaged (checksum mismatch)")]
    Checksum,
    /// Of another VM.
    #[error("the stamp is of {got:?}, not of {want:?}")]
    Foreign {
        /// In the stamp.
        got: VmId,
        /// Asked for.
        want: VmId,
    },
    /// Of another version.
    #[error("the stamp has version {got}, this build reads {STAMP_VERSION}")]
    Version {
        /// In the stamp.
        got: u16,
    },
    /// A content that this version does not know, or reserved bytes.
    #[error("the stamp says nothing that this version knows")]
    Content,
}

impl Stamp {
    /// The stamp's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; STAMP_LEN] {
        let mut out = [0; STAMP_LEN];
        out[0..4].copy_from_slice(&MAGIC);
        out[4..6].copy_from_slice(&STAMP_VERSION.to_le_bytes());
        out[6..8].copy_from_slice(&(self.content as u16).to_le_bytes());
        out[8..24].copy_from_slice(&self.vm.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.term.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.session.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.epoch.0.to_le_bytes());
        let sum = xxh3_64(&out[..56]);
        out[56..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads the stamp of this VM's images.
    ///
    /// # Errors
    /// If it is none, is damaged, of another VM or of another version.
    pub fn decode(bytes: &[u8], want: VmId) -> Result<Self, StampError> {
        let bytes: &[u8; STAMP_LEN] = bytes.try_into().map_err(|_| StampError::Magic)?;
        if bytes[..4] != MAGIC {
            return Err(StampError::Magic);
        }
        if xxh3_64(&bytes[..56]) != u64_at(bytes, 56) {
            return Err(StampError::Checksum);
        }
        let vm = VmId(u128_at(bytes, 8));
        if vm != want {
            return Err(StampError::Foreign { got: vm, want });
        }
        let version = u16_at(bytes, 4);
        if version != STAMP_VERSION {
            return Err(StampError::Version { got: version });
        }
        let number = u16_at(bytes, 6);
        let content = Content::ALL.into_iter().find(|&content| content as u16 == number);
        let content = content.filter(|_| u64_at(bytes, 48) == 0).ok_or(StampError::Content)?;
        Ok(Self {
            vm,
            term: Term(u64_at(bytes, 24)),
            session: Session(u64_at(bytes, 32)),
            epoch: Epoch(u64_at(bytes, 40)),
            content,
        })
    }

    /// The lowest term and session that may overwrite these images with a first copy. Whole ones are not their own session's
    /// to overwrite any more, nor an earlier one's: what names it again is a Hello that comes late. A later session of the
    /// term may: the backup resigned before, when another had all that it had. What an owner has is the next term's.
    #[must_use]
    pub fn least(&self) -> (Term, Session) {
        match self.content {
            Content::Filling => (self.term, Session(0)),
            Content::Epoch => (self.term, self.session.next()),
            Content::Running | Content::Stopped => (self.term.next(), Session(0)),
        }
    }
}

/// Which of two copies is newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Newer {
    /// The first.
    First,
    /// The second.
    Second,
    /// They hold the same.
    Same,
    /// It cannot be told.
    Undecidable {
        /// Why not.
        why: Why,
    },
}

/// Why it cannot be told which copy is newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// Stamps of two VMs.
    #[error("the two copies are of different VMs")]
    OtherVm,
    /// No copy is one.
    #[error("both copies are only partly filled")]
    BothFilling,
    /// A term has one owner; someone copied a directory.
    #[error("both copies were run on in the same term: one is a copy of the other's directory")]
    TwoOwners,
}

/// Which of two copies is newer. Journals must be recovered before: a backup's stamp then names its newest
/// committed epoch.
#[must_use]
pub fn newer(a: &Stamp, b: &Stamp) -> Newer {
    use core::cmp::Ordering;
    let undecidable = |why| Newer::Undecidable { why };
    let greater = |order| match order {
        Ordering::Greater => Newer::First,
        Ordering::Less => Newer::Second,
        Ordering::Equal => Newer::Same,
    };
    if a.vm != b.vm {
        return undecidable(Why::OtherVm);
    }
    match (a.content == Content::Filling, b.content == Content::Filling) {
        (true, true) => return undecidable(Why::BothFilling),
        (true, false) => return Newer::Second,
        (false, true) => return Newer::First,
        (false, false) => {}
    }
    if a.term != b.term {
        return greater(a.term.cmp(&b.term));
    }
    match (a.content.is_owners(), b.content.is_owners()) {
        (true, true) => undecidable(Why::TwoOwners),
        (false, false) => greater((a.session, a.epoch).cmp(&(b.session, b.epoch))),
        (first, second) => greater(first.cmp(&second)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn stamp(term: u64, session: u64, epoch: u64, content: Content) -> Stamp {
        Stamp { vm: VmId(0xab), term: Term(term), session: Session(session), epoch: Epoch(epoch), content }
    }

    fn every() -> Vec<Stamp> {
        let mut all = Vec::new();
        for content in Content::ALL {
            for bits in 0..16 {
                let [term, session, epoch, vm] = [1, 2, 4, 8].map(|bit| u64::from(bits & bit != 0));
                all.push(Stamp { vm: VmId(vm.into()), ..stamp(term, session, epoch, content) });
            }
        }
        all
    }

    #[test]
    fn the_table() {
        use Content::{Epoch, Filling, Running, Stopped};
        use Newer::{First, Same, Second};
        let undecidable = |why| Newer::Undecidable { why };
        for (a, b, want) in [
            (stamp(2, 9, 1, Epoch), stamp(1, 8, 70, Running), First),
            (stamp(1, 8, 70, Stopped), stamp(2, 0, 0, Running), Second),
            (stamp(1, 8, 70, Epoch), stamp(1, 8, 60, Running), Second),
            (stamp(1, 8, 60, Stopped), stamp(1, 8, 70, Epoch), First),
            (stamp(1, 8, 70, Epoch), stamp(1, 8, 69, Epoch), First),
            (stamp(1, 8, 70, Epoch), stamp(1, 8, 70, Epoch), Same),
            (stamp(1, 8, 70, Epoch), stamp(1, 9, 69, Epoch), Second),
            (stamp(1, 8, 70, Running), stamp(1, 8, 70, Stopped), undecidable(Why::TwoOwners)),
            (stamp(9, 9, 99, Filling), stamp(1, 1, 1, Running), Second),
            (stamp(9, 9, 99, Filling), stamp(9, 9, 99, Filling), undecidable(Why::BothFilling)),
            (
                stamp(1, 1, 1, Epoch),
                Stamp { vm: VmId(1), ..stamp(1, 1, 1, Epoch) },
                undecidable(Why::OtherVm),
            ),
        ] {
            assert_eq!(newer(&a, &b), want, "{a:?} {b:?}");
        }
    }

    #[test]
    fn a_whole_copy_is_overwritten_by_what_comes_later_only() {
        for stamp in every() {
            let (Term(term), Session(session)) = (stamp.term, stamp.session);
            let least = match stamp.content {
                Content::Filling => (term, 0),
                Content::Epoch => (term, session + 1),
                Content::Running | Content::Stopped => (term + 1, 0),
            };
            assert_eq!(stamp.least(), (Term(least.0), Session(least.1)), "{stamp:?}");
        }
    }

    #[test]
    fn every_pair_is_judged_alike_both_ways_and_a_filling_copy_never_wins() {
        for a in every() {
            for b in every() {
                let (there, back) = (newer(&a, &b), newer(&b, &a));
                let turned = match there {
                    Newer::First => Newer::Second,
                    Newer::Second => Newer::First,
                    same => same,
                };
                assert_eq!(turned, back, "{a:?} {b:?}");
                if there == Newer::First {
                    assert!(a.content != Content::Filling && a.vm == b.vm);
                    assert!(a.term >= b.term || b.content == Content::Filling);
                }
            }
        }
    }

    #[test]
    fn golden_bytes_of_version_1_and_every_flipped_bit_is_refused() {
        let stamp = stamp(7, 3, 99, Content::Running);
        let bytes = stamp.encode();
        assert_eq!(bytes[..9], [0x55, 0x44, 0x59, 0x53, 1, 0, 2, 0, 0xab]);
        assert_eq!((bytes[24], bytes[32], bytes[40]), (7, 3, 99));
        assert_eq!(Stamp::decode(&bytes, VmId(0xab)), Ok(stamp));
        for bit in 0..STAMP_LEN * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Stamp::decode(&bad, VmId(0xab)).is_err(), "bit {bit}");
        }
        assert!(matches!(Stamp::decode(&bytes, VmId(0xac)), Err(StampError::Foreign { .. })));
        assert_eq!(Stamp::decode(&bytes[1..], VmId(0xab)), Err(StampError::Magic));
    }
}
