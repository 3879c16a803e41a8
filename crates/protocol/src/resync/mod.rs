//! Resynchronisation by difference: what of a disk must be looked at when a copy of it comes back.
//!
//! Owns the *difference map* of a VM's disks at a host ([`Differences`]), its bytes in a file ([`record`]), and what
//! a host offers to a primary and what the primary makes of it ([`Offer`], [`Repair`]).
//!
//! A **base** names the newest committed state of a session at its backup, which one copy held and the other came from. A
//! map that is *good for* a base says: this copy differs from that state in marked blocks only. If both hosts' maps
//! are good for one base, the copies differ at most where either is marked. If not, everything is compared.
//!
//! | copy | marked | why it is enough |
//! |---|---|---|
//! | the owner's, in a session | blocks written in epochs that are not acknowledged, or not on its own medium yet | the backup's state is one of an epoch from the acknowledged on |
//! | the owner's, alone | the same, and all that it wrote since | |
//! | of a promoted host | all that it wrote since; nothing at first | it was promoted from that very state |
//! | a backup's | nothing: it *is* the state, once its journal is applied | |
//! | one that is being filled | what it had marked before | what is filled in comes from marked blocks of one of both |
//!
//! A mark must be durable before the write may reach the medium. So marks are made durable in coarse *extents*, which
//! stay *active* for a while (as in DRBD's activity log), and in fine blocks only in memory, until their extent is
//! retired.

mod bits;
mod differences;
mod offer;
pub mod record;

pub use differences::{Base, Differences, Extent, Grain, MAX_BASES};
pub use offer::{DiskOffer, MAX_RUNS, MemoryOffer, Offer, OfferError, Repair, Run};
