//! What a set of flags must hold to be put into force.

use super::flag::Flag;
use super::rule::FlagRule;
use super::schedule::Schedule;
use super::set::{FlagSet, Latch};
use super::unit::{Unit, UnitError};
use super::wall_time;
use crate::base::limits::{
    MAX_EVIDENCE_BYTES, MAX_FLAG_LIST_NAMES, MAX_NAME_BYTES, MAX_REASON_BYTES,
};
use crate::base::text::quoted;
use std::collections::HashSet;

/// A rule that cannot be put into force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// A list is over the limit.
    #[error("{flag}: {list} has {count} names, the limit is {MAX_FLAG_LIST_NAMES}")]
    ListTooLong {
        /// Whose list.
        flag: Flag,
        /// Which.
        list: &'static str,
        /// How many names.
        count: usize,
    },
    /// A list holds what names no unit and no node.
    #[error("{flag}: {list}: {error}")]
    Name {
        /// Whose list.
        flag: Flag,
        /// Which.
        list: &'static str,
        /// What is wrong.
        error: UnitError,
    },
    /// A name is on both lists.
    #[error("{flag}: {} is on allow_list and on deny_list", quoted(.name))]
    Contradiction {
        /// Whose lists.
        flag: Flag,
        /// The name.
        name: String,
    },
    /// A prerequisite is given twice.
    #[error("{flag}: prerequisite {prerequisite} is there twice")]
    Repeated {
        /// Whose prerequisite.
        flag: Flag,
        /// Which.
        prerequisite: Flag,
    },
    /// Flags wait for each other.
    #[error("prerequisites go in a circle: {}", path(.0))]
    Cycle(Vec<Flag>),
    /// A text is over its limit or would garble a terminal.
    #[error("{flag}: {field} {} is longer than {limit_bytes} bytes or holds control characters", quoted(.text))]
    Text {
        /// Whose text.
        flag: Flag,
        /// Which.
        field: &'static str,
        /// The text.
        text: String,
        /// How many bytes it may have.
        limit_bytes: usize,
    },
    /// A moment after the year 9999.
    #[error("{flag}: {what} {seconds} s after 1970, which is beyond the year 9999")]
    Moment {
        /// Whose moment.
        flag: Flag,
        /// What happens then.
        what: &'static str,
        /// When.
        seconds: u64,
    },
    /// Evidence over the limit.
    #[error("{flag}: evidence of {bytes} bytes is longer than {MAX_EVIDENCE_BYTES}")]
    Evidence {
        /// Whose latch.
        flag: Flag,
        /// Its length.
        bytes: usize,
    },
    /// The reason of the kill switch, or the digest of the configuration, is no such text.
    #[error("{what} {} is empty, too long or holds control characters", quoted(.text))]
    SetText {
        /// Which.
        what: &'static str,
        /// The text.
        text: String,
    },
}

impl FlagSet {
    /// Whether all of it can be put into force.
    ///
    /// # Errors
    /// [`RuleError`], the first that is found in the order of [`Flag::ALL`].
    pub fn check(&self) -> Result<(), RuleError> {
        for flag in Flag::ALL {
            check_rule(flag, self.rule(flag))?;
            self.state(flag).latch.as_ref().map_or(Ok(()), |latch| check_latch(flag, latch))?;
        }
        check_set_text("the reason of the kill switch", &self.killed, MAX_REASON_BYTES)?;
        check_set_text("the configuration's digest", &self.configuration, MAX_NAME_BYTES)?;
        match find_cycle(self) {
            Some(cycle) => Err(RuleError::Cycle(cycle)),
            None => Ok(()),
        }
    }
}

fn check_rule(flag: Flag, rule: &FlagRule) -> Result<(), RuleError> {
    check_list(flag, ALLOW, &rule.allow_list)?;
    check_list(flag, DENY, &rule.deny_list)?;
    check_contradiction(flag, rule)?;
    check_text(flag, "owner", &rule.owner, MAX_NAME_BYTES)?;
    for (place, prerequisite) in rule.prerequisites.iter().copied().enumerate() {
        if rule.prerequisites[..place].contains(&prerequisite) {
            return Err(RuleError::Repeated { flag, prerequisite });
        }
    }
    check_moment(flag, "expires", rule.expires_s)?;
    check_moment(flag, "schedule starts", rule.schedule.as_ref().and_then(Schedule::start_s))
}

fn check_moment(flag: Flag, what: &'static str, moment: Option<u64>) -> Result<(), RuleError> {
    match moment.filter(|seconds| !wall_time::is_writable(*seconds)) {
        Some(seconds) => Err(RuleError::Moment { flag, what, seconds }),
        None => Ok(()),
    }
}

fn check_list(flag: Flag, list: &'static str, names: &[String]) -> Result<(), RuleError> {
    if names.len() > MAX_FLAG_LIST_NAMES {
        return Err(RuleError::ListTooLong { flag, list, count: names.len() });
    }
    let check = |name: &String| Unit::parse(name).map(drop);
    names.iter().try_for_each(check).map_err(|error| RuleError::Name { flag, list, error })
}

/// `a|b` and `b|a` are the same name.
fn check_contradiction(flag: Flag, rule: &FlagRule) -> Result<(), RuleError> {
    let key = |name: &String| Unit::named(name).to_string();
    let denied: HashSet<String> = rule.deny_list.iter().map(key).collect();
    match rule.allow_list.iter().find(|name| denied.contains(&key(name))) {
        Some(name) => Err(RuleError::Contradiction { flag, name: name.clone() }),
        None => Ok(()),
    }
}

