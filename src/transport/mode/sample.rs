//! What one look at a path tells.

use serde::Serialize;

/// Whether RDMA reaches the peer, as this node has tried it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reachability {
    /// Not tried.
    #[default]
    Unknown,
    /// A queue pair has carried data.
    Reachable,
    /// It was tried in vain.
    Unreachable,
}

/// One look at a path: the answer to a probe, or what a [`super::PathMeter`] made of TCP's figures.
///
/// Everything in it was measured on this side; nothing is a peer's own word. What was not measured
/// is none, zero or unknown, and leaves the estimate as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathSample {
    /// Round trip.
    pub rtt_us: Option<u32>,
    /// Mean deviation of the round trip; none: it is taken from the round trips themselves.
    pub jitter_us: Option<u32>,
    /// Bytes that were sent since the last sample, retransmissions included.
    pub sent_bytes: u64,
    /// Those of them that were retransmissions.
    pub retransmitted_bytes: u64,
    /// Payload that the path delivered, in bytes per second.
    pub rate_bytes_per_s: Option<u64>,
    /// Whether something other than the path limited that rate, so that the path may be faster.
    pub rate_is_floor: bool,
    /// Whether RDMA reaches the peer.
    pub rdma: Reachability,
}

impl PathSample {
    /// Of a probe that came back.
    pub fn of_probe(rtt_us: u32) -> Self {
        Self { rtt_us: Some(rtt_us), ..Self::default() }
    }

    /// Whether it tells anything of how long or slow the path is; 0 is what nobody measured.
    pub fn has_news(&self) -> bool {
        let has_rate = self.rate_bytes_per_s.is_some_and(|rate| rate > 0);
        self.rtt_us.is_some_and(|rtt_us| rtt_us > 0) || (has_rate && !self.rate_is_floor)
    }
}
