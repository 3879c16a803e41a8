//! The difference map of a VM's disks at this host, in its file.
//!
//! Owns the promise that a mark is durable before the write that it stands for may reach the medium. What is marked
//! and when a mark goes is decided by [`protocol::resync`]; here are reading, writing and syncing.
//!
//! ```text
//!  a write comes ──▶ its extents active? ──yes──▶ mark in memory ──▶ the image
//!                          │ no
//!                          ▼
//!                    list them in the file, fdatasync (one for all that wait) ──▶ active
//! ```
//!
//! | order in [`DifferenceMap::clean`] | why |
//! |---|---|
//! | images synced, then settled marks forgotten | a power loss must not take back here what the backup has |
//! | head with the new base synced, then marks forgotten | without them the map is not good for the old base |
//! | blocks saved and synced, then their extents retired | a crash must find one of both |

mod error;
mod file;
mod map;

pub use error::MapError;
pub use map::{DifferenceMap, MapStatus};
