//! Owns one message on a connection, in its envelope. What it says is not known here.

use crate::connection::Sender;
use protocol::envelope::{self, EnvelopeError, HEADER_LEN, Message};
use std::io::{self, Read};

/// Why no message was read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The connection.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What came.
    #[error(transparent)]
    Bytes(#[from] EnvelopeError),
}

/// Sends one message.
///
/// # Errors
/// If the connection is gone.
pub fn write<M: Message>(sender: &mut Sender, message: &M) -> io::Result<()> {
    sender.send(&[], &envelope::encode(message))
}

/// Reads one message. What is allocated is bounded, whatever the header says.
///
/// # Errors
/// If the connection ends, or the bytes are no message of this kind.
pub fn read<M: Message>(stream: &mut impl Read) -> Result<M, ReadError> {
    let mut head = [0; HEADER_LEN];
    stream.read_exact(&mut head)?;
    let expected = envelope::expect::<M>(&head)?;
    let mut body = vec![0; expected.len()];
    stream.read_exact(&mut body)?;
    Ok(expected.body(&body)?)
}
