//! Owns one message on a connection.

use protocol::witness::{self, HEADER_LEN, Message, WitnessError};
use std::io::{self, Read};

/// Why no message was read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Bytes(#[from] WitnessError),
}

pub(super) fn write<M: Message>(sender: &mut trust::Sender, message: &M) -> io::Result<()> {
    sender.send(&[], &witness::encode(message))
}

/// Reads one message. What is allocated is bounded, whatever the header says.
pub(super) fn read<M: Message>(stream: &mut impl Read) -> Result<M, ReadError> {
    let mut head = [0; HEADER_LEN];
    stream.read_exact(&mut head)?;
    let expected = witness::expect::<M>(&head)?;
    let mut body = vec![0; expected.len()];
    stream.read_exact(&mut body)?;
    Ok(expected.body(&body)?)
}
