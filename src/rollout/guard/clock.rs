//! A clock that only goes forward by steps that can be believed.
//!
//! A jump, back or far ahead, says that something is wrong with the machine or with whoever tells
//! the time, and nothing about a flag. The steady time stands still over it, so no schedule comes
//! closer by one, and for a while after it nothing that was measured counts.

use crate::base::Time;
use std::time::Duration;

/// The steady time.
#[derive(Clone, Copy, Debug, Default)]
pub struct SteadyClock {
    last: Option<Time>,
    steady: Time,
    settled_at: Time,
}

/// What a reading of the clock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The steady time.
    pub steady: Time,
    /// Whether the clock has just jumped.
    pub is_jump: bool,
}

impl SteadyClock {
    /// Takes in what somebody's clock says.
    pub fn read(&mut self, now: Time) -> Reading {
        let last = self.last.unwrap_or(now);
        let is_back = last.since(now) > TOLERANCE;
        let is_jump = is_back || now.since(last) > LONGEST_STEP;
        if is_jump {
            self.settled_at = self.steady + SETTLING;
        } else {
            self.steady = self.steady + now.since(last);
        }
        self.last = Some(if is_jump { now } else { now.max(last) });
        Reading { steady: self.steady, is_jump }
    }

    /// Whether the clock has gone steadily for a while.
    pub fn is_settled(&self) -> bool {
        self.steady >= self.settled_at
    }
}

/// Threads that tell the time one after the other may be so much apart.
const TOLERANCE: Duration = Duration::from_secs(1);
/// The clock is read at least so often.
pub const LONGEST_STEP: Duration = Duration::from_secs(600);
/// After a jump nothing counts for so long.
pub const SETTLING: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    #[test]
    fn it_goes_with_a_good_clock() {
        let mut clock = SteadyClock::default();
        for second in 100..1000 {
            let reading = clock.read(Time(second * S));
            assert_eq!(reading, Reading { steady: Time((second - 100) * S), is_jump: false });
            assert!(clock.is_settled());
        }
        assert!(!clock.read(Time(999 * S - 1)).is_jump, "threads differ a little");
    }

    #[test]
    fn it_stands_still_over_jumps() {
        for to in [0, 500, 5_000, u64::MAX / S] {
            let mut clock = SteadyClock::default();
            clock.read(Time(1000 * S));
            clock.read(Time(1010 * S));
            let reading = clock.read(Time(to * S));
            assert_eq!(reading, Reading { steady: Time(10 * S), is_jump: true });
            assert!(!clock.is_settled());
            for second in 1..60 {
                clock.read(Time((to * S).saturating_add(second * S)));
            }
            assert!(!clock.is_settled());
        }
    }

    #[test]
    fn it_settles() {
        let mut clock = SteadyClock::default();
        clock.read(Time(1000 * S));
        clock.read(Time(0));
        for second in 0..=60 {
            clock.read(Time(second * S));
        }
        assert!(clock.is_settled());
    }
}
