//! What each side writes down, so that after a crash it can say who owns the guest.
//!
//! A record is one JSON object, readable by an operator, kept by `runtime::state_file`.

use crate::base::MigrationId;
use crate::migration::Owner;
use serde::{Deserialize, Serialize};

/// Longest record.
pub const MAX_RECORD_BYTES: usize = 1024;

/// Which side of a migration a record speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Where the guest ran.
    Source,
    /// Where it goes.
    Destination,
}

/// How far the handover had come when the record was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// Source: the guest runs here; nothing was given away.
    SourceRuns,
    /// Source: the commit message may have gone out.
    CommitSent,
    /// Source: the destination has acknowledged the commit.
    GivenAway,
    /// Source: the commit message of a switch to post-copy may have gone out.
    PostCopySent,
    /// Source: the destination runs the guest, and lacks pages that are here alone.
    ServingPages,
    /// Destination: an image is coming in.
    Receiving,
    /// Destination: the image is verified and loaded; no commit has come.
    Prepared,
    /// Destination: the commit has come; the guest is ours.
    Owned,
    /// Destination: the commit has come; the guest is ours, and pages of it are still the source's.
    OwnedIncomplete,
    /// Either: the guest was the destination's, and pages that it lacked are lost, or it is itself.
    Lost,
    /// Destination: a v1 peer's image is whole; v1 does not say who has the guest.
    Arrived,
    /// Destination: given up; the guest was and is the source's.
    Discarded,
}

/// One side's record of one migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The migration, 32 hex digits.
    pub migration: String,
    /// The guest's name.
    pub guest: String,
    /// The other side.
    pub peer: String,
    /// How far it had come.
    pub mark: Mark,
}

/// A record does not parse.
#[derive(Debug, thiserror::Error)]
#[error("ownership record: {0}")]
pub struct RecordError(String);

impl Side {
    /// The name as in file names and reports.
    pub fn name(self) -> &'static str {
        match self {
            Side::Source => "source",
            Side::Destination => "destination",
        }
    }
}

impl Mark {
    /// Whether this side writes such a mark.
    pub fn is_of(self, side: Side) -> bool {
        match self {
            Mark::SourceRuns
            | Mark::CommitSent
            | Mark::GivenAway
            | Mark::PostCopySent
            | Mark::ServingPages => side == Side::Source,
            Mark::Receiving
            | Mark::Prepared
            | Mark::Owned
            | Mark::OwnedIncomplete
            | Mark::Arrived
            | Mark::Discarded => side == Side::Destination,
            Mark::Lost => true,
        }
    }

    /// Who owns the guest, given that this is the last thing written down.
    pub fn owner(self) -> Owner {
        match self {
            Mark::SourceRuns | Mark::Receiving | Mark::Discarded | Mark::Prepared => Owner::Source,
            Mark::CommitSent | Mark::PostCopySent | Mark::Arrived => Owner::InDoubt,
            Mark::GivenAway
            | Mark::Owned
            | Mark::ServingPages
            | Mark::OwnedIncomplete
            | Mark::Lost => Owner::Destination,
        }
    }

    /// Whether the guest is lost, given that the process is gone and this was its last record.
    pub fn is_loss(self) -> bool {
        matches!(self, Mark::ServingPages | Mark::OwnedIncomplete | Mark::Lost)
    }

    /// What an operator should do, given that the process is gone and this was its last record.
    pub fn advice(self) -> &'static str {
        match self {
            Mark::SourceRuns => "the guest was this host's; start it here",
            Mark::CommitSent => {
                "ask the destination's record: `owned` means it has the guest; a v1 peer has no \
                 record, so ask its operator"
            }
            Mark::Arrived => "ask the v1 peer's operator whether it has let go of the guest",
            Mark::PostCopySent => {
                "ask the destination's record: `prepared` or `discarded` means that the guest was \
                 this host's; `owned_incomplete` means that it ran there without pages that this \
                 process took with it"
            }
            Mark::ServingPages => {
                "the guest ran at the destination and lacked pages of this host's. If a QEMU here still has \
                 them (postcopy-paused), attach it and migrate again; else the guest cannot go on there, \
                 and must not go on here from before the switch"
            }
            Mark::OwnedIncomplete => {
                "the guest ran here when this process ended. If its QEMU lives (postcopy-paused), attach it \
                 as incoming and migrate again from the source; else it is lost, and the source must not \
                 go on from before the switch"
            }
            Mark::Lost => "the guest ran at the destination in post-copy and is lost",
            Mark::GivenAway => "the guest is the destination's; do not start it here",
            Mark::Receiving | Mark::Discarded => "the guest is the source's; nothing is kept here",
            Mark::Prepared => "no commit came, so the guest is the source's",
            Mark::Owned => "the guest is this host's; the source will not run it",
        }
    }
}

impl Record {
    /// The record of a migration at a mark.
    pub fn new(migration: MigrationId, guest: &str, peer: &str, mark: Mark) -> Self {
        let (migration, guest, peer) = (migration.to_string(), guest.into(), peer.into());
        Self { migration, guest, peer, mark }
    }

    /// The bytes to be kept.
    ///
    /// # Errors
    /// Names that together do not fit [`MAX_RECORD_BYTES`].
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        let bytes = serde_json::to_vec(self).map_err(|error| RecordError(error.to_string()))?;
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(RecordError(format!("{} bytes, limit {MAX_RECORD_BYTES}", bytes.len())));
        }
        Ok(bytes)
    }

    /// Reads a record.
    ///
    /// # Errors
    /// Anything that is not one.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(RecordError(format!("{} bytes, limit {MAX_RECORD_BYTES}", bytes.len())));
        }
        serde_json::from_slice(bytes).map_err(|error| RecordError(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip_and_junk_is_refused() {
        let record = Record::new(MigrationId([1; 16]), "vm", "10.0.0.2:7", Mark::CommitSent);
        let bytes = record.encode().unwrap();
        assert_eq!(Record::decode(&bytes).unwrap(), record);
        assert!(Record::decode(&bytes[1..]).is_err());
        assert!(Record::decode(&[b' '; 2000]).unwrap_err().to_string().contains("2000"));
        assert_eq!(record.mark.owner(), Owner::InDoubt);
    }
}
