//! Tests of the selectors, in a pipeline of encoders, a queue and a link on virtual time.

use super::*;
use fastrand::Rng;
use std::collections::VecDeque;

const BLOCK_BYTES: f64 = 262_144.0;
const SEND_QUEUE_BLOCKS: usize = 16;
const WARM_UP_BLOCKS: usize = 1000;
const BLOCKS: usize = 4000;
const MBIT: f64 = 125_000.0;
const LINKS: [f64; 5] = [10.0 * MBIT, 100.0 * MBIT, 1000.0 * MBIT, 10_000.0 * MBIT, 8e9];

/// Blocks that come at random: class, weight in the mix, power of the measured shares, and the time
/// that codecs take as a multiple of what was measured.
type Mix = &'static [(BlockClass, f64, f64, f64)];

const GUEST: Mix = &[
    (BlockClass::Random, 0.1, 0.0, 0.0),
    (BlockClass::Sparse, 0.2, 2.2, 0.5),
    (BlockClass::Structured, 0.4, 1.1, 1.0),
    (BlockClass::Mixed, 0.3, 0.5, 1.5),
];
const DENSE: Mix = &[(BlockClass::Dense, 0.5, 0.02, 1.2), (BlockClass::Random, 0.5, 0.0, 0.0)];

/// A machine, its guest and its link.
#[derive(Clone, Copy)]
struct World {
    mix: Mix,
    cores: usize,
    /// Time that codecs take as a multiple of what was measured.
    slowness: f64,
    bandwidth_bytes_per_s: f64,
    /// Whether the selector is told.
    tells_bandwidth: bool,
}

/// A block in the hands of an encoder: done at, time on the link.
#[derive(Clone, Copy)]
struct Job {
    done_ns: f64,
    link_ns: f64,
}

struct Pipeline {
    world: World,
    rng: Rng,
    now_ns: f64,
    encoders: Vec<Option<Job>>,
    queue: VecDeque<Job>,
    link_free_ns: f64,
}

impl Pipeline {
    fn new(world: World) -> Self {
        Self {
            world,
            rng: Rng::with_seed(5),
            now_ns: 0.0,
            encoders: vec![None; world.cores],
            queue: VecDeque::new(),
            link_free_ns: 0.0,
        }
    }

    /// Sends so many blocks; bytes for each second of virtual time.
    fn run(&mut self, selector: &mut dyn Selector, blocks: usize) -> f64 {
        let (start_ns, mut sent) = (self.now_ns, 0);
        while sent < blocks {
            sent += self.settle(selector);
            let busy = self.encoders.iter().flatten().map(|job| job.done_ns);
            let next = busy.filter(|done| *done > self.now_ns).fold(f64::INFINITY, f64::min);
            let link = if self.link_free_ns > self.now_ns { self.link_free_ns } else { next };
            self.now_ns = next.min(link);
        }
        blocks as f64 * BLOCK_BYTES / (self.now_ns - start_ns) * NS_PER_S
    }

    /// All that happens now; how many blocks the link took.
    fn settle(&mut self, selector: &mut dyn Selector) -> usize {
        let mut sent = 0;
        loop {
            if self.link_free_ns <= self.now_ns
                && let Some(job) = self.queue.pop_front()
            {
                self.link_free_ns = self.now_ns + job.link_ns;
                sent += 1;
                continue;
            }
            let now_ns = self.now_ns;
            let done = |job: &Option<Job>| job.is_some_and(|job| job.done_ns <= now_ns);
            if self.queue.len() < SEND_QUEUE_BLOCKS
                && let Some(job) = self.encoders.iter_mut().find(|job| done(job))
            {
                self.queue.extend(job.take());
                continue;
            }
            let Some(idle) = self.encoders.iter().position(Option::is_none) else { return sent };
            self.encoders[idle] = Some(self.encode(selector));
        }
    }

