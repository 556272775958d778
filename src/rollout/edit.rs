//! A change of some fields of one flag's rule.

use super::flag::Flag;
use super::percent::Percent;
use super::rule::FlagRule;
use super::schedule::Schedule;
use super::wall_time;
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

/// Fields to be set; the others stay. As JSON an object of the rule's fields; `null` takes a schedule
/// or an expiry away.
///
/// A percentage above zero enables the flag too, and takes it off its schedule, unless the same edit
/// says otherwise: who sets `--percent 10` on a flag that is off wants it on for a tenth.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuleEdit {
    /// See [`FlagRule::enabled`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// See [`FlagRule::rollout_percent`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout_percent: Option<Percent>,
    /// See [`FlagRule::allow_list`]; the whole list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_list: Option<Vec<String>>,
    /// See [`FlagRule::deny_list`]; the whole list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deny_list: Option<Vec<String>>,
    /// See [`FlagRule::seed`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// See [`FlagRule::prerequisites`]; all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prerequisites: Option<Vec<Flag>>,
    /// See [`FlagRule::schedule`]; `Some(None)` takes it away.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub schedule: Option<Option<Schedule>>,
    /// See [`FlagRule::owner`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// See [`FlagRule::expires_s`]; `Some(None)` takes it away.
    #[serde(rename = "expires", skip_serializing_if = "Option::is_none", with = "given_moment")]
    pub expires_s: Option<Option<u64>>,
}

impl RuleEdit {
    /// An edit that sets the percentage alone.
    pub fn percent(percent: Percent) -> Self {
        Self { rollout_percent: Some(percent), ..Self::default() }
    }

    /// Whether it sets nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The rule after the edit.
    pub fn applied_to(&self, rule: &FlagRule) -> FlagRule {
        let percent = self.rollout_percent;
        let enabled = self.enabled.or_else(|| percent.filter(|p| *p > Percent::ZERO).map(|_| true));
        let schedule = self.schedule.clone().or_else(|| percent.map(|_| None));
        FlagRule {
            enabled: enabled.unwrap_or(rule.enabled),
            rollout_percent: percent.unwrap_or(rule.rollout_percent),
            allow_list: self.allow_list.clone().unwrap_or_else(|| rule.allow_list.clone()),
            deny_list: self.deny_list.clone().unwrap_or_else(|| rule.deny_list.clone()),
            seed: self.seed.unwrap_or(rule.seed),
            prerequisites: self.prerequisites.clone().unwrap_or_else(|| rule.prerequisites.clone()),
            schedule: schedule.unwrap_or_else(|| rule.schedule.clone()),
            owner: self.owner.clone().unwrap_or_else(|| rule.owner.clone()),
            expires_s: self.expires_s.unwrap_or(rule.expires_s),
        }
    }
}

impl fmt::Display for RuleEdit {
    /// What is set, in a line; lists by their length.
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |names: &Vec<String>| format!("of {}", names.len());
        let moment = |at: &Option<u64>| at.map_or("never".to_owned(), wall_time::text);
        let stages = |schedule: &Option<Schedule>| {
            schedule.as_ref().map_or("none".to_owned(), |it| format!("of {}", it.stages().len()))
        };
        let flags = |flags: &Vec<Flag>| match flags.is_empty() {
            true => "none".to_owned(),
            false => flags.iter().map(|flag| flag.name()).collect::<Vec<_>>().join(" "),
        };
        let fields = [
            ("enabled", self.enabled.map(|enabled| enabled.to_string())),
            ("rollout_percent", self.rollout_percent.map(|percent| percent.to_string())),
            ("allow_list", self.allow_list.as_ref().map(names)),
            ("deny_list", self.deny_list.as_ref().map(names)),
            ("seed", self.seed.map(|seed| seed.to_string())),
            ("prerequisites", self.prerequisites.as_ref().map(flags)),
            ("schedule", self.schedule.as_ref().map(stages)),
            ("owner", self.owner.as_ref().map(|owner| format!("{owner:?}"))),
            ("expires", self.expires_s.as_ref().map(moment)),
        ];
        let set = fields.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value?)));
        to.write_str(&set.collect::<Vec<_>>().join(", "))
    }
}

/// What is there is given, also `null`.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(from).map(Some)
}

/// The same for moments.
mod given_moment {
    use super::wall_time::optional;
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(
        moment: &Option<Option<u64>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        optional::serialize(&moment.flatten(), to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Option<u64>>, D::Error> {
        optional::deserialize(from).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> RuleEdit {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn only_what_is_given_changes() {
        let rule = FlagRule { owner: "net".into(), seed: 9, ..FlagRule::on() };
        assert_eq!(read("{}").applied_to(&rule), rule);
        let edited = read("{\"deny_list\":[\"x\"],\"seed\":10}").applied_to(&rule);
        assert_eq!(edited, FlagRule { deny_list: vec!["x".into()], seed: 10, ..rule });
    }

    #[test]
    fn a_percentage_enables_and_ends_the_schedule() {
        let planned =
            FlagRule { schedule: Some(Schedule::guide(Flag::HybridMode)), ..FlagRule::off() };
        let edited = read("{\"rollout_percent\":10}").applied_to(&planned);
        assert!(edited.enabled && edited.schedule.is_none());
        let edited = read("{\"rollout_percent\":0}").applied_to(&planned);
        assert!(!edited.enabled && edited.schedule.is_none());
        let edited = read("{\"rollout_percent\":10,\"enabled\":false}").applied_to(&planned);
        assert!(!edited.enabled);
    }

    #[test]
    fn null_takes_away_and_edits_round_trip() {
        let rule = FlagRule {
            schedule: Some(Schedule::guide(Flag::HybridMode)),
            expires_s: Some(7),
            ..FlagRule::on()
        };
        let edit = read("{\"schedule\":null,\"expires\":null}");
        assert_eq!((edit.schedule.clone(), edit.expires_s), (Some(None), Some(None)));
        assert_eq!(edit.applied_to(&rule), FlagRule::on());
        for edit in
            [edit, read("{}"), read("{\"expires\":\"2027-01-01T00:00:00Z\",\"owner\":\"\"}")]
        {
            assert_eq!(read(&serde_json::to_string(&edit).unwrap()), edit);
        }
        assert!(serde_json::from_str::<RuleEdit>("{\"percent\":1}").is_err());
    }

    #[test]
    fn an_edit_says_what_it_sets() {
        let edit = read("{\"rollout_percent\":12.5,\"allow_list\":[\"a\",\"b\"],\"expires\":null}");
        assert_eq!(edit.to_string(), "rollout_percent 12.5, allow_list of 2, expires never");
    }
}
