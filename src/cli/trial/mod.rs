//! Trials of the library on this machine: nodes, each a process of its own, and guests that prove
//! their memory and are moved between them. Two and one in `pair`, many in `crowd`.

pub mod chaos;
pub mod child;
pub mod crowd;
pub mod drill;
pub mod fleet;
pub mod guest;
pub mod interrupts;
mod links;
pub mod node;
pub mod pair;
pub mod scratch;
pub mod verdict;

use crate::cli::error::CliError;
use crate::runtime::security::IdentityError;
use std::io;

/// A trial could not go on. That is no verdict about the library, unless the trial says so.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// This program cannot be started a second time.
    #[error("cannot start nodes: {0}")]
    OwnProgram(io::Error),
    /// A directory for the nodes.
    #[error("cannot make a directory for the nodes: {0}")]
    Scratch(io::Error),
    /// Certificates for the nodes.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A node.
    #[error("cannot start node {name}: {source}")]
    Start {
        /// The node.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A node does not answer any more.
    #[error("node {name} does not answer to {order:?}: {source}")]
    Silent {
        /// The node.
        name: String,
        /// What it was told.
        order: String,
        /// What came instead.
        source: io::Error,
    },
    /// A node cannot do as it is told.
    #[error("node {name} cannot {order}: {reason}")]
    Refused {
        /// The node.
        name: String,
        /// What it was told.
        order: String,
        /// Why.
        reason: String,
    },
    /// A node's process cannot be looked at.
    #[error("node {name} cannot be measured: {source}")]
    Measure {
        /// The node.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A migration that neither succeeds nor fails.
    #[error("migration {id} has no end after {patience_s} s")]
    Hangs {
        /// The migration.
        id: String,
        /// How long it was waited for.
        patience_s: u64,
    },
    /// A migration of which nobody can tell how it ended.
    #[error("guest {guest}: migration {id} ended in doubt")]
    InDoubt {
        /// The guest.
        guest: String,
        /// The migration.
        id: String,
    },
    /// Guests that were to move do not.
    #[error("too few migrations from {way} have ended within {patience_s} s")]
    Idle {
        /// From where to where.
        way: String,
        /// How long they were waited for.
        patience_s: u64,
    },
    /// A guest did not come as it left.
    #[error("guest {guest}: {reason}")]
    Lost {
        /// The guest.
        guest: String,
        /// What is wrong.
        reason: String,
    },
    /// No networks for the nodes.
    #[error(transparent)]
    Lab(#[from] dwcp_netlab::LabError),
    /// A node's control socket.
    #[error(transparent)]
    Control(Box<CliError>),
}

impl From<CliError> for TrialError {
    fn from(error: CliError) -> Self {
        TrialError::Control(Box::new(error))
    }
}