    fn encode(&mut self, selector: &mut dyn Selector) -> Job {
        let (class, density, effort) = self.next_block();
        let state = LinkState {
            bandwidth_bytes_per_s: self
                .world
                .tells_bandwidth
                .then_some(self.world.bandwidth_bytes_per_s as u64),
            cores: self.world.cores as u32,
            encode_queue_fill: 1.0,
            send_queue_fill: self.queue.len() as f32 / SEND_QUEUE_BLOCKS as f32,
        };
        let sample = BlockSample { class, raw_bytes: BLOCK_BYTES as usize };
        let choice = selector.choose(&sample, &state);
        let of = |candidate: &&Candidate| candidate.choice == choice;
        let stored = class == BlockClass::Random;
        let candidate = if stored { &CANDIDATES[0] } else { CANDIDATES.iter().find(of).unwrap() };
        let effort = if candidate.choice == CodecChoice::None { 1.0 } else { effort };
        let noise = 0.9 + 0.2 * self.rng.f64();
        let share = candidate.share.powf(density);
        // What does not pay is stored, once the time is spent.
        let share = if share > 15.0 / 16.0 { 1.0 } else { (share * noise).min(1.0) };
        let ns = candidate.encode_ns_per_byte * effort * self.world.slowness * noise * BLOCK_BYTES;
        let outcome = BlockOutcome {
            class,
            choice,
            codec_used: if share == 1.0 { Codec::None } else { choice.codec() },
            raw_bytes: BLOCK_BYTES as u64,
            packed_bytes: (share * BLOCK_BYTES) as u64,
            encode_ns: ns as u64,
        };
        selector.learn(&outcome);
        let decode_ns = candidate.decode_ns_per_byte * self.world.slowness * BLOCK_BYTES;
        let wire_ns = share * BLOCK_BYTES / self.world.bandwidth_bytes_per_s * NS_PER_S;
        let link_ns = wire_ns.max(decode_ns / self.world.cores as f64);
        Job { done_ns: self.now_ns + ns, link_ns }
    }

    fn next_block(&mut self) -> (BlockClass, f64, f64) {
        let mut at = self.rng.f64();
        for (class, weight, density, effort) in self.world.mix {
            at -= weight;
            if at < 0.0 {
                return (*class, *density, *effort);
            }
        }
        let (class, _, density, effort) = self.world.mix[0];
        (class, density, effort)
    }
}

fn world(bandwidth_bytes_per_s: f64) -> World {
    World { mix: GUEST, cores: 1, slowness: 1.0, bandwidth_bytes_per_s, tells_bandwidth: true }
}

/// What each candidate alone gives; the first is storing.
fn fixed(world: World) -> Vec<f64> {
    let speed = |candidate: &Candidate| {
        Pipeline::new(world).run(&mut FixedSelector(candidate.choice), BLOCKS)
    };
    CANDIDATES.iter().map(speed).collect()
}

fn best(speeds: &[f64]) -> f64 {
    speeds.iter().copied().fold(0.0, f64::max)
}

#[test]
fn warm_it_is_near_the_best_codec_and_never_slower_than_storing() {
    for bandwidth_bytes_per_s in LINKS {
        for (mix, cores, slowness) in
            [(GUEST, 1, 1.0), (GUEST, 4, 0.6), (GUEST, 1, 2.5), (DENSE, 2, 1.0)]
        {
            for tells_bandwidth in [true, false] {
                let world = World { mix, cores, slowness, bandwidth_bytes_per_s, tells_bandwidth };
                let (mut pipeline, mut selector) = (Pipeline::new(world), CostSelector::new(1));
                pipeline.run(&mut selector, WARM_UP_BLOCKS);
                let speed = pipeline.run(&mut selector, BLOCKS);
                let fixed = fixed(world);
                let of = |other: f64| speed / other;
                let told = format!(
                    "{bandwidth_bytes_per_s} {cores} {slowness} {tells_bandwidth}: {:.3} of best, {:.3} of stored, {fixed:.0?}",
                    of(best(&fixed)),
                    of(fixed[0])
                );
                println!("{told}");
                assert!(of(best(&fixed)) > 0.95 && of(fixed[0]) > 0.98, "{told}");
            }
        }
    }
}
