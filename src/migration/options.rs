//! What a caller may set for one migration.

use crate::base::limits::MAX_MULTIFD_CHANNELS;
pub use crate::encoding::codec::{ChoiceError, CodecChoice};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How pages are to be packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodecPolicy {
    /// The library decides: for a relayed guest block by block, by what costs least time end to
    /// end; for other guests LZ4.
    Auto,
    /// Always the same.
    Fixed(CodecChoice),
}

impl From<CodecChoice> for CodecPolicy {
    fn from(choice: CodecChoice) -> Self {
        Self::Fixed(choice)
    }
}

impl fmt::Display for CodecPolicy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => out.write_str("auto"),
            Self::Fixed(choice) => choice.fmt(out),
        }
    }
}

impl FromStr for CodecPolicy {
    type Err = ChoiceError;

    fn from_str(text: &str) -> Result<Self, ChoiceError> {
        if text == "auto" { Ok(Self::Auto) } else { text.parse().map(Self::Fixed) }
    }
}

impl CodecPolicy {
    /// The codec where blocks are not judged one by one.
    pub fn one(self) -> CodecChoice {
        match self {
            Self::Auto => CodecChoice::Lz4,
            Self::Fixed(choice) => choice,
        }
    }

    /// The codec where the library is not to decide, because feature flag `ml_compression` is off: that
    /// of v1.
    pub fn undecided(self) -> CodecChoice {
        match self {
            Self::Auto => CodecChoice::Zstd(1),
            Self::Fixed(choice) => choice,
        }
    }
}

/// Whether the guest may go on at the destination before all of its memory is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PostCopyRule {
    /// No: a guest that cannot converge stays.
    #[default]
    Never,
    /// When somebody asks for it.
    Manual,
    /// When somebody asks for it, and when passes no longer bring the downtime down or the deadline
    /// comes: instead of slowing the guest, and instead of giving up.
    Auto,
}

/// A word that is no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("post_copy {0:?} is none of: never, manual, auto")]
pub struct PostCopyRuleError(String);

impl PostCopyRule {
    /// All rules, and their names.
    pub const NAMES: [(Self, &'static str); 3] =
        [(Self::Never, "never"), (Self::Manual, "manual"), (Self::Auto, "auto")];
}

impl fmt::Display for PostCopyRule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::NAMES.iter().find(|(rule, _)| rule == self);
        out.write_str(named.map_or("never", |(_, name)| name))
    }
}

impl FromStr for PostCopyRule {
    type Err = PostCopyRuleError;

    fn from_str(text: &str) -> Result<Self, PostCopyRuleError> {
        let named = Self::NAMES.iter().find(|(_, name)| *name == text);
        named.map(|(rule, _)| *rule).ok_or_else(|| PostCopyRuleError(text.to_string()))
    }
}

/// Settings of one migration; `Default` is what an operator wants.
#[derive(Clone, Debug, PartialEq)]
pub struct MigrationOptions {
    /// Data streams, at most, 1 to 64. How many there are is found out.
    pub streams: u16,
    /// Page encoding.
    pub codec: CodecPolicy,
    /// The guest is paused once the rest is predicted to take no longer.
    pub max_downtime: Duration,
    /// Give up, guest running at the source, when pre-copy takes longer.
    pub deadline: Option<Duration>,
    /// Cap on what goes on the wire.
    pub bandwidth_limit_bytes_per_s: Option<u64>,
    /// Whether the guest may be slowed down to converge.
    pub throttle: bool,
    /// Channels over which QEMU hands its pages to us beside its main stream; 0: the main stream
    /// carries them. Only for guests of QEMU's.
    pub multifd_channels: u8,
    /// Whether the guest may go on at the destination before all of its memory is there.
    pub post_copy: PostCopyRule,
    /// How long to go on trying to get a lost connection back; for the first one, at most
    /// [`FIRST_CONNECTION_TIMEOUT`].
    pub reconnect_timeout: Duration,
    /// How long the peer may leave data or a request without any progress.
    pub stall_timeout: Duration,
}

/// A destination that was never there is not worth as long a wait as one that was lost.
pub const FIRST_CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

impl Default for MigrationOptions {
    fn default() -> Self {
        Self {
            streams: 8,
            codec: CodecPolicy::Auto,
            max_downtime: Duration::from_millis(300),
            deadline: None,
            bandwidth_limit_bytes_per_s: None,
            throttle: true,
            multifd_channels: 0,
            post_copy: PostCopyRule::Never,
            reconnect_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(60),
        }
    }
}

/// An option is out of range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// The stream count.
    #[error("streams is {0}; it must be 1 to {max}", max = crate::base::limits::MAX_STREAMS)]
    Streams(u16),
    /// The codec's name or level.
    #[error(transparent)]
    Codec(#[from] ChoiceError),
    /// The channel count.
    #[error("multifd_channels is {0}; it must be 0 to {MAX_MULTIFD_CHANNELS}")]
    MultifdChannels(u8),
    /// A cap too low to make progress.
    #[error("bandwidth limit is {0} bytes/s; it must be at least 65536")]
    Bandwidth(u64),
}

impl MigrationOptions {
    /// How long to be without any connection.
    pub fn connection_timeout(&self, ever_connected: bool) -> Duration {
        match ever_connected {
            true => self.reconnect_timeout,
            false => self.reconnect_timeout.min(FIRST_CONNECTION_TIMEOUT),
        }
    }

    /// Without what has nothing to choose where another migration is gone on with: it has switched, on the
    /// connections that it had.
    pub fn of_recovery(self) -> Self {
        Self { post_copy: PostCopyRule::Never, multifd_channels: 0, ..self }
    }

    /// Checks every value.
    ///
    /// # Errors
    /// [`OptionsError`] names the first value out of range.
    pub fn validate(&self) -> Result<(), OptionsError> {
        if self.streams == 0 || self.streams > crate::base::limits::MAX_STREAMS {
            return Err(OptionsError::Streams(self.streams));
        }
        if self.multifd_channels > MAX_MULTIFD_CHANNELS {
            return Err(OptionsError::MultifdChannels(self.multifd_channels));
        }
        self.codec.one().validate()?;
        match self.bandwidth_limit_bytes_per_s {
            Some(rate) if rate < 65_536 => Err(OptionsError::Bandwidth(rate)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_post_copy_are_named_both_ways() {
        for (rule, name) in PostCopyRule::NAMES {
            assert_eq!((name.parse(), rule.to_string().as_str()), (Ok(rule), name));
        }
        let error = "always".parse::<PostCopyRule>().unwrap_err().to_string();
        assert_eq!(error, "post_copy \"always\" is none of: never, manual, auto");
    }

    #[test]
    fn each_bad_option_names_its_value() {
        let good = MigrationOptions::default();
        assert_eq!(good.validate(), Ok(()));
        let bad = MigrationOptions { streams: 65, ..good.clone() };
        assert!(bad.validate().unwrap_err().to_string().contains("65"));
        let bad = MigrationOptions { multifd_channels: 17, ..good.clone() };
        assert!(bad.validate().unwrap_err().to_string().contains("17; it must be 0 to 16"));
        let bad = MigrationOptions { codec: CodecChoice::Zstd(20).into(), ..good.clone() };
        assert!(bad.validate().unwrap_err().to_string().contains("20"));
        let bad = MigrationOptions { bandwidth_limit_bytes_per_s: Some(9), ..good };
        assert!(bad.validate().unwrap_err().to_string().contains("9 bytes/s"));
    }
}
