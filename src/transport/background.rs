//! How fast pages may go that nobody waits for: as fast as leaves the path without a queue.
//!
//! Whoever asks for a page waits for everything that stands before it on the path. So what is sent in
//! the background is kept a little below what the path carries: the shortest round trip of each
//! interval tells how long the queue is, and the rate follows it. It never falls below half of what the
//! path was seen to carry, for a path that has become slower is filled by TCP itself anyway.

use crate::base::Time;
use crate::transport::Pacer;
use std::time::Duration;

/// Where it begins, as a share of what the path was seen to carry.
const FIRST_SHARE: f64 = 0.93;
/// Where it stays, whatever the round trips say.
const SHARES: std::ops::RangeInclusive<f64> = 0.5..=1.5;
/// The queue that is aimed at.
const QUEUE: Duration = Duration::from_micros(800);
/// Largest steps of the rate, down and up.
const STEPS: (f64, f64) = (-0.05, 0.01);
/// How often the rate changes, unless the round trip is longer.
const INTERVAL: Duration = Duration::from_millis(20);
/// Less says nothing about the interval.
const LEAST_SAMPLES: u32 = 4;
/// How long one chunk may occupy the path.
const CHUNK_TIME_US: u64 = 500;
const LEAST_CHUNK_BYTES: u64 = 16 * 1024;

/// The pace of one migration's background.
#[derive(Clone, Debug)]
pub struct BackgroundPace {
    /// What the path was seen to carry; none: nobody knows.
    seen: Option<f64>,
    share: f64,
    pacer: Pacer,
    base: Option<Duration>,
    interval: Interval,
}

#[derive(Clone, Copy, Debug, Default)]
struct Interval {
    since: Time,
    samples: u32,
    shortest: Duration,
}

impl Default for BackgroundPace {
    fn default() -> Self {
        Self {
            seen: None,
            share: FIRST_SHARE,
            pacer: Pacer::new(None),
            base: None,
            interval: Interval::default(),
        }
    }
}

impl BackgroundPace {
    /// Begins, or learns what the path carries after it began without knowing.
    pub fn learn(&mut self, rate_bytes_per_s: u64, round_trip: Option<Duration>, now: Time) {
        if self.seen.is_none() {
            self.seen = Some(rate_bytes_per_s as f64);
            self.base = round_trip;
            self.interval = Interval { since: now, ..Interval::default() };
            self.apply(now);
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

    /// A chunk was acknowledged so long after it was handed over.
    pub fn on_round_trip(&mut self, took: Duration, now: Time) {
        self.base = Some(self.base.map_or(took, |base| base.min(took)));
        let Interval { since, samples, shortest } = &mut self.interval;
        *shortest = if *samples == 0 { took } else { took.min(*shortest) };
        *samples += 1;
        let due = INTERVAL.max(self.base.unwrap_or_default());
        if now.since(*since) < due || *samples < LEAST_SAMPLES {
            return;
        }
        let queue = shortest.saturating_sub(self.base.unwrap_or_default());
        self.interval = Interval { since: now, ..Interval::default() };
        let error = 1.0 - queue.as_secs_f64() / QUEUE.as_secs_f64();
        self.share *= 1.0 + (error * STEPS.1).clamp(STEPS.0, STEPS.1);
        self.share = self.share.clamp(*SHARES.start(), *SHARES.end());
        self.apply(now);
    }

    fn apply(&mut self, now: Time) {
        let Some(seen) = self.seen else { return };
        let rate = (seen * self.share).max(1.0) as u64;
        self.pacer.set_limit(Some(rate), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path of `rate` with a queue before it; returns what was carried in the last of ten seconds,
    /// and the longest queue in it.
    fn run(pace: &mut BackgroundPace, rate: u64) -> (u64, Duration) {
        let (mut now, mut free_at) = (Time(1), Time(1));
        let (mut carried, mut longest) = (0, Duration::ZERO);
        while now.0 < 10_000_000 {
            now = pace.ready_at(now).max(now);
            let bytes = pace.chunk_bytes();
            pace.charge(bytes, now);
            free_at = free_at.max(now) + Duration::from_micros(bytes * 1_000_000 / rate);
            let took = free_at - now + Duration::from_millis(10);
            pace.on_round_trip(took, now);
            if now.0 > 9_000_000 {
                carried += bytes;
                longest = longest.max(free_at - now);
            }
        }
        (carried, longest)
    }

    #[test]
    fn it_fills_the_path_and_leaves_no_queue_however_wrong_the_first_guess() {
        const RATE: u64 = 120_000_000;
        for guess in [RATE * 9 / 10, RATE, RATE * 12 / 10] {
            let mut pace = BackgroundPace::default();
            pace.learn(guess, Some(Duration::from_micros(10_500)), Time(1));
            let (carried, longest) = run(&mut pace, RATE);
            assert!(carried > RATE * 90 / 100, "{guess}: {carried}");
            assert!(longest < Duration::from_millis(4), "{guess}: {longest:?}");
        }
    }

    #[test]
    fn without_a_guess_nothing_is_held_back_and_chunks_are_small() {
        let pace = BackgroundPace::default();
        assert_eq!(pace.ready_at(Time(7)), Time(7));
        assert_eq!(pace.chunk_bytes(), LEAST_CHUNK_BYTES);
    }
}
