//! Changes of the flags, each whole or refused.

use super::by_flag;
use super::check::RuleError;
use super::edit::RuleEdit;
use super::flag::Flag;
use super::percent::Percent;
use super::rule::{FlagRule, FlagRules};
use super::set::{FlagSet, Latch};
use crate::base::limits::{MAX_EVIDENCE_BYTES, MAX_NAME_BYTES, MAX_REASON_BYTES};
use crate::base::text::quoted;
use crate::wire::v1::json::Json;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What is to change, by whom and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Who changes it: a person, a program, a rule; at most 128 bytes.
    pub who: String,
    /// Why, from 1 to 1,024 bytes.
    pub why: String,
    /// What was measured, if something was.
    pub evidence: Option<Json>,
    /// What changes.
    pub action: ChangeAction,
}

/// What changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeAction {
    /// Fields of some flags' rules.
    Edit(#[serde(with = "by_flag")] Vec<(Flag, RuleEdit)>),
    /// The rules of some flags, whole, as a configuration has them.
    Rules {
        /// The rules; flags that are not among them keep theirs.
        rules: FlagRules,
        /// The configuration's digest, for [`FlagSet::configuration`].
        configuration: Option<String>,
    },
    /// The next percentage of a flag's schedule.
    Advance {
        /// Which flag.
        flag: Flag,
        /// Its new percentage.
        percent: Percent,
    },
    /// Every flag off, at zero percent and without a schedule; lists stay.
    DisableAll,
    /// A rollback: off until cleared.
    Latch(Flag),
    /// The end of a rollback. A schedule goes on where it was.
    ClearLatch(Flag),
    /// The kill switch on.
    Kill,
    /// The kill switch off.
    LiftKill,
    /// Everything replaced, as when a state is imported.
    Whole(Box<FlagSet>),
}

/// A change that is refused; nothing of it holds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// It does not say why, or at too great length.
    #[error("a change of the feature flags needs a reason of 1 to {MAX_REASON_BYTES} bytes without control characters, not {}", quoted(.0))]
    Why(String),
    /// It does not say who, or at too great length.
    #[error("a change of the feature flags needs a name of 1 to {MAX_NAME_BYTES} bytes without control characters, not {}", quoted(.0))]
    Who(String),
    /// Evidence over the limit.
    #[error("evidence of {0} bytes is longer than {MAX_EVIDENCE_BYTES}")]
    Evidence(usize),
    /// An edit that sets nothing.
    #[error("the change sets nothing{}", of(.0))]
    Nothing(Option<Flag>),
    /// The outcome could not be put into force.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// It is off already.
    #[error("{0} is rolled back already; clear that first")]
    Latched(Flag),
    /// There is no rollback to clear.
    #[error("{0} is not rolled back; there is nothing to clear")]
    NotLatched(Flag),
    /// The kill switch is off.
    #[error("the kill switch is not on")]
    NotKilled,
    /// A schedule that does not run, or a percentage that is not above the present one.
    #[error("{flag} cannot advance to {percent} %: {why}")]
    Advance {
        /// Which flag.
        flag: Flag,
        /// To which percentage.
        percent: Percent,
        /// Why not.
        why: &'static str,
    },
}

/// The flags after a change at `now_us`, microseconds since 1970.
///
/// # Errors
/// [`ChangeError`]; then the flags stay as they were.
pub fn apply(set: &FlagSet, change: &Change, now_us: u64) -> Result<FlagSet, ChangeError> {
    let Change { who, why, evidence, action } = change;
    if !is_text(why, MAX_REASON_BYTES) {
        return Err(ChangeError::Why(why.clone()));
    }
    if !is_text(who, MAX_NAME_BYTES) {
        return Err(ChangeError::Who(who.clone()));
    }
    let evidence_bytes = evidence.as_ref().map_or(0, |evidence| evidence.text().len());
    if evidence_bytes > MAX_EVIDENCE_BYTES {
        return Err(ChangeError::Evidence(evidence_bytes));
    }
    let mut next = set.clone();
    match action {
        ChangeAction::Edit(edits) => edit(&mut next, edits)?,
        ChangeAction::Rules { rules, configuration } => {
            rules.rules.iter().for_each(|(flag, rule)| configure(&mut next, *flag, rule));
            next.configuration = configuration.clone();
        }
        ChangeAction::Advance { flag, percent } => advance(&mut next, *flag, *percent)?,
        ChangeAction::DisableAll => Flag::ALL.into_iter().for_each(|flag| disable(&mut next, flag)),
        ChangeAction::Latch(flag) => {
            let latch = Latch { since_us: now_us, reason: why.clone(), evidence: evidence.clone() };
            let before = next.state_mut(*flag).latch.replace(latch);
            before.map_or(Ok(()), |_| Err(ChangeError::Latched(*flag)))?;
        }
        ChangeAction::ClearLatch(flag) => clear(&mut next, *flag, now_us)?,
        ChangeAction::Kill => next.killed = Some(why.clone()),
        ChangeAction::LiftKill => {
            next.killed.take().ok_or(ChangeError::NotKilled)?;
        }
        ChangeAction::Whole(whole) => next = (**whole).clone(),
    }
    start_schedules(&mut next, now_us / MICROS);
    next.check()?;
    Ok(next)
}

