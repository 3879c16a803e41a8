//! Owns how a command ends badly: its exit code and what is said.

use crate::cli::Output;
use api::client::ClientError;
use api::types::{ApiError, ErrorCode};
use std::io;
use std::process::ExitCode;

/// Why a command failed. The numbers are the exit codes that `--help` lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It failed.
    Failed = 1,
    /// The request makes no sense.
    Invalid = 2,
    /// No agent answers.
    NoAgent = 3,
    /// It would be wrong.
    Refused = 4,
    /// No such VM.
    NotFound = 5,
}

/// A command's bad end.
#[derive(Debug)]
pub enum Failure {
    /// With something to say.
    Said(Kind, String),
    /// Whoever read our output went away, as `head` does: nothing to say, and nothing went wrong.
    Closed,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self::Said(kind, message.into())
    }

    /// It failed.
    pub fn failed(message: impl ToString) -> Self {
        Self::Said(Kind::Failed, message.to_string())
    }

    /// Says it on standard error and gives the exit code.
    pub fn report(&self, output: Output) -> ExitCode {
        let Self::Said(kind, message) = self else { return ExitCode::SUCCESS };
        match output {
            Output::Text => eprintln!("undying: {message}"),
            Output::Json => eprintln!("{}", serde_json::json!({"code": kind, "message": message})),
        }
        ExitCode::from(*kind as u8)
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let kind = match error.code {
            ErrorCode::NotFound => Kind::NotFound,
            ErrorCode::Invalid => Kind::Invalid,
            ErrorCode::Refused => Kind::Refused,
            ErrorCode::Failed => Kind::Failed,
        };
        Self::Said(kind, error.message)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Api(error) => error.into(),
            ClientError::NoAgent { .. } | ClientError::Denied { .. } => {
                Self::new(Kind::NoAgent, error.to_string())
            }
            ClientError::Lost { .. } | ClientError::Nonsense { .. } | ClientError::Runtime(_) => {
                Self::failed(error)
            }
        }
    }
}

/// Errors of writing to standard output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::failed(format!("cannot write to standard output: {error}")),
        }
    }
}
