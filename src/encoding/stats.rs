//! What hybrid encoding did, in numbers that add up: by class of page and by codec.

use crate::encoding::baseline::PAGE_BYTES;
use crate::encoding::codec::CodecChoice;
use crate::encoding::hybrid::ClassCounts;
use serde::Serialize;
use std::collections::BTreeMap;

/// Totals since the start. Ratios are computed from them, so totals of several encoders add up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HdeStats {
    /// Pages that were zero.
    pub zero: ClassTotals,
    /// Pages sent as references.
    pub duplicate: ClassTotals,
    /// Pages sent as differences.
    pub delta: ClassTotals,
    /// Pages sent whole.
    pub fresh: ClassTotals,
    /// Pages that were not zero and whose key had a baseline.
    pub pages_with_baseline: u64,
    /// By the codec that was chosen, as [`CodecChoice`] prints.
    pub algorithm_usage: BTreeMap<String, CodecUsage>,
}

/// One class of pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClassTotals {
    /// Pages.
    pub pages: u64,
    /// Their bytes.
    pub raw_bytes: u64,
    /// What went to the network for them; for duplicates, with the classes of all pages.
    pub packed_bytes: u64,
}

/// Blocks that one codec was chosen for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CodecUsage {
    /// Blocks.
    pub blocks: u64,
    /// Bytes before.
    pub raw_bytes: u64,
    /// Bytes after.
    pub packed_bytes: u64,
    /// Time that it took, summed over threads; 0 where it was not measured.
    pub encode_ns: u64,
}

impl HdeStats {
    /// Counts a segment: its pages by class, and what its three parts took on the wire.
    pub fn add_segment(
        &mut self,
        counts: &ClassCounts,
        classes_bytes: u64,
        fresh_packed_bytes: u64,
        delta_packed_bytes: u64,
    ) {
        self.zero.add(counts.zero, 0);
        self.duplicate.add(counts.duplicate, classes_bytes);
        self.delta.add(counts.delta, delta_packed_bytes);
        self.fresh.add(counts.fresh, fresh_packed_bytes);
        self.pages_with_baseline += u64::from(counts.with_baseline);
    }

    /// Counts a chunk: its zero pages, which cost nothing, and its full ones, which a codec packed.
    pub fn add_chunk(
        &mut self,
        choice: CodecChoice,
        page_bytes: u32,
        [zero, full]: [u64; 2],
        packed_bytes: u64,
    ) {
        let totals = |pages, packed_bytes| ClassTotals {
            pages,
            raw_bytes: pages * u64::from(page_bytes),
            packed_bytes,
        };
        self.zero.merge(&totals(zero, 0));
        self.fresh.merge(&totals(full, packed_bytes));
        if full > 0 {
            self.add_block(choice, full * u64::from(page_bytes), packed_bytes, 0);
        }
    }

    /// What came on top of earlier totals of the same encoder.
    pub fn since(&self, earlier: &Self) -> Self {
        let usage = self.algorithm_usage.iter().map(|(name, usage)| {
            let before = earlier.algorithm_usage.get(name).copied().unwrap_or_default();
            (name.clone(), usage.since(&before))
        });
        Self {
            zero: self.zero.since(&earlier.zero),
            duplicate: self.duplicate.since(&earlier.duplicate),
            delta: self.delta.since(&earlier.delta),
            fresh: self.fresh.since(&earlier.fresh),
            pages_with_baseline: self.pages_with_baseline - earlier.pages_with_baseline,
            algorithm_usage: usage.collect(),
        }
    }

    /// Counts a block that a codec packed.
    pub fn add_block(
        &mut self,
        choice: CodecChoice,
        raw_bytes: u64,
        packed_bytes: u64,
        encode_ns: u64,
    ) {
        let block = CodecUsage { blocks: 1, raw_bytes, packed_bytes, encode_ns };
        self.algorithm_usage.entry(choice.to_string()).or_default().merge(&block);
    }

    /// Adds the totals of another encoder.
    pub fn merge(&mut self, other: &Self) {
        self.zero.merge(&other.zero);
        self.duplicate.merge(&other.duplicate);
        self.delta.merge(&other.delta);
        self.fresh.merge(&other.fresh);
        self.pages_with_baseline += other.pages_with_baseline;
        for (name, usage) in &other.algorithm_usage {
            self.algorithm_usage.entry(name.clone()).or_default().merge(usage);
        }
    }

    /// All classes together.
    pub fn total(&self) -> ClassTotals {
        let mut total = self.zero;
        [self.duplicate, self.delta, self.fresh].iter().for_each(|class| total.merge(class));
        total
    }

