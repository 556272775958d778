//! Which codec for which block: the one with which the whole pipeline is fastest.
//!
//! Packing, sending and unpacking overlap, so the slowest of the three counts. [`CostSelector`] takes,
//! for each block, the codec with the least sum of what the block costs the link (or the destination)
//! and what it costs the encoders, the latter times a weight. The weight is the price of CPU time: it
//! rises while blocks wait for encoders and the link runs dry, and falls while packed blocks wait for
//! the link. Where no single codec balances the two, the weight swings about the point of balance and
//! codecs mix, storing among them, which beats each of them alone.
//!
//! Costs start from measured tables and follow what blocks really took, by codec and class of block.
//! Time and randomness come in as values: the same calls give the same choices.

use crate::encoding::codec::{Codec, CodecChoice};
use crate::encoding::sample::{BlockClass, BlockSample};

/// Chooses codecs and learns from what became of its choices.
pub trait Selector: Send {
    /// The codec for a block, as things stand.
    fn choose(&mut self, sample: &BlockSample, state: &LinkState) -> CodecChoice;
    /// What a choice came to.
    fn learn(&mut self, outcome: &BlockOutcome);
}

/// How the pipeline stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkState {
    /// What the link carries, if that is known. If not, a link that is faster than the destination
    /// decodes cannot be told from a slow one, and storing may then beat what is chosen.
    pub bandwidth_bytes_per_s: Option<u64>,
    /// Encoding threads. The destination is taken to have as many for decoding.
    pub cores: u32,
    /// Work waiting for encoders, as a share of its queue, 0 to 1.
    pub encode_queue_fill: f32,
    /// Encoded work waiting for the network, likewise. A queue of fewer than 8 blocks, or than one for
    /// each core, runs dry before the answer to it shows: a tenth of the throughput is lost.
    pub send_queue_fill: f32,
}

/// One block, encoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockOutcome {
    /// The block's class.
    pub class: BlockClass,
    /// What was chosen.
    pub choice: CodecChoice,
    /// What came of it: [`Codec::None`] if packing did not pay.
    pub codec_used: Codec,
    /// Length before.
    pub raw_bytes: u64,
    /// Length after.
    pub packed_bytes: u64,
    /// Time that one core took.
    pub encode_ns: u64,
}

/// Always the same codec.
#[derive(Clone, Copy, Debug)]
pub struct FixedSelector(pub CodecChoice);

/// The codec with the least cost, by a model that learns.
#[derive(Clone, Debug)]
pub struct CostSelector {
    arms: [[Arm; BlockClass::COUNT]; CANDIDATES.len()],
    /// How well blocks of a class pack: measured shares are taken to this power. One is as measured.
    densities: [Mean; BlockClass::COUNT],
    /// How slow this machine is, as a multiple of the one that was measured.
    slowness: Mean,
    /// Logarithm of the weight of CPU time.
    cpu_weight_log: f64,
    /// Which queue is full now: 1 the encoders', -1 the link's.
    push: f64,
    random: u64,
    /// Observations that a mean remembers.
    memory: f64,
}

/// What one codec does to blocks of one class, as multiples of what the table, the density of the
/// class and the slowness of the machine let expect. So a codec that was tried on the first blocks
/// alone, when the machine was busy and the content another, is not held to that for ever.
#[derive(Clone, Copy, Debug, Default)]
struct Arm {
    density: Mean,
    slowness: Mean,
}

/// A mean that forgets: of all observations at first, of the last so many later.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    value: f64,
    count: f64,
}

/// A codec as measured, before anything was seen here.
struct Candidate {
    choice: CodecChoice,
    share: f64,
    encode_ns_per_byte: f64,
    decode_ns_per_byte: f64,
}

impl Selector for FixedSelector {
    fn choose(&mut self, _: &BlockSample, _: &LinkState) -> CodecChoice {
        self.0
    }

    fn learn(&mut self, _: &BlockOutcome) {}
}

impl CostSelector {
    /// A selector that knows the measured tables only. Equal seeds explore equally.
    pub fn new(seed: u64) -> Self {
        Self {
            arms: Default::default(),
            densities: Default::default(),
            slowness: Mean::default(),
            cpu_weight_log: 0.0,
            push: 0.0,
            random: seed,
            memory: MEMORY,
        }
    }

    /// With another least weight of a new observation, over 0 and up to 1. A mean remembers as many
    /// observations as go into 1.
    pub fn with_learning_rate(mut self, rate: f64) -> Self {
        self.memory = 1.0 / if rate > 0.0 { rate.min(1.0) } else { 1.0 / MEMORY };
        self
    }

    /// The codecs that it chooses from, the cheapest for a processor first.
    pub fn menu() -> impl Iterator<Item = CodecChoice> {
        CANDIDATES.iter().map(|candidate| candidate.choice)
    }

