//! A node's state, gathered.

use super::StateError;
use crate::base::limits::{MAX_STATE_AUDIT_BYTES, MAX_STATE_ENTRIES, MAX_STATE_RECORDS};
use crate::config::{Config, ConfigStore, Id};
use crate::migration::Owner;
use crate::migration::ownership::{Record, Side};
use crate::node::state::{
    self, AuditTail, Guest, KeptRecord, Origin, Peer, Setting, State, encode,
};
use crate::rollout::audit::Entry;
use crate::rollout::v1::to_v1;
use crate::runtime::clock::wall_clock_us;
use crate::runtime::record_keeper;
use crate::{Node, VERSION};

/// A node's state, ready to be written into files.
#[derive(Clone, Debug, PartialEq)]
pub struct Exported {
    /// What the document says.
    pub state: State,
    /// The document.
    pub document: String,
    /// v1's flag file.
    pub compat: String,
    /// What v1's flag file cannot say, a sentence each.
    pub lost: Vec<String>,
    /// Records of migrations under way, which are not in the document.
    pub records_under_way: usize,
}

/// The document of a node, and v1's part of it.
pub(super) fn export(node: &Node, config: Option<&ConfigStore>) -> Result<Exported, StateError> {
    let mut state = gather(node, config)?;
    let gathered = state.records.len();
    state.records.retain(|record| !is_under_way(node, record));
    let records_under_way = gathered - state.records.len();
    leave_out_surplus(&mut state.records);
    let document = String::from_utf8_lossy(&encode(&state)?).into_owned();
    let v1 = to_v1(&state.flags, state.origin.at_us / 1_000_000);
    let compat =
        v1.flags.encode().map_err(|error| state::DocumentError::Malformed(error.to_string()))?;
    let compat = String::from_utf8_lossy(&compat).into_owned();
    Ok(Exported { state, document, compat, lost: v1.lost, records_under_way })
}

/// The state as it is, with the records of migrations under way.
pub(super) fn gather(node: &Node, config: Option<&ConfigStore>) -> Result<State, StateError> {
    let mut flags = node.rollout().set();
    // It tells which of this host's file was applied, and is of no use to another file.
    flags.configuration = None;
    let origin = Origin {
        node: node.name().to_owned(),
        library: VERSION.to_owned(),
        at_us: wall_clock_us(),
    };
    let side = |role| if role == Side::Source.name() { Side::Source } else { Side::Destination };
    let guests = node.guests().into_iter();
    let peers = node.peers().into_iter();
    let records = node.state_dir().map(record_keeper::all).transpose()?.unwrap_or_default();
    let records = records.into_iter();
    let mut state = State {
        origin,
        flags,
        audit: audit(node),
        settings: config.map(|store| settings(&store.config())),
        forced_mode: node.transport().policy.forced,
        peers: peers.map(|peer| Peer { peer: peer.peer, forced: peer.forced }).collect(),
        records: records.map(|(id, side, record)| kept(&id.to_string(), side, record)).collect(),
        guests: guests.map(|guest| Guest { role: side(guest.role), name: guest.name }).collect(),
    };
    state.sort();
    Ok(state)
}

/// Which record it is, its file's name says.
fn kept(migration: &str, side: Side, record: Record) -> KeptRecord {
    KeptRecord { migration: migration.to_owned(), ..KeptRecord::new(side, record) }
}

fn is_under_way(node: &Node, record: &KeptRecord) -> bool {
    record.migration.parse().is_ok_and(|id| node.is_under_way(id))
}

/// Those that are settled are left out first: they only repeat what the other side knows.
fn leave_out_surplus(records: &mut Vec<KeptRecord>) {
    let surplus = records.len().saturating_sub(MAX_STATE_RECORDS);
    let mut left_out = 0;
    records.retain(|record| {
        let goes = left_out < surplus && record.mark.owner() != Owner::InDoubt;
        left_out += usize::from(goes);
        !goes
    });
}

fn settings(config: &Config) -> Vec<Setting> {
    let default = Config::default();
    // The flags speak for themselves.
    let ids = Id::ALL.iter().filter(|id| id.flag().is_none());
    let changed = ids.filter(|id| config.get(**id).value != default.get(**id).value);
    let setting = |id: &Id| Setting {
        key: id.key().name.to_owned(),
        value: config.get(*id).value.to_string(),
    };
    changed.map(setting).collect()
}

/// The newest entries of the log that the document has room for.
fn audit(node: &Node) -> AuditTail {
    let mut room = MAX_STATE_AUDIT_BYTES;
    let mut entries = Vec::new();
    for entry in node.flag_history(MAX_STATE_ENTRIES) {
        let bytes = entry.line().map_or(usize::MAX, |line| line.len());
        let Some(left) = room.checked_sub(bytes) else { break };
        room = left;
        entries.push(entry);
    }
    entries.reverse();
    let newest = node.flag_history(1).first().map_or(0, |entry| entry.seq);
    let left_out = entries.first().map_or(newest, |first: &Entry| first.seq - 1);
    AuditTail { left_out, entries }
}