    /// Pages sent as differences, of those whose key had a baseline; none without such pages.
    pub fn delta_hit_rate(&self) -> Option<f64> {
        share(self.delta.pages, self.pages_with_baseline)
    }

    /// Bytes of pages for each byte on the wire; none before the first.
    pub fn ratio(&self) -> Option<f64> {
        let total = self.total();
        share(total.raw_bytes, total.packed_bytes)
    }
}

impl ClassTotals {
    /// What the class saved; nothing where headers outweigh it.
    pub fn saved_bytes(&self) -> u64 {
        self.raw_bytes.saturating_sub(self.packed_bytes)
    }

    fn since(&self, earlier: &Self) -> Self {
        Self {
            pages: self.pages - earlier.pages,
            raw_bytes: self.raw_bytes - earlier.raw_bytes,
            packed_bytes: self.packed_bytes - earlier.packed_bytes,
        }
    }

    fn add(&mut self, pages: u32, packed_bytes: u64) {
        let pages = u64::from(pages);
        self.merge(&Self { pages, raw_bytes: pages * PAGE_BYTES as u64, packed_bytes });
    }

    fn merge(&mut self, other: &Self) {
        self.pages += other.pages;
        self.raw_bytes += other.raw_bytes;
        self.packed_bytes += other.packed_bytes;
    }
}

impl CodecUsage {
    fn since(&self, earlier: &Self) -> Self {
        Self {
            blocks: self.blocks - earlier.blocks,
            raw_bytes: self.raw_bytes - earlier.raw_bytes,
            packed_bytes: self.packed_bytes - earlier.packed_bytes,
            encode_ns: self.encode_ns - earlier.encode_ns,
        }
    }

    fn merge(&mut self, other: &Self) {
        self.blocks += other.blocks;
        self.raw_bytes += other.raw_bytes;
        self.packed_bytes += other.packed_bytes;
        self.encode_ns += other.encode_ns;
    }
}

fn share(part: u64, of: u64) -> Option<f64> {
    (of > 0).then(|| part as f64 / of as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> HdeStats {
        let mut stats = HdeStats::default();
        let counts = ClassCounts { zero: 1, duplicate: 2, delta: 3, fresh: 4, with_baseline: 6 };
        stats.add_segment(&counts, 20, 8000, 60);
        stats.add_block(CodecChoice::Zstd(-1), 4 * 4096, 8000, 30);
        stats.add_block(CodecChoice::Lz4Fast(8), 3 * 4096, 60, 5);
        stats
    }

    #[test]
    fn ratios_and_savings_follow_from_the_totals() {
        let stats = sample();
        assert_eq!(stats.delta_hit_rate(), Some(0.5));
        assert_eq!(stats.ratio(), Some(40_960.0 / 8080.0));
        assert_eq!(stats.delta.saved_bytes(), 3 * 4096 - 60);
        assert_eq!(stats.zero.saved_bytes(), 4096);
        assert_eq!((stats.total().pages, stats.duplicate.packed_bytes), (10, 20));
        let empty = HdeStats::default();
        assert_eq!((empty.ratio(), empty.delta_hit_rate()), (None, None));
    }

    #[test]
    fn chunks_count_and_growth_is_what_came_on_top() {
        let mut stats = sample();
        stats.add_chunk(CodecChoice::Lz4, 8192, [3, 2], 5000);
        let grown = stats.since(&sample());
        assert_eq!((grown.zero.raw_bytes, grown.fresh.packed_bytes), (3 * 8192, 5000));
        assert_eq!(grown.algorithm_usage["lz4"].raw_bytes, 2 * 8192);
        assert_eq!((grown.delta.pages, grown.pages_with_baseline), (0, 0));
        let mut again = sample();
        again.merge(&grown);
        assert_eq!(again, stats);
        let mut zeros = HdeStats::default();
        zeros.add_chunk(CodecChoice::Lz4, 4096, [9, 0], 0);
        assert!(zeros.algorithm_usage.is_empty(), "no codec ran");
    }

    #[test]
    fn merging_adds_and_the_report_names_codecs() {
        let mut stats = sample();
        stats.merge(&sample());
        assert_eq!(stats.ratio(), sample().ratio());
        assert_eq!(stats.fresh.pages, 8);
        let report = serde_json::to_value(&stats).unwrap();
        assert_eq!(report["algorithm_usage"]["zstd:-1"]["blocks"], 2);
        assert_eq!(report["algorithm_usage"]["lz4:8"]["encode_ns"], 10);
        assert_eq!(report["delta"]["pages"], 6);
    }
}