    /// Moves the weight of CPU time by which queue is full.
    ///
    /// A full send queue blocks the encoders, so that their queue is full too: the link is the
    /// bottleneck. Only a full encode queue before an empty send queue speaks of the encoders. If
    /// both are empty, the guest's memory is read too slowly for either to matter.
    fn steer(&mut self, raw_bytes: usize, state: &LinkState) {
        let fill = |fill: f32| if fill.is_nan() { 0.0 } else { f64::from(fill.clamp(0.0, 1.0)) };
        let (waiting, sending) = (fill(state.encode_queue_fill), fill(state.send_queue_fill));
        let push = waiting * (1.0 - sending) - sending;
        // Without a bandwidth, the weight alone must tell a slow link from a fast one.
        let limit = match state.bandwidth_bytes_per_s {
            Some(_) => WEIGHT_LOG_LIMITS,
            None => BLIND_WEIGHT_LOG_LIMITS,
        };
        let step = if push > 0.0 { STEP_UP } else { STEP_DOWN };
        let step = step * (raw_bytes as f64 / STEP_BYTES).min(MOST_STEPS);
        self.cpu_weight_log = (self.cpu_weight_log + step * push).clamp(limit.0, limit.1);
        self.push = push;
    }

    /// The cost of each candidate for a block of this class, in weighted ns per byte.
    fn costs(&self, class: BlockClass, state: &LinkState) -> [f64; CANDIDATES.len()] {
        let bandwidth = state.bandwidth_bytes_per_s.unwrap_or(UNKNOWN_BANDWIDTH_BYTES_PER_S);
        let link_ns_per_byte = NS_PER_S / bandwidth.max(1) as f64;
        let cores = f64::from(state.cores.max(1));
        let weight = (self.cpu_weight_log + KICK * self.push).exp();
        std::array::from_fn(|at| {
            let decode = CANDIDATES[at].decode_ns_per_byte * self.slowness.or(1.0, 1.0) / cores;
            let receive = (self.share(at, class) * link_ns_per_byte).max(decode);
            receive + weight * self.encode_ns_per_byte(at, class) / cores
        })
    }

    /// What of a block is left by a candidate.
    fn share(&self, at: usize, class: BlockClass) -> f64 {
        let class = class as usize;
        let density = self.densities[class].or(1.0, PRIOR_COUNT);
        let own = self.arms[at][class].density.or(1.0, PRIOR_COUNT);
        CANDIDATES[at].share.powf(density * own)
    }

    fn encode_ns_per_byte(&self, at: usize, class: BlockClass) -> f64 {
        let own = self.arms[at][class as usize].slowness.or(1.0, PRIOR_COUNT);
        CANDIDATES[at].encode_ns_per_byte * self.slowness.or(1.0, PRIOR_COUNT) * own
    }

    /// Now and then another candidate that cannot cost much more than the best, so that what was
    /// learned long ago, or by bad luck, is put right.
    fn explore(&mut self, costs: &[f64], best: usize) -> usize {
        if !self.random().is_multiple_of(EXPLORE_ONE_IN) {
            return best;
        }
        let near = |at: &usize| costs[*at] <= costs[best] * EXPLORED_COST && *at != best;
        let near: Vec<usize> = (0..costs.len()).filter(near).collect();
        let pick = self.random() as usize % near.len().max(1);
        near.get(pick).copied().unwrap_or(best)
    }

    /// SplitMix64: exploring needs no better.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ self.random >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ mixed >> 27) >> 16
    }
}

impl Selector for CostSelector {
    fn choose(&mut self, sample: &BlockSample, state: &LinkState) -> CodecChoice {
        self.steer(sample.raw_bytes, state);
        if sample.looks_random() || sample.raw_bytes == 0 {
            return CodecChoice::None;
        }
        let costs = self.costs(sample.class, state);
        let cheapest = (0..costs.len()).min_by(|a, b| costs[*a].total_cmp(&costs[*b]));
        let best = match cheapest {
            Some(best) if costs[best] < costs[STORED] * (1.0 - LEAST_GAIN) => best,
            _ => STORED,
        };
        CANDIDATES[self.explore(&costs, best)].choice
    }

    fn learn(&mut self, outcome: &BlockOutcome) {
        let at = CANDIDATES.iter().position(|candidate| candidate.choice == outcome.choice);
        let Some(at) = at.filter(|at| *at != STORED && outcome.raw_bytes > 0) else { return };
        if outcome.class == BlockClass::Random {
            return;
        }
        let (candidate, class) = (&CANDIDATES[at], outcome.class as usize);
        let raw_bytes = outcome.raw_bytes as f64;
        let share = (outcome.packed_bytes as f64 / raw_bytes).clamp(LEAST_SHARE, 1.0);
        // A thread that was put aside for a while says nothing about the codec.
        let most = self.encode_ns_per_byte(at, outcome.class) * MOST_SURPRISE;
        let ns_per_byte = (outcome.encode_ns as f64 / raw_bytes).min(most);
        let dense = share.ln() / candidate.share.ln();
        let slow = ns_per_byte / candidate.encode_ns_per_byte;
        let memory = self.memory;
        let arm = &mut self.arms[at][class];
        // Each is judged by what the other explains already.
        let (own_density, own_slowness) =
            (arm.density.or(1.0, PRIOR_COUNT), arm.slowness.or(1.0, PRIOR_COUNT));
        let density = self.densities[class].or(1.0, PRIOR_COUNT).max(LEAST_DENSITY);
        arm.density.add(dense / density, memory);
        arm.slowness.add(slow / self.slowness.or(1.0, PRIOR_COUNT), memory);
        self.densities[class].add(dense / own_density.max(LEAST_DENSITY), memory);
        self.slowness.add(slow / own_slowness, memory);
    }
}

