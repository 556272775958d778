//! The real clocks.

use crate::base::{Clock, Time, micros};
use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The system's monotonic clock, counted from its first use in this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct MonotonicClock;

impl Clock for MonotonicClock {
    fn now(&self) -> Time {
        static START: OnceLock<Instant> = OnceLock::new();
        let elapsed = START.get_or_init(Instant::now).elapsed();
        // Zero is kept for "before everything", so that differences to a default are not zero.
        Time(micros(elapsed).saturating_add(1))
    }
}

/// Now, by the monotonic clock.
pub fn now() -> Time {
    MonotonicClock.now()
}

/// Microseconds since 1970 by the wall clock; for people, never for decisions.
pub fn wall_clock_us() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    micros(elapsed)
}
