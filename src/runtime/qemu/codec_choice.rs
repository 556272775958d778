//! Which codec the packers use: the caller's, or the one that costs least, learned as they go.

use crate::encoding::sample::BlockSample;
use crate::encoding::selector::{BlockOutcome, CostSelector, FixedSelector, LinkState, Selector};
use crate::encoding::stats::HdeStats;
use crate::encoding::{Codec, CodecChoice};
use crate::migration::CodecPolicy;
use crate::migration::relay::segment_io::{Packed, Packer, Prepared};
use crate::runtime::lock::lock;
use crate::runtime::rollout::Decider;
use crate::runtime::sys::thread::processor_time;
use std::sync::Mutex;

/// Equal seeds explore equally.
const SEED: u64 = 0x6477_6370;

/// One migration's choices and what came of them.
pub struct CodecChooser {
    selector: Mutex<Box<dyn Selector>>,
    stats: Mutex<HdeStats>,
    /// Where the library may not decide, this is taken.
    undecided: CodecChoice,
    gate: Decider,
}

impl CodecChooser {
    /// Chooses by this policy; `learning_rate` is the least weight of a new observation. `gate` says
    /// for each segment whether what was learned counts.
    pub fn new(policy: CodecPolicy, learning_rate: f64, gate: Decider) -> Self {
        let selector: Box<dyn Selector> = match policy {
            CodecPolicy::Auto => {
                Box::new(CostSelector::new(SEED).with_learning_rate(learning_rate))
            }
            CodecPolicy::Fixed(choice) => Box::new(FixedSelector(choice)),
        };
        let (selector, stats) = (Mutex::new(selector), Mutex::default());
        Self { selector, stats, undecided: policy.undecided(), gate }
    }

    /// Packs a segment by the codec that fits the link as it stands; `codecs` are those that the
    /// peer can undo, a bit each.
    ///
    /// # Errors
    /// The codec cannot be set up.
    pub fn pack(
        &self,
        packer: &mut Packer,
        prepared: Prepared,
        link: &LinkState,
        codecs: u32,
    ) -> Result<Packed, crate::encoding::codec::EncodeError> {
        let sample = BlockSample::of(prepared.fresh());
        let is_learned = self.gate.is_on();
        let wanted = match is_learned {
            true => lock(&self.selector).choose(&sample, link),
            false => self.undecided,
        };
        let known = codecs >> wanted.codec() as u8 & 1 == 1;
        let choice = if known { wanted } else { CodecChoice::None };
        // By the thread's own time: with others on its processor, the time of day would make every
        // codec slow, and the dense ones not worth it.
        let begun = processor_time();
        let packed = packer.pack(prepared, choice)?;
        let taken = processor_time().saturating_sub(begun);
        let encode_ns = u64::try_from(taken.as_nanos()).unwrap_or(u64::MAX);
        let (codec_used, raw, small) = packed.fresh;
        let (raw_bytes, packed_bytes) = (raw as u64, small as u64);
        if raw_bytes > 0 {
            let class = sample.class;
            let outcome =
                BlockOutcome { class, choice, codec_used, raw_bytes, packed_bytes, encode_ns };
            if is_learned {
                lock(&self.selector).learn(&outcome);
            }
        }
        let used = if codec_used == Codec::None { CodecChoice::None } else { choice };
        let mut stats = lock(&self.stats);
        stats.add_segment(&packed.classes, packed.class_bytes, packed_bytes, packed.delta_bytes);
        if raw_bytes > 0 {
            stats.add_block(used, raw_bytes, packed_bytes, encode_ns);
        }
        Ok(packed)
    }

    /// What came of it so far.
    pub fn stats(&self) -> HdeStats {
        lock(&self.stats).clone()
    }
}
