//! What the operator decides about modes: thresholds, allowed modes, and a forced one.

use super::kind::Mode;
use serde::Serialize;

/// Payload that a line of 1 Gbit/s is sure to carry. Headers of Ethernet, IP and TCP leave 941 of its
/// 1,000 Mbit/s, those of a tunnel and of TLS a little less; asking for the full figure would keep
/// every gigabit network out of datacenter mode.
pub const GIGABIT_PAYLOAD_BYTES_PER_S: u64 = 112_500_000;

/// Where one mode ends and the next begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Thresholds {
    /// A round trip shorter than this may be a datacenter's.
    pub datacenter_rtt_us: u32,
    /// A longer round trip than this is the internet's (`mode_detector.latency_threshold`).
    pub internet_rtt_us: u32,
    /// More jitter than this is the internet's (`mode_detector.jitter_threshold`).
    pub internet_jitter_us: u32,
    /// A path that delivers less than this is the internet's.
    pub fast_rate_bytes_per_s: u64,
    /// A path that loses more than this, in parts of a million, is not a datacenter's.
    pub datacenter_loss_ppm: u32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            datacenter_rtt_us: 10_000,
            internet_rtt_us: 50_000,
            internet_jitter_us: 10_000,
            fast_rate_bytes_per_s: GIGABIT_PAYLOAD_BYTES_PER_S,
            datacenter_loss_ppm: 20_000,
        }
    }
}

/// What holds for all peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModePolicy {
    /// The mode of every peer, whatever is measured.
    pub forced: Option<Mode>,
    /// The mode of a peer about whose path nothing is known yet.
    pub start: Mode,
    /// Whether measurement may choose datacenter mode.
    pub allow_datacenter: bool,
    /// Whether measurement may choose internet mode.
    pub allow_internet: bool,
    /// Where one mode ends and the next begins.
    pub thresholds: Thresholds,
}

impl Default for ModePolicy {
    fn default() -> Self {
        Self {
            forced: None,
            start: Mode::Hybrid,
            allow_datacenter: true,
            allow_internet: true,
            thresholds: Thresholds::default(),
        }
    }
}

impl ModePolicy {
    /// The mode of a peer that is neither measured nor forced: v1 knew no other networks.
    pub fn unmeasured(&self) -> Mode {
        self.allowed(Mode::Datacenter)
    }

    /// The mode of a peer of which nothing is known yet.
    pub fn beginning(&self, may_measure: bool) -> Mode {
        let start = || if may_measure { self.start } else { self.unmeasured() };
        self.forced.unwrap_or_else(start)
    }

    /// The mode, or hybrid in place of one that is not allowed.
    pub fn allowed(&self, mode: Mode) -> Mode {
        match mode {
            Mode::Datacenter if !self.allow_datacenter => Mode::Hybrid,
            Mode::Internet if !self.allow_internet => Mode::Hybrid,
            mode => mode,
        }
    }
}
