//! What is asked of each stream's socket, from what its migration's path carries: how fast it sends at
//! most, how much may wait unsent, how much may be under way.

use std::time::Duration;

/// Unsent bytes that the kernel may hold for a stream. What waits there when the guest is paused is
/// downtime, and cannot go by another stream; but the kernel must not run dry while a chunk is made.
const UNSENT_BYTES: (u32, u32) = (64 << 10, 512 << 10);
/// So much of what a stream carries may wait.
const UNSENT_TIME: Duration = Duration::from_millis(20);
/// A stream's part of a cap, in hundredths: so that a pause of one does not waste it.
const OF_CAP: u64 = 125;
/// The same of what a path carries, in hundredths: it may come to carry more, and be found to.
const OF_PATH: u64 = 200;
/// Pacing rates are rounded to so many leading bits: each change is a system call for every stream.
const RATE_BITS: u32 = 5;
/// A send buffer holds so many times what is under way, for what is lost is kept until it has arrived.
const BUFFERED_ROUND_TRIPS: u64 = 2;
/// More is never asked for.
const MOST_BUFFER_BYTES: u64 = 256 << 20;

/// What a migration's path is used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathUse {
    /// What it lately carried at most; none while that is not known.
    pub rate_bytes_per_s: Option<u64>,
    /// What the migration may send.
    pub cap_bytes_per_s: Option<u64>,
    /// Round trip; none while that is not known.
    pub round_trip: Option<Duration>,
    /// Streams that share it.
    pub streams: u16,
    /// Whether its streams are paced by what it carries. A new stream that looks for its speed would
    /// otherwise send at several times of it, and fill the queues of the path.
    pub is_paced: bool,
    /// What the kernel lets a send buffer grow to by itself.
    pub own_buffer_bytes: u64,
    /// Code point that its streams are marked with.
    pub dscp: u8,
}

/// What is asked of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamShape {
    /// Most that TCP sends; none: what congestion control says.
    pub pacing_bytes_per_s: Option<u64>,
    /// Most that may wait unsent.
    pub unsent_bytes: u32,
    /// Size of the send buffer; none: the kernel's own is enough.
    pub buffer_bytes: Option<u32>,
    /// Code point that it is marked with (DSCP); 0: none.
    pub dscp: u8,
}

impl Default for StreamShape {
    fn default() -> Self {
        Self { pacing_bytes_per_s: None, unsent_bytes: UNSENT_BYTES.1, buffer_bytes: None, dscp: 0 }
    }
}

impl StreamShape {
    /// Of each stream on this path.
    pub fn of(path: &PathUse) -> Self {
        let rate = path.rate_bytes_per_s.into_iter().chain(path.cap_bytes_per_s).min();
        let streams = u64::from(path.streams.max(1));
        let unsent = rate.map(|rate| in_time(rate / streams, UNSENT_TIME));
        let unsent = unsent.map_or(UNSENT_BYTES.1.into(), |bytes| round(bytes, 2));
        let (least, most) = (u64::from(UNSENT_BYTES.0), u64::from(UNSENT_BYTES.1));
        Self {
            pacing_bytes_per_s: path.pacing(),
            unsent_bytes: unsent.clamp(least, most) as u32,
            buffer_bytes: path.buffer(),
            dscp: path.dscp,
        }
    }
}

impl PathUse {
    /// The cap is kept by whoever hands out the work; pacing only spreads it over time. Both leave
    /// room for as much as if one stream stood still.
    fn pacing(&self) -> Option<u64> {
        let others = u64::from(self.streams.max(2) - 1);
        let part = |rate: u64, hundredths: u64| rate.saturating_mul(hundredths) / 100 / others;
        let of_cap = self.cap_bytes_per_s.map(|cap| part(cap, OF_CAP));
        let of_path = self.rate_bytes_per_s.filter(|_| self.is_paced);
        let of_path = of_path.map(|rate| part(rate, OF_PATH));
        of_cap.into_iter().chain(of_path).min().map(|rate| round(rate, RATE_BITS).max(1))
    }