fn check_latch(flag: Flag, latch: &Latch) -> Result<(), RuleError> {
    check_text(flag, "reason of the rollback", &latch.reason, MAX_REASON_BYTES)?;
    let bytes = latch.evidence.as_ref().map_or(0, |evidence| evidence.text().len());
    if bytes > MAX_EVIDENCE_BYTES {
        return Err(RuleError::Evidence { flag, bytes });
    }
    Ok(())
}

fn check_text(
    flag: Flag,
    field: &'static str,
    text: &str,
    limit_bytes: usize,
) -> Result<(), RuleError> {
    if text.len() > limit_bytes || text.chars().any(char::is_control) {
        return Err(RuleError::Text { flag, field, text: text.to_owned(), limit_bytes });
    }
    Ok(())
}

fn check_set_text(
    what: &'static str,
    text: &Option<String>,
    limit_bytes: usize,
) -> Result<(), RuleError> {
    let is_bad = |text: &&String| {
        text.is_empty() || text.len() > limit_bytes || text.chars().any(char::is_control)
    };
    match text.as_ref().filter(is_bad) {
        Some(text) => Err(RuleError::SetText { what, text: text.clone() }),
        None => Ok(()),
    }
}

/// A path of prerequisites that comes back to where it began.
fn find_cycle(set: &FlagSet) -> Option<Vec<Flag>> {
    Flag::ALL.into_iter().find_map(|flag| walk(set, &mut vec![flag]))
}

/// Goes on from the end of `path`, which holds no flag twice.
fn walk(set: &FlagSet, path: &mut Vec<Flag>) -> Option<Vec<Flag>> {
    let last = *path.last()?;
    for next in set.rule(last).prerequisites.iter().copied() {
        let seen = path.iter().position(|flag| *flag == next);
        if let Some(start) = seen {
            return Some([&path[start..], &[next]].concat());
        }
        path.push(next);
        let found = walk(set, path);
        if found.is_some() {
            return found;
        }
        path.pop();
    }
    None
}

fn path(flags: &[Flag]) -> String {
    flags.iter().map(|flag| flag.name()).collect::<Vec<_>>().join(" needs ")
}

const ALLOW: &str = "allow_list";
const DENY: &str = "deny_list";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::Percent;

    fn refused(edit: impl Fn(&mut FlagRule)) -> String {
        let mut set = FlagSet::default();
        edit(&mut set.state_mut(Flag::HybridMode).rule);
        set.check().unwrap_err().to_string()
    }

    #[test]
    fn what_ships_can_be_put_into_force() {
        assert_eq!(FlagSet::default().check(), Ok(()));
        assert_eq!(FlagSet::all_off().check(), Ok(()));
        assert_eq!(FlagRule::off().rollout_percent, Percent::ZERO);
    }

    #[test]
    fn lists_must_hold_names_and_not_contradict() {
        let error = refused(|rule| {
            rule.allow_list = vec!["x".into(), "b|a".into()];
            rule.deny_list = vec!["a|b".into()];
        });
        assert_eq!(error, "hybrid_mode: \"b|a\" is on allow_list and on deny_list");
        let error = refused(|rule| rule.deny_list = vec![String::new()]);
        assert_eq!(error, "hybrid_mode: deny_list: unit \"\" lacks a name");
        let error = refused(|rule| rule.allow_list = vec!["x".into(); MAX_FLAG_LIST_NAMES + 1]);
        assert!(error.contains("allow_list has 513 names, the limit is 512"), "{error}");
        // A node may be allowed while one of its pairs is denied.
        let mut set = FlagSet::default();
        let rule = &mut set.state_mut(Flag::HybridMode).rule;
        (rule.allow_list, rule.deny_list) = (vec!["a".into()], vec!["a|b".into()]);
        assert_eq!(set.check(), Ok(()));
    }

    #[test]
    fn circles_are_named_in_order() {
        let error = refused(|rule| rule.prerequisites = vec![Flag::HybridMode]);
        assert_eq!(error, "prerequisites go in a circle: hybrid_mode needs hybrid_mode");
        let mut set = FlagSet::default();
        let mut needs = |flag, other| set.state_mut(flag).rule.prerequisites.push(other);
        needs(Flag::HybridMode, Flag::CrdtSync);
        needs(Flag::CrdtSync, Flag::MlCompression);
        needs(Flag::MlCompression, Flag::PbftConsensus);
        assert_eq!(set.check(), Ok(()));
        set.state_mut(Flag::PbftConsensus).rule.prerequisites.push(Flag::CrdtSync);
        assert_eq!(
            set.check().unwrap_err().to_string(),
            "prerequisites go in a circle: crdt_sync needs ml_compression needs pbft_consensus needs crdt_sync"
        );
        let error = refused(|rule| rule.prerequisites = vec![Flag::CrdtSync; 2]);
        assert_eq!(error, "hybrid_mode: prerequisite crdt_sync is there twice");
    }

    #[test]
    fn texts_and_times_have_limits() {
        assert!(refused(|rule| rule.owner = "x".repeat(129)).contains("owner"));
        assert!(refused(|rule| rule.owner = "\x07".into()).contains("control characters"));
        assert!(refused(|rule| rule.expires_s = Some(u64::MAX)).contains("beyond the year 9999"));
        let mut set = FlagSet::default();
        set.killed = Some(String::new());
        assert!(set.check().is_err());
        set.killed = Some("drill".into());
        assert_eq!(set.check(), Ok(()));
    }
}
