//! One migration as its callers hold it, whichever way it goes.
//!
//! Threads: every method may be called from any thread.

use crate::base::MigrationId;
use crate::encoding::HdeStats;
use crate::migration::{Owner, Progress, Report};
use crate::runtime::footprint::Footprint;
use crate::runtime::handle::{Arrival, Handle};
use crate::runtime::node::NodeError;
use std::sync::Arc;
use std::time::Duration;

/// One migration, outgoing or incoming. Handles stay valid after the node is gone.
#[derive(Clone)]
pub enum Migration {
    /// The guest leaves.
    Outgoing(Arc<dyn Handle>),
    /// The guest arrives.
    Incoming(Arc<dyn Arrival>),
    /// The guest arrives from a v1 peer, whose connections say nothing of what they belong to.
    Arriving(Arc<dyn Handle>),
}

impl Migration {
    /// Its identifier.
    pub fn id(&self) -> MigrationId {
        self.handle().id()
    }

    /// The guest's name.
    pub fn guest(&self) -> &str {
        self.handle().guest()
    }

    /// `source` or `destination`.
    pub fn side(&self) -> &'static str {
        match self {
            Self::Outgoing(_) => "source",
            Self::Incoming(_) | Self::Arriving(_) => "destination",
        }
    }

    /// Where it stands.
    pub fn progress(&self) -> Progress {
        self.handle().progress()
    }

    /// The report once it ended.
    pub fn report(&self) -> Option<Report> {
        self.handle().report()
    }

    /// Waits for the end; none on timeout. `None` waits for ever.
    pub fn wait(&self, timeout: Option<Duration>) -> Option<Report> {
        self.handle().wait(timeout.unwrap_or(Duration::MAX))
    }

    /// Asks for the end, guest staying at the source; no effect after the commit point.
    pub fn cancel(&self) {
        self.handle().cancel();
    }

    /// Lets the guest go on at the destination before all of its memory is there, as soon as it can
    /// be done. The options must allow it.
    ///
    /// # Errors
    /// They do not, it is too late, or this side or guest cannot be asked.
    pub fn start_post_copy(&self) -> Result<(), NodeError> {
        Ok(self.handle().start_post_copy()?)
    }

    /// Gives up a guest that runs at the destination and lacks pages, because the other side will not
    /// come back. Nothing is given up without this word, and nothing brings the guest back after it.
    ///
    /// # Errors
    /// The migration is not in that state.
    pub fn abandon_post_copy(&self) -> Result<(), NodeError> {
        Ok(self.handle().abandon_post_copy()?)
    }

    /// Changes the bandwidth cap while running; none lifts it. No effect on an incoming one.
    pub fn set_bandwidth_limit(&self, bytes_per_s: Option<u64>) {
        self.handle().set_bandwidth_limit(bytes_per_s);
    }

    /// Who owns the guest, as far as this side can say.
    pub fn owner(&self) -> Owner {
        self.handle().owner()
    }

    /// How pages were encoded so far; none on the side that decodes.
    pub fn encoding(&self) -> Option<HdeStats> {
        self.handle().encoding()
    }

    /// Memory that it holds now.
    pub fn footprint(&self) -> Footprint {
        self.handle().footprint()
    }

    /// Looks at the remembered pages again: how many have a checksum, and how many differ from it.
    pub fn verify_baselines(&self) -> (u64, u64) {
        self.handle().verify_baselines()
    }

    fn handle(&self) -> &dyn Handle {
        match self {
            Self::Outgoing(outgoing) => outgoing.as_ref(),
            Self::Incoming(incoming) => incoming.as_ref(),
            Self::Arriving(arriving) => arriving.as_ref(),
        }
    }
}
