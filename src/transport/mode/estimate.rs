//! The figures of one path, from its samples.
//!
//! Each figure is of about the last second, and stays as it was where no samples come: silence is
//! no evidence. All arithmetic is on integers and saturates; a clock that runs backwards counts as
//! one that stands still.

use super::sample::{PathSample, Reachability};
use super::slots::Slots;
use crate::base::Time;
use serde::Serialize;
use std::time::Duration;

/// For how long, at least, the smallest round trip is remembered.
const MIN_MEMORY: Duration = Duration::from_secs(60);
/// Less than this, sent within the window, tells nothing about loss.
const LOSS_EVIDENCE_BYTES: u64 = 256 << 10;
/// Faster than any line; a larger figure is a mistake.
const MAX_RATE_BYTES_PER_S: u64 = 1_000_000_000_000;
/// A round trip that differs from the one before by less is no move of the path.
const MOVE_US: u32 = 1_000;
/// Jitter is the median of so many deviations, so that one step of the path is no jitter.
const DEVIATIONS: usize = 5;

/// What is known of a path; none where nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PathFigures {
    /// Smallest round trip of about the last second: the path's own, without the queues that come
    /// and go.
    pub rtt_us: Option<u32>,
    /// Smallest round trip of the last minute or two.
    pub min_rtt_us: Option<u32>,
    /// Mean deviation of the round trip.
    pub jitter_us: Option<u32>,
    /// Share of the sent bytes that had to be sent again, in parts of a million.
    pub loss_ppm: Option<u32>,
    /// Payload that the path delivers.
    pub rate_bytes_per_s: Option<u64>,
    /// Whether the path may be faster, because nothing has yet filled it.
    pub rate_is_floor: bool,
    /// Whether RDMA reaches the peer.
    pub rdma: Reachability,
}

/// Estimates the figures of a path.
#[derive(Clone, Debug, Default)]
pub struct PathEstimate {
    figures: PathFigures,
    latest: Time,
    round_trips: Slots<Option<u32>>,
    last_rtt_us: Option<u32>,
    moved: Option<Time>,
    /// Smallest round trips of the running and of the last span of [`MIN_MEMORY`].
    minima: [Option<u32>; 2],
    minima_since: Time,
    deviations: [u32; DEVIATIONS],
    deviation_count: usize,
    /// Bytes sent, and those sent again.
    sent: Slots<(u64, u64)>,
    /// Sum and number of the rates at which nothing but the path was the limit.
    rates: Slots<(u64, u64)>,
}

impl PathEstimate {
    /// Takes a sample; tells whether it had news of the path's length or speed.
    pub fn update(&mut self, sample: &PathSample, now: Time) -> bool {
        self.latest = self.latest.max(now);
        let rtt_us = sample.rtt_us.filter(|rtt_us| *rtt_us > 0);
        if let Some(rtt_us) = rtt_us {
            self.add_round_trip(rtt_us);
            self.add_deviation(rtt_us, sample.jitter_us);
        }
        self.add_sent(sample.sent_bytes, sample.retransmitted_bytes);
        if sample.rdma != Reachability::Unknown {
            self.figures.rdma = sample.rdma;
        }
        let rate = sample.rate_bytes_per_s.filter(|rate| *rate > 0);
        match rate.map(|rate| rate.min(MAX_RATE_BYTES_PER_S)) {
            Some(rate) if sample.rate_is_floor => self.raise_rate(rate),
            Some(rate) => self.add_rate(rate),
            None => {}
        }
        sample.has_news()
    }

    /// The figures as they stand.
    pub fn figures(&self) -> &PathFigures {
        &self.figures
    }

    /// When a round trip was last much shorter or longer than the one before.
    pub fn moved(&self) -> Option<Time> {
        self.moved
    }

    fn add_round_trip(&mut self, rtt_us: u32) {
        let slot = self.round_trips.at(self.latest);
        *slot = Some(slot.map_or(rtt_us, |least| least.min(rtt_us)));
        self.figures.rtt_us = self.round_trips.all().flatten().min();
        if self.latest.since(self.minima_since) >= MIN_MEMORY {
            self.minima = [None, self.minima[0]];
            self.minima_since = self.latest;
        }
        let least = self.minima[0].map_or(rtt_us, |least| least.min(rtt_us));
        self.minima[0] = Some(least);
        self.figures.min_rtt_us = self.minima.iter().flatten().min().copied();
    }

