//! Quantiles of any number of durations in a fixed amount of memory.

/// Counts durations in classes that are one percent apart.
#[derive(Clone, Debug)]
pub struct Quantiles {
    counts: Vec<u64>,
    total: u64,
}

impl Quantiles {
    /// Without any duration.
    pub fn new() -> Self {
        Self { counts: vec![0; CLASSES], total: 0 }
    }

    /// Counts one more.
    pub fn add(&mut self, us: f64) {
        let class = us.max(1.0).ln() / STEP.ln();
        self.counts[(class.round() as usize).min(CLASSES - 1)] += 1;
        self.total += 1;
    }

    /// The duration below which this share of them is, to half a percent; none of none.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let rank = (share * self.total as f64).ceil().max(1.0) as u64;
        let mut below = 0;
        let class = self.counts.iter().position(|count| {
            below += count;
            below >= rank
        });
        class.filter(|_| self.total > 0).map(|class| STEP.powi(class as i32))
    }
}

const STEP: f64 = 1.01;
/// Up to an hour.
const CLASSES: usize = 2212;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_half_a_percent() {
        let mut quantiles = Quantiles::new();
        assert_eq!(quantiles.quantile(0.5), None);
        (1..=10_000).rev().for_each(|number| quantiles.add(f64::from(number) * 100.0));
        for (share, expected) in [(0.5, 500_000.0), (0.99, 990_000.0), (1.0, 1_000_000.0)] {
            let found = quantiles.quantile(share).unwrap();
            assert!((found / expected - 1.0).abs() < 0.006, "{share}: {found}");
        }
        let mut extremes = Quantiles::new();
        extremes.add(0.0);
        assert_eq!(extremes.quantile(0.99), Some(1.0));
        extremes.add(1e12);
        assert!(extremes.quantile(1.0).unwrap() > 3.5e9);
    }
}
