//! A document taken in: compared, decided, written down, done.

use super::StateError;
use super::export::gather;
use super::intention::{self, Intention, Noted};
use super::plan::{self, Addition, Modes, Plan};
use crate::Node;
use crate::config::store::Prepared;
use crate::config::{ConfigStore, Id};
use crate::node::state::{
    Difference, Effect, FORMAT, Input, KeptRecord, Origin, Peer, State, decode,
};
use crate::rollout::v1::from_v1;
use crate::rollout::{Change, ChangeAction, FlagSet, apply};
use crate::runtime::clock::wall_clock_us;
use crate::runtime::record_keeper;
use crate::runtime::state_file::Side;
use crate::wire::v1::json::Json;
use serde_json::json;
use std::path::Path;

/// How a document is taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportOptions {
    /// Who takes it in, for the audit log.
    pub who: String,
    /// Why.
    pub why: String,
    /// Only compare.
    pub dry_run: bool,
}

/// What an import did, or would do.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// Whose state it is; none: it was v1's flags.
    pub origin: Option<Origin>,
    /// Everything in which the document differed from the node.
    pub differences: Vec<Difference>,
    /// The settings that changed.
    pub settings: Vec<Id>,
}

/// Takes a document in, or only compares.
pub(super) fn import(
    node: &Node,
    document: &[u8],
    config: Option<&ConfigStore>,
    options: &ImportOptions,
) -> Result<Imported, StateError> {
    let input = decode(document)?;
    if !options.dry_run {
        carry_through_earlier(node, config)?;
    }
    let (here, before) = (gather(node, config)?, node.rollout().set());
    let (origin, wanted) = wanted(&input, &here)?;
    let plan = Plan::new(node, (&here, &wanted), config)?;
    let change = change(options, &plan.flags, origin.as_ref());
    // What the door would refuse is refused in a dry run too.
    apply(&before, &change, wall_clock_us())
        .map_err(crate::runtime::rollout::RolloutError::from)?;
    let prepare = |store: &ConfigStore| store.prepare(plan.settings.clone());
    let prepared = config.filter(|_| !plan.settings.is_empty()).map(prepare).transpose()?;
    let settings = plan.settings.iter().map(|(id, _)| *id).collect();
    let imported = Imported { origin, differences: plan.differences.clone(), settings };
    if options.dry_run {
        return Ok(imported);
    }
    let intention = Intention {
        who: options.who.clone(),
        why: options.why.clone(),
        records: plan.records.iter().map(kept).collect(),
        temporary: prepared.as_ref().and_then(Prepared::temporary).map(Path::to_owned),
        document: String::from_utf8_lossy(document).into_owned(),
    };
    let work = Work { node, config, change, before, intention };
    work.run(&plan, prepared)?;
    node.notice(summary(&imported, options));
    Ok(imported)
}

/// An import that was decided, and what it needs.
struct Work<'a> {
    node: &'a Node,
    config: Option<&'a ConfigStore>,
    change: Change,
    before: FlagSet,
    intention: Intention,
}

impl Work<'_> {
    fn run(&self, plan: &Plan, prepared: Option<Prepared>) -> Result<(), StateError> {
        let Some(directory) = self.node.state_dir() else {
            self.put_in_force(prepared)?;
            return force_modes(self.node, &plan.modes);
        };
        let mut noted = Noted::begin(directory, &self.intention)?;
        let done = add_records(directory, &plan.records)
            .and_then(|()| noted.commit())
            .and_then(|()| self.put_in_force(prepared));
        match done {
            Ok(()) => {}
            // It is too late to take it back.
            Err(error @ StateError::Unfinished { .. }) => return Err(error),
            Err(error) => {
                intention::take_back(directory, &plan.records);
                noted.forget();
                return Err(error);
            }
        }
        remember(self.node, &plan.records);
        force_modes(self.node, &plan.modes)?;
        noted.finish()
    }

    /// Flags and settings; neither without the other.
    fn put_in_force(&self, prepared: Option<Prepared>) -> Result<(), StateError> {
        self.node.rollout().change(&self.change)?;
        let (Some(config), Some(prepared)) = (self.config, prepared) else { return Ok(()) };
        let Err(error) = config.commit(prepared) else { return Ok(()) };
        let undo = Change {
            why: "the import is taken back: its settings cannot be written".to_owned(),
            action: ChangeAction::Whole(Box::new(self.before.clone())),
            ..self.change.clone()
        };
        match self.node.rollout().change(&undo) {
            Ok(()) => Err(error.into()),
            Err(_) => Err(StateError::Unfinished {
                path: config.path().to_owned(),
                reason: format!("{error}; it is tried again when the node starts"),
            }),
        }
    }
}

/// Takes back what a crash left of an import that was only begun. Called before records are read; gives a
/// remark for the operator.
pub(crate) fn recover(state_dir: &Path) -> Option<String> {
    intention::take_back_begun(state_dir)
}

