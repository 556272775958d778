//! JSON to the byte as v1's language writes it (Go's `encoding/json`).
//!
//! Objects of fixed fields have them in the order of their declaration, which serde keeps; maps are
//! sorted by the bytes of their keys, hence `BTreeMap` throughout. Text has `<`, `>`, `&` and the two
//! line separators of Unicode escaped. Numbers with a fraction are as short as they can be, with an
//! exponent below 1e-6 and from 1e21 on. There are no spaces. What is only passed on stays as it came
//! ([`Json`]), whereas v1 reads it into 64-bit floats and writes those.
//!
//! Backspace and form feed are `\b` and `\f`, as Go writes them since 1.22; v1 demands 1.24.

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::ser::Formatter;
use serde_json::value::RawValue;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::time::{Duration, SystemTime};

/// The longest document that is read. What is made of one takes at most some ten times its length.
pub const MAX_DOCUMENT_BYTES: usize = 4 << 20;

/// Why a document was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Over the limit.
    #[error("{what} is {value} bytes long, the limit is {MAX_DOCUMENT_BYTES}")]
    TooLong {
        /// The document.
        what: &'static str,
        /// Its length.
        value: usize,
    },
    /// Not JSON, or not of this shape.
    #[error("{what}: {reason}")]
    Malformed {
        /// The document.
        what: &'static str,
        /// What is wrong with it, and where.
        reason: String,
    },
    /// A field that v1 would not write so.
    #[error("{what} is {value:?}")]
    Value {
        /// The field.
        what: &'static str,
        /// Its value.
        value: String,
    },
}

/// Any JSON, passed on as it is but for spaces and escapes, as v1 does with what it does not look into.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Json(Box<RawValue>);

/// A moment as v1 writes it: RFC 3339 with the fraction that it needs and the writer's own time zone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WallTime(String);

/// Reads a document.
///
/// # Errors
/// [`JsonError`] for one over the limit or of another shape. Fields that v1 does not know are skipped.
pub fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, JsonError> {
    if bytes.len() > MAX_DOCUMENT_BYTES {
        return Err(JsonError::TooLong { what, value: bytes.len() });
    }
    serde_json::from_slice(bytes).map_err(|error| malformed(what, &error))
}

/// Writes a document.
///
/// # Errors
/// [`JsonError::Malformed`] for numbers that JSON does not have.
pub fn encode<T: Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, JsonError> {
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, AsGo);
    value.serialize(&mut serializer).map_err(|error| malformed(what, &error))?;
    Ok(bytes)
}

fn malformed(what: &'static str, error: &serde_json::Error) -> JsonError {
    JsonError::Malformed { what, reason: error.to_string() }
}

impl Json {
    /// A value as JSON.
    ///
    /// # Errors
    /// As for [`encode`].
    pub fn of<T: Serialize>(what: &'static str, value: &T) -> Result<Self, JsonError> {
        Self::parse(what, &encode(what, value)?)
    }

    /// Text as JSON.
    ///
    /// # Errors
    /// As for [`decode`].
    pub fn parse(what: &'static str, bytes: &[u8]) -> Result<Self, JsonError> {
        decode(what, bytes)
    }

    /// What it says.
    ///
    /// # Errors
    /// As for [`decode`].
    pub fn read<T: DeserializeOwned>(&self, what: &'static str) -> Result<T, JsonError> {
        decode(what, self.text().as_bytes())
    }

    /// The text.
    pub fn text(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for Json {}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let compact = compact(raw.get());
        if compact == raw.get() {
            return Ok(Self(raw));
        }
        RawValue::from_string(compact).map(Self).map_err(D::Error::custom)
    }
}

impl WallTime {
    /// A moment in universal time.
    ///
    /// # Errors
    /// [`JsonError::Value`] beyond the year 9999.
    pub fn from_unix(seconds: u64, nanoseconds: u32) -> Result<Self, JsonError> {
        if seconds > LAST_SECOND || nanoseconds >= 1_000_000_000 {
            let value = format!("{seconds} s {nanoseconds} ns");
            return Err(JsonError::Value { what: "time", value });
        }
        let moment = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
        let text = humantime::format_rfc3339_nanos(moment).to_string();
        let short = text.trim_end_matches('Z').trim_end_matches('0');
        // Only a fraction is cut, never the seconds' own zero.
        let text = if nanoseconds == 0 { &text[..SECONDS_END] } else { short };
        Ok(Self(format!("{text}Z")))
    }

    /// As it is written.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for WallTime {
    type Error = JsonError;

    fn try_from(text: String) -> Result<Self, JsonError> {
        match is_rfc3339(text.as_bytes()) {
            Some(true) => Ok(Self(text)),
            _ => Err(JsonError::Value { what: "time", value: text.chars().take(64).collect() }),
        }
    }
}

impl From<WallTime> for String {
    fn from(time: WallTime) -> Self {
        time.0
    }
}

