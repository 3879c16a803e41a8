//! Owns the replication connection: frames in, frames out, and what its errors mean to the protocol.

mod input;
mod outbox;
pub mod paths;

pub use outbox::{CopyWire, Outbox, Pack, Part, Wire, Written};

use protocol::notice::LinkLoss;
use protocol::wire::{HEADER_LEN, Header, Inbound, MessageError, WireError};
use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

/// Why a connection is given up.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The connection itself.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The other side closed it.
    #[error("the other side closed the connection")]
    Closed,
    /// Bytes that are not a right frame.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A frame that is not a right message.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// Pages that cannot be applied.
    #[error(transparent)]
    Pages(#[from] protocol::wire::pages::PagesError),
    /// Any other nonsense.
    #[error("{0}")]
    Nonsense(String),
    /// The other side is not who it must be.
    #[error(transparent)]
    Handshake(#[from] trust::HandshakeError),
    /// There is no way to it.
    #[error("{0}")]
    Connect(String),
    /// It was ended here, for this reason.
    #[error(transparent)]
    Ended(trust::Ended),
}

impl From<LinkError> for LinkLoss {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Io(_) | LinkError::Closed => Self::Disconnected(error.to_string()),
            LinkError::Connect(why) => Self::Connect(why),
            _ => Self::Stream(error.to_string()),
        }
    }
}

/// A frame whose header and body checksums were found right.
#[derive(Debug)]
pub struct Frame {
    /// Its header.
    pub header: Header,
    /// Its body.
    pub body: Vec<u8>,
}

/// Makes a fresh connection fit for replication: no delays, and a dead link is noticed by writes as well.
///
/// # Errors
/// If the socket options cannot be set.
pub fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_tcp_user_timeout(stream, 10_000)?;
    // Large enough for a checkpoint of usual size, so that the sender seldom waits inside one.
    rustix::net::sockopt::set_socket_send_buffer_size(stream, 4 << 20)?;
    rustix::net::sockopt::set_socket_recv_buffer_size(stream, 4 << 20)?;
    Ok(())
}

/// Reads one frame; the identity is checked by the caller.
///
/// # Errors
/// If the connection ends or the bytes are not a whole, undamaged frame.
pub fn read_frame(stream: &mut impl Read) -> Result<Frame, LinkError> {
    let mut head = [0; HEADER_LEN];
    read_exact(stream, &mut head)?;
    let header = Header::decode(&head)?;
    read_body(stream, header)
}

/// Reads the next frame of a session.
///
/// # Errors
/// As [`read_frame`], and if the frame is not the next of this session; that is checked before its body is read.
pub fn read_session_frame(stream: &mut impl Read, inbound: &mut Inbound) -> Result<Frame, LinkError> {
    let mut head = [0; HEADER_LEN];
    read_exact(stream, &mut head)?;
    let header = Header::decode(&head)?;
    inbound.check(&header)?;
    read_body(stream, header)
}

fn read_body(stream: &mut impl Read, header: Header) -> Result<Frame, LinkError> {
    let mut body = vec![0; header.len as usize];
    read_exact(stream, &mut body)?;
    header.check_body(&body)?;
    Ok(Frame { header, body })
}

fn read_exact(stream: &mut impl Read, buffer: &mut [u8]) -> Result<(), LinkError> {
    stream.read_exact(buffer).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => LinkError::Closed,
        _ => match error.get_ref().and_then(|why| why.downcast_ref::<trust::Ended>()) {
            Some(ended) => LinkError::Ended(ended.clone()),
            None => LinkError::Io(error),
        },
    })
}

/// Connects a socket to a peer's replication port.
///
/// # Errors
/// If it does not answer within the time.
pub fn connect(address: std::net::SocketAddr, within: Duration) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, within)?;
    prepare(&stream)?;
    Ok(stream)
}
