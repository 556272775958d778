//! How fast pages may go that nobody waits for: as fast as leaves the path without a queue.
//!
//! Whoever asks for a page waits for everything that stands before it on the path. So what is sent in
//! the background is kept a little below what the path carries. The shortest round trip of each
//! interval tells how long the queue is. Where there is one, the path is full, and what it carried
//! meanwhile is what it can carry; where there is none for a while, a little more is tried. The rate never
//! falls below half of what the path was seen to carry, for a path that has become slower is filled by
//! TCP itself anyway.

use crate::base::Time;
use crate::transport::Pacer;
use std::time::Duration;

/// Where it begins, as a share of what the path was seen to carry; where it stays, as the same.
const FIRST_SHARE: f64 = 0.85;
const SHARES: (f64, f64) = (0.5, 1.5);
/// How much of a full path is used.
const USED_SHARE: f64 = 0.95;
/// How far below that it goes while a queue is waited out.
const LEAST_DRAIN_SHARE: f64 = 0.6;
/// A longer queue means that the path is full.
const QUEUE: Duration = Duration::from_micros(800);
/// How long an interval is, unless two round trips are longer.
const INTERVAL: Duration = Duration::from_millis(40);
/// Fewer acknowledgements say nothing about it.
const LEAST_SAMPLES: u32 = 4;
/// Intervals without a queue before more is tried; and how much more, at first and at most.
const PATIENCE_INTERVALS: u32 = 10;
const STEPS: (f64, f64) = (0.01, 0.04);
/// How long a shortest round trip is believed.
const MEMORY: Duration = Duration::from_secs(10);
/// How much of a late wake-up is made good: what is, stands before others at once.
const BURST: Duration = Duration::from_millis(2);
/// How long one chunk may occupy the path.
const CHUNK_TIME_US: u64 = 500;
const LEAST_CHUNK_BYTES: u64 = 16 * 1024;

/// The pace of one migration's background.
#[derive(Clone, Debug)]
pub struct BackgroundPace {
    /// What the path was seen to carry; none: nobody knows.
    seen: Option<f64>,
    /// What is aimed at while there is no queue.
    level: f64,
    calm_intervals: u32,
    step: f64,
    pacer: Pacer,
    base: ShortestTrip,
    interval: Interval,
}

#[derive(Clone, Copy, Debug, Default)]
struct Interval {
    since: Time,
    samples: u32,
    shortest: Duration,
    bytes: u64,
}

/// The shortest round trip of the last while.
#[derive(Clone, Copy, Debug, Default)]
struct ShortestTrip {
    since: Time,
    before: Option<Duration>,
    now: Option<Duration>,
}

impl Default for BackgroundPace {
    fn default() -> Self {
        Self {
            seen: None,
            level: 0.0,
            calm_intervals: 0,
            step: STEPS.0,
            pacer: Pacer::new(None).with_burst(BURST),
            base: ShortestTrip::default(),
            interval: Interval::default(),
        }
    }
}

impl BackgroundPace {
    /// Begins, or learns what the path carries after it began without knowing.
    pub fn learn(&mut self, rate_bytes_per_s: u64, round_trip: Option<Duration>, now: Time) {
        if self.seen.is_none() {
            let seen = rate_bytes_per_s as f64;
            (self.seen, self.level) = (Some(seen), seen * FIRST_SHARE);
            self.base = ShortestTrip { since: now, before: round_trip, now: None };
            self.interval = Interval { since: now, ..Interval::default() };
            self.set_rate(self.level, now);
        }
    }

    /// Whether it knows what the path carries.
    pub fn has_learned(&self) -> bool {
        self.seen.is_some()
    }

    /// The rate; none while nothing is known.
    pub fn rate_bytes_per_s(&self) -> Option<u64> {
        self.pacer.rate_bytes_per_s()
    }

    /// When the next chunk may go.
    pub fn ready_at(&self, now: Time) -> Time {
        self.pacer.ready_at(now)
    }

    /// Bytes that were sent, of whatever kind: what is asked for is paid for by the background.
    pub fn charge(&mut self, bytes: u64, now: Time) {
        self.pacer.charge(bytes, now);
    }

    /// Raw bytes of a chunk: little enough that a page which is asked for does not wait long.
    pub fn chunk_bytes(&self) -> u64 {
        match self.rate_bytes_per_s() {
            Some(rate) => (rate / (1_000_000 / CHUNK_TIME_US)).max(LEAST_CHUNK_BYTES),
            None => LEAST_CHUNK_BYTES,
        }
    }

    /// Bytes were acknowledged so long after they were handed over.
    pub fn on_acked(&mut self, bytes: u64, took: Duration, now: Time) {
        self.base.add(took, now);
        let Interval { since, samples, shortest, bytes: acknowledged } = &mut self.interval;
        *shortest = if *samples == 0 { took } else { took.min(*shortest) };
        *samples += 1;
        *acknowledged += bytes;
        let base = self.base.value().unwrap_or(took);
        let (lasted, due) = (now.since(*since), INTERVAL.max(base * 2));
        if lasted < due || *samples < LEAST_SAMPLES {
            return;
        }
        let carried = *acknowledged as f64 / lasted.as_secs_f64();
        let queue = shortest.saturating_sub(base);
        self.interval = Interval { since: now, ..Interval::default() };
        self.steer(carried, queue, due, now);
    }

