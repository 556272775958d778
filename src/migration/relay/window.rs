//! How much of a relayed stream may be under way.
//!
//! While the hypervisor sends memory for the first time, nothing that is under way delays the
//! guest: the window is large, so that neither a lost packet nor a busy packer lets the link run
//! dry. After that the hypervisor may stop the guest at any moment, and what is under way then is
//! downtime: the window is as small as keeps the link busy.

use std::time::Duration;

/// Time on the link that is under way in the first pass, and the bytes that this is at least and at
/// most.
const BULK_TIME: Duration = Duration::from_millis(600);
const BULK_BYTES: (u64, u64) = (16 << 20, 64 << 20);
/// The same later, on top of one and a half round trips.
const TAIL_TIME: Duration = Duration::from_millis(30);
const TAIL_BYTES: (u64, u64) = (256 << 10, 64 << 20);
/// A link with this much before it, and so many segments, does not run dry soon.
const BUSY_TIME: Duration = Duration::from_millis(100);
const BUSY_SEGMENTS: u64 = 12;
/// Bytes of the stream itself, which the destination has to replay however small they travel.
const BULK_STREAM_BYTES: u64 = 256 << 20;
const TAIL_STREAM_BYTES: u64 = 8 << 20;
/// A round trip that is longer counts as this.
const LONGEST_ROUND_TRIP: Duration = Duration::from_secs(1);
/// Pages before the end of the first pass at which it counts as over. The hypervisor is ahead of us
/// by what its socket holds, and a page that is zero takes nine bytes there.
const MARGIN_PAGES: u64 = 24 * 1024;
/// Segments that the mean of their length remembers.
const MEAN_MEMORY: u64 = 8;

/// What is under way, and how much may be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    bytes: u64,
    stream_bytes: u64,
    /// Mean length of a packed segment.
    segment_bytes: u64,
    in_tail: bool,
}

/// The link as measured.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// None: not yet.
    pub rate_bytes_per_s: Option<u64>,
    /// Zero: not yet.
    pub round_trip: Duration,
}

impl Window {
    /// A segment was queued.
    pub fn add(&mut self, packed_bytes: u64, stream_bytes: u64) {
        self.bytes += packed_bytes;
        self.stream_bytes += stream_bytes;
        self.segment_bytes = match self.segment_bytes {
            0 => packed_bytes,
            mean => (mean * (MEAN_MEMORY - 1) + packed_bytes) / MEAN_MEMORY,
        };
    }

    /// It was acknowledged.
    pub fn remove(&mut self, packed_bytes: u64, stream_bytes: u64) {
        self.bytes -= packed_bytes;
        self.stream_bytes -= stream_bytes;
    }

    /// Nothing is under way any more.
    pub fn clear(&mut self) {
        (self.bytes, self.stream_bytes) = (0, 0);
    }

    /// So many pages of the first pass are still to come; none where that cannot be told.
    pub fn first_pass_left(&mut self, pages: Option<u64>) {
        self.in_tail |= pages.is_none_or(|pages| pages <= MARGIN_PAGES);
    }

    /// Whether the hypervisor may stop the guest at any moment.
    pub fn in_tail(&self) -> bool {
        self.in_tail
    }

    /// Bytes under way.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether another segment may be begun while so many are being packed.
    pub fn has_room(&self, packing: usize, link: Link) -> bool {
        let most = if self.in_tail { TAIL_STREAM_BYTES } else { BULK_STREAM_BYTES };
        let coming = packing as u64 * self.segment_bytes;
        self.bytes + coming < self.limit_bytes(link) && self.stream_bytes < most
    }

    /// How far the link is from running dry, 0 to 1, with so many bytes still before it. The window
    /// tells less: it holds many times what keeps the link busy, and what waits for the replay.
    pub fn fill(&self, queued_bytes: u64, link: Link) -> f32 {
        let busy = bytes_in(BUSY_TIME + link.round_trip.min(LONGEST_ROUND_TRIP), link);
        let busy = busy.max(BUSY_SEGMENTS * self.segment_bytes);
        (queued_bytes as f32 / self.limit_bytes(link).min(busy).max(1) as f32).min(1.0)
    }

    fn limit_bytes(&self, link: Link) -> u64 {
        let round_trip = link.round_trip.min(LONGEST_ROUND_TRIP);
        let (time, (least, most)) = match self.in_tail {
            true => (TAIL_TIME + round_trip * 3 / 2, TAIL_BYTES),
            false => (BULK_TIME + 2 * round_trip, BULK_BYTES),
        };
        bytes_in(time, link).clamp(least, most)
    }
}

/// What the link carries in so long.
fn bytes_in(time: Duration, link: Link) -> u64 {
    (link.rate_bytes_per_s.unwrap_or(0) as f64 * time.as_secs_f64()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Link =
        Link { rate_bytes_per_s: Some(50_000_000), round_trip: Duration::from_millis(20) };

    #[test]
    fn the_tail_holds_far_less_than_the_first_pass() {
        let mut window = Window::default();
        let mut segments = 0;
        while window.has_room(0, LINK) {
            window.add(1 << 18, 1 << 18);
            segments += 1;
        }
        assert_eq!(segments, (50_000_000_u64 * 640 / 1000).div_ceil(1 << 18));
        window.first_pass_left(Some(MARGIN_PAGES + 1));
        assert!(!window.in_tail());
        window.first_pass_left(Some(MARGIN_PAGES));
        assert!(window.in_tail() && !window.has_room(0, LINK));
        while !window.has_room(0, LINK) {
            window.remove(1 << 18, 1 << 18);
        }
        assert!(window.bytes() < 50_000_000 * 60 / 1000);
        assert!(!window.has_room(8, LINK), "those that are being packed count");
        window.first_pass_left(Some(u64::MAX));
        assert!(window.in_tail(), "there is no way back");
    }

    #[test]
    fn bytes_to_replay_are_bounded_though_they_travel_as_nothing() {
        for tail in [false, true] {
            let mut window = Window::default();
            window.first_pass_left((!tail).then_some(u64::MAX));
            let mut stream_bytes = 0;
            while window.has_room(0, LINK) {
                window.add(60, 1 << 20);
                stream_bytes += 1 << 20;
            }
            let most = if tail { TAIL_STREAM_BYTES } else { BULK_STREAM_BYTES };
            assert_eq!(stream_bytes, most);
        }
    }

    #[test]
    fn an_unknown_link_gets_the_least() {
        let unknown = Link { rate_bytes_per_s: None, round_trip: Duration::ZERO };
        let mut window = Window::default();
        window.add(BULK_BYTES.0 - 1, 1);
        assert!(window.has_room(0, unknown));
        window.add(1, 1);
        assert!(!window.has_room(0, unknown));
        assert_eq!(window.fill(u64::MAX, unknown), 1.0);
        assert_eq!(window.fill(0, unknown), 0.0);
    }
}
