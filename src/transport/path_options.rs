//! What an operator sets for the paths of all migrations that leave a node.

use super::addresses::MAX_SOURCE_ADDRESSES;
use std::net::IpAddr;

/// The largest code point of differentiated services: six bits.
pub const MAX_DSCP: u8 = 63;

/// What holds for all paths of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathOptions {
    /// Cap on what all migrations that leave the node send together, shared evenly.
    pub bandwidth_limit_bytes_per_s: Option<u64>,
    /// Whether streams on long paths are paced by what the path was found to carry.
    pub pacing: bool,
    /// Code point that data streams are marked with (DSCP); 0: not marked.
    pub dscp: u8,
    /// Local addresses over which the streams of a migration are spread; none: the system chooses.
    pub source_addresses: Vec<IpAddr>,
}

/// An option is out of range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathOptionsError {
    /// The code point.
    #[error("dscp is {0}; it must be 0 to {MAX_DSCP}")]
    Dscp(u8),
    /// The number of addresses.
    #[error("{0} source addresses; there may be {MAX_SOURCE_ADDRESSES}")]
    SourceAddresses(usize),
    /// A cap too low to make progress.
    #[error("bandwidth limit is {0} bytes/s; it must be at least {LEAST_LIMIT_BYTES_PER_S}")]
    BandwidthLimit(u64),
}

/// A lower cap would be slower than time-outs allow.
pub const LEAST_LIMIT_BYTES_PER_S: u64 = 65_536;

impl Default for PathOptions {
    fn default() -> Self {
        let (bandwidth_limit_bytes_per_s, source_addresses) = (None, Vec::new());
        Self { bandwidth_limit_bytes_per_s, pacing: true, dscp: 0, source_addresses }
    }
}

impl PathOptions {
    /// Checks every value.
    ///
    /// # Errors
    /// [`PathOptionsError`] names the first value out of range.
    pub fn validate(&self) -> Result<(), PathOptionsError> {
        if self.dscp > MAX_DSCP {
            return Err(PathOptionsError::Dscp(self.dscp));
        }
        if self.source_addresses.len() > MAX_SOURCE_ADDRESSES {
            return Err(PathOptionsError::SourceAddresses(self.source_addresses.len()));
        }
        match self.bandwidth_limit_bytes_per_s {
            Some(rate) if rate < LEAST_LIMIT_BYTES_PER_S => {
                Err(PathOptionsError::BandwidthLimit(rate))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bad_option_names_its_value() {
        assert_eq!(PathOptions::default().validate(), Ok(()));
        let text = |options: PathOptions| options.validate().unwrap_err().to_string();
        assert!(text(PathOptions { dscp: 64, ..PathOptions::default() }).contains("64; it must"));
        let source_addresses = vec![IpAddr::from([127, 0, 0, 1]); 9];
        let many = PathOptions { source_addresses, ..PathOptions::default() };
        assert!(text(many).contains("9 source addresses"));
        let slow = Some(65_535);
        let slow = PathOptions { bandwidth_limit_bytes_per_s: slow, ..PathOptions::default() };
        assert!(text(slow).contains("65535 bytes/s"));
    }
}