    fn steer(&mut self, carried: f64, queue: Duration, interval: Duration, now: Time) {
        // A cap may have been raised since it was learned, or others have left the path.
        let Some(seen) = self.seen.map(|seen| seen.max(carried)) else { return };
        self.seen = Some(seen);
        let mut drain = 1.0;
        if queue > QUEUE {
            // Half of the queue is to be gone after the next interval.
            drain -= queue.as_secs_f64() / (2.0 * interval.as_secs_f64());
            self.level = carried * USED_SHARE;
            (self.calm_intervals, self.step) = (0, STEPS.0);
        } else {
            self.calm_intervals += 1;
        }
        if self.calm_intervals > PATIENCE_INTERVALS {
            self.level *= 1.0 + self.step;
            self.step = (self.step * 2.0).min(STEPS.1);
            self.calm_intervals = 0;
        }
        self.level = self.level.clamp(seen * SHARES.0, seen * SHARES.1);
        self.set_rate(self.level * drain.max(LEAST_DRAIN_SHARE), now);
    }

    fn set_rate(&mut self, rate: f64, now: Time) {
        self.pacer.set_limit(Some(rate.max(1.0) as u64), now);
    }
}

impl ShortestTrip {
    fn add(&mut self, took: Duration, now: Time) {
        if now.since(self.since) >= MEMORY {
            *self = Self { since: now, before: self.now, now: None };
        }
        self.now = Some(self.now.map_or(took, |shortest| shortest.min(took)));
    }

    fn value(&self) -> Option<Duration> {
        self.now.into_iter().chain(self.before).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    const RATE: u64 = 120_000_000;
    const TRIP: Duration = Duration::from_millis(10);

    /// A path with a queue before it. Returns what was carried in the last of `seconds`, and the longest
    /// queue in it.
    fn run(pace: &mut BackgroundPace, seconds: u64, rate: impl Fn(Time) -> u64) -> (u64, Duration) {
        let (mut now, mut free_at) = (Time(1), Time(1));
        let (mut carried, mut longest) = (0, Duration::ZERO);
        let mut under_way: VecDeque<(Time, u64, Duration)> = VecDeque::new();
        while now.0 < seconds * 1_000_000 {
            now = pace.ready_at(now).max(now) + Duration::from_micros(20);
            while let Some((at, bytes, took)) = under_way.front().copied()
                && at <= now
            {
                under_way.pop_front();
                pace.on_acked(bytes, took, at);
            }
            let bytes = pace.chunk_bytes();
            pace.charge(bytes, now);
            free_at = free_at.max(now) + Duration::from_micros(bytes * 1_000_000 / rate(now));
            let took = free_at - now + TRIP;
            under_way.push_back((now + took, bytes, took));
            if now.0 > (seconds - 1) * 1_000_000 {
                carried += bytes;
                longest = longest.max(free_at - now);
            }
        }
        (carried, longest)
    }

    #[test]
    fn it_fills_the_path_and_leaves_no_queue_however_wrong_the_first_guess() {
        for guess in [RATE * 8 / 10, RATE, RATE * 14 / 10] {
            let mut pace = BackgroundPace::default();
            pace.learn(guess, Some(Duration::from_millis(50)), Time(1));
            let (carried, longest) = run(&mut pace, 12, |_| RATE);
            assert!(carried > RATE * 90 / 100, "{guess}: {carried}");
            assert!(longest < Duration::from_millis(3), "{guess}: {longest:?}");
        }
    }

    #[test]
    fn a_path_that_becomes_slower_is_followed_and_one_that_is_far_slower_is_left_to_tcp() {
        for (slower, least) in [(RATE * 7 / 10, RATE * 6 / 10), (RATE / 4, RATE / 4)] {
            let mut pace = BackgroundPace::default();
            pace.learn(RATE, Some(TRIP), Time(1));
            let later = |now: Time| if now.0 > 4_000_000 { slower } else { RATE };
            run(&mut pace, 8, later);
            let rate = pace.rate_bytes_per_s().unwrap();
            assert!((least..=RATE * 8 / 10).contains(&rate), "{slower}: {rate}");
        }
    }

    #[test]
    fn a_path_that_becomes_faster_than_ever_is_found_out() {
        let mut pace = BackgroundPace::default();
        pace.learn(RATE / 8, Some(TRIP), Time(1));
        let (carried, _) = run(&mut pace, 60, |_| RATE);
        assert!(carried > RATE * 80 / 100, "{carried}");
    }

    #[test]
    fn without_a_guess_nothing_is_held_back_and_chunks_are_small() {
        let pace = BackgroundPace::default();
        assert_eq!(pace.ready_at(Time(7)), Time(7));
        assert_eq!(pace.chunk_bytes(), LEAST_CHUNK_BYTES);
    }
}