/// Carries an import through that a crash has interrupted: without a configuration all but its settings.
pub(crate) fn carry_through(node: &Node, config: Option<&ConfigStore>) {
    let Some(directory) = node.state_dir() else { return };
    let carried = match intention::committed(directory) {
        Ok(None) => return,
        Ok(Some((noted, intention))) => go_on(node, config, noted, &intention),
        Err(error) => Err(error),
    };
    match carried {
        Ok(Some(who)) => {
            node.notice(format!(
                "an import of a state by {who} was cut short and is carried through"
            ));
        }
        Ok(None) => {}
        Err(error) => node.notice(format!("an import of a state is not carried through: {error}")),
    }
}

/// Gives who imported, once there is nothing left to do.
fn go_on(
    node: &Node,
    config: Option<&ConfigStore>,
    noted: Noted,
    intention: &Intention,
) -> Result<Option<String>, StateError> {
    let options =
        ImportOptions { who: intention.who.clone(), why: intention.why.clone(), dry_run: false };
    let input = decode(intention.document.as_bytes())?;
    let here = gather(node, config)?;
    let (origin, wanted) = wanted(&input, &here)?;
    // What is done already is not done again.
    let flags = plan::flags(&node.rollout().set(), &wanted.flags);
    node.rollout().change(&change(&options, &flags, origin.as_ref()))?;
    force_modes(node, &Modes::new(&wanted, &here))?;
    let Some(store) = config else {
        // Settings wait for whoever has the configuration.
        return match intention.temporary {
            Some(_) => Ok(None),
            None => noted.finish().map(|()| Some(options.who)),
        };
    };
    let settings = Plan::new(node, (&here, &wanted), config)?.settings;
    if !settings.is_empty() {
        store.commit(store.prepare(settings)?)?;
    }
    intention.temporary.as_deref().into_iter().for_each(|path| {
        // Nobody waits for it any more.
        let _ = std::fs::remove_file(path);
    });
    noted.finish()?;
    Ok(Some(options.who))
}

fn carry_through_earlier(node: &Node, config: Option<&ConfigStore>) -> Result<(), StateError> {
    let Some(directory) = node.state_dir() else { return Ok(()) };
    if intention::committed(directory)?.is_some() {
        carry_through(node, None);
        carry_through(node, config);
    }
    match intention::committed(directory)? {
        None => Ok(()),
        Some(_) => Err(StateError::Unfinished {
            path: directory.to_owned(),
            reason: "see the node's events".into(),
        }),
    }
}

/// What is to be, and who said so. v1's flags are flags, and leave all else as it is.
fn wanted(input: &Input, here: &State) -> Result<(Option<Origin>, State), StateError> {
    match input {
        Input::State(state) => Ok((Some(state.origin.clone()), State::clone(state))),
        Input::V1(flags) => {
            let flags = from_v1(flags)?;
            let (settings, peers) = (None, Vec::new());
            Ok((None, State { flags, settings, peers, ..here.clone() }))
        }
    }
}

fn change(options: &ImportOptions, flags: &FlagSet, origin: Option<&Origin>) -> Change {
    let import = match origin {
        Some(Origin { node, at_us, .. }) => {
            json!({ "format": FORMAT, "node": node, "at_us": at_us })
        }
        None => json!({ "format": "v1-flags" }),
    };
    Change {
        who: options.who.clone(),
        why: options.why.clone(),
        evidence: Json::of("evidence", &json!({ "import": import })).ok(),
        action: ChangeAction::Whole(Box::new(flags.clone())),
    }
}

fn add_records(directory: &Path, records: &[Addition]) -> Result<(), StateError> {
    records.iter().try_for_each(|Addition { migration, side, record }| {
        Ok(record_keeper::add(directory, *migration, *side, record)?)
    })
}

fn remember(node: &Node, records: &[Addition]) {
    let arrived = records.iter().filter(|added| added.side == Side::Destination);
    arrived.for_each(|added| {
        node.registry().remember_record(added.migration, added.record.mark);
    });
}

fn force_modes(node: &Node, modes: &Modes) -> Result<(), StateError> {
    if let Some(mode) = modes.of_all {
        node.set_mode(None, mode)?;
    }
    for Peer { peer, forced } in &modes.of_peers {
        match forced {
            Some(_) => node.set_mode(Some(peer), *forced)?,
            None if node.peer(peer).is_ok_and(|known| known.forced.is_none()) => {}
            None => node.set_mode(Some(peer), None)?,
        }
    }
    Ok(())
}

fn kept(added: &Addition) -> KeptRecord {
    KeptRecord {
        migration: added.migration.to_string(),
        ..KeptRecord::new(added.side, added.record.clone())
    }
}

fn summary(imported: &Imported, options: &ImportOptions) -> String {
    let whose = match &imported.origin {
        Some(origin) => format!("the state of node {}", origin.node),
        None => "v1's flags".to_owned(),
    };
    let done = imported.differences.iter().filter(|found| found.effect != Effect::Stays).count();
    format!("{whose} imported by {}: {done} differences settled; {}", options.who, options.why)
}
