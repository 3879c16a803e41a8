//! The backup's journal of disk writes, on disk.
//!
//! Owns the promise that a committed epoch's disk writes survive a crash of this host, and that after one each disk
//! holds exactly a committed epoch. The bytes and the decisions are in [`protocol::journal`]; here are reading,
//! writing and syncing.
//!
//! ```text
//!  append, append, … seal ──► sync ──► acknowledge ──► replay ──► apply ──► mark_applied
//!  (changes)        (Commit)  durable                  (reads     images,   place is
//!                                                       it back)  synced    free again
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `segment-000` … | the log: each a head block, then records. All exist from the start, at full size |
//! | `marks` | two blocks, written in turn: how far the images are, and from which life on the log counts |
//!
//! Records begin at 512-byte sectors and never cross a segment; after a commit the next one begins at a 4096-byte
//! block, so that what is durable is never written over again. Segments are used round in a ring.
//!
//! Recovery never writes into the old log: it applies what is whole, syncs the images and then writes one mark
//! with the next *life*, which makes every older record void. A crash before that mark repeats the recovery.
//!
//! [`Journal::create`] begins a journal, [`Journal::open`] recovers one; [`recover`] does all of the latter.
//! All I/O goes through [`Storage`], so that tests can lose, tear and reorder it.

mod apply;
mod error;
mod files;
mod layout;
mod log;
mod open;
mod replay;
mod scan;
mod stamps;
mod storage;

pub use apply::{Target, apply, recover};
pub use error::JournalError;
pub use files::FileStorage;
pub use layout::Layout;
pub use log::Journal;
pub use open::Opened;
pub use replay::{Replay, Step};
pub use stamps::{load_stamp, save_stamp};
pub use storage::Storage;
