//! How a node encodes relayed guests, and what it remembers of their pages; the same for all of them.

use crate::base::limits::MAX_BASELINE_PAGES;
use crate::encoding::baseline::PAGE_BYTES;
use std::time::Duration;

/// Pages of one baseline: what is kept of 1 MiB of guest memory.
pub const BASELINE_PAGES: u64 = 256;

/// Of a migration's memory. The rest is for what is under way ([`crate::migration::relay`] bounds it
/// by the guest's memory too), and for what is being packed, unpacked and held.
const BASELINE_SHARE: f64 = 0.5;

/// Settings of a node. Each migration takes them as they are when it starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EncodingOptions {
    /// Whether pages may travel as differences from what was sent before.
    pub delta: bool,
    /// Baselines that one migration may hold.
    pub max_baselines: u64,
    /// Memory of one migration on each side, in percent of its guest's; half of it is for baselines.
    pub max_memory_percent: f64,
    /// How long a page may travel as differences alone before it travels whole once more.
    pub baseline_refresh_interval: Duration,
    /// Hold half of what the limits allow.
    pub aggressive_cleanup: bool,
    /// The least weight of a new observation in what the selector of codecs has learned.
    pub learning_rate: f64,
}

impl Default for EncodingOptions {
    fn default() -> Self {
        Self {
            delta: true,
            max_baselines: 1000,
            max_memory_percent: 25.0,
            baseline_refresh_interval: Duration::from_secs(300),
            aggressive_cleanup: false,
            learning_rate: 0.03,
        }
    }
}

impl EncodingOptions {
    /// Pages that this side would remember of a guest of so much memory, indexes included.
    pub fn baseline_pages(&self, ram_bytes: u64) -> u32 {
        let share = (self.max_memory_percent / 100.0).clamp(0.0, 1.0) * BASELINE_SHARE;
        let by_memory = (ram_bytes as f64 * share) as u64 / PAGE_BYTES as u64;
        let allowed = by_memory.min(self.max_baselines.saturating_mul(BASELINE_PAGES));
        let held = if self.aggressive_cleanup { allowed / 2 } else { allowed };
        u32::try_from(held).unwrap_or(u32::MAX).min(MAX_BASELINE_PAGES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stricter_bound_counts_and_aggressive_cleanup_halves_it() {
        let options = EncodingOptions::default();
        let (gib, pages) =
            (1_u64 << 30, |options: EncodingOptions, ram| options.baseline_pages(ram));
        assert_eq!(pages(options, gib), 32_768, "an eighth of the guest");
        assert_eq!(pages(options, 1 << 40), 256_000, "1000 baselines");
        assert_eq!(pages(EncodingOptions { max_memory_percent: 50.0, ..options }, gib), 65_536);
        assert_eq!(pages(EncodingOptions { max_baselines: 1, ..options }, gib), 256);
        let halved = EncodingOptions { aggressive_cleanup: true, ..options };
        assert_eq!((pages(halved, gib), pages(halved, 1 << 40)), (16_384, 128_000));
        let huge = EncodingOptions { max_baselines: u64::MAX, ..options };
        assert_eq!(pages(huge, u64::MAX), MAX_BASELINE_PAGES);
        assert_eq!(pages(options, 0), 0);
    }
}
