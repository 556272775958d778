//! Readings of the TCP streams to one peer, as TCP_INFO gives them, into samples of its path.
//!
//! TCP tells sums since a stream's start; the meter remembers the last reading of each and takes
//! differences, so a stream that dies or is new costs one reading and nothing more.

use super::sample::PathSample;
use crate::base::StreamId;
use crate::base::limits::MAX_STREAMS;
use std::collections::BTreeMap;

/// TCP's smoothed round trip is news only after so many acknowledged segments: that of an idle
/// stream is as old as its last data.
const SEGMENTS_OF_NEWS: u64 = 16;

/// What TCP tells of one stream; amounts since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamReading {
    /// Smoothed round trip; 0 before the first.
    pub rtt_us: u32,
    /// Its mean deviation.
    pub rtt_variation_us: u32,
    /// Segment size.
    pub segment_bytes: u32,
    /// Bytes that the peer acknowledged.
    pub acked_bytes: u64,
    /// Bytes sent, retransmissions included.
    pub sent_bytes: u64,
    /// Bytes of these that were retransmissions.
    pub retransmitted_bytes: u64,
    /// Rate at which data was last delivered.
    pub delivery_rate_bytes_per_s: u64,
    /// Whether that rate was limited by us.
    pub application_limited: bool,
    /// Time during which there was something to send.
    pub busy_us: u64,
    /// Part of the busy time in which the peer's window or our buffer held the stream back.
    pub held_back_us: u64,
}

/// Turns readings into samples; one for each peer with open streams.
#[derive(Clone, Debug, Default)]
pub struct PathMeter {
    last: BTreeMap<StreamId, Last>,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    reading: StreamReading,
    /// What was acknowledged when the round trip was last taken.
    acked_at_rtt: u64,
}

impl PathMeter {
    /// One reading of every open stream makes one sample; streams without a reading are forgotten.
    ///
    /// Rates add up. Their sum is a floor where the application, the peer's window or our own buffer
    /// held back every stream that delivered: a stream that nothing but the path holds back would
    /// have taken what the others left. The round trip is the shortest of those that are news, as
    /// the least of our own queues is in it.
    pub fn sample(&mut self, readings: &[(StreamId, StreamReading)]) -> PathSample {
        let mut sample = PathSample { rate_is_floor: true, ..PathSample::default() };
        let mut known = std::mem::take(&mut self.last);
        for (stream, reading) in readings.iter().take(MAX_STREAMS.into()) {
            let last = known.remove(stream).filter(|last| last.precedes(reading));
            let mut next = Last { reading: *reading, acked_at_rtt: reading.acked_bytes };
            if let Some(last) = last {
                next.acked_at_rtt = last.acked_at_rtt;
                add_amounts(&mut sample, &last.reading, reading);
                if reading.acked_bytes - last.acked_at_rtt >= news_bytes(reading) {
                    next.acked_at_rtt = reading.acked_bytes;
                    add_round_trip(&mut sample, reading);
                }
            }
            self.last.insert(*stream, next);
        }
        sample.rate_is_floor &= sample.rate_bytes_per_s.is_some();
        sample
    }
}

impl Last {
    /// Whether the reading is a later one of the same connection.
    fn precedes(&self, reading: &StreamReading) -> bool {
        let last = &self.reading;
        reading.acked_bytes >= last.acked_bytes
            && reading.sent_bytes >= last.sent_bytes
            && reading.retransmitted_bytes >= last.retransmitted_bytes
    }
}

fn news_bytes(reading: &StreamReading) -> u64 {
    SEGMENTS_OF_NEWS * u64::from(reading.segment_bytes.max(1))
}

fn add_amounts(sample: &mut PathSample, last: &StreamReading, reading: &StreamReading) {
    let sent_bytes = reading.sent_bytes - last.sent_bytes;
    let resent_bytes = reading.retransmitted_bytes - last.retransmitted_bytes;
    sample.sent_bytes = sample.sent_bytes.saturating_add(sent_bytes);
    sample.retransmitted_bytes = sample.retransmitted_bytes.saturating_add(resent_bytes);
    if reading.acked_bytes == last.acked_bytes || reading.delivery_rate_bytes_per_s == 0 {
        return;
    }
    let rate = sample.rate_bytes_per_s.unwrap_or(0);
    sample.rate_bytes_per_s = Some(rate.saturating_add(reading.delivery_rate_bytes_per_s));
    let busy_us = reading.busy_us.saturating_sub(last.busy_us);
    let held_back_us = reading.held_back_us.saturating_sub(last.held_back_us);
    let is_held_back = held_back_us > 0 && held_back_us >= busy_us / 2;
    sample.rate_is_floor &= reading.application_limited || is_held_back;
}

