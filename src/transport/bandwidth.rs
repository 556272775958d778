//! How fast the link takes bytes: acknowledged bytes over the time in which some were under way.
//!
//! Idle time does not count, so a source with little to send does not look like a slow link; nor does
//! one whose bytes have crossed the link and wait for a busy destination, if that is told. The
//! window slides in slots, so the answer follows a change within a second, or as long as a slow link
//! needs for some acknowledgements.

use crate::base::Time;
use std::collections::VecDeque;
use std::time::Duration;

const SLOT_US: u64 = 50_000;
/// Of busy time; with fewer acknowledgements than these it is longer, up to so many slots.
const WINDOW: Duration = Duration::from_secs(1);
const WINDOW_ACKS: u32 = 12;
const MAX_WINDOW_SLOTS: usize = 20;
/// How far back a peak is remembered, and the slots that it is measured over.
const PEAK_MEMORY_SLOTS: usize = 60;
const PEAK_SLOTS: usize = 8;
/// How long connections count as young.
const YOUNG_ROUND_TRIPS: u32 = 10;
const LONGEST_YOUTH: Duration = Duration::from_secs(1);
/// Less busy time than this says nothing.
const MIN_BUSY_US: u64 = 1_000;

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    bytes: u64,
    busy_us: u64,
    acks: u32,
}

/// Estimates bandwidth and round-trip time from acknowledgements.
#[derive(Clone, Debug, Default)]
pub struct BandwidthEstimator {
    slots: VecDeque<Slot>,
    slot_start: Time,
    in_flight_bytes: u64,
    acked_bytes: u64,
    busy_since: Time,
    first_sent: Option<Time>,
    /// Though bytes are under way, none is before the link.
    is_idle: bool,
    min_round_trip: Option<Duration>,
}

impl BandwidthEstimator {
    /// Bytes were handed to the link.
    pub fn on_sent(&mut self, bytes: u64, now: Time) {
        self.first_sent.get_or_insert(now);
        if self.in_flight_bytes == 0 {
            self.busy_since = now;
        }
        self.in_flight_bytes += bytes;
    }

    /// Bytes were acknowledged, `round_trip` after they were handed over.
    pub fn on_acked(&mut self, bytes: u64, round_trip: Duration, now: Time) {
        self.settle(now);
        let slot = self.slot();
        slot.bytes += bytes;
        slot.acks += 1;
        self.acked_bytes += bytes;
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(bytes);
        let shortest = self.min_round_trip.map_or(round_trip, |min| min.min(round_trip));
        self.min_round_trip = Some(shortest);
    }

    /// Bytes were lost with their stream. That nothing came back before it broke was not the link's
    /// slowness.
    pub fn on_lost(&mut self, bytes: u64, now: Time) {
        self.busy_since = now;
        self.settle(now);
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(bytes);
    }

    /// There was no stream until now: what stood still says nothing of the link's speed, and the
    /// connections that carry again are young.
    pub fn on_outage(&mut self, now: Time) {
        self.busy_since = now;
        self.first_sent = None;
    }

    /// All bytes that were acknowledged.
    pub fn acked_bytes(&self) -> u64 {
        self.acked_bytes
    }

    /// Whether the link has nothing to carry although bytes are under way.
    pub fn set_idle(&mut self, is_idle: bool, now: Time) {
        if self.is_idle != is_idle {
            self.settle(now);
            self.is_idle = is_idle;
        }
    }

    /// Bytes per second, once there is anything to go by.
    pub fn rate_bytes_per_s(&self) -> Option<u64> {
        let (mut busy_us, mut acks) = (0, 0);
        let is_within = |slot: &&Slot| {
            let is_enough = busy_us >= WINDOW.as_micros() as u64 && acks >= WINDOW_ACKS;
            (busy_us, acks) = (busy_us + slot.busy_us, acks + slot.acks);
            !is_enough
        };
        rate_over(self.slots.iter().rev().take(MAX_WINDOW_SLOTS).take_while(is_within))
    }

    /// The most that the link has lately carried over some time. A sender that is itself the
    /// bottleneck sees its own pace in the mean, and takes the link for slow. None while connections
    /// are young: TCP begins slowly.
    pub fn peak_bytes_per_s(&self) -> Option<u64> {
        let youth = (self.min_round_trip? * YOUNG_ROUND_TRIPS).min(LONGEST_YOUTH);
        if self.busy_since.since(self.first_sent?) < youth {
            return None;
        }
        let windows = 0..self.slots.len().saturating_sub(PEAK_SLOTS);
        let peaks = windows.filter_map(|at| rate_over(self.slots.range(at..at + PEAK_SLOTS)));
        peaks.max().max(self.rate_bytes_per_s())
    }

    /// The shortest time from handing a chunk over to its acknowledgement.
    pub fn min_round_trip(&self) -> Option<Duration> {
        self.min_round_trip
    }

    /// Books the busy time up to now.
    fn settle(&mut self, now: Time) {
        if now.0 >= self.slot_start.0 + SLOT_US || self.slots.is_empty() {
            self.slots.push_back(Slot::default());
            self.slot_start = now;
            if self.slots.len() > PEAK_MEMORY_SLOTS {
                self.slots.pop_front();
            }
        }
        if self.in_flight_bytes > 0 && !self.is_idle {
            let busy_us = now.since(self.busy_since).as_micros() as u64;
            self.slot().busy_us += busy_us;
        }
        self.busy_since = now;
    }

