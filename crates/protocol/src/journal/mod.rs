//! The backup's disk journal, as bytes and decisions; `disk` does the reading and writing.
//!
//! Owns the format of its records ([`record`], [`body`]), the order in which they may stand ([`chain`]), what to do
//! with it after a crash ([`recovery`]), and the stamp that tells which of two copies of a VM's disks is newer
//! ([`stamp`]).
//!
//! ```text
//!   segment 7                                   segment 8
//!   ┌──────┬────────┬────────┬───────────┬─···  ┌──────┬────────┬───────────┬────────┬─···
//!   │ Head │ Change │ Change │ Commit 41 │      │ Head │ Change │ Commit 42 │ Change │ (torn)
//!   └──────┴────────┴────────┴───────────┴─···  └──────┴────────┴───────────┴────────┴─···
//!   marks: │ Applied 40 │ Applied 39 │          written in turn, so that one is always whole
//! ```
//!
//! An epoch may be acknowledged once its Commit is synced; it may be applied to the images only then, because a
//! half-applied epoch is mended by applying it again. Its place is reused once a mark that covers it is synced.

pub mod body;
pub mod chain;
pub mod record;
pub mod recovery;
pub mod stamp;

pub use body::Totals;
pub use chain::{Break, Chain, Disorder, Link};
pub use record::{HEADER_LEN, Header, Identity, Kind, MAX_BODY_LEN, MAX_DATA_LEN, RecordError};
pub use recovery::{Refused, Scan, Verdict};
pub use stamp::{Newer, Stamp};
