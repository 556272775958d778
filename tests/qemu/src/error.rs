//! What can go wrong in the laboratory.

use dwcp::runtime::qemu::QmpError;
use std::io;
use std::time::Duration;

/// A guest could not be built, started, asked or migrated.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A program such as the compiler failed.
    #[error("`{command}` failed: {output}")]
    Command {
        /// The command line.
        command: String,
        /// What it said.
        output: String,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// No kernel for the guest.
    #[error("no kernel for the guest: {0}")]
    Kernel(String),
    /// QEMU does not answer as it should.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// QEMU ended by itself.
    #[error("QEMU ended ({status}) while {waiting_for} was waited for: {output}")]
    Ended {
        /// How.
        status: String,
        /// What should have come.
        waiting_for: String,
        /// What QEMU and the guest said last.
        output: String,
    },
    /// Something did not come in time.
    #[error("no {waiting_for} within {after:?}; {output}")]
    TimedOut {
        /// What should have come.
        waiting_for: String,
        /// The time allowed.
        after: Duration,
        /// What QEMU and the guest said last.
        output: String,
    },
    /// The guest runs, or is too large.
    #[error("no digest of the guest's memory: {0}")]
    Digest(String),
    /// QEMU's own migration did not complete.
    #[error("QEMU's migration to {uri} ended as {status}: {reason}")]
    Migration {
        /// Where to.
        uri: String,
        /// QEMU's word for it.
        status: String,
        /// QEMU's reason.
        reason: String,
    },
}

impl LabError {
    /// Adds what was tried to a system error; for `map_err`.
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }
}
