//! One direction of a link, as arithmetic: when does a packet offered now arrive, if at all?
//!
//! ```text
//! offer -> [drop-tail queue] -> [serialiser: rate] -> [delay line] -> [random loss] -> arrives
//! ```
//!
//! A lost packet has used the queue and the serialiser, as on a real path. The order of packets is
//! kept. Changing the configuration acts on packets offered afterwards: what is queued already
//! leaves at the old rate, what is on the line arrives.

use std::time::Duration;

/// The shape of one direction.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkConfig {
    /// Rate in bits of IP packets per second; none: unlimited.
    pub rate_bits_per_s: Option<u64>,
    /// One-way delay.
    pub delay: Duration,
    /// Probability that a packet is lost.
    pub loss: f64,
    /// What may wait for the serialiser; none: [`Self::default_queue_bytes`].
    pub queue_bytes: Option<u64>,
    /// Whether the link carries anything.
    pub up: bool,
    /// Probability that a packet comes with a bit changed, unnoticed by TCP.
    pub damage: f64,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            rate_bits_per_s: None,
            delay: Duration::ZERO,
            loss: 0.0,
            queue_bytes: None,
            up: true,
            damage: 0.0,
        }
    }
}

impl LinkConfig {
    /// With a rate in bits per second.
    pub fn rate(mut self, bits_per_s: u64) -> Self {
        self.rate_bits_per_s = Some(bits_per_s);
        self
    }

    /// With a round-trip time, half of it each way.
    pub fn rtt(mut self, rtt: Duration) -> Self {
        self.delay = rtt / 2;
        self
    }

    /// With a loss probability.
    pub fn loss(mut self, probability: f64) -> Self {
        self.loss = probability;
        self
    }

    /// With a queue limit.
    pub fn queue(mut self, bytes: u64) -> Self {
        self.queue_bytes = Some(bytes);
        self
    }

    /// The queue of a link whose owner set none: one bandwidth-delay product, or what the link
    /// carries in 100 ms where the round trip is below 1 ms; at least 64 KiB.
    pub fn default_queue_bytes(&self) -> u64 {
        let Some(rate) = self.rate_bits_per_s else { return u64::MAX };
        let rtt = self.delay * 2;
        let depth = if rtt < SHORT_RTT { DEFAULT_QUEUE_TIME } else { rtt };
        ((rate as f64 / 8.0 * depth.as_secs_f64()) as u64).max(MIN_QUEUE_BYTES)
    }

    /// The product of rate and round-trip time.
    pub fn bdp_bytes(&self) -> u64 {
        let rate = self.rate_bits_per_s.unwrap_or(0) as f64;
        (rate / 8.0 * self.delay.as_secs_f64() * 2.0) as u64
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives.
    Arrives {
        /// When, on the clock of the offers.
        at_ns: u64,
    },
    /// It is lost at random.
    Lost,
    /// The queue has no room for it.
    QueueFull,
    /// The link is down.
    LinkDown,
}

/// The state of one direction.
#[derive(Clone, Debug)]
pub struct Shaper {
    config: LinkConfig,
    queue_bytes: u64,
    random: SplitMix,
    serialiser_free_ns: u64,
    last_arrival_ns: u64,
}

impl Shaper {
    /// A direction at rest.
    pub fn new(config: LinkConfig, seed: u64) -> Self {
        let queue_bytes = config.queue_bytes.unwrap_or_else(|| config.default_queue_bytes());
        let random = SplitMix(seed);
        Self { config, queue_bytes, random, serialiser_free_ns: 0, last_arrival_ns: 0 }
    }

    /// The shape.
    pub fn config(&self) -> &LinkConfig {
        &self.config
    }

    /// Changes the shape for packets offered from now on.
    pub fn set_config(&mut self, config: LinkConfig) {
        self.queue_bytes = config.queue_bytes.unwrap_or_else(|| config.default_queue_bytes());
        self.config = config;
    }

    /// Decides over a packet of `bytes` that comes at `now_ns`.
    pub fn offer(&mut self, now_ns: u64, bytes: u64) -> Fate {
        if !self.config.up {
            return Fate::LinkDown;
        }
        let Some(sent_ns) = self.serialise(now_ns, bytes) else { return Fate::QueueFull };
        if self.config.loss > 0.0 && self.random.next_unit() < self.config.loss {
            return Fate::Lost;
        }
        let at_ns = (sent_ns + self.config.delay.as_nanos() as u64).max(self.last_arrival_ns);
        self.last_arrival_ns = at_ns;
        Fate::Arrives { at_ns }
    }

    /// When the packet's last bit leaves the serialiser; none when it finds the queue full.
    fn serialise(&mut self, now_ns: u64, bytes: u64) -> Option<u64> {
        let Some(rate) = self.config.rate_bits_per_s else { return Some(now_ns) };
        let rate = u128::from(rate.max(1));
        let waiting_ns = self.serialiser_free_ns.saturating_sub(now_ns);
        let waiting_bytes = (u128::from(waiting_ns) * rate / BIT_NS_PER_BYTE_S) as u64;
        if waiting_bytes > 0 && waiting_bytes + bytes > self.queue_bytes {
            return None;
        }
        let takes_ns = (u128::from(bytes) * BIT_NS_PER_BYTE_S / rate) as u64;
        self.serialiser_free_ns = now_ns + waiting_ns + takes_ns;
        Some(self.serialiser_free_ns)
    }
}

/// Sebastiano Vigna's SplitMix64: a run with the same seed draws the same losses.
#[derive(Clone, Debug)]
pub struct SplitMix(pub u64);

impl SplitMix {
    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to 1, 1 excluded.
    pub fn next_unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Eight bits a byte, a billion nanoseconds a second.
const BIT_NS_PER_BYTE_S: u128 = 8_000_000_000;
const SHORT_RTT: Duration = Duration::from_millis(1);
const DEFAULT_QUEUE_TIME: Duration = Duration::from_millis(100);
const MIN_QUEUE_BYTES: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn arrival(fate: Fate) -> u64 {
        match fate {
            Fate::Arrives { at_ns } => at_ns,
            other => panic!("the packet does not arrive: {other:?}"),
        }
    }

