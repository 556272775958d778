//! What a node is set to for its v1 peers. v1 negotiates nothing, so both ends must have been told.

use crate::base::limits::MAX_V1_CONNECTIONS;
use crate::wire::v1::f8;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How a guest's memory travels to or from v1 peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// As v1's migrations send it: one packet of its encoder, in chunks of its AMST (F16).
    #[default]
    F16,
    /// As it is, in chunks of its multi-stream TCP (F8).
    F8,
    /// Its length and itself, on one connection: what v1's migrations send without their encoder.
    Plain,
}

/// The text is no dialect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown dialect {0:?}; dialects are f16, f8 and plain")]
pub struct ParseDialectError(String);

/// Settings of a node. Each transfer takes them as they are when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V1Options {
    /// Addresses that are dialed as v1 peers, `HOST:PORT`.
    pub peers: Vec<String>,
    /// How memory travels.
    pub dialect: Dialect,
    /// How F8 cuts; the same at the peer, or nothing arrives.
    pub f8_chunk_bytes: u32,
    /// The guest that comes from v1 peers, which name none; empty: the one that is expected.
    pub guest: String,
    /// The largest image that is sent or taken in.
    pub max_image_bytes: u64,
    /// Connections to the v1 port at a time.
    pub max_connections: usize,
    /// How long one chunk may take, and how long may pass without one; v1 itself allows as much.
    pub idle_timeout: Duration,
    /// How long one transfer into this node may take.
    pub transfer_timeout: Duration,
}

impl Dialect {
    /// Every dialect.
    pub const ALL: [Self; 3] = [Self::F16, Self::F8, Self::Plain];

    /// The name as in configuration, events and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::F8 => "f8",
            Self::Plain => "plain",
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl FromStr for Dialect {
    type Err = ParseDialectError;

    fn from_str(text: &str) -> Result<Self, ParseDialectError> {
        let found = Self::ALL.into_iter().find(|dialect| dialect.name() == text);
        found.ok_or_else(|| ParseDialectError(text.chars().take(32).collect()))
    }
}

impl Default for V1Options {
    fn default() -> Self {
        Self {
            peers: Vec::new(),
            dialect: Dialect::default(),
            f8_chunk_bytes: f8::DEFAULT_CHUNK_BYTES,
            guest: String::new(),
            max_image_bytes: crate::wire::v1::hde::MAX_V1_IMAGE_BYTES,
            max_connections: MAX_V1_CONNECTIONS,
            idle_timeout: Duration::from_secs(60),
            transfer_timeout: Duration::from_secs(3600),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for dialect in Dialect::ALL {
            assert_eq!(dialect.to_string().parse(), Ok(dialect));
        }
        assert!("f12".parse::<Dialect>().unwrap_err().to_string().contains("\"f12\""));
    }
}
