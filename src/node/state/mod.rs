//! The state document: what a node would lose with its state directory and configuration, as one JSON file.
//!
//! ```text
//! { "format": "dwcp-v3-state", "version": 1, "checksum": "blake3:HEX", "content": { ... } }
//! ```
//!
//! The checksum is BLAKE3 over the content as JSON without spaces, its fields in the order of [`State`].
//! It tells a damaged or edited file, not who wrote it. A document has one content: lists are sorted, a field
//! that is unknown or comes twice is refused, and so is a document of a later version.

mod check;
mod difference;
mod document;

pub use difference::{Difference, Effect, Terms, compare, may_be_added};
pub use document::{DocumentError, FORMAT, Input, VERSION, decode, encode};

use crate::migration::ownership::{Mark, Record, Side};
use crate::rollout::FlagSet;
use crate::rollout::audit::Entry;
use crate::transport::Mode;
use serde::{Deserialize, Serialize};

/// All that a document says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Who wrote it, and when.
    pub origin: Origin,
    /// The flags: rules, latches, the kill switch.
    pub flags: FlagSet,
    /// What the audit log said.
    pub audit: AuditTail,
    /// Settings that are not default, by key; none: the node had no configuration.
    pub settings: Option<Vec<Setting>>,
    /// The mode that was forced for all peers.
    pub forced_mode: Option<Mode>,
    /// The known peers, by address.
    pub peers: Vec<Peer>,
    /// Ownership records of migrations that had ended, or that are in doubt, by migration and side.
    pub records: Vec<KeptRecord>,
    /// The guests that were registered, by name; for the operator, who registers them again.
    pub guests: Vec<Guest>,
}

/// Who wrote a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// The node's name.
    pub node: String,
    /// The library's version.
    pub library: String,
    /// When, in microseconds of Unix time.
    pub at_us: u64,
}

/// The end of an audit log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditTail {
    /// Entries before the first one here.
    pub left_out: u64,
    /// The last entries, oldest first; each says the hash of the one before.
    pub entries: Vec<Entry>,
}

/// A key of the configuration and its value, as in the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// The dotted name.
    pub key: String,
    /// The value.
    pub value: String,
}

/// A peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its address, `HOST:PORT`.
    pub peer: String,
    /// The mode forced for it; none: as for all.
    pub forced: Option<Mode>,
}

/// An ownership record and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptRecord {
    /// The migration, 32 hex digits.
    pub migration: String,
    /// The side that wrote it.
    pub side: Side,
    /// The guest's name.
    pub guest: String,
    /// The other side.
    pub peer: String,
    /// How far the migration had come.
    pub mark: Mark,
}

/// A registered guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// Its name.
    pub name: String,
    /// Where it was: `source` (it ran there) or `destination` (it was expected there).
    pub role: Side,
}

impl State {
    /// Puts every list into the order that a document has.
    pub fn sort(&mut self) {
        self.settings.iter_mut().for_each(|settings| settings.sort());
        self.peers.sort_by(|a, b| a.peer.cmp(&b.peer));
        self.records.sort_by_key(KeptRecord::key);
        self.guests.sort_by(|a, b| a.name.cmp(&b.name));
    }

    /// Whether two documents say the same, whoever wrote them and when, and whatever their logs hold.
    pub fn is_like(&self, other: &State) -> bool {
        let of = |state: &State| {
            let (audit, origin) =
                (AuditTail::default(), Origin { at_us: 0, ..other.origin.clone() });
            State { audit, origin, ..state.clone() }
        };
        of(self) == of(other)
    }
}

impl KeptRecord {
    /// A record as a side wrote it.
    pub fn new(side: Side, record: Record) -> Self {
        let Record { migration, guest, peer, mark } = record;
        Self { migration, side, guest, peer, mark }
    }

    /// What tells it from the others.
    pub fn key(&self) -> String {
        format!("{} {}", self.migration, self.side.name())
    }

    /// The record, as it is kept on the disk.
    pub fn record(&self) -> Record {
        let Self { migration, guest, peer, mark, .. } = self.clone();
        Record { migration, guest, peer, mark }
    }
}

#[cfg(test)]
pub(crate) mod tests;