    fn add_deviation(&mut self, rtt_us: u32, jitter_us: Option<u32>) {
        let stepped_us = self.last_rtt_us.replace(rtt_us).map(|last| last.abs_diff(rtt_us));
        if stepped_us.is_some_and(|stepped_us| stepped_us > (rtt_us / 4).max(MOVE_US)) {
            self.moved = Some(self.latest);
        }
        let Some(deviation_us) = jitter_us.or(stepped_us) else { return };
        self.deviations[self.deviation_count % DEVIATIONS] = deviation_us;
        // Counts on from the ring's length, so that it never overflows.
        self.deviation_count = match self.deviation_count + 1 {
            count if count == 2 * DEVIATIONS => DEVIATIONS,
            count => count,
        };
        if self.deviation_count >= DEVIATIONS {
            let mut sorted = self.deviations;
            sorted.sort_unstable();
            self.figures.jitter_us = Some(sorted[DEVIATIONS / 2]);
        }
    }

    fn add_sent(&mut self, sent_bytes: u64, retransmitted_bytes: u64) {
        if sent_bytes == 0 {
            return;
        }
        let slot = self.sent.at(self.latest);
        slot.0 = slot.0.saturating_add(sent_bytes);
        slot.1 = slot.1.saturating_add(retransmitted_bytes.min(sent_bytes));
        let total = |sum: (u64, u64), slot: (u64, u64)| {
            (sum.0.saturating_add(slot.0), sum.1.saturating_add(slot.1))
        };
        let (sent, again) = self.sent.all().fold((0, 0), total);
        if sent >= LOSS_EVIDENCE_BYTES {
            let loss_ppm = u128::from(again) * 1_000_000 / u128::from(sent);
            self.figures.loss_ppm = Some(u32::try_from(loss_ppm).unwrap_or(1_000_000));
        }
    }

    fn add_rate(&mut self, rate: u64) {
        let slot = self.rates.at(self.latest);
        *slot = (slot.0.saturating_add(rate), slot.1 + 1);
        let (sum, count) = self
            .rates
            .all()
            .fold((0_u64, 0), |(sum, count), slot| (sum.saturating_add(slot.0), count + slot.1));
        self.figures.rate_bytes_per_s = Some(sum / count.max(1));
        self.figures.rate_is_floor = false;
    }

