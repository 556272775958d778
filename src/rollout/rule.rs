//! What an operator says about one flag, in both forms of the upgrade guide.

use super::by_flag;
use super::flag::Flag;
use super::percent::Percent;
use super::schedule::Schedule;
use super::set::FlagSet;
use super::wall_time;
use serde::de::value::MapAccessDeserializer;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// The rule of one flag. As JSON it is an object of these fields, of which any may be missing, or a bare
/// boolean: on everywhere, or off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct FlagRule {
    /// Off for everybody if false, whatever the rest says.
    pub enabled: bool,
    /// How many units have it, besides those on the allow list.
    pub rollout_percent: Percent,
    /// Units, and nodes whose units, have it before all others.
    pub allow_list: Vec<String>,
    /// Units, and nodes whose units, never have it.
    pub deny_list: Vec<String>,
    /// Another seed draws the units of a percentage anew.
    pub seed: u64,
    /// Flags that must be on for the same unit.
    pub prerequisites: Vec<Flag>,
    /// How the percentage is to grow.
    pub schedule: Option<Schedule>,
    /// Whom to ask about it.
    pub owner: String,
    /// From when on it is off, in seconds since 1970; as JSON `expires`, a time such as
    /// `2027-01-31T00:00:00Z`.
    #[serde(rename = "expires", with = "wall_time::optional")]
    pub expires_s: Option<u64>,
}

/// Rules of some flags, as in the configuration's section `feature_flags`: a map by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FlagRules {
    /// Each flag at most once.
    #[serde(with = "by_flag")]
    pub rules: Vec<(Flag, FlagRule)>,
}

impl FlagRule {
    /// The fields, as in JSON.
    pub const FIELDS: [&str; 9] = [
        "enabled",
        "rollout_percent",
        "allow_list",
        "deny_list",
        "seed",
        "prerequisites",
        "schedule",
        "owner",
        "expires",
    ];

    /// On everywhere: what a bare `true` says.
    pub fn on() -> Self {
        Self { enabled: true, rollout_percent: Percent::FULL, ..Self::default() }
    }

    /// Off: what a bare `false` says, and a rule without fields.
    pub fn off() -> Self {
        Self::default()
    }

    /// Whether it is expired at this second of the wall clock.
    pub fn is_expired(&self, now_s: u64) -> bool {
        self.expires_s.is_some_and(|expires_s| now_s >= expires_s)
    }
}

impl FlagRules {
    /// Those of every flag in force.
    pub fn of(set: &FlagSet) -> Self {
        let rule = |flag| (flag, set.rule(flag).clone());
        Self { rules: Flag::ALL.into_iter().map(rule).collect() }
    }
}

impl Serialize for FlagRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for FlagRule {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(RuleVisitor)
    }
}

/// Takes a boolean or an object. A derived reader would take a list of the fields' values too.
struct RuleVisitor;

impl<'de> de::Visitor<'de> for RuleVisitor {
    type Value = FlagRule;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("true, false or the fields of a rule")
    }

    fn visit_bool<E: de::Error>(self, on: bool) -> Result<FlagRule, E> {
        Ok(if on { FlagRule::on() } else { FlagRule::off() })
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<FlagRule, A::Error> {
        FlagRule::deserialize(MapAccessDeserializer::new(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<FlagRule, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn both_forms_of_the_guide_are_read() {
        assert_eq!(read("true").unwrap(), FlagRule::on());
        assert_eq!(read("false").unwrap(), FlagRule::off());
        assert_eq!(read("{}").unwrap(), FlagRule::off());
        let full = read(
            "{\"enabled\":true,\"rollout_percent\":12.5,\"allow_list\":[\"node-1\"],\"deny_list\":[\"a|b\"],
              \"seed\":7,\"prerequisites\":[\"hybrid_mode\"],\"owner\":\"net\",
              \"schedule\":[{\"after_s\":0,\"percent\":1}],\"expires\":\"2027-01-01T00:00:00Z\"}",
        );
        let full = full.unwrap();
        assert_eq!(full.rollout_percent.parts(), 125_000);
        assert_eq!(full.expires_s, Some(1_798_761_600));
        assert!(full.is_expired(1_798_761_600) && !full.is_expired(1_798_761_599));
        assert_eq!(read(&serde_json::to_string(&full).unwrap()).unwrap(), full);
    }

    #[test]
    fn the_fields_are_those_that_are_written() {
        let json = serde_json::to_value(FlagRule::on()).unwrap();
        let fields: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, FlagRule::FIELDS);
    }

    #[test]
    fn bad_fields_are_named() {
        assert!(read("{\"rollout_percnt\":1}").unwrap_err().contains("`rollout_percnt`"));
        assert!(read("{\"rollout_percent\":100.5}").unwrap_err().contains("\"100.5\""));
        assert!(
            read("{\"prerequisites\":[\"hybrid\"]}")
                .unwrap_err()
                .contains("did you mean hybrid_mode")
        );
        assert!(read("{\"enabled\":true,\"enabled\":false}").unwrap_err().contains("duplicate"));
        for bad in ["1", "\"true\"", "[]", "[true]", "null", "{\"enabled\":1}", "{\"seed\":-1}"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rules_of_several_flags_are_a_map() {
        let read = |json: &str| serde_json::from_str::<FlagRules>(json).map_err(|e| e.to_string());
        let rules = read("{\"hybrid_mode\":true,\"crdt_sync\":{\"enabled\":false}}").unwrap();
        assert_eq!(
            rules.rules,
            [(Flag::HybridMode, FlagRule::on()), (Flag::CrdtSync, FlagRule::off())]
        );
        assert!(read("{\"hybrid_mode\":true,\"hybrid_mode\":true}").unwrap_err().contains("twice"));
        assert!(
            read("{\"ml_compresion\":true}").unwrap_err().contains("did you mean ml_compression")
        );
        assert!(read("{\"crdt_sync\":3}").unwrap_err().contains("crdt_sync: "));
        assert!(read("[]").is_err());
    }
}
