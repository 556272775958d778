//! Why a command failed, and the exit code that says so.

use serde_json::{Value, json};
use std::io;
use std::path::PathBuf;

/// A command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// Nobody answers on the socket.
    #[error("cannot reach the node at {socket}: {source}{hint}", socket = socket.display(), hint = hint(source))]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke in the middle.
    #[error("lost the node at {socket}: {reason}", socket = socket.display())]
    Lost {
        /// The socket.
        socket: PathBuf,
        /// Why.
        reason: String,
    },
    /// The node refused.
    #[error("{message} ({status})")]
    Refused {
        /// The status' name.
        status: String,
        /// The node's text.
        message: String,
    },
    /// An answer that does not fit.
    #[error("the node's answer is not understood: {0}")]
    Answer(String),
    /// An argument that only the node's answer showed to be wrong.
    #[error("{0}")]
    Argument(String),
    /// A memory could not be sampled.
    #[error(transparent)]
    Sample(#[from] crate::runtime::compression::SampleError),
    /// A codec failed.
    #[error(transparent)]
    Analyze(#[from] crate::runtime::compression::analysis::AnalyzeError),
    /// A certificate.
    #[error(transparent)]
    Identity(#[from] crate::runtime::security::IdentityError),
    /// A file could not be written.
    #[error("cannot write {path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that figures should be compared with.
    #[error("baseline {path}: {reason}", path = path.display())]
    Baseline {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The output is closed.
    #[error("cannot print: {0}")]
    Output(io::Error),
    /// A trial could not go on.
    #[error(transparent)]
    Trial(#[from] super::trial::TrialError),
    /// No runtime.
    #[error("cannot start: {0}")]
    Runtime(io::Error),
}

impl CliError {
    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            CliError::Unreachable { .. } | CliError::Lost { .. } => UNREACHABLE,
            // Whoever read the output has seen enough, as in `events | head`.
            CliError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            _ => FAILED,
        }
    }

    /// As JSON, in the shape of the node's own refusals.
    pub fn to_json(&self) -> Value {
        let status = match self {
            CliError::Refused { status, .. } => status.as_str(),
            CliError::Unreachable { .. } => crate::Status::Connect.name(),
            CliError::Lost { .. } => crate::Status::ConnectionLost.name(),
            CliError::Answer(_) => crate::Status::BadFrame.name(),
            CliError::Argument(_) | CliError::Baseline { .. } => {
                crate::Status::InvalidArgument.name()
            }
            CliError::Sample(error) => error.status().name(),
            CliError::Analyze(_) => crate::Status::Corrupt.name(),
            CliError::Identity(error) => error.status().name(),
            CliError::Trial(_)
            | CliError::File { .. }
            | CliError::Output(_)
            | CliError::Runtime(_) => crate::Status::Io.name(),
        };
        let message = match self {
            CliError::Refused { message, .. } => message.clone(),
            other => other.to_string(),
        };
        json!({ "error": { "status": status, "message": message } })
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => "; is dwcpd running?",
        io::ErrorKind::PermissionDenied => "; only the user that started it may",
        _ => "",
    }
}

/// The request was refused, or something else went wrong.
pub const FAILED: u8 = 1;
/// No node answers.
pub const UNREACHABLE: u8 = 3;
/// The migration failed; the guest runs at its source.
pub const AT_SOURCE: u8 = 4;
/// Only the destination can tell who has the guest.
pub const IN_DOUBT: u8 = 5;
/// The migration was cancelled; the guest runs at its source.
pub const CANCELLED: u8 = 6;
/// Interrupted while the migration goes on.
pub const INTERRUPTED: u8 = 130;
