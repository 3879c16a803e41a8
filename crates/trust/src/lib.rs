//! Who is who among hosts: identities, whom a host trusts, and the connections between hosts.
//!
//! Owns every connection between two hosts. There is one kind: mutual TLS 1.3 between two certificates that each side was
//! given by an operator beforehand. There is no authority that could vouch for a stranger, no resumption that would
//! outlive a revocation, and no plain mode. What stands at the end of a handshake is a [`Connection`], which knows by
//! name who is at the other end.
//!
//! | module | owns |
//! |---|---|
//! | [`certificate`] | one certificate: its fingerprint, the host that it names, its dates |
//! | [`identity`] | a host's own key and certificate, and making them |
//! | [`store`] | the files: own identity, trusted peers, revoked certificates |
//! | [`judge`] | whether a certificate is good enough, and why not |
//! | [`handshake`] | the way to a connection, within a time |
//! | [`connection`] | bytes on it, from one thread, and to it, from another |
//! | [`deadline`] | a socket whose reads and writes end at an instant |
//! | [`exchange`] | one message on a connection |
//!
//! Decisions are in `docs/design/trust.md`.

#![forbid(unsafe_code)]

pub mod certificate;
pub mod connection;
pub mod deadline;
pub mod exchange;
mod files;
pub mod handshake;
pub mod identity;
pub mod judge;
pub mod store;
mod verifier;

pub use certificate::{Certificate, Fingerprint};
pub use connection::{Connection, Ended, Handle, Receiver, Sender};
pub use handshake::{HandshakeError, Purpose, accept, connect};
pub use identity::{Identity, Lifetime};
pub use judge::{Peer, Refusal, Wanted};
pub use store::{Store, TrustError};
