//! The facade: one node, its guests and its migrations.
//!
//! Threads: every method may be called from any thread.

use crate::Status;
use crate::base::MigrationId;
use crate::migration::{GuestSink, GuestSource, MigrationOptions, Owner, Progress, Report};
use crate::observe::Event;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How a node is set up.
#[derive(Clone, Debug, Default)]
pub struct NodeOptions {
    /// The node's name, shown to peers; empty means the host's name.
    pub name: String,
    /// Where to listen for incoming migrations, such as `127.0.0.1:0`; none: only outgoing ones.
    pub listen: Option<SocketAddr>,
    /// Where ownership records are written; none: kept in memory only.
    pub state_dir: Option<PathBuf>,
}

/// An operation on a node failed.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The listener.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The state directory.
    #[error("cannot use state directory {path}: {source}")]
    StateDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A guest of that name is registered.
    #[error("guest {0:?} is already registered")]
    NameTaken(String),
    /// A name is empty, too long or holds control characters.
    #[error("name {0:?} is not 1 to 128 printable bytes")]
    BadName(String),
    /// No guest of that name.
    #[error("no guest {name:?}; known here: {known}")]
    UnknownGuest {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// No migration of that id.
    #[error("no migration {0}")]
    UnknownMigration(MigrationId),
    /// The guest takes part in another migration.
    #[error("guest {0:?} is being migrated")]
    Busy(String),
    /// The guest is registered for the other direction.
    #[error("guest {name:?} is registered as {role}")]
    WrongRole {
        /// The guest.
        name: String,
        /// Its role.
        role: &'static str,
    },
    /// The destination's address.
    #[error("address {address:?} is not HOST:PORT: {reason}")]
    Address {
        /// The address.
        address: String,
        /// Why.
        reason: String,
    },
    /// An option.
    #[error(transparent)]
    Options(#[from] crate::migration::options::OptionsError),
    /// A limit.
    #[error("{what} limit of {limit} reached")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many.
        limit: usize,
    },
    /// A system call.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The node was stopped.
    #[error("the node has been stopped")]
    Stopped,
}

impl NodeError {
    /// The status code of this error.
    pub fn status(&self) -> Status {
        match self {
            NodeError::Listen { .. } | NodeError::Io { .. } => Status::Io,
            NodeError::StateDir { .. } => Status::StateFile,
            NodeError::NameTaken(_) => Status::AlreadyExists,
            NodeError::UnknownGuest { .. } | NodeError::UnknownMigration(_) => Status::NotFound,
            NodeError::Busy(_) => Status::Busy,
            NodeError::WrongRole { .. } => Status::BadState,
            NodeError::BadName(_) | NodeError::Address { .. } | NodeError::Options(_) => {
                Status::InvalidArgument
            }
            NodeError::Limit { .. } => Status::LimitReached,
            NodeError::Stopped => Status::Stopped,
        }
    }
}

/// What a guest is registered for, and whether it is moving.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct GuestInfo {
    /// Its name.
    pub name: String,
    /// `source` (runs here) or `destination` (expected here).
    pub role: &'static str,
    /// Memory size.
    pub ram_bytes: u64,
    /// The migration under way.
    pub migration: Option<MigrationId>,
}

/// A node: listens, holds guests, runs migrations. Dropping the last handle stops it.
#[derive(Clone)]
pub struct Node {
    inner: Arc<NodeInner>,
}

struct NodeInner {}

/// One migration, outgoing or incoming.
#[derive(Clone)]
pub struct Migration {
    inner: Arc<MigrationInner>,
}

struct MigrationInner {}

/// Callback for new events; runs on a library thread and must not block.
pub type EventObserver = Arc<dyn Fn(&Event) + Send + Sync>;

#[allow(unused_variables, dead_code, clippy::todo, missing_docs)]
impl Node {
    /// Starts a node.
    ///
    /// # Errors
    /// The listener or the state directory cannot be used.
    pub fn start(options: NodeOptions) -> Result<Node, NodeError> {
        todo!()
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        todo!()
    }

    /// Where it listens, with the port that was chosen.
    pub fn local_address(&self) -> Option<SocketAddr> {
        todo!()
    }

    /// Registers a running guest, so that it can be migrated away. After a migration that moved
    /// it away, the registration ends.
    pub fn add_source(&self, name: &str, guest: Arc<dyn GuestSource>) -> Result<(), NodeError> {
        todo!()
    }

    /// Registers an empty guest: one incoming migration of that name is accepted. After a failed
    /// one the registration stays; after a successful one it ends.
    pub fn add_destination(&self, name: &str, guest: Arc<dyn GuestSink>) -> Result<(), NodeError> {
        todo!()
    }

    /// Ends a registration. A guest that is moving is refused with `Busy`.
    pub fn remove_guest(&self, name: &str) -> Result<(), NodeError> {
        todo!()
    }

    pub fn guests(&self) -> Vec<GuestInfo> {
        todo!()
    }

    /// Starts to move a guest to the node at `to` (`HOST:PORT`); returns at once.
    pub fn migrate(
        &self,
        guest: &str,
        to: &str,
        options: MigrationOptions,
    ) -> Result<Migration, NodeError> {
        todo!()
    }

    /// Migrations that run or ended lately, both directions, oldest first.
    pub fn migrations(&self) -> Vec<Migration> {
        todo!()
    }

    pub fn migration(&self, id: MigrationId) -> Result<Migration, NodeError> {
        todo!()
    }

    /// Events with a sequence above `after`, oldest first; at most the last 4096 are kept.
    pub fn events(&self, after: u64) -> Vec<Event> {
        todo!()
    }

    /// Waits until an event above `after` exists, then returns as [`Self::events`]; empty on timeout.
    pub fn wait_events(&self, after: u64, timeout: Duration) -> Vec<Event> {
        todo!()
    }

    /// Calls `observer` for every event from now on, until the node stops.
    pub fn observe(&self, observer: EventObserver) {
        todo!()
    }

    /// Stops the node: cancels migrations before their commit point, waits for the others, joins
    /// all threads. Idempotent.
    pub fn stop(&self) {
        todo!()
    }
}

#[allow(unused_variables, dead_code, clippy::todo, missing_docs)]
impl Migration {
    pub fn id(&self) -> MigrationId {
        todo!()
    }

    pub fn guest(&self) -> &str {
        todo!()
    }

    /// `source` or `destination`.
    pub fn side(&self) -> &'static str {
        todo!()
    }

    pub fn progress(&self) -> Progress {
        todo!()
    }

    /// The report once it ended.
    pub fn report(&self) -> Option<Report> {
        todo!()
    }

    /// Waits for the end; none on timeout (`None` = forever).
    pub fn wait(&self, timeout: Option<Duration>) -> Option<Report> {
        todo!()
    }

    /// Asks for the end, guest staying at the source; no effect after the commit point.
    pub fn cancel(&self) {
        todo!()
    }

    /// Changes the bandwidth cap while running; none lifts it.
    pub fn set_bandwidth_limit(&self, bytes_per_s: Option<u64>) {
        todo!()
    }

    pub fn owner(&self) -> Owner {
        todo!()
    }
}
