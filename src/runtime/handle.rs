//! What every migration offers, whatever carries its memory.

use crate::base::{MigrationId, StreamId};
use crate::encoding::HdeStats;
use crate::migration::{Owner, Progress, Report};
use crate::runtime::connection::{FrameReader, FrameWriter};
use crate::runtime::dial::FEATURES;
use crate::runtime::footprint::Footprint;
use crate::runtime::listener::{JoinKey, Refusal};
use crate::wire::Hello;
use crate::wire::hello::Features;
use std::time::Duration;

/// A migration, leaving or arriving. Every call may come from any thread.
pub trait Handle: Send + Sync {
    /// Its identifier.
    fn id(&self) -> MigrationId;
    /// The guest's name.
    fn guest(&self) -> &str;
    /// Where it stands.
    fn progress(&self) -> Progress;
    /// Who owns the guest, as far as this side can say.
    fn owner(&self) -> Owner;
    /// The report, once everything is over.
    fn report(&self) -> Option<Report>;
    /// Waits up to `timeout` for the end.
    fn wait(&self, timeout: Duration) -> Option<Report>;
    /// Gives up, guest staying at the source; no effect after the commit point.
    fn cancel(&self);
    /// Changes the bandwidth cap; no effect on an arriving guest.
    fn set_bandwidth_limit(&self, rate_bytes_per_s: Option<u64>) {
        let _ = rate_bytes_per_s;
    }
    /// How pages were encoded so far; none on the side that decodes.
    fn encoding(&self) -> Option<HdeStats> {
        None
    }
    /// Memory that it holds now.
    fn footprint(&self) -> Footprint {
        Footprint::default()
    }
    /// Looks at the remembered pages again: how many have a checksum, and how many differ from it.
    fn verify_baselines(&self) -> (u64, u64) {
        (0, 0)
    }
}

/// A migration that connections come in for.
pub trait Arrival: Handle {
    /// What further connections must show.
    fn join_key(&self) -> &JoinKey;
    /// What this side can do for it.
    fn features(&self) -> Features {
        FEATURES
    }
    /// Whether a connection with this hello is part of it.
    ///
    /// # Errors
    /// [`Refusal`] names what differs.
    fn check(&self, hello: &Hello) -> Result<(), Refusal>;
    /// Serves one connection after its handshake, until it breaks or is closed.
    fn serve(&self, stream: StreamId, reader: FrameReader, writer: FrameWriter, peer: &str);
}
