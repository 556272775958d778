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
    let machines = [(GUEST, 1, 1.0), (GUEST, 4, 0.6), (GUEST, 1, 2.5), (DENSE, 2, 1.0)];
    for bandwidth_bytes_per_s in LINKS {
        for (mix, cores, slowness) in machines {
            // Faster than the destination decodes, only a bandwidth tells the two apart.
            for tells_bandwidth in [true, bandwidth_bytes_per_s > 2e9] {
                let world = World { mix, cores, slowness, bandwidth_bytes_per_s, tells_bandwidth };
                for seed in 0..3 {
                    let mut pipeline = Pipeline::new(world);
                    let mut selector = CostSelector::new(seed);
                    pipeline.run(&mut selector, WARM_UP_BLOCKS);
                    near_the_best(world, pipeline.run(&mut selector, BLOCKS), 0.95);
                }
            }
        }
    }
}

#[test]
fn codecs_mixed_beat_each_alone_where_cpu_and_link_are_close() {
    let world = world(10_000.0 * MBIT);
    let (mut pipeline, mut selector) = (Pipeline::new(world), CostSelector::new(3));
    pipeline.run(&mut selector, WARM_UP_BLOCKS);
    near_the_best(world, pipeline.run(&mut selector, BLOCKS), 1.3);
}

#[test]
fn it_follows_a_link_that_changes() {
    for tells_bandwidth in [true, false] {
        let mut pipeline = Pipeline::new(World { tells_bandwidth, ..world(MBIT) });
        let mut selector = CostSelector::new(7);
        for mbit in [1000.0, 10.0, 10_000.0, 100.0, 10_000.0, 10.0] {
            pipeline.world.bandwidth_bytes_per_s = mbit * MBIT;
            pipeline.run(&mut selector, WARM_UP_BLOCKS / 4);
            near_the_best(pipeline.world, pipeline.run(&mut selector, BLOCKS), 0.95);
        }
    }
}

#[test]
fn a_start_that_is_far_too_slow_is_soon_left() {
    let world = World { slowness: 10.0, ..world(1000.0 * MBIT) };
    let (mut pipeline, mut selector) = (Pipeline::new(world), CostSelector::new(1));
    selector.cpu_weight_log = WEIGHT_LOG_LIMITS.0;
    pipeline.run(&mut selector, 100);
    near_the_best(world, pipeline.run(&mut selector, BLOCKS), 0.95);
}

#[test]
fn random_and_empty_blocks_are_stored_and_teach_nothing() {
    let mut selector = CostSelector::new(1);
    let state = LinkState {
        bandwidth_bytes_per_s: Some(1_250_000),
        cores: 0,
        encode_queue_fill: f32::NAN,
        send_queue_fill: 9.0,
    };
    let random = BlockSample { class: BlockClass::Random, raw_bytes: 4096 };
    let empty = BlockSample { class: BlockClass::Sparse, raw_bytes: 0 };
    for sample in [random, empty].iter().cycle().take(1000) {
        assert_eq!(selector.choose(sample, &state), CodecChoice::None);
    }
    let before = format!("{:?}", (selector.arms, selector.densities, selector.slowness));
    let outcome = BlockOutcome {
        class: BlockClass::Random,
        choice: CodecChoice::Zstd(1),
        codec_used: Codec::None,
        raw_bytes: 9,
        packed_bytes: 9,
        encode_ns: 9,
    };
    selector.learn(&outcome);
    selector.learn(&BlockOutcome { class: BlockClass::Mixed, raw_bytes: 0, ..outcome });
    let unknown = CodecChoice::Zstd(17);
    selector.learn(&BlockOutcome { class: BlockClass::Mixed, choice: unknown, ..outcome });
    assert_eq!(before, format!("{:?}", (selector.arms, selector.densities, selector.slowness)));
    let costs = selector.costs(BlockClass::Mixed, &state);
    assert!(costs.iter().all(|cost| cost.is_finite()));
}

#[test]
fn every_candidate_can_be_had_and_named() {
    let raw = vec![7; 65_536];
    for Candidate { choice, .. } in CANDIDATES {
        assert_eq!(choice.validate(), Ok(()));
        assert_eq!(choice.to_string().parse(), Ok(choice));
        let mut packed = Vec::new();
        let encoded = crate::encoding::Encoder::default().encode(choice, &raw, &mut packed);
        assert_eq!(encoded.unwrap().codec, choice.codec());
    }
    assert_eq!(CANDIDATES[STORED].choice, CodecChoice::None);
}

#[test]
fn equal_seeds_choose_equally() {
    let speed = |seed| {
        Pipeline::new(world(1000.0 * MBIT)).run(&mut CostSelector::new(seed), BLOCKS).to_bits()
    };
    assert_eq!(speed(1), speed(1));
    assert_ne!(speed(1), speed(2));
}

fn near_the_best(world: World, speed: f64, least: f64) {
    let fixed = fixed(world);
    let (of_best, of_stored) = (speed / best(&fixed), speed / fixed[STORED]);
    let World { cores, slowness, bandwidth_bytes_per_s: link, tells_bandwidth, .. } = world;
    assert!(
        of_best > least && of_stored > 0.98,
        "{of_best:.3} of the best, {of_stored:.3} of storing; link {link}, told {tells_bandwidth}, \
         {cores} cores, slowness {slowness}, alone: {fixed:.0?}"
    );
}

#[test]
fn a_higher_learning_rate_forgets_sooner() {
    let outcome = |encode_ns| BlockOutcome {
        class: BlockClass::Mixed,
        choice: CodecChoice::Zstd(1),
        codec_used: Codec::Zstd,
        raw_bytes: 1000,
        packed_bytes: 400,
        encode_ns,
    };
    let after_a_change = |rate| {
        let mut selector = CostSelector::new(1).with_learning_rate(rate);
        (0..200).for_each(|_| selector.learn(&outcome(1000)));
        (0..20).for_each(|_| selector.learn(&outcome(2000)));
        let at = CANDIDATES.iter().position(|c| c.choice == CodecChoice::Zstd(1)).unwrap();
        selector.encode_ns_per_byte(at, BlockClass::Mixed)
    };
    let (slow, usual, fast) = (after_a_change(0.001), after_a_change(0.03), after_a_change(1.0));
    assert!(slow < usual && usual < fast, "{slow} {usual} {fast}");
    assert_eq!(after_a_change(0.0), after_a_change(1.0 / MEMORY), "out of range: as built");
}
