//! The link emulator: moves packets between two TUN devices as the shapers say.
//!
//! One thread for each direction waits for packets and for departures with nanosecond timeouts.
//! A packet with nothing to wait for goes straight through, a super-packet in one piece.

use crate::LabError;
use crate::faults::TcpPacket;
use crate::segments::SuperPacket;
use crate::shaper::{Fate, LinkConfig, Shaper, SplitMix};
use crate::sys;
use crate::tun::Tun;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A direction of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From host A to host B.
    AToB,
    /// From host B to host A.
    BToA,
}

/// What a direction did so far, in packets on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Packets that the sending host put on the link.
    pub offered: u64,
    /// Delivered.
    pub delivered: u64,
    /// Their IP bytes.
    pub delivered_bytes: u64,
    /// Lost at random.
    pub lost: u64,
    /// Dropped because the queue was full.
    pub queue_full: u64,
    /// Dropped because the link was down.
    pub link_down: u64,
    /// Code points (DSCP) that packets were marked with, a bit each.
    pub code_points: u64,
    /// Not taken by the receiving kernel: a defect of the emulator, or its device is down.
    pub rejected: u64,
    /// Packets, or super-packets, of which a bit was changed.
    pub damaged: u64,
    /// Connections that were reset.
    pub resets: u64,
}

/// A running link; stops when dropped.
#[derive(Debug)]
pub struct Emulator {
    controls: [Arc<Control>; 2],
    threads: Vec<JoinHandle<()>>,
    stop: Option<OwnedFd>,
}

impl Emulator {
    /// Joins two devices. Both directions start with the same shape and draw losses of their own.
    ///
    /// # Errors
    /// Threads or descriptors ran out.
    pub fn start(a: Tun, b: Tun, config: &LinkConfig, seed: u64) -> Result<Self, LabError> {
        let (stopped, stop) = sys::pipe().map_err(LabError::system("stop pipe"))?;
        let (a, b, stopped) = (Arc::new(a), Arc::new(b), Arc::new(stopped));
        let controls = [Arc::new(Control::new(config)), Arc::new(Control::new(config))];
        let mut emulator = Self { controls, threads: Vec::new(), stop: Some(stop) };
        let ends = [("link-a-b", &a, &b, seed), ("link-b-a", &b, &a, !seed)];
        for ((name, from, to, seed), control) in ends.into_iter().zip(&emulator.controls) {
            let mut pump = Pump {
                from: from.clone(),
                to: to.clone(),
                stopped: stopped.clone(),
                control: control.clone(),
                seen: 0,
                shaper: Shaper::new(config.clone(), seed),
                line: VecDeque::new(),
                line_bytes: 0,
                epoch: Instant::now(),
                random: SplitMix(seed ^ FAULTS),
                reset: Vec::new(),
            };
            let thread = std::thread::Builder::new()
                .name(name.into())
                .spawn(move || pump.run())
                .map_err(LabError::system("link thread"))?;
            emulator.threads.push(thread);
        }
        Ok(emulator)
    }

    /// The shape of a direction.
    pub fn config(&self, direction: Direction) -> LinkConfig {
        self.control(direction).config().clone()
    }

    /// Changes the shape of a direction; see [`crate::shaper`] for what that means.
    pub fn set_config(&self, direction: Direction, config: LinkConfig) {
        let control = self.control(direction);
        *control.config() = config;
        control.generation.fetch_add(1, Ordering::Release);
    }

    /// Breaks up to so many connections that send something in this direction, each by a reset in
    /// place of one of its packets; [`LinkStats::resets`] tells when it was done.
    pub fn reset(&self, direction: Direction, connections: u64) {
        self.control(direction).resets.store(connections, Ordering::Release);
    }

    /// What a direction did so far.
    pub fn stats(&self, direction: Direction) -> LinkStats {
        *lock(&self.control(direction).stats)
    }

