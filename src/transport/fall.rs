//! Whether a path carries far less than it lately did: after some three windows, which is a second where
//! round trips are short and nine of them where they are long.

use super::stream_tuner::Look;
use crate::base::Time;
use std::time::Duration;

/// A window is this long and so many round trips, at least.
const WINDOW: Duration = Duration::from_millis(300);
const WINDOW_ROUND_TRIPS: u32 = 3;
/// Below this part of the best rate, in percent, a path has fallen, if it was so for so many windows.
const FALLEN_PERCENT: u64 = 65;
const FALLEN_WINDOWS: u32 = 2;
/// A window is so large a part of the mean that is judged: rates come and go.
const MEMORY: u64 = 3;
/// The best rate is that of this long, and of as long before.
const BEST_MEMORY: Duration = Duration::from_secs(60);

/// What one window showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// What the path carried, in bytes per second, in the mean of some windows.
    pub rate: u64,
    /// Whether that has been far less than before for some windows.
    pub has_fallen: bool,
}

/// Watches what a path carries.
#[derive(Clone, Debug, Default)]
pub struct FallDetector {
    since: Option<Time>,
    bytes: u64,
    is_starved: bool,
    /// Of how many windows, and it.
    mean: Option<(u64, u64)>,
    /// Of the running and of the last span.
    best: [u64; 2],
    best_since: Time,
    low_windows: u32,
}

impl FallDetector {
    /// Takes a look in. Something: it ends a window in which there was enough to send.
    pub fn look(&mut self, look: &Look, now: Time) -> Option<Window> {
        // What came before the first look is of no known time.
        let Some(since) = self.since else {
            self.since = Some(now);
            return None;
        };
        self.bytes += look.delivered_bytes;
        self.is_starved |= look.is_starved;
        let took = now - since;
        if took < WINDOW.max(look.round_trip * WINDOW_ROUND_TRIPS) {
            return None;
        }
        let rate = u128::from(self.bytes) * 1_000_000 / took.as_micros().max(1);
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        let was_starved = self.is_starved;
        (self.since, self.bytes, self.is_starved) = (Some(now), 0, false);
        (!was_starved).then(|| self.judge(rate, now)).flatten()
    }

    /// What comes now is not the path's doing.
    pub fn pass_over(&mut self) {
        (self.since, self.bytes, self.is_starved, self.mean) = (None, 0, false, None);
        self.low_windows = 0;
    }

    /// What was best does not count any more.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    fn judge(&mut self, rate: u64, now: Time) -> Option<Window> {
        let (windows, before) = self.mean.unwrap_or((0, rate));
        let rate = before / MEMORY * (MEMORY - 1) + rate / MEMORY;
        self.mean = Some((windows + 1, rate));
        if windows < MEMORY {
            return None;
        }
        if now - self.best_since >= BEST_MEMORY {
            self.best = [0, self.best[0]];
            self.best_since = now;
        }
        self.best[0] = self.best[0].max(rate);
        let best = u128::from(self.best[0].max(self.best[1]));
        let is_low = u128::from(rate) * 100 < best * u128::from(FALLEN_PERCENT);
        self.low_windows = if is_low { self.low_windows + 1 } else { 0 };
        Some(Window { rate, has_fallen: self.low_windows >= FALLEN_WINDOWS })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK_US: u64 = 100_000;

    fn run(falls: &mut FallDetector, now: &mut Time, rate: u64, ticks: u64) -> bool {
        let mut has_fallen = false;
        for _ in 0..ticks {
            *now = Time(now.0 + TICK_US);
            let delivered_bytes = rate / 10;
            let look = Look { delivered_bytes, ..Look::default() };
            let window = falls.look(&look, *now);
            has_fallen = window.map_or(has_fallen, |window| window.has_fallen);
        }
        has_fallen
    }

    #[test]
    fn a_third_is_a_fall_a_dip_is_none_and_in_time_it_is_how_things_are() {
        let (mut falls, mut now) = (FallDetector::default(), Time(0));
        assert!(!run(&mut falls, &mut now, 30_000_000, 100));
        assert!(!run(&mut falls, &mut now, 10_000_000, 5), "not even two windows");
        assert!(!run(&mut falls, &mut now, 30_000_000, 30));
        assert!(!run(&mut falls, &mut now, 22_000_000, 100));
        assert!(run(&mut falls, &mut now, 10_000_000, 12));
        assert!(!run(&mut falls, &mut now, 29_000_000, 6));
        assert!(run(&mut falls, &mut now, 10_000_000, 300));
        assert!(!run(&mut falls, &mut now, 10_000_000, 1_200));
    }

    #[test]
    fn what_was_not_filled_is_no_fall() {
        let (mut falls, mut now) = (FallDetector::default(), Time(0));
        run(&mut falls, &mut now, 30_000_000, 100);
        for _ in 0..100 {
            now = Time(now.0 + TICK_US);
            let look = Look { is_starved: true, ..Look::default() };
            assert_eq!(falls.look(&look, now), None);
        }
        falls.forget();
        assert!(!run(&mut falls, &mut now, 10_000_000, 100));
    }
}
