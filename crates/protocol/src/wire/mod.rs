//! Owns the bytes on the replication link: a fixed self-checking header, small messages, batches of pages.
//!
//! | kind | direction | body |
//! |---|---|---|
//! | Hello | primary → backup | [`Hello`]: opens a session |
//! | Pages | primary → backup | batch of page records, see [`pages`]; epoch 0 = initial copy |
//! | Device | primary → backup | a piece of the epoch's device state, against the one before: see [`device`] |
//! | Disk | primary → backup | batch of the epoch's disk changes, see [`disk`]; epoch 0 = initial copy |
//! | Ask | primary → backup | [`compare::Ask`]: whose hashes are wanted |
//! | Console | primary → backup | console bytes of the epoch, behind their stream offset |
//! | Commit | primary → backup | [`Commit`]: the epoch is whole, these were its counts |
//! | Heartbeat | primary → backup | the primary's clock; the time-out that it would have its backup go by |
//! | Yield | primary → backup | the primary will not run the VM again in this term: take over |
//! | End | primary → backup | protection is over, throw the standby away |
//! | Input | primary → backup | number of a NIC, then a frame that was given to the guest in this epoch |
//! | Accept, Refuse | backup → primary | answer to Hello; Accept says what the backup has of the VM ([`Offer`](crate::resync::Offer)) |
//! | Hashes | backup → primary | [`compare::Hashes`]: answer to the oldest Ask |
//! | Ack | backup → primary | the epoch is committed, its disk changes durable; what a Pulse says |
//! | Pulse | backup → primary | heartbeat; echoes the primary's clock; how long nothing was heard, and what time-out it goes by |
//! | Broken | backup → primary | the backup refuses the stream and says why |
//! | Declined | backup → primary | the backup won a term but could not run the VM in it |
//! | Fenced | backup → primary | a higher term exists |
//! | Path | primary → backup | opens a connection that is one of several, see [`path`] |
//! | Probe, Receipt | both | how far the other direction is, see [`path`] |
//!
//! A reader checks in this order: length limit, header checksum, version, identity (VM, term, session,
//! sequence: [`Inbound`]), body checksum, and only then decodes.

pub mod blob;
pub mod compare;
pub mod device;
pub mod disk;
mod header;
mod inbound;
pub mod known;
mod message;
pub mod pages;
pub mod path;

pub use header::{HEADER_LEN, Header, Kind, MAX_BODY_LEN, VERSION, WireError};
pub use inbound::{Inbound, Outbound};
pub use message::{
    AckBody, Beat, Commit, EndReason, Hello, Lack, MessageError, Refusal, ToBackup, ToPrimary, YieldReason,
};
