//! Bytes to a state and back: every way in which a file can be wrong has a sentence of its own.

use super::State;
use crate::base::limits::MAX_STATE_BYTES;
use crate::base::text::{nearest, quoted};
use crate::wire::v1::flags::Flags;
use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::error::Category;

/// What the field `format` says.
pub const FORMAT: &str = "dwcp-v3-state";
/// The version that is written, and the latest that is read.
pub const VERSION: u64 = 1;

/// What a file may hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A node's state.
    State(Box<State>),
    /// v1's feature flags, and nothing else.
    V1(Flags),
}

/// A document is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// It is too long to be one.
    #[error("the state is {0} bytes long; the limit is {MAX_STATE_BYTES}")]
    TooLong(usize),
    /// It ends in the middle.
    #[error("the state is cut off: it ends at line {line}, column {column}")]
    CutOff {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
    },
    /// It is no JSON object.
    #[error("the state is not a JSON object: {0}")]
    NotJson(String),
    /// It is neither a state nor v1's flags.
    #[error("this is no state of a node: its field format is {0}, not \"{FORMAT}\"")]
    OtherFormat(String),
    /// A later release wrote it.
    #[error(
        "the state has version {0}, and this release reads up to version {VERSION}: import it with the \
         release that wrote it, or a later one"
    )]
    Newer(u64),
    /// A field is unknown, missing, doubled or of another type.
    #[error("the state is not as this format has it: {0}")]
    Malformed(String),
    /// It was changed after it was written.
    #[error(
        "the state was changed since it was written: its checksum is {computed}, and it says {stated}"
    )]
    Checksum {
        /// What it says.
        stated: String,
        /// What its content has.
        computed: String,
    },
    /// A value is out of range.
    #[error("the state's {what} {value:?} is refused: {reason}")]
    Value {
        /// Of what.
        what: &'static str,
        /// The value.
        value: String,
        /// What is wrong.
        reason: String,
    },
}

/// The file of a state: indented, so that it can be read and compared.
///
/// # Errors
/// [`DocumentError::TooLong`], or a value that [`decode`] would refuse.
pub fn encode(state: &State) -> Result<Vec<u8>, DocumentError> {
    super::check::check(state)?;
    let document = Document {
        format: FORMAT.into(),
        version: VERSION,
        checksum: checksum(state)?,
        content: state,
    };
    let mut bytes = serde_json::to_vec_pretty(&document).map_err(|error| malformed(&error))?;
    bytes.push(b'\n');
    if bytes.len() > MAX_STATE_BYTES {
        return Err(DocumentError::TooLong(bytes.len()));
    }
    Ok(bytes)
}

/// Reads a file: a state, or v1's flags.
///
/// # Errors
/// [`DocumentError`].
pub fn decode(bytes: &[u8]) -> Result<Input, DocumentError> {
    if bytes.len() > MAX_STATE_BYTES {
        return Err(DocumentError::TooLong(bytes.len()));
    }
    // Whether it is of this format and version comes first: of any other, nothing else can be said.
    let head: Head = serde_json::from_slice(bytes).map_err(|error| broken(&error, bytes))?;
    match (&head.format, &head.version) {
        (None, _) if head.is_v1() => {
            if let Some(name) = &head.other_field {
                return Err(not_v1s(name));
            }
            let flags = Flags::decode(bytes);
            return flags
                .map(Input::V1)
                .map_err(|error| DocumentError::Malformed(error.to_string()));
        }
        (Some(serde_json::Value::String(format)), Some(version)) if format == FORMAT => {
            if let Some(newer) = version.as_u64().filter(|version| *version > VERSION) {
                return Err(DocumentError::Newer(newer));
            }
        }
        (Some(serde_json::Value::String(format)), None) if format == FORMAT => {}
        (None, _) => return Err(DocumentError::OtherFormat("not there".into())),
        (Some(other), _) => return Err(DocumentError::OtherFormat(clip(&other.to_string()))),
    }
    let Document { version, checksum: stated, content, .. }: Document<State> =
        serde_json::from_slice(bytes).map_err(|error| malformed(&error))?;
    if version != VERSION {
        let (what, value) = ("version", version.to_string());
        return Err(DocumentError::Value { what, value, reason: "there never was one".into() });
    }
    let computed = checksum(&content)?;
    if stated != computed {
        return Err(DocumentError::Checksum { stated: clip(&stated), computed });
    }
    super::check::check(&content)?;
    Ok(Input::State(Box::new(content)))
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<S> {
    format: String,
    version: u64,
    checksum: String,
    content: S,
}

/// Enough of any JSON object to tell what it is.
#[derive(Default)]
struct Head {
    format: Option<serde_json::Value>,
    version: Option<serde_json::Value>,
    has_v1_field: bool,
    /// The first that is none of these.
    other_field: Option<String>,
}

impl Head {
    fn is_v1(&self) -> bool {
        self.has_v1_field && self.version.is_none()
    }
}

impl<'de> Deserialize<'de> for Head {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeadVisitor)
    }
}

