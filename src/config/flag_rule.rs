//! The rule of a feature flag in a configuration: a boolean, or the fields of a rule, in the file's own
//! form or as JSON on one line.

use super::tree::{Content, Entry, Node, Place};
use super::units::quoted;
use crate::base::text::nearest;
use crate::rollout::{Flag, FlagRule, FlagSet, RuleError, Schedule};
use serde_json::{Map, Value, json};

/// Fields of which each holds a whole number.
const NUMBERS: [&str; 2] = ["seed", "after_s"];
/// Fields of a schedule with its start.
const SCHEDULE: [&str; 2] = ["start", "stages"];
/// Fields of a stage of a schedule.
const STAGE: [&str; 2] = ["after_s", "percent"];

/// Stands for the flag's own stages in the upgrade guide.
const GUIDE: &str = "guide";

/// What is wrong, and where.
type Misplaced = (Place, String);

/// Reads a rule that stands on one line: `true`, `false`, or an object as JSON.
///
/// # Errors
/// What is wrong with it.
pub fn parse(flag: Flag, text: &str) -> Result<FlagRule, String> {
    let rule = match text {
        "true" => FlagRule::on(),
        "false" => FlagRule::off(),
        _ if text.trim_start().starts_with('{') => {
            let bad = |error: serde_json::Error| error.to_string();
            let fields: Map<String, Value> = serde_json::from_str(text).map_err(bad)?;
            fields.keys().try_for_each(|name| known(name, &FlagRule::FIELDS))?;
            // Not from the map, which has lost what was there twice.
            serde_json::from_str(text).map_err(bad)?
        }
        _ => return Err(format!("{} is neither true, false nor a rule", quoted(text))),
    };
    check(flag, &rule).map_err(|error| error.to_string())?;
    Ok(rule)
}

/// Reads a rule from its fields in the file.
///
/// # Errors
/// What is wrong, and where.
pub fn from_entries(flag: Flag, place: &Place, entries: &[Entry]) -> Result<FlagRule, Misplaced> {
    let mut fields = object(entries, &FlagRule::FIELDS)?;
    if fields.get("schedule").is_some_and(|schedule| schedule == GUIDE) {
        fields.insert("schedule".to_owned(), json!(Schedule::guide(flag)));
    }
    for entry in entries {
        // Alone, so that what is wrong has its place.
        let value = fields.get(&entry.key).cloned().unwrap_or_default();
        let alone = Map::from_iter([(entry.key.clone(), value)]);
        serde_json::from_value::<FlagRule>(Value::Object(alone))
            .map_err(|error| (entry.node.place.clone(), format!("{}: {error}", entry.key)))?;
    }
    let whole = |error: serde_json::Error| (place.clone(), error.to_string());
    let rule = serde_json::from_value(Value::Object(fields)).map_err(whole)?;
    check(flag, &rule).map_err(|error| (place.clone(), error.to_string()))?;
    Ok(rule)
}

/// As it is written on one line.
pub fn text(rule: &FlagRule) -> String {
    match rule {
        rule if *rule == FlagRule::on() => "true".to_owned(),
        rule if *rule == FlagRule::off() => "false".to_owned(),
        rule => serde_json::to_string(rule).unwrap_or_default(),
    }
}

/// Whether a rule can be put into force by itself.
fn check(flag: Flag, rule: &FlagRule) -> Result<(), RuleError> {
    let mut set = FlagSet::all_off();
    set.state_mut(flag).rule = rule.clone();
    set.check()
}

fn known(name: &str, fields: &[&str]) -> Result<(), String> {
    if fields.contains(&name) {
        return Ok(());
    }
    let near = nearest(name, fields.iter().copied());
    let hint = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
    Err(format!("unknown field {}{hint}", quoted(name)))
}

fn object(entries: &[Entry], fields: &[&str]) -> Result<Map<String, Value>, Misplaced> {
    let mut object = Map::new();
    for entry in entries {
        known(&entry.key, fields).map_err(|text| (entry.place.clone(), text))?;
        let value = value(&entry.node, &entry.key, &entry.place)?;
        if object.insert(entry.key.clone(), value).is_some() {
            return Err((entry.place.clone(), format!("{} is there twice", entry.key)));
        }
    }
    Ok(object)
}

/// A value of the file as JSON. Scalars have lost whether they were quoted, so the field says what they are.
fn value(node: &Node, field: &str, place: &Place) -> Result<Value, Misplaced> {
    match &node.content {
        Content::Empty => Err((place.clone(), format!("{field} has no value"))),
        Content::Scalar(text) => Ok(scalar(text, field)),
        Content::List(items) => {
            let item = |item: &Node| match &item.content {
                Content::Map(entries) => object(entries, &STAGE).map(Value::Object),
                _ => value(item, field, &item.place),
            };
            Ok(Value::Array(items.iter().map(item).collect::<Result<_, _>>()?))
        }
        Content::Map(entries) if field == "schedule" => {
            object(entries, &SCHEDULE).map(Value::Object)
        }
        Content::Map(_) => Err((node.place.clone(), format!("{field} is not a section"))),
    }
}

