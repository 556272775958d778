//! How much of a relayed stream may be under way.
//!
//! While the hypervisor sends memory for the first time, nothing that is under way delays the
//! guest: the window is large, so that neither a lost packet nor a busy packer lets the link run
//! dry. After that the hypervisor may stop the guest at any moment, and what is under way then is
//! downtime: the window is as small as keeps the link busy.
//!
//! Where the hypervisor has more channels than its main stream, each has a window of its own: at the
//! destination a channel may stand still until another has come as far, and what waits for it must
//! never keep that other one out.

use super::MAX_EARLY_SEGMENTS;
use std::time::Duration;

/// Time on the link that is under way in the first pass, on top of so many round trips, in which a lost
/// packet is made good; and the bytes that this is at least and at most. A guest whose last pages are
/// all zero may be stopped before anybody sees it come, and waits for what is under way then.
const BULK_TIME: Duration = Duration::from_millis(150);
const BULK_ROUND_TRIPS: u32 = 4;
const BULK_BYTES: (u64, u64) = (2 << 20, 64 << 20);
/// While the link is not known yet.
const FIRST_BYTES: u64 = 16 << 20;
/// And as a part of the guest's memory.
const RAM_SHARE: u64 = 16;
/// The same later, on top of one and a half round trips.
const TAIL_TIME: Duration = Duration::from_millis(30);
const TAIL_BYTES: (u64, u64) = (256 << 10, 64 << 20);
/// After a switch to post-copy, on top of one round trip: what is under way then is what a page that is
/// asked for waits behind.
const POST_COPY_TIME: Duration = Duration::from_millis(4);
const POST_COPY_BYTES: (u64, u64) = (64 << 10, 64 << 20);
/// And bytes of the stream that a segment holds then at least, whatever the link.
const LEAST_SEGMENT_BYTES: u64 = 16 << 10;
/// A link with this much before it, and so many segments, does not run dry soon.
const BUSY_TIME: Duration = Duration::from_millis(25);
const BUSY_SEGMENTS: u64 = 4;
/// Bytes of the stream itself, which the destination has to replay however small they travel.
const BULK_STREAM_BYTES: u64 = 256 << 20;
const TAIL_STREAM_BYTES: u64 = 32 << 20;
/// With channels the destination unpacks what their hypervisor does not take yet, so this is what
/// the main stream, and the channels together, may have.
const CHANNELS_STREAM_BYTES: u64 = 64 << 20;
/// Beside channels the main stream carries next to nothing.
const MAIN_BYTES: u64 = 8 << 20;
/// A round trip that is longer counts as this.
const LONGEST_ROUND_TRIP: Duration = Duration::from_secs(1);
/// Pages before the end of the first pass at which it counts as over. The hypervisor is ahead of us
/// by what its socket holds and by what was read at once, and a page that is zero takes nine bytes there.
const MARGIN_PAGES: u64 = 40 * 1024;
/// Segments that the mean of their length remembers.
const MEAN_MEMORY: u64 = 8;

