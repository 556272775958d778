//! Requests and failures of one arm, and how strongly two arms differ.

/// Requests, and those of them that failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All.
    pub requests: u64,
    /// Failed.
    pub failures: u64,
}

impl Counts {
    /// Counts one.
    pub fn add(&mut self, is_failed: bool) {
        self.requests += 1;
        self.failures += u64::from(is_failed);
    }

    /// The share that failed, 0 to 1; zero of nothing.
    pub fn rate(&self) -> f64 {
        self.failures as f64 / self.requests.max(1) as f64
    }

    /// With half the weight once there are so many: recent ones matter more, and counts stay small.
    pub fn halved_above(self, most_requests: u64) -> Self {
        if self.requests <= most_requests {
            return self;
        }
        Self { requests: self.requests / 2, failures: self.failures / 2 }
    }

    /// Whether failures are no more than chance makes of `rate`, at three standard deviations
    /// and one.
    pub fn is_within(&self, rate: f64) -> bool {
        let expected = rate * self.requests as f64;
        self.failures as f64 <= expected + 3.0 * expected.sqrt() + 1.0
    }

    /// As if there had been fewer requests, with the same rate.
    pub fn scaled_down(self, requests: u64) -> (f64, f64) {
        let share = (requests as f64 / self.requests.max(1) as f64).min(1.0);
        (self.requests as f64 * share, self.failures as f64 * share)
    }
}

/// The natural logarithm of the odds that the treated arm fails more often than `other`, which is
/// its requests and failures: of all failures, more are the treated arm's than its share of the
/// requests says. While both fail equally often it exceeds `n` with a chance of about `exp(-n)`.
pub fn contrast(treated: Counts, (requests, failures): (f64, f64)) -> f64 {
    let all = treated.requests as f64 + requests;
    let share = treated.requests as f64 / all;
    if all == 0.0 || share <= 0.0 || share >= 1.0 {
        return 0.0;
    }
    let odds = |times: f64| {
        let suspected = times * share / (times * share + 1.0 - share);
        let more = (suspected / share).ln() * treated.failures as f64;
        let fewer = ((1.0 - suspected) / (1.0 - share)).ln() * failures;
        more + fewer
    };
    let [some, many] = TIMES_MORE.map(odds);
    let most = some.max(many);
    most + (((some - most).exp() + (many - most).exp()) / 2.0).ln()
}

/// How many times more often the treated arm may be suspected to fail.
const TIMES_MORE: [f64; 2] = [3.0, 20.0];

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(requests: u64, failures: u64) -> Counts {
        Counts { requests, failures }
    }

    #[test]
    fn equal_arms_show_no_contrast() {
        assert!(contrast(counts(1000, 50), (1000.0, 50.0)) < 0.0);
        assert!(contrast(counts(1000, 50), (9000.0, 450.0)) < 0.0);
        assert_eq!(contrast(counts(1000, 50), (0.0, 0.0)), 0.0);
        assert_eq!(contrast(Counts::default(), (0.0, 0.0)), 0.0);
    }

    #[test]
    fn unequal_ones_do() {
        assert!(contrast(counts(500, 25), (500.0, 5.0)) > 5.0);
        assert!(contrast(counts(500, 25), (4500.0, 45.0)) > 12.0);
        assert!(contrast(counts(4, 4), (4.0, 0.0)) > 1.8);
        assert!(contrast(counts(1 << 40, 1 << 39), (1.0, 0.0)).is_finite());
    }

    #[test]
    fn chance_is_told_from_more_than_chance() {
        assert!(counts(500, 12).is_within(0.01) && !counts(500, 13).is_within(0.01));
        assert!(counts(0, 0).is_within(0.01) && counts(10, 1).is_within(0.01));
    }

    #[test]
    fn old_counts_fade() {
        assert_eq!(counts(101, 10).halved_above(100), counts(50, 5));
        assert_eq!(counts(100, 10).halved_above(100), counts(100, 10));
        assert_eq!(counts(100, 10).scaled_down(50), (50.0, 5.0));
        assert_eq!(counts(100, 10).scaled_down(500), (100.0, 10.0));
    }
}
