//! What is measured about one pre-copy pass; reports and events both carry it.

use serde::Serialize;

/// One pre-copy pass over the dirty pages; the last one runs with the guest paused.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Pass {
    /// Number, from 1.
    pub pass: u32,
    /// Pages sent, zero pages included.
    pub pages: u64,
    /// Of these, zero pages.
    pub zero_pages: u64,
    /// Bytes on the wire.
    pub wire_bytes: u64,
    /// Start, since the migration's start.
    pub start_us: u64,
    /// Duration.
    pub duration_us: u64,
    /// How fast the guest wrote during the pass.
    pub dirty_rate_bytes_per_s: u64,
    /// Measured speed of the link.
    pub bandwidth_bytes_per_s: u64,
    /// What the downtime would have been, had the guest been paused at the pass's end.
    pub predicted_downtime_us: u64,
}