    #[test]
    fn an_unshaped_link_delivers_at_once() {
        let mut shaper = Shaper::new(LinkConfig::default(), 1);
        assert_eq!(arrival(shaper.offer(5, 1500)), 5);
    }

    #[test]
    fn delay_and_serialisation_add_up() {
        let config = LinkConfig::default().rate(12_000_000).rtt(Duration::from_millis(80));
        let mut shaper = Shaper::new(config, 1);
        // 1500 bytes at 12 Mbit/s take 1 ms.
        assert_eq!(arrival(shaper.offer(0, 1500)), 41 * MS);
        assert_eq!(arrival(shaper.offer(0, 1500)), 42 * MS);
        assert_eq!(arrival(shaper.offer(10 * MS, 750)), 10 * MS + MS / 2 + 40 * MS);
    }

    #[test]
    fn a_saturated_link_delivers_its_rate() {
        for rate in [1_000_000, 300_000_000, 10_000_000_000] {
            let mut shaper = Shaper::new(LinkConfig::default().rate(rate), 1);
            let (mut bytes, mut last) = (0, 0);
            for now in (0..1000 * MS).step_by(50_000) {
                // Offers 2.4 times the rate in packets of one and the same size.
                let size = rate * 60_000 / 8_000_000_000 + 1;
                for _ in 0..2 {
                    if let Fate::Arrives { at_ns } = shaper.offer(now, size) {
                        bytes += size;
                        last = at_ns;
                    }
                }
            }
            let measured = bytes as f64 * 8.0 / (last as f64 / 1e9);
            assert!((measured / rate as f64 - 1.0).abs() < 0.01, "{measured} for {rate}");
        }
    }

    #[test]
    fn the_queue_is_bounded_and_drains() {
        let config = LinkConfig::default().rate(8_000_000).queue(10_000);
        let mut shaper = Shaper::new(config, 1);
        let accepted = (0..100).filter(|_| shaper.offer(0, 1000) != Fate::QueueFull).count();
        assert_eq!(accepted, 10);
        // 1000 bytes leave in 1 ms: room for three after 3 ms.
        let accepted = (0..100).filter(|_| shaper.offer(3 * MS, 1000) != Fate::QueueFull).count();
        assert_eq!(accepted, 3);
    }

    #[test]
    fn a_packet_above_the_queue_limit_passes_an_idle_link() {
        let mut shaper = Shaper::new(LinkConfig::default().rate(8_000_000).queue(100), 1);
        assert_eq!(arrival(shaper.offer(0, 1000)), MS);
    }

    #[test]
    fn loss_is_as_configured_and_repeats_with_the_seed() {
        let run = |seed| {
            let mut shaper = Shaper::new(LinkConfig::default().loss(0.01), seed);
            (0..200_000u64).map(|now| shaper.offer(now, 1) == Fate::Lost).collect::<Vec<_>>()
        };
        let lost = run(7).iter().filter(|lost| **lost).count() as f64;
        // Five standard deviations of a binomial with n = 200,000 and p = 0.01.
        assert!((lost - 2000.0).abs() < 5.0 * (2000.0f64 * 0.99).sqrt(), "{lost} lost");
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn lost_packets_use_the_link() {
        let mut shaper = Shaper::new(LinkConfig::default().rate(8_000_000).loss(1.0), 1);
        assert_eq!(shaper.offer(0, 1000), Fate::Lost);
        shaper.set_config(LinkConfig::default().rate(8_000_000));
        assert_eq!(arrival(shaper.offer(0, 1000)), 2 * MS);
    }

    #[test]
    fn order_is_kept_when_the_delay_shrinks() {
        let mut shaper = Shaper::new(LinkConfig::default().rtt(Duration::from_millis(80)), 1);
        assert_eq!(arrival(shaper.offer(0, 1)), 40 * MS);
        shaper.set_config(LinkConfig::default());
        assert_eq!(arrival(shaper.offer(MS, 1)), 40 * MS);
    }

    #[test]
    fn a_link_that_is_down_carries_nothing() {
        let mut shaper = Shaper::new(LinkConfig { up: false, ..LinkConfig::default() }, 1);
        assert_eq!(shaper.offer(0, 1), Fate::LinkDown);
    }

    #[test]
    fn the_default_queue_is_one_bandwidth_delay_product() {
        let config = LinkConfig::default().rate(300_000_000).rtt(Duration::from_millis(80));
        assert_eq!(config.default_queue_bytes(), 3_000_000);
        assert_eq!(LinkConfig::default().rate(80_000_000).default_queue_bytes(), 1_000_000);
        assert_eq!(LinkConfig::default().default_queue_bytes(), u64::MAX);
    }
}