/// Year, month, day, hour, minute, second; a fraction of one to nine digits; `Z` or an offset.
fn is_rfc3339(text: &[u8]) -> Option<bool> {
    let number = |at: usize, length: usize| {
        let digits = text.get(at..at + length)?;
        let digits = digits.iter().all(u8::is_ascii_digit).then_some(digits)?;
        Some(digits.iter().fold(0_u32, |value, digit| value * 10 + u32::from(digit - b'0')))
    };
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
    let marks = [4, 7, 10, 13, 16].map(|at| text[at]) == *b"--T::";
    let leap = year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let days = match month {
        4 | 6 | 9 | 11 => 30,
        2 => 28 + u32::from(leap),
        _ => 31,
    };
    let date = (1..=12).contains(&month) && (1..=days).contains(&day);
    let time = hour < 24 && minute < 60 && second < 60;
    let fraction = match text.get(SECONDS_END)? {
        b'.' => text[SECONDS_END + 1..].iter().take_while(|digit| digit.is_ascii_digit()).count(),
        _ => 0,
    };
    let dot = usize::from(text[SECONDS_END] == b'.');
    let zone = SECONDS_END + dot + fraction;
    let zone_is_good = match text.get(zone)? {
        b'Z' => text.len() == zone + 1,
        b'+' | b'-' => {
            let offset = number(zone + 1, 2)? < 24 && number(zone + 4, 2)? < 60;
            offset && text[zone + 3] == b':' && text.len() == zone + 6
        }
        _ => false,
    };
    Some(marks && date && time && (dot == 0 || (1..=9).contains(&fraction)) && zone_is_good)
}

/// For fields that are numbers with a fraction: read to the last bit, and never infinite.
pub(super) mod float {
    use super::*;

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        if !value.is_finite() {
            return Err(S::Error::custom(format!("{value} is no number of JSON's")));
        }
        serializer.serialize_f64(*value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let value = raw.get().parse().ok().filter(|value: &f64| value.is_finite());
        value.ok_or_else(|| D::Error::custom(format!("{:.40} is not a finite number", raw.get())))
    }
}

/// Makes structs that derive serde's traits for the remote type `Self` readable from objects alone;
/// otherwise serde would take a list of their fields' values too, which v1 refuses.
macro_rules! objects {
    ($($name:ident),*) => {$(
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $name::serialize(self, serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                from.deserialize_map($crate::wire::v1::json::ObjectVisitor::default())
            }
        }

        impl<'de> $crate::wire::v1::json::FromObject<'de> for $name {
            fn from_object<D: serde::Deserializer<'de>>(object: D) -> Result<Self, D::Error> {
                $name::deserialize(object)
            }
        }
    )*};
}
pub(super) use objects;

/// What `objects` reads.
pub(super) trait FromObject<'de>: Sized {
    fn from_object<D: Deserializer<'de>>(object: D) -> Result<Self, D::Error>;
}

/// Takes an object and nothing else.
pub(super) struct ObjectVisitor<T>(PhantomData<T>);

impl<T> Default for ObjectVisitor<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<'de, T: FromObject<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::from_object(MapAccessDeserializer::new(map))
    }
}

/// Without spaces between the parts, and with the escapes that v1 puts into text.
fn compact(text: &str) -> String {
    let (mut out, mut in_text, mut escaped) = (String::with_capacity(text.len()), false, false);
    for letter in text.chars() {
        if !in_text && matches!(letter, ' ' | '\t' | '\n' | '\r') {
            continue;
        }
        match escape_of(letter) {
            Some(escape) => out.push_str(escape),
            None => out.push(letter),
        }
        in_text ^= letter == '"' && !escaped;
        escaped = in_text && letter == '\\' && !escaped;
    }
    out
}

fn escape_of(letter: char) -> Option<&'static str> {
    match letter {
        '<' => Some("\\u003c"),
        '>' => Some("\\u003e"),
        '&' => Some("\\u0026"),
        '\u{2028}' => Some("\\u2028"),
        '\u{2029}' => Some("\\u2029"),
        _ => None,
    }
}

/// Where serde's own spelling differs from Go's.
struct AsGo;

impl Formatter for AsGo {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, letter)) = rest.char_indices().find(|(_, c)| escape_of(*c).is_some()) {
            writer.write_all(&rest.as_bytes()[..at])?;
            writer.write_all(escape_of(letter).unwrap_or_default().as_bytes())?;
            rest = &rest[at + letter.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }

    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        let size = value.abs();
        if size == 0.0 || (1e-6..1e21).contains(&size) {
            return write!(writer, "{value}");
        }
        let text = format!("{value:e}");
        match text.split_once('e') {
            Some((digits, power)) if !power.starts_with('-') => write!(writer, "{digits}e+{power}"),
            _ => writer.write_all(text.as_bytes()),
        }
    }
}

/// The end of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;
/// Where a moment's fraction or zone begins.
const SECONDS_END: usize = 19;

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
