//! Distributions over the project's small generator.

use dwcp_netlab::shaper::SplitMix;

/// A stream of random numbers; equal seeds give equal streams.
#[derive(Clone, Debug)]
pub struct Random {
    source: SplitMix,
    spare: Option<f64>,
}

impl Random {
    pub fn new(seed: u64) -> Self {
        Self { source: SplitMix(seed), spare: None }
    }

    /// Whether something of this probability happens.
    pub fn happens(&mut self, probability: f64) -> bool {
        self.source.next_unit() < probability
    }

    /// From 0 to `below`, which is excluded and not zero.
    pub fn index(&mut self, below: usize) -> usize {
        ((u128::from(self.source.next_u64()) * below as u128) >> 64) as usize
    }

    /// From 0 to 1, 1 excluded.
    pub fn unit(&mut self) -> f64 {
        self.source.next_unit()
    }

    /// Of the normal distribution with mean 0 and deviation 1, by Box and Muller.
    pub fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        let angle = std::f64::consts::TAU * self.unit();
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }

    /// How many of rare, independent events happen where `mean` are expected.
    pub fn count(&mut self, mean: f64) -> u32 {
        if mean > LARGE_MEAN {
            return (mean + mean.sqrt() * self.normal()).round().max(0.0) as u32;
        }
        let (limit, mut product, mut count) = ((-mean).exp(), self.unit(), 0);
        while product > limit {
            product *= self.unit();
            count += 1;
        }
        count
    }
}

/// From here on the normal distribution is close enough.
const LARGE_MEAN: f64 = 50.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_right() {
        let mut random = Random::new(1);
        let draws: Vec<f64> = (0..100_000).map(|_| random.normal()).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let square = draws.iter().map(|draw| draw * draw).sum::<f64>() / draws.len() as f64;
        assert!(mean.abs() < 0.02 && (square - 1.0).abs() < 0.03, "{mean} {square}");
        for expected in [0.0, 0.2, 5.0, 200.0] {
            let sum: u64 = (0..10_000).map(|_| u64::from(random.count(expected))).sum();
            let mean = sum as f64 / 10_000.0;
            assert!((mean - expected).abs() <= 0.05 * expected, "{mean} of {expected}");
        }
    }

    #[test]
    fn indices_stay_in_range() {
        let mut random = Random::new(2);
        let mut seen = [0; 3];
        (0..3000).for_each(|_| seen[random.index(3)] += 1);
        assert!(seen.iter().all(|count| *count > 900), "{seen:?}");
    }
}