fn add_round_trip(sample: &mut PathSample, reading: &StreamReading) {
    let is_shortest = sample.rtt_us.is_none_or(|rtt_us| reading.rtt_us < rtt_us);
    if reading.rtt_us > 0 && is_shortest {
        sample.rtt_us = Some(reading.rtt_us);
        sample.jitter_us = Some(reading.rtt_variation_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(acked_bytes: u64, rtt_us: u32) -> StreamReading {
        StreamReading {
            rtt_us,
            rtt_variation_us: rtt_us / 10,
            segment_bytes: 1_448,
            acked_bytes,
            sent_bytes: acked_bytes,
            delivery_rate_bytes_per_s: 1_000_000,
            ..StreamReading::default()
        }
    }

    const A: StreamId = StreamId(1);
    const B: StreamId = StreamId(2);

    #[test]
    fn streams_add_up_and_the_shortest_round_trip_counts() {
        let mut meter = PathMeter::default();
        let first = meter.sample(&[(A, reading(0, 900)), (B, reading(500_000, 300))]);
        assert_eq!(first, PathSample::default(), "one reading tells no difference");
        let second = meter.sample(&[(A, reading(100_000, 900)), (B, reading(600_000, 300))]);
        assert_eq!((second.rtt_us, second.jitter_us), (Some(300), Some(30)));
        assert_eq!((second.sent_bytes, second.retransmitted_bytes), (200_000, 0));
        assert_eq!((second.rate_bytes_per_s, second.rate_is_floor), (Some(2_000_000), false));
    }

    #[test]
    fn an_idle_streams_round_trip_is_no_news() {
        let mut meter = PathMeter::default();
        meter.sample(&[(A, reading(1_000, 900))]);
        let idle = meter.sample(&[(A, reading(1_000, 900))]);
        assert_eq!(idle, PathSample::default());
        let trickle = meter.sample(&[(A, reading(1_000 + 8 * 1_448, 900))]);
        assert_eq!((trickle.rtt_us, trickle.rate_bytes_per_s), (None, Some(1_000_000)));
        let more = meter.sample(&[(A, reading(1_000 + 16 * 1_448, 900))]);
        assert_eq!(more.rtt_us, Some(900), "what trickled before counts too");
    }

    #[test]
    fn one_stream_that_only_the_path_limits_makes_the_sum_a_measurement() {
        let limited = |acked| StreamReading { application_limited: true, ..reading(acked, 900) };
        let mut meter = PathMeter::default();
        meter.sample(&[(A, limited(0)), (B, limited(0))]);
        assert!(meter.sample(&[(A, limited(100_000)), (B, limited(100_000))]).rate_is_floor);
        let mixed = meter.sample(&[(A, limited(200_000)), (B, reading(200_000, 900))]);
        assert!(!mixed.rate_is_floor);
    }

    #[test]
    fn a_peer_that_does_not_read_is_no_slow_path() {
        let at = |acked, busy_us, held_back_us| {
            [(A, StreamReading { busy_us, held_back_us, ..reading(acked, 900) })]
        };
        let mut meter = PathMeter::default();
        meter.sample(&at(0, 0, 0));
        assert!(meter.sample(&at(100_000, 250_000, 200_000)).rate_is_floor);
        assert!(!meter.sample(&at(200_000, 500_000, 210_000)).rate_is_floor);
    }

    #[test]
    fn a_stream_that_begins_anew_is_a_new_one() {
        let mut meter = PathMeter::default();
        meter.sample(&[(A, reading(9_000_000, 900))]);
        assert_eq!(meter.sample(&[(A, reading(10_000, 900))]), PathSample::default());
        assert_eq!(meter.sample(&[(A, reading(60_000, 900))]).sent_bytes, 50_000);
        meter.sample(&[]);
        assert_eq!(meter.sample(&[(A, reading(90_000, 900))]), PathSample::default());
    }

    #[test]
    fn absurd_figures_neither_crash_nor_grow() {
        let absurd = StreamReading {
            rtt_us: u32::MAX,
            rtt_variation_us: u32::MAX,
            segment_bytes: u32::MAX,
            acked_bytes: u64::MAX,
            sent_bytes: u64::MAX,
            retransmitted_bytes: u64::MAX,
            delivery_rate_bytes_per_s: u64::MAX,
            application_limited: false,
            busy_us: u64::MAX,
            held_back_us: u64::MAX,
        };
        let mut meter = PathMeter::default();
        let many: Vec<_> = (0..1_000).map(|id| (StreamId(id), StreamReading::default())).collect();
        meter.sample(&many);
        assert_eq!(meter.last.len(), usize::from(MAX_STREAMS));
        let absurd: Vec<_> = (0..1_000).map(|id| (StreamId(id), absurd)).collect();
        assert_eq!(meter.sample(&absurd).rate_bytes_per_s, Some(u64::MAX));
    }
}
