//! Scenarios of simulated rollouts, in YAML or JSON.

use super::load::{ConfigError, Problem};
use super::tree::{self, Content, Entry, Node, Place};
use super::units::quoted;
use crate::rollout::simulator::Scenario;
use serde_json::{Map, Value};

/// Reads a scenario from a file's text.
///
/// # Errors
/// The first mistake: text that is neither, a key that is unknown or there twice, a value that
/// cannot be.
pub fn from_text(file: &str, text: &str) -> Result<Scenario, ConfigError> {
    let problem = |line, column, text| ConfigError {
        file: file.to_owned(),
        problems: vec![Problem { line, column, text }],
    };
    let placed = |(place, text): (Place, String)| problem(place.line, place.column, text);
    let unplaced = |text: String| problem(0, 0, text);
    let root = tree::parse(text).map_err(|error| problem(error.line, error.column, error.text))?;
    let value = match root.content {
        Content::Empty => Value::Object(Map::new()),
        Content::Map(_) => value("", &root).map_err(placed)?,
        _ => return Err(placed((root.place, "a scenario is a mapping".to_owned()))),
    };
    let scenario: Scenario =
        serde_json::from_value(value).map_err(|error| unplaced(error.to_string()))?;
    scenario.check().map_err(|error| unplaced(error.to_string()))?;
    Ok(scenario)
}

/// A node as JSON. What looks like a number or a truth is one, but for the scenario's name.
fn value(key: &str, node: &Node) -> Result<Value, (Place, String)> {
    Ok(match &node.content {
        Content::Empty => Value::Null,
        Content::Scalar(text) if key == "name" => Value::String(text.clone()),
        Content::Scalar(text) => scalar(text),
        Content::List(items) => {
            let items: Result<Vec<_>, _> = items.iter().map(|item| value("", item)).collect();
            Value::Array(items?)
        }
        Content::Map(entries) => {
            let mut map = Map::new();
            for Entry { key, place, node } in entries {
                if map.insert(key.clone(), value(key, node)?).is_some() {
                    return Err((place.clone(), format!("{} is there twice", quoted(key))));
                }
            }
            Value::Object(map)
        }
    })
}

fn scalar(text: &str) -> Value {
    let number = || text.parse::<f64>().ok().and_then(serde_json::Number::from_f64);
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => text
            .parse::<i64>()
            .map(Value::from)
            .or_else(|_| text.parse::<u64>().map(Value::from))
            .ok()
            .or_else(|| number().map(Value::Number))
            .unwrap_or_else(|| Value::String(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::Percent;
    use crate::rollout::simulator::Effect;

    #[test]
    fn yaml_and_json_say_the_same() {
        let yaml = "name: 007\nseed: 3\ndays: 1.5\nfaults:\n  - at_percent: 50\n    flag: hybrid_mode\n    \
                    effect:\n      errors: {percent: 5}\n  - {at_day: 2, reach: all, effect: missing_data}\n";
        let json = "{\"name\":\"007\",\"seed\":3,\"days\":1.5,\"faults\":[{\"at_percent\":50,\
                    \"flag\":\"hybrid_mode\",\"effect\":{\"errors\":{\"percent\":5}}},{\"at_day\":2,\
                    \"reach\":\"all\",\"effect\":\"missing_data\"}]}";
        let scenario = from_text("s.yaml", yaml).unwrap();
        assert_eq!(scenario, from_text("s.json", json).unwrap());
        assert_eq!((scenario.name.as_str(), scenario.seed), ("007", 3));
        assert_eq!(scenario.faults[0].at_percent, Some(Percent::whole(50)));
        assert_eq!(scenario.faults[0].effect, Effect::Errors { percent: 5.0 });
        assert_eq!(from_text("s.yaml", "# nothing\n").unwrap(), Scenario::default());
    }

    #[test]
    fn mistakes_are_one_sentence() {
        for (text, message) in [
            ("dys: 3\n", "s.yaml: unknown field `dys`"),
            ("days: many\n", "s.yaml: invalid type: string \"many\", expected f64"),
            ("days: 9000\n", "s.yaml: days is 9000, not a number from 0.001 to 400"),
            ("days: 1\ndays: 2\n", "s.yaml:2:1: \"days\" is there twice"),
            ("days: [1\n", "s.yaml:"),
            ("- a\n", "s.yaml:1:1: a scenario is a mapping"),
            ("seed: -1\n", "s.yaml: invalid value: integer `-1`"),
        ] {
            let error = from_text("s.yaml", text).unwrap_err().to_string();
            assert!(error.starts_with(message), "{text:?}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