    /// A rate that something other than the path limited shows what the path can do at least.
    fn raise_rate(&mut self, rate: u64) {
        let known = self.figures.rate_bytes_per_s;
        self.figures.rate_is_floor |= known.is_none();
        self.figures.rate_bytes_per_s = Some(known.map_or(rate, |known| known.max(rate)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP_US: u64 = 100_000;

    fn rate(rate_bytes_per_s: u64, rate_is_floor: bool) -> PathSample {
        let rate_bytes_per_s = Some(rate_bytes_per_s);
        PathSample { rate_bytes_per_s, rate_is_floor, ..PathSample::default() }
    }

    fn feed(estimate: &mut PathEstimate, now: &mut Time, samples: &[PathSample]) {
        for sample in samples {
            *now = Time(now.0 + STEP_US);
            estimate.update(sample, *now);
        }
    }

    #[test]
    fn a_floor_only_raises() {
        let (mut estimate, mut now) = (PathEstimate::default(), Time(0));
        feed(&mut estimate, &mut now, &[rate(500, true), rate(300, true)]);
        let floor = *estimate.figures();
        assert_eq!((floor.rate_bytes_per_s, floor.rate_is_floor), (Some(500), true));
        feed(&mut estimate, &mut now, &[rate(400, false); 12]);
        let measured = *estimate.figures();
        assert_eq!((measured.rate_bytes_per_s, measured.rate_is_floor), (Some(400), false));
        feed(&mut estimate, &mut now, &[rate(1, true); 100]);
        assert_eq!(estimate.figures().rate_bytes_per_s, Some(400), "idle is not slow");
        feed(&mut estimate, &mut now, &[rate(900, true)]);
        let raised = *estimate.figures();
        assert_eq!((raised.rate_bytes_per_s, raised.rate_is_floor), (Some(900), false));
    }

    #[test]
    fn a_step_of_the_path_shows_within_the_window_and_is_no_jitter() {
        let (mut estimate, mut now) = (PathEstimate::default(), Time(0));
        feed(&mut estimate, &mut now, &[PathSample::of_probe(1_000); 20]);
        feed(&mut estimate, &mut now, &[PathSample::of_probe(80_000); 10]);
        let far = *estimate.figures();
        assert_eq!(
            (far.rtt_us, far.min_rtt_us, far.jitter_us),
            (Some(80_000), Some(1_000), Some(0))
        );
        feed(&mut estimate, &mut now, &[PathSample::of_probe(1_000)]);
        let near = *estimate.figures();
        assert_eq!((near.rtt_us, near.jitter_us), (Some(1_000), Some(0)));
        feed(&mut estimate, &mut now, &[PathSample::of_probe(80_000); 1_300]);
        assert_eq!(estimate.figures().min_rtt_us, Some(80_000), "the smallest is forgotten");
    }

    #[test]
    fn queues_that_come_and_go_do_not_lengthen_the_path() {
        let (mut estimate, mut now) = (PathEstimate::default(), Time(0));
        for _ in 0..20 {
            feed(&mut estimate, &mut now, &[PathSample::of_probe(90_000); 5]);
            feed(&mut estimate, &mut now, &[PathSample::of_probe(2_000)]);
        }
        assert_eq!(estimate.figures().rtt_us, Some(2_000));
    }

    #[test]
    fn loss_is_the_share_of_the_last_second_and_never_above_all() {
        let lossy = |retransmitted_bytes| PathSample {
            sent_bytes: 1 << 20,
            retransmitted_bytes,
            ..PathSample::default()
        };
        let (mut estimate, mut now) = (PathEstimate::default(), Time(0));
        feed(&mut estimate, &mut now, &[lossy(1 << 19); 3]);
        assert_eq!(estimate.figures().loss_ppm, Some(500_000));
        feed(&mut estimate, &mut now, &[lossy(0); 12]);
        assert_eq!(estimate.figures().loss_ppm, Some(0));
        feed(&mut estimate, &mut now, &[lossy(u64::MAX); 12]);
        assert_eq!(estimate.figures().loss_ppm, Some(1_000_000));
    }

    #[test]
    fn nothing_measured_holds_everything() {
        let (mut estimate, mut now) = (PathEstimate::default(), Time(5_000_000));
        let full = PathSample { jitter_us: Some(7), ..rate(1_000, false) };
        feed(&mut estimate, &mut now, &[PathSample { rtt_us: Some(500), ..full }; 9]);
        let before = *estimate.figures();
        let zero = PathSample { rtt_us: Some(0), jitter_us: Some(0), ..rate(0, false) };
        for at in [now, Time(0), now + Duration::from_secs(3_600), Time(1)] {
            assert!(!estimate.update(&PathSample::default(), at));
            assert!(!estimate.update(&zero, at));
        }
        assert_eq!(*estimate.figures(), before);
    }

    #[test]
    fn any_figures_at_any_time_are_survived() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut estimate = PathEstimate::default();
        for _ in 0..100_000 {
            let mut extreme = || match random.u8(0..4) {
                0 => 0,
                1 => u64::MAX,
                2 => random.u64(..),
                _ => random.u64(..1_000_000),
            };
            let sample = PathSample {
                rtt_us: Some(extreme() as u32),
                jitter_us: Some(extreme() as u32),
                sent_bytes: extreme(),
                retransmitted_bytes: extreme(),
                rate_bytes_per_s: Some(extreme()),
                rate_is_floor: extreme() % 2 == 0,
                rdma: Reachability::Unknown,
            };
            estimate.update(&sample, Time(extreme()));
            let figures = estimate.figures();
            assert!(figures.rtt_us != Some(0) && figures.min_rtt_us <= figures.rtt_us);
            assert!(figures.rate_bytes_per_s <= Some(MAX_RATE_BYTES_PER_S));
            assert!(figures.loss_ppm <= Some(1_000_000));
        }
    }
}
