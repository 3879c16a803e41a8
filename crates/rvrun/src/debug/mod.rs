//! Owns the debugger's side of a machine: gdb's protocol over TCP, by the crate `gdbstub`, for a live machine and for a
//! recording, in which it can go back.
//!
//! - [`Subject`]: what a debugger needs of what it looks at;
//! - [`Timeline`]: a recording, gone through in both directions;
//! - [`LiveSubject`]: a live machine;
//! - `target`, `registers`: gdb's view of them.

mod live;
mod registers;
mod subject;
mod target;
mod timeline;

pub use live::LiveSubject;
pub use subject::{Subject, SubjectError, Way, Why};
pub use timeline::Timeline;

use gdbstub::stub::{DisconnectReason, GdbStub};
use std::net::TcpStream;
use target::{Debuggee, Loop};

/// Why debugging ended badly.
#[derive(Debug, thiserror::Error)]
pub enum DebugError {
    /// What was looked at failed.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// gdb said something that makes no sense, or could not be answered.
    #[error("the debugger's connection failed: {0}")]
    Connection(String),
}

/// How gdb left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// What it looked at shall go on without it: it detached, or its connection ended.
    GoOn,
    /// What it looked at shall end.
    Kill,
}

/// Serves one debugger on a connection until it leaves; gives back what it looked at.
///
/// # Errors
/// The machine or the connection failed.
pub fn serve<S: Subject>(connection: TcpStream, subject: S) -> Result<(S, Left), DebugError> {
    let mut debuggee = Debuggee::new(subject);
    let left = match GdbStub::new(connection).run_blocking::<Loop<S>>(&mut debuggee) {
        Ok(DisconnectReason::Disconnect) => Left::GoOn,
        Ok(_) => Left::Kill,
        // It went away without a word.
        Err(error) if error.is_connection_error() => Left::GoOn,
        Err(error) if error.is_target_error() => {
            return Err(match error.into_target_error() {
                Some(error) => error.into(),
                None => DebugError::Connection("its error was lost".to_owned()),
            });
        }
        Err(error) => return Err(DebugError::Connection(error.to_string())),
    };
    debuggee.subject.set_stops(&rv::Stops::default());
    Ok((debuggee.subject, left))
}
