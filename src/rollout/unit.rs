//! Units: what a flag is decided for, by one canonical key each.
//!
//! A unit is one name, or two with a bar between them. The order of two does not matter: the lesser
//! comes first in the key, so that both ends of a pair ask about the same unit. Hashes come with each
//! unit, because every decision needs them; see [`super::hash`].
//!
//! A node whose own name holds a bar gets its decisions like any other, but its key reads as another
//! unit's, so nobody can ask for it by text: nodes are better not called so.

use super::flag::UnitKind;
use super::hash::{name_hash, pair_hash};
use crate::base::limits::MAX_UNIT_BYTES;
use crate::base::text::quoted;
use std::fmt;

/// A unit by borrowed names; cheap to make, and to copy.
#[derive(Clone, Copy, Debug)]
pub struct Unit<'a> {
    first: &'a str,
    second: Option<&'a str>,
    first_hash: u64,
    /// The same as of the first, if there is but one name.
    second_hash: u64,
    hash: u64,
}

/// A unit that is kept, for many decisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedUnit {
    key: Box<str>,
    /// Where the bar is; the whole length for a single name.
    first_bytes: usize,
    first_hash: u64,
    second_hash: u64,
    hash: u64,
}

/// Text that is no unit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// There is nothing, or nothing on one side of the bar.
    #[error("unit {} lacks a name", quoted(.0))]
    Empty(String),
    /// Over the limit.
    #[error("a unit of {0} bytes is longer than {MAX_UNIT_BYTES}")]
    TooLong(usize),
    /// It would garble a log or a terminal.
    #[error("unit {} holds control characters", quoted(.0))]
    Unprintable(String),
    /// A pair where one name is wanted, or the other way round.
    #[error("unit {} is not a {}, which is written {}", quoted(.text), .kind.name(), .kind.form())]
    Kind {
        /// What is wanted.
        kind: UnitKind,
        /// What was written.
        text: String,
    },
}

impl<'a> Unit<'a> {
    /// Two nodes, or a node and an address, in either order.
    pub fn pair(one: &'a str, other: &'a str) -> Self {
        let (first, second) = if one <= other { (one, other) } else { (other, one) };
        let (first_hash, second_hash) = (name_hash(first), name_hash(second));
        let hash = pair_hash(first_hash, second_hash);
        Self { first, second: Some(second), first_hash, second_hash, hash }
    }

    /// From text: a pair if there is a bar in it, split at the first one. Any text is some unit.
    pub fn named(text: &'a str) -> Self {
        if let Some((one, other)) = text.split_once(BAR) {
            return Self::pair(one, other);
        }
        Self::single(text, name_hash(text))
    }

    #[inline]
    const fn single(name: &'a str, hash: u64) -> Self {
        Self { first: name, second: None, first_hash: hash, second_hash: hash, hash }
    }

    /// From text that somebody wrote.
    ///
    /// # Errors
    /// [`UnitError`] where it lacks a name, is too long or unprintable.
    pub fn parse(text: &'a str) -> Result<Self, UnitError> {
        if text.len() > MAX_UNIT_BYTES {
            return Err(UnitError::TooLong(text.len()));
        }
        if text.chars().any(char::is_control) {
            return Err(UnitError::Unprintable(text.to_owned()));
        }
        let unit = Self::named(text);
        if unit.members().any(str::is_empty) {
            return Err(UnitError::Empty(text.to_owned()));
        }
        Ok(unit)
    }

    /// Whether it has two members.
    pub const fn is_pair(&self) -> bool {
        self.second.is_some()
    }

    /// Its names: one, or two in order.
    pub fn members(&self) -> impl Iterator<Item = &'a str> {
        [Some(self.first), self.second].into_iter().flatten()
    }

    /// The hash of its key; see [`super::hash`].
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// The hashes of its key and of its members.
    #[inline]
    pub(super) const fn hashes(&self) -> [u64; 3] {
        [self.hash, self.first_hash, self.second_hash]
    }

    /// The members of a pair, as units of their own.
    #[inline]
    pub(super) fn member_units(&self) -> impl Iterator<Item = Unit<'a>> {
        let pair = |second| {
            [Self::single(self.first, self.first_hash), Self::single(second, self.second_hash)]
        };
        self.second.map(pair).into_iter().flatten()
    }
}

impl PreparedUnit {
    /// The unit, borrowed.
    pub fn unit(&self) -> Unit<'_> {
        let Self { key, first_bytes, first_hash, second_hash, hash } = self;
        let second = key.get(first_bytes + BAR.len_utf8()..);
        let (first_hash, second_hash, hash) = (*first_hash, *second_hash, *hash);
        Unit { first: &key[..*first_bytes], second, first_hash, second_hash, hash }
    }

    /// The canonical key: a name, or two in order with a bar between them.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The hash of the key.
    pub const fn hash(&self) -> u64 {
        self.hash
    }
}

impl From<Unit<'_>> for PreparedUnit {
    fn from(unit: Unit<'_>) -> Self {
        let Unit { first, first_hash, second_hash, hash, .. } = unit;
        let (key, first_bytes) = (unit.to_string().into(), first.len());
        Self { key, first_bytes, first_hash, second_hash, hash }
    }
}

impl PartialEq for Unit<'_> {
    fn eq(&self, other: &Self) -> bool {
        // The hash first, because it settles most comparisons.
        self.hash == other.hash && self.first == other.first && self.second == other.second
    }
}

impl Eq for Unit<'_> {}

impl fmt::Display for Unit<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.second {
            Some(second) => write!(to, "{}{BAR}{second}", self.first),
            None => to.write_str(self.first),
        }
    }
}

const BAR: char = '|';

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_of_a_pair_ask_about_the_same_unit() {
        let unit = Unit::pair("node-b", "node-a");
        assert_eq!(unit, Unit::pair("node-a", "node-b"));
        assert_eq!(unit, Unit::named("node-b|node-a"));
        assert_eq!(unit.to_string(), "node-a|node-b");
        assert_eq!(unit.members().collect::<Vec<_>>(), ["node-a", "node-b"]);
        assert_eq!(Unit::pair("a", "a").members().count(), 2);
        assert_ne!(Unit::pair("a", "a"), Unit::named("a"));
    }

    #[test]
    fn a_kept_unit_is_the_same() {
        for text in ["", "a", "b|a", "a|b|c", "|", "é|ü", "x|"] {
            let unit = Unit::named(text);
            let kept = PreparedUnit::from(unit);
            assert_eq!(
                (kept.unit(), kept.hash(), kept.key()),
                (unit, unit.hash(), &*unit.to_string())
            );
            assert_eq!(Unit::named(kept.key()), unit, "{text}");
        }
    }

    #[test]
    fn text_that_is_no_unit_is_refused() {
        let long = "x".repeat(MAX_UNIT_BYTES + 1);
        for text in ["", "|", "a|", "|a", "a\n", "a|b\x1b", &long] {
            assert!(Unit::parse(text).is_err(), "{text}");
        }
        assert!(Unit::parse("node-1|[fe80::1%eth0]:4040").is_ok());
    }
}
