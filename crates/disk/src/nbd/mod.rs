//! Owns the NBD protocol: what the bytes mean ([`wire`], [`options`], [`command`]), the negotiation ([`handshake`]),
//! and the conversation with one client ([`session`]).
//!
//! Only fixed newstyle negotiation is spoken, without TLS: the socket is a unix socket that only we may open.

mod command;
mod conduit;
mod execute;
mod handshake;
mod options;
mod reply;
mod session;
mod wire;
mod worker;

pub(crate) use handshake::ExportInfo;
pub(crate) use session::{Ending, run};