    fn control(&self, direction: Direction) -> &Control {
        &self.controls[direction as usize]
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.stop = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What the owner of a link shares with one of its threads.
#[derive(Debug)]
struct Control {
    config: Mutex<LinkConfig>,
    generation: AtomicU64,
    stats: Mutex<LinkStats>,
    /// Connections that are still to be reset.
    resets: AtomicU64,
}

impl Control {
    fn new(config: &LinkConfig) -> Self {
        Self {
            config: Mutex::new(config.clone()),
            generation: AtomicU64::new(0),
            stats: Mutex::default(),
            resets: AtomicU64::new(0),
        }
    }

    fn config(&self) -> MutexGuard<'_, LinkConfig> {
        lock(&self.config)
    }

    /// Whether one more is to be reset; it then counts as done. Its owner may have thought better of
    /// it at this very moment.
    fn take_reset(&self) -> bool {
        let less_one = |left: u64| left.checked_sub(1);
        self.resets.fetch_update(Ordering::AcqRel, Ordering::Acquire, less_one).is_ok()
    }
}

/// One direction at work.
struct Pump {
    from: Arc<Tun>,
    to: Arc<Tun>,
    stopped: Arc<OwnedFd>,
    control: Arc<Control>,
    seen: u64,
    shaper: Shaper,
    line: VecDeque<Travelling>,
    line_bytes: usize,
    epoch: Instant,
    random: SplitMix,
    /// Connections that were reset since somebody asked for it.
    reset: Vec<(u16, u16)>,
}

/// A packet on the line.
struct Travelling {
    arrives_ns: u64,
    segments: u64,
    packet: Vec<u8>,
}

impl Pump {
    fn run(&mut self) {
        sys::make_thread_punctual();
        let mut buffer = vec![0; MAX_PACKET_BYTES];
        loop {
            self.follow_control();
            let mut stats = LinkStats::default();
            let outcome = self.move_burst(&mut buffer, &mut stats);
            self.publish(&stats);
            match outcome {
                Ok(true) => {}
                Ok(false) if self.wait() => {}
                // The owner stopped the link, or a namespace and its device are gone.
                _ => return,
            }
        }
    }

    /// Moves packets until the device is empty (false) or the burst is full (true).
    fn move_burst(&mut self, buffer: &mut [u8], stats: &mut LinkStats) -> io::Result<bool> {
        for _ in 0..BURST_PACKETS {
            self.deliver_due(stats);
            let Some(length) = self.from.receive(buffer)? else { return Ok(false) };
            let length = self.meddle(&mut buffer[..length], stats);
            self.accept(&buffer[..length], stats);
        }
        Ok(true)
    }

    /// Does to a packet what the path is to do to it; gives its length afterwards.
    fn meddle(&mut self, bytes: &mut [u8], stats: &mut LinkStats) -> usize {
        let damage = self.shaper.config().damage;
        let is_to_reset = self.control.resets.load(Ordering::Acquire) > 0;
        if !is_to_reset {
            self.reset.clear();
        }
        if damage <= 0.0 && !is_to_reset {
            return bytes.len();
        }
        let Some(packet) = TcpPacket::parse(bytes).filter(TcpPacket::carries_data) else {
            return bytes.len();
        };
        // Not always the first one that comes along.
        let is_drawn = is_to_reset && self.random.next_u64() & 1 == 1;
        if is_drawn && !self.reset.contains(&packet.ports) && self.control.take_reset() {
            self.reset.push(packet.ports);
            stats.resets += 1;
            return packet.make_reset(bytes);
        }
        let segments = SuperPacket::parse(bytes).segments() as i32;
        // As often as if each of its segments were looked at.
        if self.random.next_unit() < 1.0 - (1.0 - damage).powi(segments) {
            packet.damage(bytes, self.random.next_u64());
            stats.damaged += 1;
        }
        bytes.len()
    }

    fn accept(&mut self, bytes: &[u8], stats: &mut LinkStats) {
        let now = self.now_ns();
        let packet = SuperPacket::parse(bytes);
        stats.code_points |= 1 << packet.dscp();
        let mut run: Option<Run> = None;
        for segment in 0..packet.segments() {
            stats.offered += 1;
            let fate = self.shaper.offer(now, packet.segment_ip_bytes(segment) as u64);
            let arrives_ns = match self.account(fate, bytes.len(), stats) {
                Some(arrives_ns) => arrives_ns,
                None => {
                    run.take().into_iter().for_each(|run| self.travel(&packet, bytes, &run, stats));
                    continue;
                }
            };
            match &mut run {
                Some(run) if arrives_ns - run.first_ns <= MAX_RUN_NS => {
                    run.segments.end = segment + 1;
                    run.last_ns = arrives_ns;
                }
                _ => {
                    let next = Run::new(segment, arrives_ns);
                    let before = run.replace(next);
                    before.into_iter().for_each(|run| self.travel(&packet, bytes, &run, stats));
                }
            }
        }
        run.into_iter().for_each(|run| self.travel(&packet, bytes, &run, stats));
    }

