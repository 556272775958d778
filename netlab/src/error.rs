//! What can go wrong while a laboratory is set up.

use std::io;

/// A laboratory could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A command such as `ip` failed.
    #[error("`{command}` failed: {output}")]
    Command {
        /// The command line.
        command: String,
        /// What it said.
        output: String,
    },
    /// Something that every laboratory needs is missing.
    #[error("no laboratory can be set up: {reason}")]
    Unable {
        /// What, and what helps.
        reason: String,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl LabError {
    /// Adds what was tried to a system error; for `map_err`.
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }
}

impl From<LabError> for io::Error {
    fn from(error: LabError) -> Self {
        io::Error::other(error)
    }
}
