//! Owns the answer to who asks: the user at the other end of a connection, by the kernel's word (`SO_PEERCRED`).

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tokio::net::UnixListener;

/// The user at the other end of a connection; `None` if the kernel did not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PeerUser(pub(super) Option<u32>);

impl Connected<IncomingStream<'_, UnixListener>> for PeerUser {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(stream.io().peer_cred().ok().map(|credentials| credentials.uid()))
    }
}
