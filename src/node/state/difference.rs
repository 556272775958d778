//! What an import would change: pure, so that a dry run and the import itself cannot differ.

use super::{KeptRecord, State};
use crate::rollout::{Flag, FlagSet};
use crate::transport::Mode;
use serde::Serialize;
use std::collections::BTreeMap;

/// What holds of the node that imports, beside its state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms<'a> {
    /// Settings that are this host's own: they stay as they are.
    pub own_settings: &'a [&'a str],
    /// Whether the node keeps ownership records.
    pub keeps_records: bool,
}

/// One thing in which a document and a node differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Of what kind: `flag`, `rollback`, `kill_switch`, `setting`, `mode`, `peer`, `record` or `guest`.
    pub part: &'static str,
    /// Which.
    pub name: String,
    /// As it is here; none: there is none.
    pub here: Option<String>,
    /// As the document has it; none: there is none.
    pub document: Option<String>,
    /// What an import does about it.
    pub effect: Effect,
    /// Why it stays.
    pub why: Option<String>,
}

/// What an import does about a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It will be as in the document.
    Changes,
    /// It is added.
    Added,
    /// It stays as it is here.
    Stays,
}

/// Everything in which a document differs from the state `here`, in a fixed order.
pub fn compare(here: &State, document: &State, terms: Terms<'_>) -> Vec<Difference> {
    let mut found = compare_flags(&here.flags, &document.flags);
    found.extend(settings(here, document, terms));
    // Where there is a configuration, it says the mode of all.
    if document.settings.is_none() && here.settings.is_none() {
        let [is, shall] = [here, document].map(|state| state.forced_mode.map(mode));
        found.extend(changed("mode", "all peers", is, shall));
    }
    found.extend(peers(here, document));
    found.extend(records(here, document, terms));
    found.extend(guests(here, document));
    found
}

/// What differs between two sets of flags; the digest of the configuration is this host's own.
pub fn compare_flags(here: &FlagSet, document: &FlagSet) -> Vec<Difference> {
    let mut found = Vec::new();
    for flag in Flag::ALL {
        let rule = |set: &FlagSet| Some(json(set.rule(flag)));
        found.extend(changed("flag", flag.name(), rule(here), rule(document)));
        let latch = |set: &FlagSet| set.state(flag).latch.as_ref().map(json);
        found.extend(changed("rollback", flag.name(), latch(here), latch(document)));
    }
    let switch = changed("kill_switch", "all flags", here.killed.clone(), document.killed.clone());
    found.extend(switch.map(|switch| match here.killed.is_some() {
        true => switch.stays("a kill switch that is on is called off by nothing else"),
        false => switch,
    }));
    found
}

/// Why a record of a document is not added to those here; none if it is. A guest is never given a
/// second owner: nothing that is written down here is changed, nothing is added about a guest of which
/// something is written down here, and what another node wrote stays with that node.
pub fn may_be_added(
    here: &State,
    document: &State,
    record: &KeptRecord,
    terms: Terms<'_>,
) -> Result<(), String> {
    if !terms.keeps_records {
        return Err("this node keeps no records: it has no state directory".into());
    }
    if here.origin.node != document.origin.node {
        return Err(format!("it is of node {}", document.origin.node));
    }
    match here.records.iter().find(|known| known.guest == record.guest) {
        Some(known) if known.is_of(record) => Err("what is written down here counts".into()),
        Some(known) => {
            Err(format!("migration {} of this guest is written down here", known.migration))
        }
        None => Ok(()),
    }
}

fn settings(here: &State, document: &State, terms: Terms<'_>) -> Vec<Difference> {
    let (Some(is), Some(shall)) = (&here.settings, &document.settings) else { return Vec::new() };
    let mut values: BTreeMap<&str, [Option<&String>; 2]> = BTreeMap::new();
    for (index, settings) in [is, shall].into_iter().enumerate() {
        for setting in settings {
            values.entry(&setting.key).or_default()[index] = Some(&setting.value);
        }
    }
    let mut found = Vec::new();
    for (key, [is, shall]) in values {
        let difference = changed("setting", key, is.cloned(), shall.cloned());
        found.extend(difference.map(|difference| match terms.own_settings.contains(&key) {
            true => difference.stays("it is of this host"),
            false => difference,
        }));
    }
    found
}

fn peers(here: &State, document: &State) -> Vec<Difference> {
    let known: BTreeMap<&str, Option<Mode>> =
        here.peers.iter().map(|peer| (peer.peer.as_str(), peer.forced)).collect();
    let mut found = Vec::new();
    for peer in &document.peers {
        let shall = Some(peer.forced.map_or("as for all", Mode::name).to_owned());
        match known.get(peer.peer.as_str()) {
            None => found.push(Difference {
                effect: Effect::Added,
                ..Difference::of("peer", &peer.peer, None, shall)
            }),
            Some(forced) => {
                let is = Some(forced.map_or("as for all", Mode::name).to_owned());
                found.extend(changed("peer", &peer.peer, is, shall));
            }
        }
    }
    found
}

fn records(here: &State, document: &State, terms: Terms<'_>) -> Vec<Difference> {
    let mut found = Vec::new();
    for record in &document.records {
        let known = here.records.iter().find(|known| known.is_of(record));
        if known == Some(record) {
            continue;
        }
        let name = format!("{} ({})", record.migration, record.side.name());
        let [is, shall] = [known, Some(record)]
            .map(|record| record.map(|record| format!("{}: {}", record.guest, json(&record.mark))));
        let difference = Difference::of("record", &name, is, shall);
        found.push(match may_be_added(here, document, record, terms) {
            Ok(()) => Difference { effect: Effect::Added, ..difference },
            Err(why) => difference.stays(&why),
        });
    }
    found
}

fn guests(here: &State, document: &State) -> Vec<Difference> {
    let is_here = |name: &str| here.guests.iter().any(|guest| guest.name == name);
    let missing = document.guests.iter().filter(|guest| !is_here(&guest.name));
    let register = "a guest is registered by whoever runs it";
    missing
        .map(|guest| {
            let role = Some(guest.role.name().to_owned());
            Difference::of("guest", &guest.name, None, role).stays(register)
        })
        .collect()
}

fn changed(
    part: &'static str,
    name: &str,
    here: Option<String>,
    document: Option<String>,
) -> Option<Difference> {
    (here != document).then(|| Difference::of(part, name, here, document))
}

impl Difference {
    fn of(part: &'static str, name: &str, here: Option<String>, document: Option<String>) -> Self {
        let (name, effect, why) = (name.to_owned(), Effect::Changes, None);
        Self { part, name, here, document, effect, why }
    }

    fn stays(self, why: &str) -> Self {
        Self { effect: Effect::Stays, why: Some(why.to_owned()), ..self }
    }
}

impl KeptRecord {
    fn is_of(&self, other: &KeptRecord) -> bool {
        (&self.migration, self.side) == (&other.migration, other.side)
    }
}

fn mode(mode: Mode) -> String {
    mode.name().to_owned()
}

/// In one line. None of these types can fail to be written.
fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
