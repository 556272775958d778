//! What a guard remembers of one unit: the samples of a round, the rounds of an hour, and its past.

use super::observation::Arm;
use super::past::Past;

/// One unit.
#[derive(Clone, Debug)]
pub struct UnitLog {
    /// The side that it is on.
    pub arm: Arm,
    /// Of the open round.
    pub samples: Samples,
    /// Of the present hour.
    pub hour: Hour,
    /// What was usual before the last raise.
    pub past: Past,
    /// The past of the next raise.
    pub learning: Past,
}

/// The last samples of a round, as logarithms.
#[derive(Clone, Copy, Debug, Default)]
pub struct Samples {
    values: [f32; MAX_SAMPLES],
    /// All of them, also those that were dropped.
    pub count: u32,
}

/// Rounds of an hour.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hour {
    sum: f32,
    rounds: u32,
}

/// What a round or an hour found in one arm.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// One for each unit.
    pub values: Vec<f32>,
    /// Rounds of all the units' pasts.
    pub past_rounds: u64,
    /// Measured values.
    pub samples: u64,
}

impl UnitLog {
    /// Of a unit that nothing is known of.
    pub fn new(arm: Arm) -> Self {
        let (past, learning) = (Past::default(), Past::default());
        Self { arm, samples: Samples::default(), hour: Hour::default(), past, learning }
    }
}

impl Samples {
    /// A sample, as a logarithm.
    pub fn push(&mut self, value: f32) {
        self.values[self.count as usize % MAX_SAMPLES] = value;
        self.count = self.count.saturating_add(1);
    }

    /// The median and how many there were.
    pub fn take(&mut self) -> Option<(f32, u32)> {
        let count = std::mem::take(&mut self.count);
        let kept = (count as usize).min(MAX_SAMPLES);
        median(&mut self.values[..kept]).map(|median| (median, count))
    }
}

impl Hour {
    /// A round.
    pub fn add(&mut self, value: f32) {
        self.sum += value;
        self.rounds += 1;
    }

    /// Their mean and how many there were.
    pub fn take(&mut self) -> Option<(f32, u32)> {
        let Hour { sum, rounds } = std::mem::take(self);
        (rounds > 0).then(|| (sum / rounds as f32, rounds))
    }
}

impl Found {
    /// A unit.
    pub fn add(&mut self, value: f32, past_rounds: u32, samples: u32) {
        self.values.push(value);
        self.past_rounds += u64::from(past_rounds);
        self.samples += u64::from(samples);
    }

    /// The mean of the units in the middle, without a quarter at either end; zero of nothing, which
    /// stands for the past itself.
    pub fn middle(&self) -> f64 {
        let mut values = self.values.clone();
        values.sort_by(f32::total_cmp);
        let ends = values.len() / 4;
        let middle = &values[ends..values.len() - ends];
        f64::from(middle.iter().sum::<f32>()) / middle.len().max(1) as f64
    }
}

/// The middle value; the mean of the two in the middle.
pub fn median(values: &mut [f32]) -> Option<f32> {
    let middle = values.len() / 2;
    if values.is_empty() {
        return None;
    }
    let is_even = values.len().is_multiple_of(2);
    let (below, upper, _) = values.select_nth_unstable_by(middle, f32::total_cmp);
    let upper = *upper;
    let lower = below.iter().copied().max_by(f32::total_cmp).filter(|_| is_even);
    Some(lower.map_or(upper, |lower| (lower + upper) / 2.0))
}

/// Samples of a unit in a round that are kept.
const MAX_SAMPLES: usize = 15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&mut []), None);
        assert_eq!(median(&mut [3.0]), Some(3.0));
        assert_eq!(median(&mut [4.0, 1.0]), Some(2.5));
        assert_eq!(median(&mut [9.0, 1.0, 2.0]), Some(2.0));
    }

    #[test]
    fn the_last_samples_count() {
        let mut samples = Samples::default();
        (0..100).for_each(|value| samples.push(value as f32));
        assert_eq!(samples.take(), Some((92.0, 100)));
        assert_eq!(samples.take(), None);
    }

    #[test]
    fn no_unit_says_more_than_another() {
        let found = |values: &[f32]| Found { values: values.to_vec(), ..Found::default() };
        assert_eq!(found(&[0.0, 1.0, 2.0, 3.0, 99.0]).middle(), 2.0);
        assert_eq!(found(&[]).middle(), 0.0);
    }
}
