//! A migration that another program performs, carried from outside: its byte stream goes to the
//! destination in numbered segments over many connections, and ownership passes with its end.
//!
//! ```text
//! source                                         destination
//! segment 0, 1, 2 ...  (any stream, any order) -> acknowledged; put in order, replayed
//! record: commit sent
//! StreamEnd (how much, which digest)           -> all replayed but the end, digest equal?
//!                                                 record: owned; the end is replayed
//!                                              <- Committed, Resumed    or Abort: it cannot run
//! ```
//! A segment is acknowledged when it has arrived, unless the replay is far behind, so what is
//! unacknowledged is at once the window of flow control and what a lost stream costs. One that comes
//! twice is dropped by its number, so nothing needs fencing. The destination keeps back the end of the stream, without
//! which its guest cannot run, until the whole is proved; from `StreamEnd` on the source never
//! runs the guest again, unless the destination says that it does not have it.
//!
//! Where the hypervisor may switch to post-copy, the stream is cut at the package of device state whose last
//! bytes are the order to run the guest:
//!
//! ```text
//! package, kept back there
//! record: post-copy sent
//! StreamSwitch (how much, which digest)        -> all before it replayed, digest equal?
//!                                                 record: owned, incomplete; the package is replayed
//! segments: asked for, and in the background   -> replayed at once
//!                                              <- Return: what the hypervisor there asks for
//!                                              <- Committed, Resumed    or Abort: it cannot run
//! record: serving pages
//! StreamEnd                                    -> its hypervisor has all, digest equal?
//!                                                 record: owned
//!                                              <- Completed
//! ```
//!
//! When a node of such a migration has ended after the switch, another migration, a recovery, carries the
//! rest. It begins where the first one was, and its bytes are a conversation of the two hypervisors'
//! alone:
//!
//! ```text
//! (its hello says so)                          record: owned, incomplete; its hypervisor listens anew
//!                                              <- Committed    or Abort: it does not
//! record: serving pages; its hypervisor resumes
//! segments                                     -> replayed at once
//!                                              <- Return: what that side has, and what it asks for
//! StreamEnd                                    -> as above
//! ```

pub mod destination;
pub mod segment_io;
pub mod source;
pub mod spare;
mod window;

use crate::base::{MachineFacts, MigrationId};
use std::time::Duration;

/// Segments beyond the one that is due that a destination stores.
pub const MAX_EARLY_SEGMENTS: u64 = 1024;
/// Stands for an earlier migration whose id nobody knows.
pub const UNKNOWN: MigrationId = MigrationId([0; 16]);
/// How often an idle stream says that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// What never changes during a migration.
#[derive(Clone, Debug)]
pub struct RelaySetup {
    /// The migration.
    pub id: MigrationId,
    /// The guest's name.
    pub guest: String,
    /// Its machine.
    pub facts: MachineFacts,
    /// Connections of the hypervisor's beside its main stream, each an ordered stream of its own.
    pub channels: u8,
    /// The hypervisor may switch to post-copy: what it answers at the destination is carried back.
    pub post_copy: bool,
    /// The stream goes on with what this earlier migration had left in post-copy; nothing in it is
    /// understood, and both sides begin as after the switch. [`UNKNOWN`] where nobody knows which.
    pub recovers: Option<MigrationId>,
}

impl RelaySetup {
    /// Whether it goes on with what another had left.
    pub fn is_recovery(&self) -> bool {
        self.recovers.is_some()
    }
}

/// What the whole stream was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamSum {
    /// Segments.
    pub segments: u64,
    /// Bytes of the stream itself.
    pub bytes: u64,
    /// Digest of every byte and its channel, in order.
    pub digest: u64,
}

impl StreamSum {
    /// Digest and length, for the message that all has come.
    pub fn proof(&self) -> [u8; 16] {
        let mut proof = [0; 16];
        proof[..8].copy_from_slice(&self.digest.to_le_bytes());
        proof[8..].copy_from_slice(&self.bytes.to_le_bytes());
        proof
    }

    /// Adds the next segment: its channel, the length of its stretch of stream, its checksum.
    pub fn add(&mut self, channel: u8, bytes: u64, checksum: u64) {
        self.segments += 1;
        self.bytes += bytes;
        // Order matters: the state is multiplied before each sum is mixed in.
        let mixed = self.digest.rotate_left(23) ^ checksum ^ bytes.rotate_left(48);
        let mixed = mixed ^ u64::from(channel).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
        self.digest = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31);
    }
}

impl Default for StreamSum {
    fn default() -> Self {
        Self { segments: 0, bytes: 0, digest: 0x5851_f42d_4c95_7f2d }
    }
}