fn scalar(text: &str, field: &str) -> Value {
    match (field, text) {
        ("enabled", "true") => true.into(),
        ("enabled", "false") => false.into(),
        (field, text) if NUMBERS.contains(&field) => {
            text.parse::<u64>().map_or_else(|_| text.into(), Value::from)
        }
        (_, text) => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::from_text;

    fn rule(fields: &str) -> FlagRule {
        let text = format!("feature_flags:\n  hybrid_mode:\n{fields}");
        let config = from_text("f", &text).unwrap();
        config.flag_rules().rules.remove(0).1
    }

    #[test]
    fn both_forms_are_read_and_written() {
        let read = rule(
            "    enabled: true\n    rollout_percent: 12.5\n    allow_list: [node-1, '007']\n    deny_list:\n\
             \x20   - a|b\n    seed: 7\n    owner: 12\n    expires: 2027-01-01T00:00:00Z\n    schedule:\n\
             \x20   - {after_s: 0, percent: 1}\n    - {after_s: 60, percent: 100}\n",
        );
        assert_eq!((read.rollout_percent.parts(), read.seed), (125_000, 7));
        assert_eq!(read.allow_list, ["node-1", "007"]);
        assert_eq!((read.owner.as_str(), read.deny_list.len()), ("12", 1));
        assert_eq!(read.schedule.as_ref().map(|schedule| schedule.stages().len()), Some(2));
        assert_eq!(parse(Flag::HybridMode, &text(&read)), Ok(read));
        let guide = rule("    enabled: true\n    schedule: guide\n");
        assert_eq!(guide.schedule, Some(Schedule::guide(Flag::HybridMode)));
        for word in ["true", "false"] {
            assert_eq!(text(&parse(Flag::HybridMode, word).unwrap()), word);
        }
    }

    #[test]
    fn each_mistake_has_its_place() {
        for (fields, message) in [
            (
                "    rollout_percnt: 5\n",
                "f:3:5: feature_flags.hybrid_mode: unknown field \"rollout_percnt\"; did you mean rollout_percent?",
            ),
            (
                "    enabled: true\n    rollout_percent: 100.5\n",
                "f:4:22: feature_flags.hybrid_mode: rollout_percent: \"100.5\" is not a percentage",
            ),
            (
                "    rollout_percent: nan\n",
                "f:3:22: feature_flags.hybrid_mode: rollout_percent: \"nan\" is not",
            ),
            (
                "    allow_list: [a]\n    deny_list: [a]\n",
                "f:2:3: feature_flags.hybrid_mode: hybrid_mode: \"a\" is on allow_list",
            ),
            ("    enabled: maybe\n", "f:3:14: feature_flags.hybrid_mode: enabled: invalid type"),
            (
                "    schedule:\n    - {after_s: 5, percent: 1}\n    - {after_s: 4, percent: 2}\n",
                "f:4:7: feature_flags.hybrid_mode: schedule: ",
            ),
            (
                "    schedule:\n    - {after: 5, percent: 1}\n",
                "f:4:8: feature_flags.hybrid_mode: unknown field \"after\"; did you mean after_s?",
            ),
            ("    seed:\n", "f:3:5: feature_flags.hybrid_mode: seed has no value"),
            ("    seed: 1\n    seed: 2\n", "f:4:5: feature_flags.hybrid_mode: seed is there twice"),
            (
                "    prerequisites: [hybrid_mode]\n",
                "f:2:3: feature_flags.hybrid_mode: prerequisites go in a circle",
            ),
        ] {
            let text = format!("feature_flags:\n  hybrid_mode:\n{fields}");
            let error = from_text("f", &text).unwrap_err().to_string();
            assert!(error.starts_with(message), "{fields:?}: {error}");
        }
    }

    #[test]
    fn flags_that_wait_for_each_other_are_refused_at_their_line() {
        let text = "feature_flags:\n  hybrid_mode: {prerequisites: [ml_compression]}\n  \
                    ml_compression: {prerequisites: [hybrid_mode]}\n";
        let error = from_text("f", text).unwrap_err().to_string();
        assert_eq!(
            error,
            "f:2:3: prerequisites go in a circle: hybrid_mode needs ml_compression needs hybrid_mode"
        );
    }

    #[test]
    fn one_line_of_json_is_as_strict() {
        for (text, what) in [
            ("yes", "neither true, false nor a rule"),
            ("{\"enabld\":true}", "did you mean enabled?"),
            ("{\"seed\":1,\"seed\":2}", "duplicate field"),
            ("{\"rollout_percent\":101}", "\"101\" is not a percentage"),
            ("{", "EOF"),
        ] {
            let error = parse(Flag::HybridMode, text).unwrap_err();
            assert!(error.contains(what), "{text}: {error}");
        }
    }
}
