//! What a mode changes: how many streams a peer gets, and who controls their congestion.

use super::kind::Mode;
use std::fmt;
use std::str::FromStr;

/// Round trips below this stay within a site, where loss is rare and the sender's own processor is
/// what limits it. BBR's paced sending costs a third of the throughput there.
const SITE_RTT_US: u32 = 2_000;

/// The congestion control of long paths, as an operator names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Congestion {
    /// Models the path instead of taking each loss for a queue.
    #[default]
    Bbr,
    /// Linux' own, as a rule.
    Cubic,
    /// The oldest.
    Reno,
    /// Whatever the system has, on every path.
    System,
}

/// The text names no congestion control.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown congestion control {0:?}; there are bbr, cubic, reno and system")]
pub struct ParseCongestionError(String);

/// What the modes change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModeEffects {
    /// Streams to a peer in datacenter mode, at most.
    pub datacenter_streams: u16,
    /// Streams to a peer in internet mode, at most.
    pub internet_streams: u16,
    /// Congestion control of long paths.
    pub congestion: Congestion,
}

impl Congestion {
    /// The name as in configuration.
    pub fn name(self) -> &'static str {
        match self {
            Congestion::Bbr => "bbr",
            Congestion::Cubic => "cubic",
            Congestion::Reno => "reno",
            Congestion::System => "system",
        }
    }
}

impl fmt::Display for Congestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Congestion {
    type Err = ParseCongestionError;

    fn from_str(text: &str) -> Result<Self, ParseCongestionError> {
        let all = [Congestion::Bbr, Congestion::Cubic, Congestion::Reno, Congestion::System];
        let found = all.into_iter().find(|known| known.name() == text);
        found.ok_or_else(|| ParseCongestionError(text.chars().take(32).collect()))
    }
}

impl Default for ModeEffects {
    fn default() -> Self {
        Self { datacenter_streams: 64, internet_streams: 8, congestion: Congestion::default() }
    }
}

impl ModeEffects {
    /// How many streams a peer gets when so many are wanted.
    pub fn streams(&self, mode: Mode, wanted: u16) -> u16 {
        match mode {
            Mode::Datacenter => wanted.min(self.datacenter_streams),
            Mode::Internet => wanted.min(self.internet_streams),
            Mode::Hybrid | Mode::V1Compat => wanted,
        }
    }

    /// The congestion control to choose for a connection that has `current` and this round trip;
    /// none: it stays. On a short path the system's own does best, unless that is BBR.
    pub fn congestion(&self, mode: Mode, rtt_us: u32, current: &str) -> Option<&'static str> {
        let wanted = match (self.congestion, is_long(mode, rtt_us)) {
            (Congestion::System, _) => return None,
            (long, true) => long.name(),
            (_, false) if current == "bbr" => Congestion::Cubic.name(),
            (_, false) => return None,
        };
        Some(wanted).filter(|wanted| *wanted != current)
    }
}

/// Whether a path counts as a long one.
pub fn is_long(mode: Mode, rtt_us: u32) -> bool {
    match mode {
        Mode::Internet => true,
        Mode::Datacenter => false,
        Mode::Hybrid | Mode::V1Compat => rtt_us >= SITE_RTT_US,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Mode::{Datacenter, Hybrid, Internet, V1Compat};

    #[test]
    fn stream_counts_are_limits() {
        let effects = ModeEffects::default();
        assert_eq!(Mode::ALL.map(|mode| effects.streams(mode, 64)), [64, 64, 8, 64]);
        assert_eq!(Mode::ALL.map(|mode| effects.streams(mode, 4)), [4; 4]);
        let few = ModeEffects { datacenter_streams: 2, internet_streams: 1, ..effects };
        assert_eq!(Mode::ALL.map(|mode| few.streams(mode, 4)), [2, 4, 1, 4]);
    }

    #[test]
    fn long_paths_get_the_configured_control_and_short_ones_the_systems() {
        let chosen =
            |mode, rtt_us, current: &str| ModeEffects::default().congestion(mode, rtt_us, current);
        assert_eq!(chosen(Internet, 100, "cubic"), Some("bbr"));
        assert_eq!(chosen(Internet, 100, "bbr"), None);
        assert_eq!(chosen(Datacenter, 80_000, "bbr"), Some("cubic"));
        assert_eq!(chosen(Datacenter, 80_000, "reno"), None);
        for mode in [Hybrid, V1Compat] {
            assert_eq!(chosen(mode, 1_999, "cubic"), None);
            assert_eq!(chosen(mode, 1_999, "bbr"), Some("cubic"));
            assert_eq!(chosen(mode, 2_000, "cubic"), Some("bbr"));
        }
        let system = ModeEffects { congestion: Congestion::System, ..ModeEffects::default() };
        assert_eq!(system.congestion(Internet, 80_000, "cubic"), None);
        assert_eq!(system.congestion(Datacenter, 80, "bbr"), None);
    }

    #[test]
    fn names_round_trip() {
        for name in ["bbr", "cubic", "reno", "system"] {
            assert_eq!(name.parse::<Congestion>().unwrap().to_string(), name);
        }
        assert!("vegas".parse::<Congestion>().unwrap_err().to_string().contains("\"vegas\""));
    }
}
