//! How long guests waited, for pages or to be moved, as a histogram of fixed size: answers are exact to
//! a thirtieth.

use crate::base::TimeCounts;
use std::time::Duration;

/// Buckets for each doubling.
const STEPS: u64 = 32;
/// Doublings of a microsecond: two weeks.
const DOUBLINGS: u64 = 40;

/// Waiting times.
#[derive(Clone, Debug)]
pub struct FaultTimes {
    buckets: Box<[u64]>,
    by_bound: TimeCounts,
    count: u64,
    longest_us: u64,
}

impl Default for FaultTimes {
    fn default() -> Self {
        let buckets = vec![0; (STEPS * DOUBLINGS) as usize].into_boxed_slice();
        Self { buckets, by_bound: TimeCounts::default(), count: 0, longest_us: 0 }
    }
}

impl FaultTimes {
    /// Something was waited for so long.
    pub fn add(&mut self, waited: Duration) {
        let us = super::micros(waited);
        let last = self.buckets.len() - 1;
        self.buckets[bucket(us).min(last)] += 1;
        self.by_bound.add_us(us);
        self.count += 1;
        self.longest_us = self.longest_us.max(us);
    }

    /// Takes in what another histogram has.
    pub fn merge(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(ours, theirs)| *ours += theirs);
        self.by_bound.merge(&other.by_bound);
        self.count += other.count;
        self.longest_us = self.longest_us.max(other.longest_us);
    }

    /// How often something was waited for.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The waits by the bounds that metrics have.
    pub fn by_bound(&self) -> &TimeCounts {
        &self.by_bound
    }

    /// The longest wait.
    pub fn longest_us(&self) -> u64 {
        self.longest_us
    }

    /// No wait but `per_mille` thousandths of them was longer; 0 if there was none.
    pub fn all_but_us(&self, per_mille: u64) -> u64 {
        let rank = self.count - self.count * per_mille / 1000;
        let mut seen = 0;
        let reached = |in_bucket: &u64| {
            seen += in_bucket;
            seen >= rank
        };
        match self.buckets.iter().position(reached) {
            Some(at) if self.count > 0 => upper_bound_us(at as u64).min(self.longest_us),
            _ => 0,
        }
    }
}

/// Below `STEPS` microseconds one bucket each; above, `STEPS` for each doubling.
fn bucket(us: u64) -> usize {
    if us < STEPS {
        return us as usize;
    }
    let doublings = u64::from(us.ilog2()) - u64::from(STEPS.ilog2());
    (doublings * STEPS + (us >> doublings)) as usize
}

fn upper_bound_us(bucket: u64) -> u64 {
    if bucket < STEPS {
        return bucket;
    }
    let doublings = bucket / STEPS - 1;
    ((bucket % STEPS + STEPS + 1) << doublings) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_near_those_of_the_sorted_times() {
        let mut random = fastrand::Rng::with_seed(3);
        for most_us in [1, 31, 32, 33, 1_000, 3_000_000] {
            let mut times = FaultTimes::default();
            let mut all: Vec<u64> = (0..2_000).map(|_| random.u64(..=most_us)).collect();
            all.iter().for_each(|us| times.add(Duration::from_micros(*us)));
            all.sort_unstable();
            for (per_mille, rank) in [(500, 1_000), (10, 1_980), (0, 2_000)] {
                let (exact, found) = (all[rank - 1], times.all_but_us(per_mille));
                assert!((exact..=exact + exact / 30).contains(&found), "{exact}: {found}");
            }
            assert_eq!((times.count(), times.longest_us()), (2_000, all[1_999]));
            assert_eq!(times.by_bound().sum_us(), all.iter().sum::<u64>());
            let mut twice = times.clone();
            twice.merge(&times);
            assert_eq!((twice.count(), twice.all_but_us(10)), (4_000, times.all_but_us(10)));
            assert_eq!(twice.by_bound().sum_us(), 2 * times.by_bound().sum_us());
        }
    }

    #[test]
    fn no_wait_is_too_short_or_too_long() {
        assert_eq!(FaultTimes::default().all_but_us(500), 0);
        let mut times = FaultTimes::default();
        times.add(Duration::ZERO);
        times.add(Duration::MAX);
        assert_eq!((times.all_but_us(500), times.all_but_us(0) > 1 << 40), (0, true));
    }
}
