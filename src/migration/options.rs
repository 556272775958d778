//! What a caller may set for one migration.

use std::time::Duration;

/// How data pages are encoded. Zero pages never travel as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodecChoice {
    /// Stored.
    None,
    /// LZ4, block format.
    Lz4,
    /// Zstandard at a level, -7 to 19.
    Zstd(i32),
}

/// Settings of one migration; `Default` is what an operator wants.
#[derive(Clone, Debug, PartialEq)]
pub struct MigrationOptions {
    /// Data streams, 1 to 64.
    pub streams: u16,
    /// Page encoding.
    pub codec: CodecChoice,
    /// The guest is paused once the rest is predicted to take no longer.
    pub max_downtime: Duration,
    /// Give up, guest running at the source, when pre-copy takes longer.
    pub deadline: Option<Duration>,
    /// Cap on what goes on the wire.
    pub bandwidth_limit_bytes_per_s: Option<u64>,
    /// Whether the guest may be slowed down to converge.
    pub throttle: bool,
    /// How long to go on trying to get a first or lost connection.
    pub reconnect_timeout: Duration,
    /// How long the peer may leave data or a request without any progress.
    pub stall_timeout: Duration,
}

impl Default for MigrationOptions {
    fn default() -> Self {
        Self {
            streams: 4,
            codec: CodecChoice::Lz4,
            max_downtime: Duration::from_millis(300),
            deadline: None,
            bandwidth_limit_bytes_per_s: None,
            throttle: true,
            reconnect_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(30),
        }
    }
}

/// An option is out of range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// The stream count.
    #[error("streams is {0}; it must be 1 to {max}", max = crate::base::limits::MAX_STREAMS)]
    Streams(u16),
    /// The zstd level.
    #[error("zstd level is {0}; it must be -7 to 19")]
    Level(i32),
    /// A cap too low to make progress.
    #[error("bandwidth limit is {0} bytes/s; it must be at least 65536")]
    Bandwidth(u64),
    /// A codec's name.
    #[error("codec {0:?} is none of: none, lz4, zstd, zstd:LEVEL")]
    Codec(String),
}

impl MigrationOptions {
    /// Checks every value.
    ///
    /// # Errors
    /// [`OptionsError`] names the first value out of range.
    pub fn validate(&self) -> Result<(), OptionsError> {
        if self.streams == 0 || self.streams > crate::base::limits::MAX_STREAMS {
            return Err(OptionsError::Streams(self.streams));
        }
        if let CodecChoice::Zstd(level) = self.codec
            && !(-7..=19).contains(&level)
        {
            return Err(OptionsError::Level(level));
        }
        match self.bandwidth_limit_bytes_per_s {
            Some(rate) if rate < 65_536 => Err(OptionsError::Bandwidth(rate)),
            _ => Ok(()),
        }
    }
}

impl std::str::FromStr for CodecChoice {
    type Err = OptionsError;

    fn from_str(text: &str) -> Result<Self, OptionsError> {
        match text {
            "none" => Ok(Self::None),
            "lz4" => Ok(Self::Lz4),
            "zstd" => Ok(Self::Zstd(1)),
            _ => text
                .strip_prefix("zstd:")
                .and_then(|level| level.parse().ok())
                .map(Self::Zstd)
                .ok_or_else(|| OptionsError::Codec(text.chars().take(32).collect())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bad_option_names_its_value() {
        let good = MigrationOptions::default();
        assert_eq!(good.validate(), Ok(()));
        let bad = MigrationOptions { streams: 65, ..good.clone() };
        assert!(bad.validate().unwrap_err().to_string().contains("65"));
        let bad = MigrationOptions { codec: CodecChoice::Zstd(20), ..good.clone() };
        assert!(bad.validate().unwrap_err().to_string().contains("20"));
        let bad = MigrationOptions { bandwidth_limit_bytes_per_s: Some(9), ..good };
        assert!(bad.validate().unwrap_err().to_string().contains("9 bytes/s"));
    }

    #[test]
    fn codec_names_parse() {
        assert_eq!("zstd:-1".parse(), Ok(CodecChoice::Zstd(-1)));
        assert_eq!("none".parse(), Ok(CodecChoice::None));
        assert!("zip".parse::<CodecChoice>().unwrap_err().to_string().contains("\"zip\""));
    }
}