fn edit(set: &mut FlagSet, edits: &[(Flag, RuleEdit)]) -> Result<(), ChangeError> {
    if edits.is_empty() {
        return Err(ChangeError::Nothing(None));
    }
    for (flag, edit) in edits {
        if edit.is_empty() {
            return Err(ChangeError::Nothing(Some(*flag)));
        }
        let state = set.state_mut(*flag);
        state.rule = edit.applied_to(&state.rule);
    }
    Ok(())
}

/// Where the schedule is the one that runs already, it goes on where it is: a configuration that was edited
/// elsewhere does not begin it anew.
fn configure(set: &mut FlagSet, flag: Flag, rule: &FlagRule) {
    let before = std::mem::replace(&mut set.state_mut(flag).rule, rule.clone());
    let (Some(old), Some(new)) = (&before.schedule, &rule.schedule) else { return };
    if before.enabled && rule.enabled && new.start_s().is_none() && new.stages() == old.stages() {
        let rule = &mut set.state_mut(flag).rule;
        rule.rollout_percent = rule.rollout_percent.max(before.rollout_percent);
        rule.schedule = before.schedule;
    }
}

fn advance(set: &mut FlagSet, flag: Flag, percent: Percent) -> Result<(), ChangeError> {
    let state = set.state_mut(flag);
    let why = match &state.rule {
        _ if state.latch.is_some() => "it was rolled back and has not been cleared",
        rule if !rule.enabled => "it is not enabled",
        rule if rule.schedule.is_none() => "it has no schedule",
        rule if percent <= rule.rollout_percent => "that is not above its present percentage",
        _ => {
            state.rule.rollout_percent = percent;
            return Ok(());
        }
    };
    Err(ChangeError::Advance { flag, percent, why })
}

fn disable(set: &mut FlagSet, flag: Flag) {
    let rule = &mut set.state_mut(flag).rule;
    let off =
        FlagRule { enabled: false, rollout_percent: Percent::ZERO, schedule: None, ..rule.clone() };
    *rule = off;
}

/// The schedule starts later by as long as the rollback held, so that it goes on where it was.
fn clear(set: &mut FlagSet, flag: Flag, now_us: u64) -> Result<(), ChangeError> {
    let state = set.state_mut(flag);
    let latch = state.latch.take().ok_or(ChangeError::NotLatched(flag))?;
    let held_s = now_us.saturating_sub(latch.since_us) / MICROS;
    state.rule.schedule = state.rule.schedule.take().map(|schedule| match schedule.start_s() {
        Some(start_s) if start_s <= latch.since_us / MICROS => {
            schedule.started_at(start_s.saturating_add(held_s))
        }
        _ => schedule,
    });
    Ok(())
}

/// A schedule without a start begins when it is put into force.
fn start_schedules(set: &mut FlagSet, now_s: u64) {
    for flag in Flag::ALL {
        let schedule = &mut set.state_mut(flag).rule.schedule;
        if schedule.as_ref().is_some_and(|schedule| schedule.start_s().is_none()) {
            *schedule = schedule.take().map(|schedule| schedule.started_at(now_s));
        }
    }
}

fn is_text(text: &str, limit_bytes: usize) -> bool {
    let length = text.trim().len();
    length > 0 && text.len() <= limit_bytes && !text.chars().any(char::is_control)
}

fn of(flag: &Option<Flag>) -> String {
    flag.map_or_else(String::new, |flag| format!(" of {flag}"))
}

impl fmt::Display for ChangeAction {
    /// In a line, for the audit log and events.
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChangeAction::Edit(edits) => {
                let edit = |(flag, edit): &(Flag, RuleEdit)| format!("{flag}: {edit}");
                to.write_str(&edits.iter().map(edit).collect::<Vec<_>>().join("; "))
            }
            ChangeAction::Rules { rules, .. } => {
                let name = |(flag, _): &(Flag, FlagRule)| flag.name();
                let names: Vec<_> = rules.rules.iter().map(name).collect();
                write!(to, "rules of {}", names.join(", "))
            }
            ChangeAction::Advance { flag, percent } => {
                write!(to, "{flag}: rollout_percent {percent}, as scheduled")
            }
            ChangeAction::DisableAll => to.write_str("all flags disabled"),
            ChangeAction::Latch(flag) => write!(to, "{flag}: rolled back"),
            ChangeAction::ClearLatch(flag) => write!(to, "{flag}: rollback cleared"),
            ChangeAction::Kill => to.write_str("kill switch on"),
            ChangeAction::LiftKill => to.write_str("kill switch off"),
            ChangeAction::Whole(_) => to.write_str("flags replaced"),
        }
    }
}

const MICROS: u64 = 1_000_000;

#[cfg(test)]
#[path = "change_tests.rs"]
mod tests;