impl Mean {
    fn add(&mut self, value: f64, memory: f64) {
        self.count = (self.count + 1.0).min(memory);
        self.value += (value - self.value) / self.count;
    }

    /// The mean, with an expectation that counts as so many observations.
    fn or(&self, expected: f64, weight: f64) -> f64 {
        (self.value * self.count + expected * weight) / (self.count + weight)
    }
}

const fn measured(choice: CodecChoice, ratio: f64, mb_per_s: [f64; 2]) -> Candidate {
    Candidate {
        choice,
        share: 1.0 / ratio,
        encode_ns_per_byte: 1000.0 / mb_per_s[0],
        decode_ns_per_byte: 1000.0 / mb_per_s[1],
    }
}

/// Ratio and speeds each way in MB/s of blocks of 64 KiB, on the non-zero memory of four guests (idle,
/// redis, sqlite, Python), one thread of a shared core: the ratios hold, the speeds are rough and are
/// learned anew. Decoding at level 6 was not measured; it is taken to be as at level 3, for levels
/// differ in how they search. Storing costs a copy.
const CANDIDATES: [Candidate; 7] = [
    measured(CodecChoice::None, 1.0, [20_000.0, 20_000.0]),
    measured(CodecChoice::Lz4Fast(8), 1.95, [1148.0, 4346.0]),
    measured(CodecChoice::Lz4, 2.19, [824.0, 4007.0]),
    measured(CodecChoice::Zstd(-1), 2.59, [638.0, 1980.0]),
    measured(CodecChoice::Zstd(1), 2.85, [567.0, 1499.0]),
    measured(CodecChoice::Zstd(3), 2.95, [427.0, 1449.0]),
    measured(CodecChoice::Zstd(6), 3.08, [132.0, 1449.0]),
];
/// Where storing is among them.
const STORED: usize = 0;
/// A codec that gains less than this is not worth the CPU.
const LEAST_GAIN: f64 = 0.03;
/// How far a queue that stays full moves the logarithm of the weight for so many bytes. Up faster
/// than down: too much CPU can be many times slower than storing, too little is never slower.
const STEP_UP: f64 = 0.1;
const STEP_DOWN: f64 = 0.025;
const STEP_BYTES: f64 = 262_144.0;
/// A larger block counts as so many times that.
const MOST_STEPS: f64 = 4.0;
/// How much a full queue adds at once. It answers before the queue has run over or dry, which the
/// slow part alone, being a sum, can only overshoot.
const KICK: f64 = 1.0;
/// Bounds of that logarithm. Tight, so that a change of the link finds the weight near. Down by a
/// factor of 7 it covers every mix that the table can call for; up by a factor of 3 encoders that get a
/// third of the processors they were promised. More would store what a slow link then has to carry,
/// and where processors are scarce, bytes cost them too, at both ends.
const WEIGHT_LOG_LIMITS: (f64, f64) = (-2.0, 1.1);
/// The same while the bandwidth is unknown: a factor of 400, from 3 Mbit/s to unshaped.
const BLIND_WEIGHT_LOG_LIMITS: (f64, f64) = (-6.0, 6.0);
/// Stands for an unknown bandwidth: in the middle of what links have.
const UNKNOWN_BANDWIDTH_BYTES_PER_S: u64 = 125_000_000;
/// One block in so many explores.
const EXPLORE_ONE_IN: u64 = 64;
/// By candidates that are expected to cost at most so many times the best.
const EXPLORED_COST: f64 = 1.25;
/// Observations that a mean remembers, unless another learning rate is set.
const MEMORY: f64 = 32.0;
/// Observations that the measured table counts for.
const PRIOR_COUNT: f64 = 2.0;
/// Better than this no block packs, as far as the model is concerned.
const LEAST_SHARE: f64 = 0.001;
/// Nor less well than this, as an exponent of the measured shares.
const LEAST_DENSITY: f64 = 0.01;
/// A block counts for at most so many times the time that was expected.
const MOST_SURPRISE: f64 = 4.0;
const NS_PER_S: f64 = 1e9;

#[cfg(test)]
#[path = "selector_tests.rs"]
mod tests;