struct HeadVisitor;

impl<'de> serde::de::Visitor<'de> for HeadVisitor {
    type Value = Head;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Head, A::Error> {
        let mut head = Head::default();
        while let Some(name) = map.next_key::<String>()? {
            let slot = match name.as_str() {
                "format" => &mut head.format,
                "version" => &mut head.version,
                name => {
                    let is_v1s = V1_FIELDS.contains(&name);
                    head.has_v1_field |= is_v1s;
                    if !is_v1s {
                        head.other_field.get_or_insert_with(|| clip(name));
                    }
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if slot.replace(map.next_value()?).is_some() {
                return Err(A::Error::custom(format!("field {name} comes twice")));
            }
        }
        Ok(head)
    }
}

/// v1 itself passes over what it does not know, and takes a flag that is misspelt for one that is off.
fn not_v1s(name: &str) -> DocumentError {
    let near = nearest(name, V1_FIELDS.into_iter());
    let hint = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
    DocumentError::Malformed(format!("v1 has no flag {}{hint}", quoted(name)))
}

fn checksum(state: &State) -> Result<String, DocumentError> {
    let canonical = serde_json::to_vec(state).map_err(|error| malformed(&error))?;
    Ok(format!("blake3:{}", blake3::hash(&canonical).to_hex()))
}

fn malformed(error: &serde_json::Error) -> DocumentError {
    DocumentError::Malformed(clip(&error.to_string()))
}

fn broken(error: &serde_json::Error, bytes: &[u8]) -> DocumentError {
    let (line, column) = (error.line(), error.column());
    match error.classify() {
        Category::Eof => DocumentError::CutOff { line, column },
        // Cut in the middle of a number or a word.
        Category::Syntax if bytes.starts_with(b"{") && end_of(bytes) == (line, column) => {
            DocumentError::CutOff { line, column }
        }
        _ => DocumentError::NotJson(clip(&error.to_string())),
    }
}

/// The line and column of the last byte.
fn end_of(bytes: &[u8]) -> (usize, usize) {
    let last = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    (1 + bytes.iter().filter(|byte| **byte == b'\n').count(), bytes.len() - last)
}

/// At most as much of a file's text as an error should hold.
pub(super) fn clip(text: &str) -> String {
    text.chars().take(MAX_QUOTED_CHARS).collect()
}

const MAX_QUOTED_CHARS: usize = 300;
/// The names by which v1's flags are known.
const V1_FIELDS: [&str; 10] = [
    "enableV3Transport",
    "enableV3Compression",
    "enableV3Prediction",
    "enableV3StateSync",
    "enableV3Consensus",
    "enableV3Placement",
    "v3RolloutPercentage",
    "forceV1Mode",
    "enableHybridMode",
    "enableModeDetection",
];
