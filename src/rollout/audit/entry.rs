//! One line of the audit log: how it is made, sealed and read.

use crate::base::limits::MAX_AUDIT_LINE_BYTES;
use crate::base::text::quoted;
use crate::rollout::Flag;
use crate::rollout::change::{Change, ChangeAction};
use crate::rollout::set::{FlagSet, StatePart};
use crate::wire::v1::json::Json;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// The hash of a line: 32 bytes of BLAKE3, written as 64 small hexadecimal digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct EntryHash(pub [u8; 32]);

/// Where a log ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tip {
    /// The number of the last entry; 0 before the first.
    pub seq: u64,
    /// Its hash; zeros before the first.
    pub hash: EntryHash,
}

/// One change, as it was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The version of the format, [`Entry::VERSION`].
    pub version: u32,
    /// Its number; each is one more than the one before.
    pub seq: u64,
    /// When, in microseconds since 1970, by the clock of the node. It may go back; `seq` does not.
    pub at_us: u64,
    /// Who changed it.
    pub who: String,
    /// Why.
    pub why: String,
    /// What was changed, in a line.
    pub change: String,
    /// What was measured.
    pub evidence: Option<Json>,
    /// The states of the changed flags before; none in the first entry of a log.
    pub from: Option<StatePart>,
    /// Their states after; all flags in the first entry of a log.
    pub to: StatePart,
    /// The hash of the entry before.
    pub previous: EntryHash,
    /// Its own.
    pub hash: EntryHash,
}

/// An entry that cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Over the limit.
    #[error("an audit entry of {0} bytes is longer than {MAX_AUDIT_LINE_BYTES}")]
    TooLong(usize),
    /// Not representable as JSON.
    #[error("an audit entry cannot be written: {0}")]
    Encode(String),
}

impl Entry {
    /// The version of the format that is written, and the latest that is read.
    pub const VERSION: u32 = 1;

    /// The first entry of a log, with all flags; `tip` is where another log ended that this one
    /// continues, or [`Tip::default`].
    ///
    /// # Errors
    /// [`EntryError`].
    pub fn first(
        set: &FlagSet,
        who: &str,
        why: &str,
        tip: Tip,
        at_us: u64,
    ) -> Result<Self, EntryError> {
        let entry = Self {
            version: Self::VERSION,
            seq: tip.seq + 1,
            at_us,
            who: who.to_owned(),
            why: why.to_owned(),
            change: "log begun".to_owned(),
            evidence: None,
            from: None,
            to: set.whole(),
            previous: tip.hash,
            hash: EntryHash::default(),
        };
        entry.sealed()
    }

    /// The entry of a change that made `to` out of `from`.
    ///
    /// # Errors
    /// [`EntryError`].
    pub fn of(
        change: &Change,
        from: &FlagSet,
        to: &FlagSet,
        tip: Tip,
        at_us: u64,
    ) -> Result<Self, EntryError> {
        let changed = from.changed(to);
        let entry = Self {
            version: Self::VERSION,
            seq: tip.seq + 1,
            at_us,
            who: change.who.clone(),
            why: change.why.clone(),
            change: described(&change.action, from, to),
            evidence: change.evidence.clone(),
            from: Some(from.part(changed.iter().copied())),
            to: to.part(changed),
            previous: tip.hash,
            hash: EntryHash::default(),
        };
        entry.sealed()
    }

    /// Where a log ends that ends with this entry.
    pub fn tip(&self) -> Tip {
        Tip { seq: self.seq, hash: self.hash }
    }

    /// The line, with its line break.
    ///
    /// # Errors
    /// [`EntryError`].
    pub fn line(&self) -> Result<String, EntryError> {
        let mut line = encode(self)?;
        line.push('\n');
        Ok(line)
    }

    /// Reads a line, with or without its line break. Only [`super::verify`] says whether to believe it.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(line).map_err(|error| error.to_string())
    }

    /// Whether its hash is its own.
    pub fn is_sound(&self) -> bool {
        self.clone().sealed().is_ok_and(|sealed| sealed.hash == self.hash)
    }

    /// With its hash.
    fn sealed(mut self) -> Result<Self, EntryError> {
        let line = encode(&self)?;
        if line.len() >= MAX_AUDIT_LINE_BYTES {
            return Err(EntryError::TooLong(line.len()));
        }
        self.hash =
            split_hash(line.as_bytes()).map_or(self.hash, |(sealed, _)| EntryHash::of(sealed));
        Ok(self)
    }
}

/// What the hash of a line is made of, and the digits that it says it has.
pub(super) fn split_hash(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = line.strip_suffix(HASH_END)?;
    let (rest, digits) = rest.split_at_checked(rest.len().checked_sub(HASH_DIGITS)?)?;
    Some((rest.strip_suffix(HASH_FIELD)?, digits))
}

fn encode(entry: &Entry) -> Result<String, EntryError> {
    serde_json::to_string(entry).map_err(|error| EntryError::Encode(error.to_string()))
}

/// A whole set says nothing of what is new in it.
fn described(action: &ChangeAction, from: &FlagSet, to: &FlagSet) -> String {
    let ChangeAction::Whole(_) = action else { return action.to_string() };
    let mut changed: Vec<&str> = from.changed(to).into_iter().map(Flag::name).collect();
    if from.killed.is_some() != to.killed.is_some() {
        changed.push(if to.killed.is_some() { "kill switch on" } else { "kill switch off" });
    }
    format!("{action}: {}", changed.join(", "))
}

impl EntryHash {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for EntryHash {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for EntryHash {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "EntryHash({self})")
    }
}

/// The text is not a hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("hash {} is not 64 small hexadecimal digits", quoted(.0))]
pub struct ParseHashError(String);

impl FromStr for EntryHash {
    type Err = ParseHashError;

    fn from_str(text: &str) -> Result<Self, ParseHashError> {
        let hash = blake3::Hash::from_hex(text).map(|hash| Self(*hash.as_bytes())).ok();
        // A hash has one spelling, or its own digits could be edited.
        let hash = hash.filter(|hash| hash.to_string() == text);
        hash.ok_or_else(|| ParseHashError(text.to_owned()))
    }
}

impl Serialize for EntryHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EntryHash {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

const HASH_FIELD: &[u8] = b",\"hash\":\"";
const HASH_END: &[u8] = b"\"}";
const HASH_DIGITS: usize = 64;