    fn buffer(&self) -> Option<u32> {
        let (rate, round_trip) = (self.rate_bytes_per_s?, self.round_trip?);
        let under_way = in_time(rate, round_trip) / u64::from(self.streams.max(1));
        let wanted = under_way.saturating_mul(BUFFERED_ROUND_TRIPS).min(MOST_BUFFER_BYTES);
        (wanted > self.own_buffer_bytes / 2).then(|| round(wanted, 1) as u32)
    }
}

fn in_time(rate: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(rate) * time.as_micros() / 1_000_000).unwrap_or(u64::MAX)
}

/// Rounded up to so many leading bits.
fn round(value: u64, bits: u32) -> u64 {
    let spare = (u64::BITS - value.leading_zeros()).saturating_sub(bits);
    let step = 1_u64 << spare;
    value.div_ceil(step).saturating_mul(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: PathUse = PathUse {
        rate_bytes_per_s: Some(37_500_000),
        cap_bytes_per_s: None,
        round_trip: Some(Duration::from_millis(80)),
        streams: 8,
        is_paced: true,
        own_buffer_bytes: 4 << 20,
        dscp: 0,
    };

    fn about(found: Option<u64>, wanted: u64) -> bool {
        found.is_some_and(|found| found >= wanted && found <= wanted + wanted / 8)
    }

    #[test]
    fn an_unknown_path_is_left_to_congestion_control() {
        let shape = StreamShape::of(&PathUse { streams: 4, ..PathUse::default() });
        assert_eq!(shape, StreamShape::default());
    }

    #[test]
    fn a_path_is_paced_with_room_to_grow_and_a_cap_on_every_path() {
        let pacing = |path| StreamShape::of(&path).pacing_bytes_per_s;
        assert!(about(pacing(LONG), 2 * 37_500_000 / 7));
        assert!(about(pacing(PathUse { streams: 1, ..LONG }), 2 * 37_500_000));
        assert_eq!(pacing(PathUse { is_paced: false, ..LONG }), None);
        let cap = Some(1_000_000);
        for is_paced in [true, false] {
            let capped = PathUse { cap_bytes_per_s: cap, is_paced, ..LONG };
            assert!(about(pacing(capped), 1_250_000 / 7));
        }
    }

    #[test]
    fn what_waits_unsent_is_a_matter_of_time() {
        let unsent = |path| StreamShape::of(&path).unsent_bytes;
        assert_eq!(unsent(LONG), 96 << 10);
        assert_eq!(unsent(PathUse { streams: 1, ..LONG }), 512 << 10);
        assert_eq!(unsent(PathUse { cap_bytes_per_s: Some(1_000_000), ..LONG }), 64 << 10);
        let fast = PathUse { rate_bytes_per_s: Some(3_000_000_000), ..LONG };
        assert_eq!(unsent(fast), 512 << 10);
    }

    #[test]
    fn a_buffer_is_asked_for_only_where_the_kernels_own_is_too_small() {
        let buffer = |path| StreamShape::of(&path).buffer_bytes;
        assert_eq!(buffer(LONG), None);
        assert_eq!(buffer(PathUse { streams: 1, ..LONG }), Some(8 << 20));
        let fast = PathUse { rate_bytes_per_s: Some(u64::MAX), streams: 1, ..LONG };
        assert_eq!(buffer(fast), Some(256 << 20));
        assert_eq!(buffer(PathUse { round_trip: None, streams: 1, ..LONG }), None);
    }

    #[test]
    fn nearly_the_same_rate_asks_for_the_same() {
        let distinct = |most: u64| {
            let rates = (most / 2..most).step_by(most as usize / 2_000);
            let mut shapes: Vec<_> = rates
                .map(|rate| StreamShape::of(&PathUse { rate_bytes_per_s: Some(rate), ..LONG }))
                .map(|shape| shape.pacing_bytes_per_s)
                .collect();
            shapes.dedup();
            shapes.len()
        };
        assert!(distinct(40_000_000) <= 20, "{}", distinct(40_000_000));
    }
}
