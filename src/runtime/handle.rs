//! What every migration offers, whatever carries its memory.

use crate::base::{MigrationId, StreamId};
use crate::encoding::HdeStats;
use crate::migration::source::PostCopyError;
use crate::migration::{Owner, Progress, Report};
use crate::runtime::connection::{ConnectionError, FrameReader, FrameWriter};
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
    /// Lets the guest go on at the destination before all of its memory is there.
    ///
    /// # Errors
    /// [`PostCopyError`].
    fn start_post_copy(&self) -> Result<(), PostCopyError> {
        Err(PostCopyError::V1Peer)
    }
    /// Gives up a guest that lacks pages which will not come.
    ///
    /// # Errors
    /// [`PostCopyError`].
    fn abandon_post_copy(&self) -> Result<(), PostCopyError> {
        Err(PostCopyError::V1Peer)
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
    /// What both can do, of what a source wants.
    fn agree(&self, wanted: Features) -> Features {
        self.features().common(wanted)
    }
    /// Sets up what both sides have agreed on beside the connection itself.
    ///
    /// # Errors
    /// The connection broke meanwhile.
    fn set_up(
        &self,
        agreed: Features,
        reader: &mut FrameReader,
        writer: &mut FrameWriter,
    ) -> Result<(), ConnectionError> {
        let _ = (agreed, reader, writer);
        Ok(())
    }
    /// By which id a recovery names what it goes on with.
    fn recoverable_as(&self) -> MigrationId {
        self.id()
    }
    /// Ends it, if it waits in post-copy for memory that another migration is about to bring.
    fn give_way(&self) {}
    /// Whether a connection with this hello is part of it.
    ///
    /// # Errors
    /// [`Refusal`] names what differs.
    fn check(&self, hello: &Hello) -> Result<(), Refusal>;
    /// Serves one connection after its handshake, until it breaks or is closed.
    fn serve(&self, stream: StreamId, reader: FrameReader, writer: FrameWriter, peer: &str);
}
