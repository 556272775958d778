//! How often something took how long: counts of fixed size, by bounds that hold for every latency.

/// Times counted by upper bounds, from a tenth of a millisecond to ten seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeCounts {
    counts: [u64; Self::BOUNDS_US.len() + 1],
    sum_us: u64,
}

impl TimeCounts {
    /// The upper bounds, in microseconds.
    pub const BOUNDS_US: [u64; 15] = [
        100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
        1_000_000, 2_500_000, 10_000_000,
    ];

    /// Something took so long.
    pub fn add_us(&mut self, us: u64) {
        let bucket = Self::BOUNDS_US.iter().position(|bound| us <= *bound);
        self.counts[bucket.unwrap_or(Self::BOUNDS_US.len())] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// Takes in what another one has counted.
    pub fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(ours, theirs)| *ours += theirs);
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }

    /// How many took at most as long as each bound and longer than the one before; the last one: longer
    /// than every bound.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// All of them together, in microseconds.
    pub fn sum_us(&self) -> u64 {
        self.sum_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_counts_once_whatever_its_length() {
        let mut counts = TimeCounts::default();
        for us in [0, 100, 101, 10_000_000, 10_000_001, u64::MAX] {
            counts.add_us(us);
        }
        let found = counts.counts();
        assert_eq!((found[0], found[1], found[14], found[15]), (2, 1, 1, 2));
        assert_eq!((found.iter().sum::<u64>(), counts.sum_us()), (6, u64::MAX));
        assert!(TimeCounts::BOUNDS_US.is_sorted());
    }
}
