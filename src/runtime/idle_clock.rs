//! For how long those who share some work had nothing to do, added up over all of them.

use crate::base::Time;
use std::time::Duration;

/// Adds up times that overlap.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdleClock {
    idle: u32,
    since: Time,
    total: Duration,
}

impl IdleClock {
    /// One more has nothing to do.
    pub fn begin(&mut self, now: Time) {
        self.settle(now);
        self.idle += 1;
    }

    /// One of them goes on.
    pub fn end(&mut self, now: Time) {
        self.settle(now);
        self.idle = self.idle.saturating_sub(1);
    }

    /// The time so far.
    pub fn total(&mut self, now: Time) -> Duration {
        self.settle(now);
        self.total
    }

    fn settle(&mut self, now: Time) {
        self.total += (now - self.since) * self.idle;
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_overlap_add_up_and_one_under_way_counts() {
        let mut clock = IdleClock::default();
        clock.begin(Time(1_000));
        clock.begin(Time(2_000));
        assert_eq!(clock.total(Time(3_000)), Duration::from_micros(3_000));
        clock.end(Time(4_000));
        clock.end(Time(6_000));
        assert_eq!(clock.total(Time(9_000)), Duration::from_micros(7_000));
    }
}
