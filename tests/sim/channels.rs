//! The hypervisors at both ends of a relayed migration, as far as their connections go: a main stream
//! and channels beside it, each with a small socket before it, and marks that keep them in step.
//!
//! As with QEMU's multifd, the hypervisor that writes sets a mark in its main stream when each channel
//! has its own, and writes no channel on before; the one that reads takes no mark from its main
//! stream before it has those of all channels, and reads no channel on before.

use dwcp::migration::relay::StreamSum;
use std::collections::VecDeque;

/// Pieces that a socket holds.
const SOCKET_PIECES: u64 = 3;
/// What all channels carry, at most and about.
const CHANNELS_PIECES: u64 = 300;
const CHANNELS_BYTES: u64 = 16 << 20;

/// What one connection carries: pieces, some of them marks.
#[derive(Clone, Copy, Debug)]
struct Script {
    pieces: u64,
    /// Each so many pieces end with a mark; none if 0.
    period: u64,
}

/// All connections of a migration, the main stream first.
#[derive(Clone, Debug)]
pub struct Scripts {
    seed: u64,
    largest_bytes: usize,
    all: Vec<Script>,
}

/// How far each connection has come at one end: into its socket, and out of it.
#[derive(Debug)]
pub struct Sockets {
    put: Vec<u64>,
    taken: Vec<u64>,
}

impl Scripts {
    /// So many pieces on the main stream, and so many channels.
    pub fn new(
        (seed, channels): (u64, u8),
        (pieces, largest_bytes): (u64, usize),
        random: &mut fastrand::Rng,
    ) -> Self {
        let rounds = random.u64(1..6);
        let period = if channels == 0 { 0 } else { pieces.div_ceil(rounds) };
        // Behind the last mark there is more: the devices.
        let tail = if channels == 0 { 0 } else { random.u64(..5) };
        let main = Script { pieces: pieces.max(rounds * period) + tail, period };
        let channel = |most| {
            let period = random.u64(1..=most);
            Script { pieces: rounds * period, period }
        };
        // Neither more pieces nor more bytes than one run has time for.
        let most = (CHANNELS_BYTES / largest_bytes as u64).min(CHANNELS_PIECES);
        let longest = (most / (rounds * u64::from(channels).max(1))).max(1);
        let all =
            std::iter::once(main).chain(std::iter::repeat_n(longest, channels.into()).map(channel));
        Self { seed, largest_bytes, all: all.collect() }
    }

    pub fn channels(&self) -> u8 {
        self.all.len() as u8 - 1
    }

    /// All pieces.
    pub fn pieces(&self) -> u64 {
        self.all.iter().map(|script| script.pieces).sum()
    }

    /// Pieces of the main stream.
    pub fn main_pieces(&self) -> u64 {
        self.all[0].pieces
    }

    pub fn largest_bytes(&self) -> usize {
        self.largest_bytes
    }

    /// A piece as the payload of segment `number`; the rest follows from what it is.
    pub fn payload(&self, number: u64, channel: u8, piece: u64) -> Vec<u8> {
        let mixed = (u64::from(channel) << 48 | piece).wrapping_mul(0x1234_5677);
        let mut random = fastrand::Rng::with_seed(self.seed ^ mixed);
        let mut payload = vec![random.u8(..); random.usize(20..=self.largest_bytes.max(24))];
        payload[..8].copy_from_slice(&number.to_le_bytes());
        payload[8] = channel;
        payload[12..20].copy_from_slice(&piece.to_le_bytes());
        payload
    }

    /// How many marks lie in the first pieces.
    fn marks(&self, channel: usize, pieces: u64) -> u64 {
        pieces.checked_div(self.all[channel].period).unwrap_or(0)
    }

    fn is_mark(&self, channel: usize, piece: u64) -> bool {
        self.marks(channel, piece + 1) > self.marks(channel, piece)
            && piece < self.all[channel].pieces
    }

    /// The last pieces of the main stream have a mark no channel has.
    fn marks_of_channels(&self, channel: usize) -> u64 {
        self.marks(channel, self.all[channel].pieces)
    }

    /// Whether the next piece of a connection may pass an end that has come so far on each.
    fn may_pass(&self, channel: usize, so_far: &[u64]) -> bool {
        let next = so_far[channel];
        if next >= self.all[channel].pieces {
            return false;
        }
        if channel > 0 {
            return self.marks(channel, next) <= self.marks(0, so_far[0]);
        }
        let mark = self.marks(0, next) + 1;
        !self.is_mark(0, next)
            || (1..self.all.len()).all(|other| {
                self.marks(other, so_far[other]) >= mark.min(self.marks_of_channels(other))
            })
    }
}

