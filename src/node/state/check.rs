//! What holds of every state, whoever computed its checksum.

use super::document::clip;
use super::{AuditTail, DocumentError, Guest, KeptRecord, Peer, Setting, State};
use crate::base::MigrationId;
use crate::base::address::check_address;
use crate::base::limits::{
    MAX_GUESTS, MAX_NAME_BYTES, MAX_PEERS, MAX_STATE_ENTRIES, MAX_STATE_RECORDS,
    MAX_STATE_SETTINGS, MAX_STATE_VALUE_BYTES,
};
use std::fmt::Display;

/// Checks names, addresses, numbers of things and their order.
///
/// # Errors
/// [`DocumentError::Value`] for the first that is out of bounds.
pub(super) fn check(state: &State) -> Result<(), DocumentError> {
    name("node", &state.origin.node)?;
    name("library", &state.origin.library)?;
    state.flags.check().map_err(|error| refused("flags", "", error))?;
    audit(&state.audit)?;
    state.settings.iter().try_for_each(|of| settings(of))?;
    peers(&state.peers)?;
    records(&state.records)?;
    guests(&state.guests)
}

fn audit(tail: &AuditTail) -> Result<(), DocumentError> {
    count("audit", tail.entries.len(), MAX_STATE_ENTRIES)?;
    for pair in tail.entries.windows(2) {
        let follows = pair[1].previous == pair[0].hash && pair[1].seq == pair[0].seq + 1;
        if !follows {
            let seq = pair[1].seq.to_string();
            return Err(refused("audit entry", &seq, "it does not follow the one before it"));
        }
    }
    let unsound = tail.entries.iter().find(|entry| !entry.is_sound());
    unsound.map_or(Ok(()), |entry| {
        Err(refused("audit entry", &entry.seq.to_string(), "it does not fit its hash"))
    })
}

fn settings(settings: &[Setting]) -> Result<(), DocumentError> {
    count("settings", settings.len(), MAX_STATE_SETTINGS)?;
    for Setting { key, value } in settings {
        name("setting", key)?;
        if value.len() > MAX_STATE_VALUE_BYTES {
            let reason = format!("its value is longer than {MAX_STATE_VALUE_BYTES} bytes");
            return Err(refused("setting", key, reason));
        }
    }
    in_order("setting", settings, |setting| setting.key.clone())
}

fn peers(peers: &[Peer]) -> Result<(), DocumentError> {
    count("peers", peers.len(), MAX_PEERS)?;
    for Peer { peer, .. } in peers {
        check_address(peer).map_err(|reason| refused("peer", peer, reason))?;
    }
    in_order("peer", peers, |peer| peer.peer.clone())
}

fn records(records: &[KeptRecord]) -> Result<(), DocumentError> {
    count("records", records.len(), MAX_STATE_RECORDS)?;
    for record in records {
        let KeptRecord { migration, guest, .. } = record;
        name("guest", guest)?;
        let id = migration.parse::<MigrationId>();
        let id = id.map_err(|error| refused("record", migration, error))?;
        if id.to_string() != *migration {
            return Err(refused("record", migration, "it is written in small letters"));
        }
        record.record().encode().map_err(|error| refused("record", migration, error))?;
        if !record.mark.is_of(record.side) {
            let reason = format!("no {} writes such a mark", record.side.name());
            return Err(refused("record", migration, reason));
        }
    }
    in_order("record", records, KeptRecord::key)
}

fn guests(guests: &[Guest]) -> Result<(), DocumentError> {
    count("guests", guests.len(), MAX_GUESTS)?;
    guests.iter().try_for_each(|guest| name("guest", &guest.name))?;
    in_order("guest", guests, |guest| guest.name.clone())
}

fn name(what: &'static str, text: &str) -> Result<(), DocumentError> {
    if text.is_empty() || text.len() > MAX_NAME_BYTES || text.chars().any(char::is_control) {
        return Err(refused(what, text, "it is not 1 to 128 printable bytes"));
    }
    Ok(())
}

fn count(what: &'static str, found: usize, limit: usize) -> Result<(), DocumentError> {
    if found > limit {
        return Err(refused(what, &found.to_string(), format!("the limit is {limit}")));
    }
    Ok(())
}

/// A list has one order, so that a state has one document.
fn in_order<T>(
    what: &'static str,
    list: &[T],
    key: impl Fn(&T) -> String,
) -> Result<(), DocumentError> {
    let wrong = list.windows(2).find(|pair| key(&pair[0]) >= key(&pair[1]));
    wrong.map_or(Ok(()), |pair| {
        Err(refused(what, &key(&pair[1]), "it comes twice, or out of order"))
    })
}

fn refused(what: &'static str, value: &str, reason: impl Display) -> DocumentError {
    DocumentError::Value { what, value: clip(value), reason: reason.to_string() }
}
