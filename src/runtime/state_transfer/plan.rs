//! What an import will do, decided and checked before anything is done.

use super::StateError;
use crate::Node;
use crate::base::MigrationId;
use crate::base::limits::MAX_PEERS;
use crate::config::{Config, ConfigStore, Id, Value, store};
use crate::migration::ownership::{Record, Side};
use crate::node::state::{Difference, KeptRecord, Peer, State, Terms, compare, may_be_added};
use crate::rollout::FlagSet;
use crate::runtime::rollout::BY_CALL;
use crate::transport::Mode;

/// What an import will do.
pub(super) struct Plan {
    pub differences: Vec<Difference>,
    /// The flags as they will be.
    pub flags: FlagSet,
    /// Settings that change.
    pub settings: Vec<(Id, Value)>,
    /// Records to be added.
    pub records: Vec<Addition>,
    /// The modes that are forced.
    pub modes: Modes,
}

/// Modes that an import forces.
pub(super) struct Modes {
    /// The mode of all peers; none: it is the configuration's.
    pub of_all: Option<Option<Mode>>,
    /// Peers to be known, with the mode that each has.
    pub of_peers: Vec<Peer>,
}

impl Modes {
    /// Those of a document, on a node whose state is `here`.
    pub fn new(document: &State, here: &State) -> Self {
        let is_free = document.settings.is_none() && here.settings.is_none();
        Self { of_all: is_free.then_some(document.forced_mode), of_peers: document.peers.clone() }
    }
}

/// A record that is not there yet.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Addition {
    pub migration: MigrationId,
    pub side: Side,
    pub record: Record,
}

impl Plan {
    /// Decides what importing `document` does on a node whose state is `here`.
    ///
    /// # Errors
    /// It cannot be done as a whole.
    pub fn new(
        node: &Node,
        (here, document): (&State, &State),
        config: Option<&ConfigStore>,
    ) -> Result<Self, StateError> {
        let own: Vec<&str> =
            Id::ALL.iter().filter(|id| id.is_of_host()).map(|id| id.key().name).collect();
        let terms = Terms { own_settings: &own, keeps_records: node.state_dir().is_some() };
        let known = here.peers.iter();
        let is_new = |peer: &&Peer| known.clone().all(|known| known.peer != peer.peer);
        let peers = here.peers.len() + document.peers.iter().filter(is_new).count();
        if peers > MAX_PEERS {
            return Err(StateError::Peers(peers));
        }
        Ok(Self {
            differences: compare(here, document, terms),
            flags: flags(&node.rollout().set(), &document.flags),
            settings: settings(document, config)?,
            records: additions(here, document, terms),
            modes: Modes::new(document, here),
        })
    }
}

/// What will be in force: all that the document says, but no kill switch is lifted, and which part of
/// this host's configuration was applied stays known.
pub(super) fn flags(here: &FlagSet, document: &FlagSet) -> FlagSet {
    let mut flags = document.clone();
    flags.configuration.clone_from(&here.configuration);
    flags.killed = here.killed.clone().or_else(|| document.killed.as_deref().map(held_by_call));
    flags
}

/// A file or variable that held the switch elsewhere does not hold it here; so it is held as by a call,
/// and stays on until it is called off.
fn held_by_call(reason: &str) -> String {
    if reason.starts_with(BY_CALL) {
        return reason.to_owned();
    }
    let mut reason = format!("{BY_CALL}{reason}");
    while reason.len() > crate::base::limits::MAX_REASON_BYTES {
        reason.pop();
    }
    reason
}

/// The settings that change. What the document does not say becomes the default.
fn settings(
    document: &State,
    config: Option<&ConfigStore>,
) -> Result<Vec<(Id, Value)>, StateError> {
    let Some(wanted) = &document.settings else { return Ok(Vec::new()) };
    let mut shall = Config::default();
    for setting in wanted {
        let refused = |reason: String| StateError::Setting { key: setting.key.clone(), reason };
        let id = store::find(&setting.key).map_err(|error| refused(error.to_string()))?;
        if id.flag().is_some() || id.key().name != setting.key {
            return Err(refused("it is no setting of its own".into()));
        }
        let value = id.key().kind.parse(&setting.value).map_err(refused)?;
        shall.set(id, value, crate::config::Origin::Default);
    }
    let is = config.map(ConfigStore::config);
    let is_free = |id: &&Id| !id.is_of_host() && id.flag().is_none();
    let Some(is) = is else {
        let default = Config::default();
        let mut changed = default.changed(&shall).into_iter();
        return match changed.any(|id| is_free(&&id)) {
            true => Err(StateError::NoConfiguration),
            false => Ok(Vec::new()),
        };
    };
    let changed = is.changed(&shall);
    Ok(changed.iter().filter(is_free).map(|id| (*id, shall.get(*id).value.clone())).collect())
}

fn additions(here: &State, document: &State, terms: Terms<'_>) -> Vec<Addition> {
    let added = document
        .records
        .iter()
        .filter(|record| may_be_added(here, document, record, terms).is_ok());
    added.filter_map(Addition::of).collect()
}

impl Addition {
    /// A record of a document, whose id has been checked.
    pub fn of(kept: &KeptRecord) -> Option<Self> {
        let migration = kept.migration.parse().ok()?;
        Some(Self { migration, side: kept.side, record: kept.record() })
    }
}