/// The channel and the number of a piece in it.
pub fn place_of(payload: &[u8]) -> (u8, u64) {
    (payload[8], u64::from_le_bytes(payload[12..20].try_into().unwrap()))
}

impl Sockets {
    pub fn new(scripts: &Scripts) -> Self {
        let none = vec![0; scripts.all.len()];
        Self { put: none.clone(), taken: none }
    }

    fn has_space(&self, channel: usize) -> bool {
        self.put[channel] - self.taken[channel] < SOCKET_PIECES
    }

    /// The hypervisor writes one more piece, if it may and can.
    pub fn write(&mut self, scripts: &Scripts, channel: u8) {
        let channel = usize::from(channel);
        if self.has_space(channel) && scripts.may_pass(channel, &self.put) {
            self.put[channel] += 1;
        }
    }

    /// The next piece, for the relay that reads.
    pub fn next(&self, channel: u8) -> Option<u64> {
        let (put, taken) = (self.put[usize::from(channel)], self.taken[usize::from(channel)]);
        (taken < put).then_some(taken)
    }

    /// The relay has read it.
    pub fn take(&mut self, channel: u8) {
        self.taken[usize::from(channel)] += 1;
    }

    /// The relay writes a piece; whether it fits.
    pub fn put(&mut self, channel: u8, piece: u64) -> bool {
        let channel = usize::from(channel);
        if !self.has_space(channel) {
            return false;
        }
        assert_eq!(self.put[channel], piece, "channel {channel} out of order");
        self.put[channel] += 1;
        true
    }

    /// The hypervisor reads one more piece, if it may and there is one.
    pub fn read(&mut self, scripts: &Scripts, channel: u8) {
        let at = usize::from(channel);
        if self.taken[at] < self.put[at] && scripts.may_pass(at, &self.taken) {
            self.taken[at] += 1;
        }
    }

    /// Pieces of the main stream that came out of its socket.
    pub fn main_taken(&self) -> u64 {
        self.taken[0]
    }

    /// Pieces that came out of the sockets.
    pub fn all_taken(&self) -> u64 {
        self.taken.iter().sum()
    }

    /// Pieces that went into the sockets.
    pub fn all_put(&self) -> u64 {
        self.put.iter().sum()
    }
}

/// Segments of each channel that wait for its socket.
pub type Queues = Vec<VecDeque<Vec<u8>>>;

/// The hypervisor that the guest leaves, and the threads that read and pack its stream.
pub struct Writer {
    pub scripts: Scripts,
    pub sockets: Sockets,
    /// The guest stops before this piece of the main stream.
    pub stops_at: u64,
    pub pushed_bytes: u64,
    pub packing: Vec<(u64, Vec<u8>)>,
    pub sum: StreamSum,
    /// Relay told about the stop.
    pub stop_told: bool,
    pub end_told: bool,
    pub runs: bool,
}

impl Writer {
    pub fn new(seed: u64, random: &mut fastrand::Rng) -> Self {
        // Mostly few and small; now and then more than may be early, or more than a window holds.
        let (segments, largest_bytes) = match random.u8(..40) {
            0 => (random.u64(1_100..2_500), 24),
            1 => (random.u64(20..60), 300 << 10),
            2 => (random.u64(3..8), 2 << 20),
            _ => (random.u64(1..120), 300),
        };
        let channels = if random.bool() { 0 } else { random.u8(1..=4) };
        Self::with(seed, channels, (segments, largest_bytes), random)
    }

    pub fn with(seed: u64, channels: u8, pieces: (u64, usize), random: &mut fastrand::Rng) -> Self {
        let scripts = Scripts::new((seed, channels), pieces, random);
        Self {
            sockets: Sockets::new(&scripts),
            stops_at: scripts.main_pieces().saturating_sub(random.u64(..6)),
            scripts,
            pushed_bytes: 0,
            packing: Vec::new(),
            sum: StreamSum::default(),
            stop_told: false,
            end_told: false,
            runs: true,
        }
    }

    pub fn has_written_all(&self) -> bool {
        self.sockets.all_taken() == self.scripts.pieces()
    }

    /// Nobody reads its stream any more.
    pub fn break_off(&mut self) {
        self.runs |= !self.has_written_all();
    }
}