    /// Counts a fate; the time of arrival if there is one.
    fn account(&self, fate: Fate, length: usize, stats: &mut LinkStats) -> Option<u64> {
        let count = match fate {
            Fate::Arrives { at_ns } if self.line_bytes + length <= MAX_LINE_BYTES => {
                return Some(at_ns);
            }
            Fate::Arrives { .. } | Fate::QueueFull => &mut stats.queue_full,
            Fate::Lost => &mut stats.lost,
            Fate::LinkDown => &mut stats.link_down,
        };
        *count += 1;
        None
    }

    /// Sends a run of segments on its way.
    fn travel(&mut self, packet: &SuperPacket, bytes: &[u8], run: &Run, stats: &mut LinkStats) {
        let whole = run.segments.len() == packet.segments();
        let segments = run.segments.len() as u64;
        if whole && self.line.is_empty() && run.last_ns <= self.now_ns() {
            return deliver(&self.to, bytes, segments, stats);
        }
        let packet = packet.cut(run.segments.clone());
        self.line_bytes += packet.len();
        self.line.push_back(Travelling { arrives_ns: run.last_ns, segments, packet });
    }

    fn deliver_due(&mut self, stats: &mut LinkStats) {
        while let Some(first) = self.line.front() {
            if first.arrives_ns > self.now_ns() {
                return;
            }
            deliver(&self.to, &first.packet, first.segments, stats);
            self.line_bytes -= first.packet.len();
            self.line.pop_front();
        }
    }

    /// Waits for a packet or the next arrival; false when the link is to stop.
    fn wait(&self) -> bool {
        let timeout = self.line.front().map(|first| {
            // What arrives a little later is delivered with it.
            let patience_ns = if self.line.len() > 1 { PATIENCE_NS } else { 0 };
            Duration::from_nanos((first.arrives_ns + patience_ns).saturating_sub(self.now_ns()))
        });
        matches!(
            sys::wait_readable([self.from.as_fd(), self.stopped.as_fd()], timeout),
            Ok([_, false])
        )
    }

    fn follow_control(&mut self) {
        let generation = self.control.generation.load(Ordering::Acquire);
        if generation != self.seen {
            self.seen = generation;
            let config = self.control.config().clone();
            self.shaper.set_config(config);
        }
    }

    fn publish(&self, more: &LinkStats) {
        if *more != LinkStats::default() {
            lock(&self.control.stats).add(more);
        }
    }

    fn now_ns(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }
}

/// Segments of one super-packet that arrive together.
struct Run {
    segments: Range<usize>,
    first_ns: u64,
    last_ns: u64,
}

impl Run {
    fn new(segment: usize, arrives_ns: u64) -> Self {
        Self { segments: segment..segment + 1, first_ns: arrives_ns, last_ns: arrives_ns }
    }
}

impl LinkStats {
    fn add(&mut self, more: &LinkStats) {
        self.offered += more.offered;
        self.delivered += more.delivered;
        self.delivered_bytes += more.delivered_bytes;
        self.lost += more.lost;
        self.queue_full += more.queue_full;
        self.link_down += more.link_down;
        self.rejected += more.rejected;
        self.code_points |= more.code_points;
        self.damaged += more.damaged;
        self.resets += more.resets;
    }
}

fn deliver(to: &Tun, packet: &[u8], segments: u64, stats: &mut LinkStats) {
    if !to.deliver(packet) {
        stats.rejected += segments;
        return;
    }
    let view = SuperPacket::parse(packet);
    stats.delivered += segments;
    stats.delivered_bytes +=
        (0..view.segments()).map(|segment| view.segment_ip_bytes(segment) as u64).sum::<u64>();
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Faults are drawn apart from losses, so that one does not change the other.
const FAULTS: u64 = 0x6661_756c_7473;
/// A super-packet is at most 64 KiB of IP packet.
const MAX_PACKET_BYTES: usize = 66 * 1024;
/// Packets moved before control and statistics get their turn.
const BURST_PACKETS: usize = 64;
/// Segments that arrive within this time travel as one, as behind a network card that gathers them.
const MAX_RUN_NS: u64 = 100_000;
/// How much later than it is due the first of several packets may be delivered, for the same reason:
/// waking up for each would cost a whole processor at 1 Gbit/s.
const PATIENCE_NS: u64 = 50_000;
/// A line without a rate and with a long delay is bounded by this.
const MAX_LINE_BYTES: usize = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    /// Resets are called off while a packet is looked at that was to be one.
    #[test]
    fn resets_that_were_called_off_are_not_made() {
        let control = Control::new(&LinkConfig::default());
        control.resets.store(1, Ordering::Release);
        assert!(control.take_reset());
        assert!(!control.take_reset());
        assert_eq!(control.resets.load(Ordering::Acquire), 0);
    }
}
