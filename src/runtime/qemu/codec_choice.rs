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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Time;
    use crate::encoding::baseline::PAGE_BYTES;
    use crate::migration::relay::segment_io::{Place, Preparer, limits_for};
    use crate::qemu::{PageSlot, Segment};
    use crate::rollout::Flag;
    use crate::runtime::rollout::Rollout;

    /// What a segment of text is packed by, on a fast link, where what was learned would store or take LZ4.
    fn used(chooser: &CodecChooser, number: u64) -> Codec {
        let pages = (0..16).map(|page| PageSlot { at: 0, block: 0, page }).collect();
        let words =
            (0..16 * PAGE_BYTES / 8).flat_map(|at| ((at as u64 + number) % 97).to_le_bytes());
        let mut segment = Segment { pages, data: words.collect(), ..Segment::default() };
        let mut prepare = Preparer::new(limits_for(0));
        let prepared = prepare.prepare(&mut segment, Place::default(), true, Time(number));
        let link = LinkState {
            bandwidth_bytes_per_s: Some(10_000_000_000),
            cores: 1,
            encode_queue_fill: 1.0,
            send_queue_fill: 0.0,
        };
        chooser.pack(&mut Packer::default(), prepared, &link, 7).unwrap().fresh.0
    }

    #[test]
    fn the_flag_decides_from_the_next_segment_on() {
        let rollout = Rollout::in_memory("a");
        let gate = || Decider::for_peer(rollout.clone(), Flag::MlCompression, "b:1");
        let chooser = CodecChooser::new(CodecPolicy::Auto, 0.03, gate());
        let learned: Vec<Codec> = (0..8).map(|number| used(&chooser, number)).collect();
        assert!(!learned.contains(&Codec::Zstd), "{learned:?}");
        rollout.set_kill_switch("test", Some("drill")).unwrap();
        assert!((8..16).all(|number| used(&chooser, number) == Codec::Zstd));
        // What the caller has named is not the flag's.
        let fixed = CodecChooser::new(CodecPolicy::Fixed(CodecChoice::Lz4), 0.03, gate());
        assert_eq!(used(&fixed, 0), Codec::Lz4);
        rollout.set_kill_switch("test", None).unwrap();
        assert!((16..24).all(|number| used(&chooser, number) != Codec::Zstd));
    }
}
