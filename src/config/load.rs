//! From a YAML tree to a configuration: every mistake is reported, with its place.

use super::keys::{self, Id};
use super::tree::{self, Content, Entry, Node, Place};
use super::{Config, Kind, Origin, Value, flag_rule};
use crate::config::units::quoted;
use crate::rollout::Flag;
use std::collections::BTreeMap;
use std::fmt;

/// One mistake in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1; 0 if it has no place.
    pub line: u64,
    /// Column, from 1; 0 if it has no place.
    pub column: u64,
    /// What is wrong.
    pub text: String,
}

/// A file or environment that is refused, with all that is wrong about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file's name, as it was given.
    pub file: String,
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            match problem.line {
                0 => write!(f, "{newline}{}: {}", self.file, problem.text)?,
                line => {
                    write!(f, "{newline}{}:{line}:{}: {}", self.file, problem.column, problem.text)?
                }
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Reads a configuration from a file's text.
///
/// # Errors
/// Every unknown key, wrong type, value out of range and duplicate, each with its place.
pub fn from_text(file: &str, text: &str) -> Result<Config, ConfigError> {
    let root = tree::parse(text).map_err(|error| ConfigError {
        file: file.to_owned(),
        problems: vec![Problem { line: error.line, column: error.column, text: error.text }],
    })?;
    let mut reader = Reader::default();
    reader.root(&root);
    if reader.problems.is_empty() {
        reader.check_flags();
    }
    match reader.problems.is_empty() {
        true => Ok(reader.config),
        false => Err(ConfigError { file: file.to_owned(), problems: reader.problems }),
    }
}

/// Overrides keys by environment variables; `lookup` answers for one name.
///
/// # Errors
/// Every variable whose value is refused.
pub fn apply_environment(
    config: &mut Config,
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<(), ConfigError> {
    let mut problems = Vec::new();
    for id in Id::ALL {
        let variable = id.key().variable();
        let Some(text) = lookup(&variable) else { continue };
        match id.key().kind.parse(&text) {
            Ok(value) => config.set(*id, value, Origin::Environment { variable }),
            Err(text) => {
                problems.push(Problem { line: 0, column: 0, text: format!("{variable}: {text}") })
            }
        }
    }
    if problems.is_empty()
        && let Err(error) = config.flag_set().check()
    {
        problems.push(Problem { line: 0, column: 0, text: error.to_string() });
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(ConfigError { file: "environment".to_owned(), problems })
}

/// That a name is no key, with the nearest that is one.
pub fn unknown_key(name: &str) -> String {
    let known = || Id::ALL.iter().map(|id| id.key().name);
    match keys::nearest(name, known()) {
        Some(near) => format!("unknown key {}; did you mean {near}?", quoted(name)),
        None => format!("unknown key {}", quoted(name)),
    }
}

#[derive(Default)]
struct Reader {
    config: Config,
    problems: Vec<Problem>,
    seen: BTreeMap<String, Place>,
}

impl Reader {
    fn root(&mut self, root: &Node) {
        match &root.content {
            Content::Empty => {}
            Content::Map(entries) => entries.iter().for_each(|entry| self.entry("", entry)),
            _ => self.problem(&root.place, "the file must be a mapping of sections".to_owned()),
        }
    }

    fn entry(&mut self, parent: &str, entry: &Entry) {
        let name = match parent {
            "" => keys::short_section(&entry.key).to_owned(),
            _ => format!("{parent}.{}", entry.key),
        };
        if let Some(first) = self.seen.insert(name.clone(), entry.place.clone()) {
            let text = format!("{name} is already set at line {}", first.line);
            return self.problem(&entry.place, text);
        }
        match keys::find(&name).filter(|id| id.key().name == name) {
            Some(id) => self.value(id, entry),
            None if is_section(&name) => self.section(&name, entry),
            None => self.unknown(&name, entry),
        }
    }

    fn section(&mut self, name: &str, entry: &Entry) {
        match &entry.node.content {
            Content::Empty => {}
            Content::Map(entries) => entries.iter().for_each(|inner| self.entry(name, inner)),
            _ => {
                self.problem(&entry.node.place, format!("{name} is a section of keys, not a value"))
            }
        }
    }

    fn value(&mut self, id: Id, entry: &Entry) {
        let key = id.key();
        let text = match (&entry.node.content, key.kind) {
            (Content::Map(entries), Kind::Rule(flag)) => {
                return self.rule((id, flag), entry, entries);
            }
            (content, _) => content,
        };
        let text = match text {
            Content::Scalar(text) => text,
            Content::Empty => {
                let text = format!("{} has no value; it takes: {}", key.name, key.kind.describe());
                return self.problem(&entry.place, text);
            }
            Content::List(_) | Content::Map(_) => {
                let text = format!("{} takes one value: {}", key.name, key.kind.describe());
                return self.problem(&entry.node.place, text);
            }
        };
        match key.kind.parse(text) {
            Ok(value) => self.config.set(id, value, Origin::File { line: entry.place.line }),
            Err(text) => self.problem(&entry.node.place, format!("{}: {text}", key.name)),
        }
    }

    fn rule(&mut self, (id, flag): (Id, Flag), entry: &Entry, entries: &[Entry]) {
        match flag_rule::from_entries(flag, &entry.place, entries) {
            Ok(rule) => {
                let origin = Origin::File { line: entry.place.line };
                self.config.set(id, Value::Rule(Box::new(rule)), origin);
            }
            Err((place, text)) => self.problem(&place, format!("{}: {text}", id.key().name)),
        }
    }

    /// What each flag's rule says may be right, and all of them together still wrong.
    fn check_flags(&mut self) {
        let Err(error) = self.config.flag_set().check() else { return };
        let first = Flag::ALL.iter().find(|flag| error.to_string().contains(flag.name()));
        let key = first.and_then(|flag| Id::of_flag(*flag)).map_or("", |id| id.key().name);
        let place = self.seen.get(key).cloned().unwrap_or_default();
        self.problem(&place, error.to_string());
    }

    fn unknown(&mut self, name: &str, entry: &Entry) {
        let mut text = unknown_key(name);
        if !name.contains('.') {
            let near = keys::nearest(name, section_names());
            text = near.map_or(text, |near| {
                format!(
                    "unknown section {}; did you mean {}?",
                    quoted(name),
                    keys::file_section(near)
                )
            });
        }
        self.problem(&entry.place, text);
    }

    fn problem(&mut self, place: &Place, text: String) {
        self.problems.push(Problem { line: place.line, column: place.column, text });
    }
}

fn is_section(name: &str) -> bool {
    let within = |key: &str| key.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
    Id::ALL.iter().any(|id| within(id.key().name))
}

fn section_names() -> impl Iterator<Item = &'static str> {
    Id::ALL.iter().filter_map(|id| id.key().name.split('.').next())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        from_text("v3.yaml", text).unwrap_err().to_string()
    }

    #[test]
    fn each_mistake_has_its_place() {
        for (text, message) in [
            ("node:\n  nam: x\n", "v3.yaml:2:3: unknown key \"node.nam\"; did you mean node.name?"),
            (
                "amst_v4:\n  mode: x\n",
                "v3.yaml:1:1: unknown section \"amst_v4\"; did you mean amst_v3?",
            ),
            (
                "amst_v3:\n  mode: fast\n",
                "v3.yaml:2:9: amst.mode: \"fast\" is none of: datacenter, internet, hybrid",
            ),
            (
                "migration:\n  streams: 0\n",
                "v3.yaml:2:12: migration.streams: 0 is below the least allowed, 1",
            ),
            (
                "migration:\n  streams: [1]\n",
                "v3.yaml:2:12: migration.streams takes one value: whole number, 1 to 64",
            ),
            ("migration:\n  streams:\n", "v3.yaml:2:3: migration.streams has no value"),
            ("migration: 5\n", "v3.yaml:1:12: migration is a section of keys, not a value"),
            ("hde:\n  max_baselines: 5\nhde_v3: {}\n", "v3.yaml:3:1: hde is already set at line 1"),
            ("node:\n  name: a\n  name: b\n", "v3.yaml:3:3: node.name is already set at line 2"),
            ("- a\n", "v3.yaml:1:1: the file must be a mapping of sections"),
            ("a: [1\nb: 2\n", "v3.yaml:2:2: illegal placement"),
            ("network_mode: {a: 1}\n", "v3.yaml:1:15: network_mode takes one value"),
        ] {
            let error = refused(text);
            assert!(error.starts_with(message), "{text:?}: {error}");
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let error = refused("node:\n  x: 1\nmigration:\n  streams: many\n");
        assert_eq!(error.lines().count(), 2, "{error}");
    }

    #[test]
    fn values_and_origins_are_kept() {
        let text = "hde_v3:\n  selector:\n    learning_rate: 0.01\nnode: {name: 007}\n";
        let config = from_text("f", text).unwrap();
        assert_eq!(config.get(Id::HdeSelectorLearningRate).value, Value::Number(0.01));
        assert_eq!(config.get(Id::HdeSelectorLearningRate).origin, Origin::File { line: 3 });
        assert_eq!(config.text(Id::NodeName), "007");
        assert_eq!(config.get(Id::NodeListen).origin, Origin::Default);
    }

    #[test]
    fn environment_overrides_and_is_checked() {
        let mut config = Config::default();
        let lookup = |name: &str| (name == "DWCP_MIGRATION_STREAMS").then(|| "7".to_owned());
        apply_environment(&mut config, lookup).unwrap();
        assert_eq!(config.migration_options().streams, 7);
        let lookup = |name: &str| (name == "DWCP_MIGRATION_STREAMS").then(|| "x".to_owned());
        let error = apply_environment(&mut config, lookup).unwrap_err().to_string();
        assert!(error.contains("environment: DWCP_MIGRATION_STREAMS: \"x\" is not"), "{error}");
    }
}