    fn slot(&mut self) -> &mut Slot {
        if self.slots.is_empty() {
            self.slots.push_back(Slot::default());
        }
        let last = self.slots.len() - 1;
        &mut self.slots[last]
    }
}

fn rate_over<'a>(slots: impl Iterator<Item = &'a Slot>) -> Option<u64> {
    let (bytes, busy_us) =
        slots.fold((0, 0), |(bytes, busy), slot| (bytes + slot.bytes, busy + slot.busy_us));
    let rate = u128::from(bytes) * 1_000_000 / u128::from(busy_us.max(1));
    (busy_us >= MIN_BUSY_US && bytes > 0).then(|| u64::try_from(rate).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link of `rate`, `round_trip_us` long, with `window` bytes under way at a time.
    fn run(estimator: &mut BandwidthEstimator, from_us: u64, seconds: u64, rate: u64) -> u64 {
        let (chunk, mut now) = (100_000_u64, from_us);
        while now < from_us + seconds * 1_000_000 {
            estimator.on_sent(chunk, Time(now));
            now += chunk * 1_000_000 / rate;
            estimator.on_acked(chunk, Duration::from_micros(chunk * 1_000_000 / rate), Time(now));
        }
        now
    }

    #[test]
    fn a_sender_that_slows_down_itself_does_not_make_the_link_slow() {
        let mut estimator = BandwidthEstimator::default();
        let now = run(&mut estimator, 0, 2, 40_000_000);
        run(&mut estimator, now, 1, 10_000_000);
        assert!(close(estimator.rate_bytes_per_s(), 10_000_000));
        assert!(close(estimator.peak_bytes_per_s(), 40_000_000));
        run(&mut estimator, now + 1_000_000, 3, 10_000_000);
        assert!(close(estimator.peak_bytes_per_s(), 10_000_000), "a peak is forgotten");
    }

    #[test]
    fn a_link_that_was_down_is_not_slow() {
        const OUTAGE_US: u64 = 30_000_000;
        let mut estimator = BandwidthEstimator::default();
        let down = run(&mut estimator, 0, 1, 30_000_000);
        estimator.on_sent(1_000_000, Time(down));
        estimator.on_lost(1_000_000, Time(down + OUTAGE_US / 3));
        let up = down + OUTAGE_US;
        estimator.on_outage(Time(up));
        assert!(close(estimator.rate_bytes_per_s(), 30_000_000));
        estimator.on_sent(100_000, Time(up));
        assert_eq!(estimator.peak_bytes_per_s(), None, "its connections are young");
        estimator.on_acked(100_000, Duration::from_micros(3_333), Time(up + 3_333));
        run(&mut estimator, up + 3_333, 2, 30_000_000);
        assert!(close(estimator.rate_bytes_per_s(), 30_000_000));
        assert!(close(estimator.peak_bytes_per_s(), 30_000_000));
    }

    fn close(found: Option<u64>, expected: u64) -> bool {
        found.is_some_and(|rate| rate.abs_diff(expected) < expected / 50)
    }

    #[test]
    fn rate_is_learned_and_relearned() {
        let mut estimator = BandwidthEstimator::default();
        assert_eq!(estimator.rate_bytes_per_s(), None);
        let now = run(&mut estimator, 0, 2, 30_000_000);
        assert!(close(estimator.rate_bytes_per_s(), 30_000_000));
        run(&mut estimator, now, 2, 10_000_000);
        assert!(close(estimator.rate_bytes_per_s(), 10_000_000));
    }

    #[test]
    fn a_change_is_known_within_the_window_whatever_the_size_of_slots() {
        for slots_ms in [10, 60, 120, 200] {
            let mut estimator = BandwidthEstimator::default();
            let carry = |estimator: &mut BandwidthEstimator, from: u64, rate: u64, seconds: u64| {
                let mut now = from;
                while now < from + seconds * 1_000_000 {
                    estimator.on_sent(rate * slots_ms / 1000, Time(now));
                    now += slots_ms * 1000;
                    let took = Duration::from_millis(slots_ms);
                    // As three acknowledgements, so that none of the slots has too few.
                    for _ in 0..3 {
                        estimator.on_acked(rate * slots_ms / 3000, took, Time(now));
                    }
                }
                now
            };
            let now = carry(&mut estimator, 0, 30_000_000, 4);
            assert!(close(estimator.rate_bytes_per_s(), 30_000_000), "{slots_ms}");
            carry(&mut estimator, now, 10_000_000, 2);
            assert!(close(estimator.rate_bytes_per_s(), 10_000_000), "{slots_ms}");
        }
    }

    #[test]
    fn idle_time_is_not_slowness() {
        let mut estimator = BandwidthEstimator::default();
        for second in 0..10 {
            estimator.on_sent(100_000, Time(second * 1_000_000));
            let done = Time(second * 1_000_000 + 10_000);
            estimator.on_acked(100_000, Duration::from_millis(10), done);
        }
        assert!(close(estimator.rate_bytes_per_s(), 10_000_000));
        assert_eq!(estimator.min_round_trip(), Some(Duration::from_millis(10)));
    }
}