/// What is under way, and how much may be.
#[derive(Clone, Debug)]
pub struct Window {
    /// The main stream's part, then each channel's.
    parts: Vec<Part>,
    /// Mean length of a packed segment.
    segment_bytes: u64,
    in_tail: bool,
    in_post_copy: bool,
    /// In the first pass.
    most_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Part {
    segments: u64,
    bytes: u64,
    stream_bytes: u64,
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
    /// Of a hypervisor with so many channels beside its main stream, and a guest of so much memory: a
    /// small guest is not worth as much of its host's.
    pub fn new(channels: u8, ram_bytes: u64) -> Self {
        let parts = vec![Part::default(); usize::from(channels) + 1];
        let most_bytes = (ram_bytes / RAM_SHARE).clamp(FIRST_BYTES, BULK_BYTES.1);
        Self { parts, segment_bytes: 0, in_tail: false, in_post_copy: false, most_bytes }
    }

    /// A segment was queued.
    pub fn add(&mut self, channel: u8, packed_bytes: u64, stream_bytes: u64) {
        if let Some(part) = self.parts.get_mut(usize::from(channel)) {
            part.segments += 1;
            part.bytes += packed_bytes;
            part.stream_bytes += stream_bytes;
        }
        self.segment_bytes = match self.segment_bytes {
            0 => packed_bytes,
            mean => (mean * (MEAN_MEMORY - 1) + packed_bytes) / MEAN_MEMORY,
        };
    }

    /// It was acknowledged.
    pub fn remove(&mut self, channel: u8, packed_bytes: u64, stream_bytes: u64) {
        if let Some(part) = self.parts.get_mut(usize::from(channel)) {
            part.segments -= 1;
            part.bytes -= packed_bytes;
            part.stream_bytes -= stream_bytes;
        }
    }

    /// Nothing is under way any more.
    pub fn clear(&mut self) {
        self.parts.fill(Part::default());
    }

    /// So many pages of the first pass are still to come; none where that cannot be told.
    pub fn first_pass_left(&mut self, pages: Option<u64>) {
        self.in_tail |= pages.is_none_or(|pages| pages <= MARGIN_PAGES);
    }

    /// The guest runs at the destination, and waits for what it touches.
    pub fn enter_post_copy(&mut self) {
        (self.in_tail, self.in_post_copy) = (true, true);
    }

    /// Bytes of the stream at which a segment goes out although more could be read; none where it is better
    /// the more it holds. A page that was asked for waits until the segments before it, and all of its own,
    /// have come.
    pub fn segment_bytes(&self, link: Link) -> Option<usize> {
        self.in_post_copy.then(|| bytes_in(POST_COPY_TIME, link).max(LEAST_SEGMENT_BYTES) as usize)
    }

    /// Whether the hypervisor may stop the guest at any moment.
    pub fn in_tail(&self) -> bool {
        self.in_tail
    }

    /// Bytes under way.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    /// Whether another segment of a channel may be begun while so many of it are being packed.
    pub fn has_room(&self, channel: u8, packing: usize, link: Link) -> bool {
        let Some(part) = self.parts.get(usize::from(channel)) else { return false };
        let channels = self.parts.len() as u64 - 1;
        let (bytes, stream_bytes) = (self.limit_bytes(link), self.limit_stream_bytes());
        let (bytes, stream_bytes) = match (channel, channels) {
            (_, 0) => (bytes, stream_bytes),
            (0, _) => (bytes.min(MAIN_BYTES), stream_bytes.min(CHANNELS_STREAM_BYTES)),
            _ => (bytes / channels, stream_bytes.min(CHANNELS_STREAM_BYTES) / channels),
        };
        let packing = packing as u64;
        // All together stay in the reach of numbers that the destination stores.
        part.segments + packing < MAX_EARLY_SEGMENTS / (channels + 1)
            && part.bytes + packing * self.segment_bytes < bytes
            && part.stream_bytes < stream_bytes
    }

    /// How far the link is from running dry, 0 to 1, with so many bytes in the sockets and before
    /// them. What is on its way is no queue, and the window tells less: it holds many times what
    /// keeps the link busy.
    pub fn fill(&self, socket_bytes: u64, link: Link) -> f32 {
        let on_the_way = bytes_in(link.round_trip.min(LONGEST_ROUND_TRIP), link);
        let queued = socket_bytes.saturating_sub(on_the_way);
        let busy = bytes_in(BUSY_TIME, link).max(BUSY_SEGMENTS * self.segment_bytes);
        let most = self.limit_bytes(link).saturating_sub(on_the_way);
        (queued as f32 / most.min(busy).max(1) as f32).min(1.0)
    }

    fn limit_stream_bytes(&self) -> u64 {
        if self.in_tail { TAIL_STREAM_BYTES } else { BULK_STREAM_BYTES }
    }

    fn limit_bytes(&self, link: Link) -> u64 {
        let round_trip = link.round_trip.min(LONGEST_ROUND_TRIP);
        if !self.in_tail && link.rate_bytes_per_s.is_none() {
            return FIRST_BYTES;
        }
        let (time, (least, most)) = match self.in_tail {
            _ if self.in_post_copy => (POST_COPY_TIME + round_trip, POST_COPY_BYTES),
            true => (TAIL_TIME + round_trip * 3 / 2, TAIL_BYTES),
            false => (BULK_TIME + BULK_ROUND_TRIPS * round_trip, (BULK_BYTES.0, self.most_bytes)),
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

    const RAM_BYTES: u64 = 1 << 30;

    #[test]
    fn a_small_guest_has_a_small_window() {
        for (ram_bytes, most) in [(1 << 20, 16), (512 << 20, 32), (1 << 40, 64)] {
            let fast = Link { rate_bytes_per_s: Some(1 << 30), ..LINK };
            let mut window = Window::new(0, ram_bytes);
            while window.has_room(0, 0, fast) {
                window.add(0, 1 << 20, 1 << 20);
            }
            assert_eq!(window.bytes(), most << 20);
        }
    }

    #[test]
    fn the_tail_holds_far_less_than_the_first_pass() {
        let mut window = Window::new(0, RAM_BYTES);
        let mut segments = 0;
        while window.has_room(0, 0, LINK) {
            window.add(0, 1 << 18, 1 << 18);
            segments += 1;
        }
        assert_eq!(segments, (50_000_000_u64 * 230 / 1000).div_ceil(1 << 18));
        window.first_pass_left(Some(MARGIN_PAGES + 1));
        assert!(!window.in_tail());
        window.first_pass_left(Some(MARGIN_PAGES));
        assert!(window.in_tail() && !window.has_room(0, 0, LINK));
        while !window.has_room(0, 0, LINK) {
            window.remove(0, 1 << 18, 1 << 18);
        }
        assert!(window.bytes() < 50_000_000 * 60 / 1000);
        assert!(!window.has_room(0, 8, LINK), "those that are being packed count");
        window.first_pass_left(Some(u64::MAX));
        assert!(window.in_tail(), "there is no way back");
    }

    #[test]
    fn bytes_to_replay_are_bounded_though_they_travel_as_nothing() {
        for tail in [false, true] {
            let mut window = Window::new(0, RAM_BYTES);
            window.first_pass_left((!tail).then_some(u64::MAX));
            let mut stream_bytes = 0;
            while window.has_room(0, 0, LINK) {
                window.add(0, 60, 1 << 20);
                stream_bytes += 1 << 20;
            }
            let most = if tail { TAIL_STREAM_BYTES } else { BULK_STREAM_BYTES };
            assert_eq!(stream_bytes, most);
        }
    }

    #[test]
    fn what_is_asked_for_waits_behind_little() {
        let mut window = Window::new(0, RAM_BYTES);
        window.enter_post_copy();
        while window.has_room(0, 0, LINK) {
            window.add(0, 1 << 12, 1 << 12);
        }
        assert!(window.in_tail() && window.bytes() < 50_000_000 * 25 / 1000);
        assert!(window.bytes() > 50_000_000 * 20 / 1000, "the link runs dry");
    }

    #[test]
    fn a_segment_is_short_where_pages_are_asked_for() {
        let mut window = Window::new(0, RAM_BYTES);
        assert_eq!(window.segment_bytes(LINK), None);
        window.enter_post_copy();
        assert_eq!(window.segment_bytes(LINK), Some(50_000_000 * 4 / 1000));
        let slow = Link { rate_bytes_per_s: Some(1_000_000), ..LINK };
        assert_eq!(window.segment_bytes(slow), Some(LEAST_SEGMENT_BYTES as usize));
    }

    #[test]
    fn an_unknown_link_gets_a_first_guess() {
        let unknown = Link { rate_bytes_per_s: None, round_trip: Duration::ZERO };
        let mut window = Window::new(0, RAM_BYTES);
        window.add(0, FIRST_BYTES - 1, 1);
        assert!(window.has_room(0, 0, unknown));
        window.add(0, 1, 1);
        assert!(!window.has_room(0, 0, unknown));
        assert_eq!(window.fill(u64::MAX, unknown), 1.0);
        assert_eq!(window.fill(0, unknown), 0.0);
    }

    #[test]
    fn what_waits_on_one_channel_keeps_no_other_out() {
        let mut window = Window::new(4, RAM_BYTES);
        for channel in [1, 2, 3, 4, 0] {
            assert!(window.has_room(channel, 0, LINK), "{channel}");
            while window.has_room(channel, 0, LINK) {
                window.add(channel, 1000, 1 << 20);
            }
        }
        let stream_bytes: u64 = window.parts.iter().map(|part| part.stream_bytes).sum();
        assert_eq!(stream_bytes, 2 * CHANNELS_STREAM_BYTES);
        window.remove(3, 1000, 1 << 20);
        let open: Vec<_> = (0..=4).filter(|channel| window.has_room(*channel, 0, LINK)).collect();
        assert_eq!(open, [3]);
        assert!(!window.has_room(5, 0, LINK), "there is no such channel");
    }

    #[test]
    fn the_numbers_under_way_stay_within_the_destinations_reach() {
        for channels in [0, 1, 16] {
            let mut window = Window::new(channels, RAM_BYTES);
            let mut segments = 0;
            for channel in 0..=channels {
                while window.has_room(channel, 3, LINK) {
                    window.add(channel, 1, 1);
                    segments += 1;
                }
                segments += 3;
            }
            assert!(segments <= MAX_EARLY_SEGMENTS, "{segments}");
        }
    }
}
