//! Why a state could not be written or taken in.

use crate::base::limits::MAX_PEERS;
use crate::base::text::quoted;
use crate::config::StoreError;
use crate::node::state::DocumentError;
use crate::rollout::PercentError;
use crate::runtime::record_keeper::KeepError;
use crate::runtime::rollout::RolloutError;
use crate::{NodeError, Status};
use std::io;
use std::path::PathBuf;

/// A state could not be written or taken in; all is as before.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The document.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// v1's flags have a percentage that is none.
    #[error("v1's flags: {0}")]
    V1(#[from] PercentError),
    /// The flags.
    #[error(transparent)]
    Rollout(#[from] RolloutError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] StoreError),
    /// A setting that is not one.
    #[error("the state's setting {}: {reason}", quoted(.key))]
    Setting {
        /// Its key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// Settings for a node that has no configuration.
    #[error(
        "the state has settings of a configuration, and this node was not started from a configuration file"
    )]
    NoConfiguration,
    /// There is no room for the peers.
    #[error("with the state's peers there would be {0}; the limit is {MAX_PEERS}")]
    Peers(usize),
    /// An ownership record.
    #[error(transparent)]
    Keep(#[from] KeepError),
    /// Something about a peer, or the node was stopped.
    #[error(transparent)]
    Node(#[from] Box<NodeError>),
    /// Another import is under way.
    #[error("another import is under way: {path} is in use", path = .0.display())]
    Busy(PathBuf),
    /// An earlier import could not be carried through.
    #[error("an earlier import is not carried through yet ({path}): {reason}", path = path.display())]
    Unfinished {
        /// What tells of it.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A file of the state directory.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl From<NodeError> for StateError {
    fn from(error: NodeError) -> Self {
        Self::Node(Box::new(error))
    }
}

impl StateError {
    /// The status code of this error.
    pub fn status(&self) -> Status {
        match self {
            Self::Document(error) => match error {
                DocumentError::TooLong(_) => Status::LimitReached,
                DocumentError::Newer(_) => Status::BadVersion,
                DocumentError::Checksum { .. } | DocumentError::CutOff { .. } => Status::Corrupt,
                _ => Status::InvalidArgument,
            },
            Self::V1(_) | Self::Setting { .. } => Status::InvalidArgument,
            Self::Rollout(error) => error.status(),
            Self::Config(error) => error.status(),
            Self::NoConfiguration => Status::Unsupported,
            Self::Peers(_) => Status::LimitReached,
            Self::Keep(_) | Self::Io { .. } => Status::StateFile,
            Self::Node(error) => error.status(),
            Self::Busy(_) => Status::Busy,
            Self::Unfinished { .. } => Status::BadState,
        }
    }
}
