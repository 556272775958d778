//! How long the pages of a cache have travelled as differences alone: only the encoder knows, and
//! only it acts on it, by sending a page whole once more.

use crate::base::Time;
use std::time::Duration;

/// For each slot of a [`super::baseline::BaselineCache`], since when what it has came as differences.
///
/// Two pages of one slot are equal, so whichever came first speaks for both.
pub struct DeltaChains {
    longest_s: u32,
    now_s: u32,
    since_s: Vec<u32>,
}

impl Default for DeltaChains {
    fn default() -> Self {
        Self { longest_s: u32::MAX, now_s: 0, since_s: Vec::new() }
    }
}

impl DeltaChains {
    /// None yet, of which each may become so old, in whole seconds.
    pub fn limited_to(longest: Duration) -> Self {
        Self { longest_s: seconds(longest), ..Self::default() }
    }

    /// None any more; the limit and the time stay.
    pub fn clear(&mut self) {
        self.since_s = Vec::new();
    }

    /// What is stored from now on is stored at this time.
    pub fn set_time(&mut self, now: Time) {
        self.now_s = seconds(now.since(Time(0)));
    }

    /// Whether what a slot has may be differed from once more.
    pub fn may_grow(&self, slot: u32) -> bool {
        self.since_s(slot).is_none_or(|since_s| self.now_s.saturating_sub(since_s) < self.longest_s)
    }

    /// Since when the chain lasts that a difference from this slot makes longer, or begins.
    pub fn grown(&self, slot: u32) -> u32 {
        self.since_s(slot).unwrap_or(self.now_s)
    }

    /// A slot has a page anew: as a difference of a chain that [`Self::grown`] told, or else whole.
    pub fn put(&mut self, slot: u32, since_s: Option<u32>) {
        let at = slot as usize;
        if self.since_s.len() <= at {
            self.since_s.resize(at + 1, WHOLE);
        }
        self.since_s[at] = since_s.unwrap_or(WHOLE);
    }

    /// Memory held.
    pub fn memory_bytes(&self) -> u64 {
        (self.since_s.capacity() * size_of::<u32>()) as u64
    }

    fn since_s(&self, slot: u32) -> Option<u32> {
        self.since_s.get(slot as usize).copied().filter(|since_s| *since_s != WHOLE)
    }
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(WHOLE).min(WHOLE - 1)
}

/// Of a page that came whole.
const WHOLE: u32 = u32::MAX;
