//! The five flags as they stand: rules, latches, and the kill switch.

use super::by_flag;
use super::flag::Flag;
use super::rule::FlagRule;
use crate::wire::v1::json::Json;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Everything that decisions depend on. As JSON it has each flag's state by name, and is written and
/// read whole.
#[derive(Clone, Debug, PartialEq)]
pub struct FlagSet {
    states: [FlagState; Flag::ALL.len()],
    /// Why the kill switch is on; none while it is off.
    pub killed: Option<String>,
    /// The digest of the configuration that was last applied, as whoever applied it computed it.
    pub configuration: Option<String>,
}

/// One flag as it stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlagState {
    /// What the operator says.
    pub rule: FlagRule,
    /// That it was rolled back, until somebody clears it.
    pub latch: Option<Latch>,
}

/// A rollback that holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latch {
    /// Since when, in microseconds since 1970.
    pub since_us: u64,
    /// Why, in words.
    pub reason: String,
    /// What was measured.
    pub evidence: Option<Json>,
}

/// The states of some flags and the rest of a set: what a change leaves in the audit log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatePart {
    /// Each flag at most once, in the order of [`Flag::ALL`].
    #[serde(with = "by_flag")]
    pub flags: Vec<(Flag, FlagState)>,
    /// As in [`FlagSet`].
    pub killed: Option<String>,
    /// As in [`FlagSet`].
    pub configuration: Option<String>,
}

impl FlagSet {
    /// Every flag off, as after a change that disables all.
    pub fn all_off() -> Self {
        Self { states: Default::default(), killed: None, configuration: None }
    }

    /// A flag's rule and latch.
    pub fn state(&self, flag: Flag) -> &FlagState {
        &self.states[flag.index()]
    }

    /// A flag's rule.
    pub fn rule(&self, flag: Flag) -> &FlagRule {
        &self.state(flag).rule
    }

    /// A flag's rule and latch, to be changed; [`super::apply`] is the door that checks.
    pub fn state_mut(&mut self, flag: Flag) -> &mut FlagState {
        &mut self.states[flag.index()]
    }

    /// The whole as a part.
    pub fn whole(&self) -> StatePart {
        self.part(Flag::ALL)
    }

    /// The states of some flags, with what is not a flag's.
    pub fn part(&self, flags: impl IntoIterator<Item = Flag>) -> StatePart {
        let state = |flag| (flag, self.state(flag).clone());
        StatePart {
            flags: flags.into_iter().map(state).collect(),
            killed: self.killed.clone(),
            configuration: self.configuration.clone(),
        }
    }

    /// The flags whose state is another in `other`.
    pub fn changed(&self, other: &FlagSet) -> Vec<Flag> {
        Flag::ALL.into_iter().filter(|flag| self.state(*flag) != other.state(*flag)).collect()
    }

    /// This with a part of it replaced.
    pub fn with_part(mut self, part: StatePart) -> Self {
        for (flag, state) in part.flags {
            *self.state_mut(flag) = state;
        }
        Self { killed: part.killed, configuration: part.configuration, ..self }
    }
}

impl Default for FlagSet {
    /// What holds on a node that nobody configured: what is built is on.
    fn default() -> Self {
        let mut set = Self::all_off();
        for flag in Flag::ALL.into_iter().filter(|flag| flag.is_built()) {
            set.state_mut(flag).rule = FlagRule::on();
        }
        set
    }
}

impl Serialize for FlagSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.whole().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for FlagSet {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        FlagSet::try_from(StatePart::deserialize(from)?).map_err(de::Error::custom)
    }
}

/// A set lacks a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is missing from the feature flags")]
pub struct MissingFlag(pub Flag);

impl TryFrom<StatePart> for FlagSet {
    type Error = MissingFlag;

    fn try_from(part: StatePart) -> Result<Self, MissingFlag> {
        let is_there = |flag: &Flag| part.flags.iter().any(|(known, _)| known == flag);
        match Flag::ALL.into_iter().find(|flag| !is_there(flag)) {
            Some(flag) => Err(MissingFlag(flag)),
            None => Ok(Self::all_off().with_part(part)),
        }
    }
}
