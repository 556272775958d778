//! The four modes and their order.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// How a node talks to a peer.
///
/// The first three are in order: each stands for a longer or slower path than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    /// A short and fast path.
    Datacenter,
    /// Neither short and fast nor long or slow.
    Hybrid,
    /// A long or slow path.
    Internet,
    /// The peer knows DWCP v1 alone, or is to be treated so.
    V1Compat,
}

/// The text is no mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown mode {0:?}; modes are datacenter, hybrid, internet and v1-compat")]
pub struct ParseModeError(String);

impl Mode {
    /// Every mode, in order.
    pub const ALL: [Mode; 4] = [Mode::Datacenter, Mode::Hybrid, Mode::Internet, Mode::V1Compat];

    /// The name as in configuration, commands and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Datacenter => "datacenter",
            Mode::Hybrid => "hybrid",
            Mode::Internet => "internet",
            Mode::V1Compat => "v1-compat",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Mode {
    type Err = ParseModeError;

    fn from_str(text: &str) -> Result<Self, ParseModeError> {
        let found = Self::ALL.into_iter().find(|mode| mode.name() == text);
        found.ok_or_else(|| ParseModeError(text.chars().take(32).collect()))
    }
}

impl Serialize for Mode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for mode in Mode::ALL {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        assert!("lan".parse::<Mode>().unwrap_err().to_string().contains("\"lan\""));
    }
}
